"""How work is spread over threads, stored shard by shard so that a stopped run goes on, and shown while it lasts."""

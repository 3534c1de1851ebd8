"""The adapter's stage as a command (`python -m adapt`); what it does is in adapt/streaming.py."""
from adapt.threads import be_passive

if __name__ == "__main__":
    be_passive()  # before torch is imported

from adapt import allocator, stage
from adapt.streaming import Options, adapt_stream, run

__all__ = ["Options", "adapt_stream", "run"]

if __name__ == "__main__":
    allocator.keep_freed_memory()
    stage.main(Options, run, prog="adapt")

"""Runs: streams of clips, adapted one after the other, and their rows on disk."""

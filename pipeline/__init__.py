"""Offline precompute: from a folder of videos to pseudo-labels in Parquet.  Imports nothing of `adapt`."""

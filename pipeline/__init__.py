"""Offline precompute: from a folder of videos to pseudo-labels in Parquet.  Shares errors, commands and tables with
`adapt`, nothing else.
"""

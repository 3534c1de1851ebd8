"""The contract of the cache: tables, lists of classes.  Loads no torch."""

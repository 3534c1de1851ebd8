"""The contract of the cache, for both packages.  Loads no torch, and nothing but what `adapt` itself depends on.

`files` hashes files and writes them whole or not at all, `classes` is lists of classes, `schema` reads
cache/schema.sql, `parquet` writes and reads tables as it says, `cache` is what a data set's folder holds,
`lock` lets one process at a time make it.
"""

"""The contract of the cache, cache/schema.sql: each table's columns, key and version, as DuckDB reads them there."""

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import duckdb
import pyarrow as pa

from adapt.errors import CacheError

ROOT = Path("cache")  # relative to the project's root, where every command runs
SCHEMA = ROOT / "schema.sql"
STAGES = {  # which stage makes a table, and so makes it again
    "clips": "scan",
    "audio": "decode",
    "waveforms": "decode",
    "tags": "tag",
    "label_map": "map_labels",
    "class_map": "map_classes",
    "pseudo_labels": "pseudo_label",
    "predictions": "adapt",
    "traces": "adapt",
}
SHARDED = ("audio", "waveforms", "tags")  # tables that are a folder of shards, which may be empty


@dataclass(frozen=True)
class Contract:
    """What cache/schema.sql says of one table."""

    statement: str  # CREATE TABLE, normalised by DuckDB: without comments
    columns: pa.Schema
    key: tuple[str, ...]  # the names of the columns of its primary key, in which rows are ordered


def connection() -> duckdb.DuckDBPyConnection:
    """Open an empty database with every table of cache/schema.sql.  Raises CacheError where that file is missing."""
    if not SCHEMA.exists():
        raise CacheError(f"{SCHEMA} is missing: run from the project's root")
    opened = duckdb.connect()
    opened.execute(SCHEMA.read_text(encoding="utf-8"))
    return opened


@cache
def contract(table: str) -> Contract:
    """What cache/schema.sql says of `table`.  Raises CacheError where it has no such table, or one without a key."""
    with connection() as opened:
        found = opened.execute("SELECT sql FROM duckdb_tables() WHERE table_name = ?", [table]).fetchall()
        keys = """SELECT constraint_column_names FROM duckdb_constraints()
            WHERE table_name = ? AND constraint_type = 'PRIMARY KEY'"""
        key = opened.execute(keys, [table]).fetchall()
        if not found or not key:
            raise CacheError(f"{SCHEMA} has no table {table} with a primary key")
        return Contract(found[0][0], opened.sql(f"SELECT * FROM {table}").to_arrow_table().schema, tuple(key[0][0]))


def schema_of(table: str) -> pa.Schema:
    """The Arrow schema of `table`."""
    return contract(table).columns


def schema_sha256(table: str) -> str:
    """The version of `table`: a hash of its statement, comments left out."""
    return hashlib.sha256(contract(table).statement.encode()).hexdigest()

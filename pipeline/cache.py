"""The one room that writes Parquet.  Rows in, checked files out; the contract is cache/schema.sql.

Every file is written to a temporary name and renamed, ordered by its table's key, and byte-identical for the same rows: small tables
by `write_table`, long ones as a stream by `Writer`.  Folders that grow with a data set are pipeline/shards.py's.
"""
import hashlib
import importlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from adapt.tables import classes
from adapt.tables.classes import ClassesError
from pipeline.errors import CacheError

ROOT = Path("cache")
SCHEMA = ROOT / "schema.sql"
Row = Mapping[str, object]


def folder(dataset: str) -> Path:
    """The cache folder of `dataset`, relative to the project's root."""
    return ROOT / dataset


def sha256_text(*parts: object) -> str:
    """Hash the JSON of `parts`: the key under which derived rows are kept."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def sha256_file(path: Path) -> str:
    """Hash a file's bytes in constant memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write `text` to a temporary name beside `path`, then rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def read_labels(dataset: str) -> list[str]:
    """The class names of `dataset` in label_id order, as `scan` wrote them.  Raises CacheError where they are missing or no such list."""
    path = folder(dataset) / "labels.txt"
    if not path.exists():
        raise CacheError(f"{path} is missing: run `dvc repro scan` first")
    return read_label_file(path)


def read_label_file(path: Path) -> list[str]:
    """The class names of a labels.txt that `scan` wrote.  Raises CacheError where it is no such list."""
    try:
        return classes.read(path)
    except ClassesError as error:
        raise CacheError(f"{error}, then run `dvc repro scan`") from error


def _connection() -> duckdb.DuckDBPyConnection:
    if not SCHEMA.exists():
        raise CacheError(f"{SCHEMA} is missing: run from the project's root")
    connection = duckdb.connect()
    connection.execute(SCHEMA.read_text(encoding="utf-8"))
    return connection


@cache
def _statement(table: str) -> tuple[str, pa.Schema, tuple[str, ...]]:
    """(CREATE statement normalised by DuckDB, Arrow schema, key columns) of `table`."""
    with _connection() as connection:
        found = connection.execute("SELECT sql FROM duckdb_tables() WHERE table_name = ?", [table]).fetchall()
        key = connection.execute(
            "SELECT constraint_column_names FROM duckdb_constraints() WHERE table_name = ? AND constraint_type = 'PRIMARY KEY'", [table]
        ).fetchall()
        if not found or not key:
            raise CacheError(f"{SCHEMA} has no table {table} with a primary key")
        return found[0][0], connection.sql(f"SELECT * FROM {table}").to_arrow_table().schema, tuple(key[0][0])


def schema_of(table: str) -> pa.Schema:
    """The Arrow schema of `table` as cache/schema.sql states it."""
    return _statement(table)[1]


def schema_sha256(table: str) -> str:
    """The version of `table`: a hash of its statement, comments left out."""
    return hashlib.sha256(_statement(table)[0].encode()).hexdigest()


def write_table(path: Path, table: str, rows: Iterable[Row] | pa.Table, provenance: Mapping[str, str] | None = None) -> int:
    """Check `rows` against cache/schema.sql and write them to `path`; return how many.

    Every CHECK, NOT NULL and key is DuckDB's to enforce.  `provenance` (what made the rows, label list hashes) goes into the
    file's metadata as `earshot.<name>`.  Raises CacheError where a row breaks the contract.
    """
    _, schema, key = _statement(table)
    arrow = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist([dict(row) for row in rows], schema=schema)
    with _connection() as connection:
        try:
            connection.register("incoming", arrow)
            connection.execute(f"INSERT INTO {table} BY NAME SELECT * FROM incoming")
        except duckdb.Error as error:
            raise CacheError(f"{path}: a row breaks the contract of {table} in {SCHEMA}: {error}") from error
        ordered = connection.sql(f"SELECT * FROM {table} ORDER BY {', '.join(key)}").to_arrow_table()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    pq.write_table(ordered.replace_schema_metadata(_metadata(table, provenance)), temporary, compression="zstd")
    temporary.replace(path)
    return ordered.num_rows


class Writer:
    """Write a table as a stream: batches in key order, each checked against cache/schema.sql and written as one row group.

    Used as a context manager: the file appears under its name when the block ends, and not at all when it raises.  Memory is that of
    one batch.  The same batches give the same bytes.
    """

    def __init__(self, path: Path, table: str, provenance: Mapping[str, str] | None = None) -> None:
        """Prepare to write `path`; `provenance` as in `write_table`."""
        _, self.schema, self._key = _statement(table)
        self.n_rows = 0
        self._path, self._table, self._metadata = path, table, _metadata(table, provenance)
        self._temporary = path.with_name(f".{path.name}.tmp")
        self._last: tuple[object, ...] | None = None

    def __enter__(self) -> "Writer":
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._connection = _connection()
        self._file = pq.ParquetWriter(
            self._temporary, self.schema.with_metadata(self._metadata), compression="zstd", use_dictionary=_text_columns(self.schema)
        )
        return self

    def add(self, rows: pa.Table) -> None:
        """Write `rows` (columns in any order).  Raises CacheError where one breaks the contract or comes out of key order."""
        rows = rows.select(self.schema.names).cast(self.schema)
        if not rows.num_rows:
            return
        keys = list(zip(*(rows.column(name).to_pylist() for name in self._key), strict=True))
        if keys != sorted(keys) or (self._last is not None and keys[0] <= self._last):
            raise CacheError(f"{self._path}: rows of {self._table} do not come in the order of ({', '.join(self._key)}), near {keys[0]}")
        try:
            self._connection.execute("BEGIN")
            self._connection.register("incoming", rows)
            self._connection.execute(f"INSERT INTO {self._table} BY NAME SELECT * FROM incoming")
        except duckdb.Error as error:
            raise CacheError(f"{self._path}: a row breaks the contract of {self._table} in {SCHEMA}: {error}") from error
        finally:
            self._connection.execute("ROLLBACK")
            self._connection.unregister("incoming")
        self._file.write_table(rows, row_group_size=rows.num_rows)
        self._last, self.n_rows = keys[-1], self.n_rows + rows.num_rows

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._connection.close()
        self._file.close()
        if kind is None:
            self._temporary.replace(self._path)
        else:
            self._temporary.unlink()


def _metadata(table: str, provenance: Mapping[str, str] | None) -> dict[str, str]:
    own = {"earshot.table": table, "earshot.schema": schema_sha256(table)}
    return own | {f"earshot.{name}": value for name, value in sorted((provenance or {}).items())}


def _text_columns(schema: pa.Schema) -> list[str]:
    return [field.name for field in schema if pa.types.is_string(field.type)]


def provenance(path: Path) -> dict[str, str]:
    """The `earshot.*` metadata of a Parquet file, without the prefix.  Raises CacheError where the file cannot be read."""
    try:
        metadata = pq.read_schema(path).metadata or {}
    except (OSError, pa.ArrowInvalid) as error:
        raise CacheError(f"{path}: not a readable Parquet file ({error}): delete it and run `dvc repro`") from error
    return {k.decode().removeprefix("earshot."): v.decode() for k, v in metadata.items() if k.startswith(b"earshot.")}


def check_version(path: Path, table: str) -> None:
    """Raise CacheError where `path` was not written as `table` under this version of cache/schema.sql."""
    if (version := provenance(path).get("schema")) != schema_sha256(table):
        raise CacheError(f"{path} does not follow table {table} of {SCHEMA} (version {str(version)[:8]}): delete it and run `dvc repro`")


def read_table(path: Path, table: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a file, or a folder of shards, of `table`, ordered by key.

    Raises CacheError where it is missing, truncated, or was written under another version of cache/schema.sql.
    """
    files = sorted(path.glob("part-*.parquet")) if path.is_dir() else [path]
    if not path.exists():
        raise CacheError(f"{path} is missing: run `dvc repro`")
    for file in files:
        check_version(file, table)
    schema = schema_of(table)
    chosen = pa.schema([schema.field(name) for name in columns]) if columns else schema
    if not files:
        return chosen.empty_table()
    loaded = pa.concat_tables(pq.read_table(file, columns=chosen.names).replace_schema_metadata(None) for file in files)
    key = [name for name in _statement(table)[2] if name in loaded.column_names]
    return loaded.sort_by([(name, "ascending") for name in key]) if key else loaded


def connect(dataset: str) -> duckdb.DuckDBPyConnection:
    """Open the cache of `dataset` for SQL, as `python -m pipeline.query` does (see pipeline/sql.py, which is not a stage's business)."""
    connection: duckdb.DuckDBPyConnection = importlib.import_module("pipeline.sql").connect(dataset)
    return connection

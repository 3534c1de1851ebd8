"""Parquet in and out: rows in, checked files out, and back, as cache/schema.sql says.

Every file is written whole or not at all, ordered by its table's key, and byte-identical for the same rows: small
tables by `write_table`, long ones as a stream by `Writer`.  A file's metadata holds its table's version and what made
it.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from adapt.errors import CacheError, is_of_the_machine
from adapt.tables.files import replacing
from adapt.tables.schema import SCHEMA, connection, contract, schema_of, schema_sha256

Row = Mapping[str, object]


def write_table(
    path: Path, table: str, rows: Iterable[Row] | pa.Table, provenance: Mapping[str, str] | None = None
) -> int:
    """Check `rows` against cache/schema.sql and write them to `path`; return how many.

    Every CHECK, NOT NULL and key is DuckDB's to enforce.  `provenance` (what made the rows, hashes of label lists) goes
    into the file's metadata as `earshot.<name>`.  Raises CacheError where a row breaks the contract.
    """
    agreed = contract(table)
    arrow = (
        rows if isinstance(rows, pa.Table) else pa.Table.from_pylist([dict(row) for row in rows], schema=agreed.columns)
    )
    with connection() as opened:
        try:
            opened.register("incoming", arrow)
            opened.execute(f"INSERT INTO {table} BY NAME SELECT * FROM incoming")
        except duckdb.Error as error:
            raise CacheError(f"{path}: a row breaks the contract of {table} in {SCHEMA}: {error}") from error
        ordered = opened.sql(f"SELECT * FROM {table} ORDER BY {', '.join(agreed.key)}").to_arrow_table()
    with replacing(path) as temporary:
        pq.write_table(ordered.replace_schema_metadata(_metadata(table, provenance)), temporary, compression="zstd")
    return ordered.num_rows


class Writer:
    """Write a table as a stream.

    Batches come in key order; each is checked against cache/schema.sql and written as one row group.

    Used as a context manager: the file appears under its name when the block ends, and not at all when it raises.
    Memory is that of one batch.  The same batches give the same bytes.
    """

    def __init__(self, path: Path, table: str, provenance: Mapping[str, str] | None = None) -> None:
        """Prepare to write `path`; `provenance` as in `write_table`."""
        agreed = contract(table)
        self.schema, self._key = agreed.columns, agreed.key
        self.n_rows = 0
        self._path, self._table, self._metadata = path, table, _metadata(table, provenance)
        self._last: tuple[object, ...] | None = None

    def __enter__(self) -> "Writer":
        with ExitStack() as stack:
            temporary = stack.enter_context(replacing(self._path))
            self._connection = stack.enter_context(connection())
            schema, texts = self.schema.with_metadata(self._metadata), _text_columns(self.schema)
            self._file = stack.enter_context(
                pq.ParquetWriter(temporary, schema, compression="zstd", use_dictionary=texts)
            )
            self._open = stack.pop_all()
        return self

    def add(self, rows: pa.Table) -> None:
        """Write `rows`, whose columns may come in any order.

        Raises CacheError where one breaks the contract or comes out of key order.
        """
        rows = rows.select(self.schema.names).cast(self.schema)
        if not rows.num_rows:
            return
        keys = list(zip(*(rows.column(name).to_pylist() for name in self._key), strict=True))
        if keys != sorted(keys) or (self._last is not None and keys[0] <= self._last):
            key = ", ".join(self._key)
            raise CacheError(f"{self._path}: rows of {self._table} do not come in the order of ({key}), near {keys[0]}")
        try:
            self._connection.execute("BEGIN")
            self._connection.register("incoming", rows)
            self._connection.execute(f"INSERT INTO {self._table} BY NAME SELECT * FROM incoming")
        except duckdb.Error as error:
            raise CacheError(
                f"{self._path}: a row breaks the contract of {self._table} in {SCHEMA}: {error}"
            ) from error
        finally:
            self._connection.execute("ROLLBACK")
            self._connection.unregister("incoming")
        self._file.write_table(rows, row_group_size=rows.num_rows)
        self._last, self.n_rows = keys[-1], self.n_rows + rows.num_rows

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.__exit__(kind, error, trace)


def _metadata(table: str, provenance: Mapping[str, str] | None) -> dict[str, str]:
    own = {"earshot.table": table, "earshot.schema": schema_sha256(table)}
    return own | {f"earshot.{name}": value for name, value in sorted((provenance or {}).items())}


def _text_columns(schema: pa.Schema) -> list[str]:
    return [field.name for field in schema if pa.types.is_string(field.type)]


def provenance(path: Path) -> dict[str, str]:
    """The `earshot.*` metadata of a Parquet file, without the prefix.

    Raises CacheError where the file cannot be read.
    """
    try:
        metadata = pq.read_schema(path).metadata or {}
    except (OSError, pa.ArrowInvalid) as error:
        raise _unreadable(path, error) from error
    return {k.decode().removeprefix("earshot."): v.decode() for k, v in metadata.items() if k.startswith(b"earshot.")}


def check_version(path: Path, table: str) -> dict[str, str]:
    """The provenance of `path`.

    Raises CacheError where it was not written as `table` under this version of cache/schema.sql.
    """
    known = provenance(path)
    if (version := known.get("schema")) != schema_sha256(table):
        other = f"{path} does not follow table {table} of {SCHEMA} (version {str(version)[:8]})"
        raise CacheError(f"{other}: delete it and run `dvc repro`")
    return known


def read_table(path: Path, table: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a file, or a folder of shards, of `table`, ordered by key.

    Raises CacheError where it is missing, truncated, or was written under another version of cache/schema.sql.
    """
    if not path.exists():
        raise CacheError(f"{path} is missing: run `dvc repro`")
    files = sorted(path.glob("part-*.parquet")) if path.is_dir() else [path]
    for file in files:
        check_version(file, table)
    schema = schema_of(table)
    chosen = pa.schema([schema.field(name) for name in columns]) if columns else schema
    if not files:
        return chosen.empty_table()
    loaded = pa.concat_tables(_read(file, chosen.names) for file in files)
    key = [name for name in contract(table).key if name in loaded.column_names]
    if not key or not path.is_dir():  # a file is in order by itself
        return loaded
    return loaded.sort_by([(name, "ascending") for name in key])


def _read(file: Path, columns: Sequence[str]) -> pa.Table:
    try:
        return pq.read_table(file, columns=columns).replace_schema_metadata(None)
    except (OSError, pa.ArrowInvalid) as error:
        raise _unreadable(file, error) from error


def _unreadable(path: Path, error: Exception) -> CacheError:
    """Raises `error` itself where it says nothing of the file."""
    if is_of_the_machine(error):
        raise error
    return CacheError(f"{path}: not a readable Parquet file ({error}): delete it and run `dvc repro`")

"""Parquet in and out: rows in, checked files out, and back, as cache/schema.sql says.

Every file is written whole or not at all, ordered by its table's key, and byte-identical for the same rows: small
tables by `write_table`, long ones as a stream by `Writer`.  A file's metadata holds its table's version, what made it,
and its seal: the sha256 of the whole file, the 64 digits of the seal itself read as zeros.  Parquet's own checksums are
of pages alone; a bit that flips in a page's header or in the footer is noticed by the seal.
"""

import contextlib
import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from adapt.errors import CacheError, is_of_the_machine
from adapt.tables.files import replacing
from adapt.tables.schema import SCHEMA, SHARDED, STAGES, connection, contract, schema_of, schema_sha256

Row = Mapping[str, object]
SEAL, UNSEALED = "earshot.sha256", "0" * 64
# a key and its value in Thrift's compact protocol: type and length before each
SEAL_PLACE = re.compile(rb"\x18\x0e" + re.escape(SEAL.encode()) + rb"\x18\x40([0-9a-f]{64})")
TAIL_BYTES = 8  # the footer's length and PAR1
CHUNK_BYTES = 1 << 20


def write_table(
    path: Path, table: str, rows: Iterable[Row] | pa.Table, provenance: Mapping[str, str] | None = None
) -> int:
    """Check `rows` against cache/schema.sql and write them to `path`; return how many.

    Every CHECK, NOT NULL and key is DuckDB's to enforce.  `provenance` (what made the rows, hashes of label lists) goes
    into the file's metadata as `earshot.<name>`.  Raises CacheError where a row breaks the contract.
    """
    arrow = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist([*map(dict, rows)], schema=schema_of(table))
    ordered = checked(arrow, table, path)
    ordered = ordered.replace_schema_metadata(_metadata(table, provenance))
    with sealed(path, ordered.schema) as file:
        file.write_table(ordered)
    return ordered.num_rows


def checked(rows: pa.Table, table: str, path: Path) -> pa.Table:
    """`rows` in the order of the table's key, with its columns; one that may be NULL need not be there.

    Raises CacheError, which names `path`, where a row breaks the contract of cache/schema.sql.
    """
    with connection() as opened:
        try:
            opened.register("incoming", rows)
            opened.execute(f"INSERT INTO {table} BY NAME SELECT * FROM incoming")
        except duckdb.Error as error:
            raise CacheError(f"{path}: a row breaks the contract of {table} in {SCHEMA}: {error}") from error
        return opened.sql(f"SELECT * FROM {table} ORDER BY {', '.join(contract(table).key)}").to_arrow_table()


@contextmanager
def sealed(path: Path, schema: pa.Schema, use_dictionary: bool | list[str] = True) -> Iterator[pq.ParquetWriter]:
    """Write a Parquet file, whole or not at all, with checksums of its pages and a seal of all of it."""
    with replacing(path) as temporary:
        file = pq.ParquetWriter(
            temporary, schema, compression="zstd", use_dictionary=use_dictionary, write_page_checksum=True
        )
        try:
            yield file
        except BaseException:
            _abandon(file)
            raise
        file.add_key_value_metadata({SEAL: UNSEALED})
        file.close()
        start, _ = _seal_of(temporary)
        with temporary.open("r+b") as opened:
            opened.seek(start)
            opened.write(_digest(temporary, start).encode())


def _abandon(file: pq.ParquetWriter) -> None:
    """Close a file that is thrown away.  On a full disk that fails too, and says nothing new; raised, it would be the
    context of the first error and that its own, a circle that contextlib.ExitStack follows for ever.
    """
    with contextlib.suppress(OSError, pa.ArrowException):
        file.close()


def _seal_of(path: Path) -> tuple[int, str]:
    """(where the digits of a file's seal start, what they say).  Raises CacheError where it has none."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - TAIL_BYTES))
        n_bytes = int.from_bytes(file.read(4), "little") + TAIL_BYTES
        start = max(0, size - n_bytes)
        file.seek(start)
        found = SEAL_PLACE.findall(footer := file.read())
    if len(found) != 1:
        raise CacheError("it has no seal: it is damaged, or another version or program wrote it")
    return start + footer.index(found[0], footer.index(SEAL.encode())), found[0].decode()


def _digest(path: Path, start: int) -> str:
    """The sha256 of a file, the digits of its seal at `start` read as zeros; in constant memory."""
    digest, left = hashlib.sha256(), start
    with path.open("rb") as file:
        while left and (data := file.read(min(CHUNK_BYTES, left))):
            digest.update(data)
            left -= len(data)
        file.seek(start + len(UNSEALED))
        digest.update(UNSEALED.encode())
        while data := file.read(CHUNK_BYTES):
            digest.update(data)
    return digest.hexdigest()


def is_whole(path: Path) -> bool:
    """Whether every byte of a file is what `sealed` wrote.  Raises OSError where it cannot be read."""
    try:
        start, stated = _seal_of(path)
    except CacheError:
        return False
    return _digest(path, start) == stated


def verify(path: Path, table: str) -> dict[str, str]:
    """The provenance of a file of `table`, every byte of which was read and is what was written.

    Raises CacheError, which names the stage to run again, where it is not, or another version of cache/schema.sql made
    it.
    """
    try:
        start, stated = _seal_of(path)
        fine = _digest(path, start) == stated
    except (OSError, CacheError) as error:
        check_version(path, table)  # a file of another version is more than damaged
        raise damaged(path, table, error) from error
    if not fine:  # nor is its footer to be trusted
        raise damaged(path, table, "its bytes are not those that were written")
    return check_version(path, table)


def verify_all(files: Sequence[Path], table: str) -> list[dict[str, str]]:
    """`verify` of many files, on as many threads as there are cores."""
    if len(files) < 2:
        return [verify(file, table) for file in files]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(lambda file: verify(file, table), files))


def damaged(path: Path, table: str, why: object) -> CacheError:
    """The error of a file that cannot be trusted."""
    return CacheError(f"{path} is damaged ({' '.join(str(why).split())}): run `dvc repro {STAGES[table]}`")


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
            self._connection = stack.enter_context(connection())
            schema, texts = self.schema.with_metadata(self._metadata), _text_columns(self.schema)
            self._file = stack.enter_context(sealed(self._path, schema, texts))
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
    """The `earshot.*` metadata of a Parquet file, without the prefix and the seal; the footer alone is read.

    Raises CacheError where the file cannot be read.
    """
    try:
        metadata = pq.read_schema(path).metadata or {}
        texts = {key.decode(): value.decode() for key, value in metadata.items() if key.startswith(b"earshot.")}
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        raise _unreadable(path, error) from error
    return {key.removeprefix("earshot."): value for key, value in texts.items() if key != SEAL}


def check_version(path: Path, table: str) -> dict[str, str]:
    """The provenance of `path`, of which the footer alone is read.

    Raises CacheError where it was not written as `table` under this version of cache/schema.sql.
    """
    known = provenance(path)
    if (version := known.get("schema")) != schema_sha256(table):
        other = f"{path} does not follow table {table} of {SCHEMA} (version {str(version)[:8]})"
        raise CacheError(f"{other}: run `dvc repro {STAGES[table]}`")
    return known


def files_of(path: Path, table: str) -> list[Path]:
    """The files of `table` at `path`: that file, or the shards of that folder, where the table has shards.

    Raises CacheError, which names the stage to run, where there is nothing or something else.
    """
    if not path.exists():
        raise CacheError(f"{path} is missing: run `dvc repro {STAGES[table]}`")
    if path.is_dir() and table not in SHARDED:
        raise CacheError(f"{path} is a folder, but a table is a file: delete it and run `dvc repro {STAGES[table]}`")
    return sorted(path.glob("part-*.parquet")) if path.is_dir() else [path]


def read_table(path: Path, table: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Read the file, or the folder of shards, of `table` at `path`, ordered by key; every byte is verified.

    Raises CacheError where it is missing, damaged, or was written under another version of cache/schema.sql.
    """
    files = files_of(path, table)
    verify_all(files, table)
    schema = schema_of(table)
    chosen = pa.schema([schema.field(name) for name in columns]) if columns else schema
    if not files:
        return chosen.empty_table()
    loaded = pa.concat_tables(read_file(file, table, chosen.names) for file in files)
    key = [name for name in contract(table).key if name in loaded.column_names]
    if not key or not path.is_dir():  # a file is in order by itself
        return loaded
    return loaded.sort_by([(name, "ascending") for name in key])


def read_file(file: Path, table: str, columns: Sequence[str]) -> pa.Table:
    """Read columns of one file, its pages' checksums verified.  Raises CacheError where a page is damaged."""
    try:
        loaded = pq.read_table(file, columns=columns, page_checksum_verification=True, partitioning=None)
    except (OSError, pa.ArrowException) as error:
        raise damaged(file, table, error) from error
    return loaded.replace_schema_metadata(None)


def _unreadable(path: Path, error: Exception) -> CacheError:
    """Raises `error` itself where it says nothing of the file."""
    if is_of_the_machine(error):
        raise error
    return CacheError(f"{path}: not a readable Parquet file ({error}): run `dvc repro`")

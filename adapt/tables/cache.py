"""What the adapter reads of the cache, and the two tables that it writes; cache/schema.sql is the contract with `pipeline`."""
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from adapt.errors import CacheError
from adapt.tables import classes
from adapt.tables.classes import ClassesError

ROOT = Path("cache")
SCHEMA = ROOT / "schema.sql"


@dataclass(frozen=True)
class Clip:
    """A row of `clips`: where the video lies, and its ground truth (for scoring and for training only)."""

    clip_id: str
    path: Path  # from the project's root
    split: str
    label_id: int
    status: str  # ok or failed
    label_ids: tuple[int, ...] = ()  # every class of a clip of several, label_id among them
    unread: str = ""  # why `scan` could not open its file, whose path may be escaped then


@dataclass(frozen=True)
class Sound:
    """A row of `pseudo_labels`: what the clip's sound says."""

    q: np.ndarray  # (K,) sums to 1
    s: np.ndarray  # (K,) in [0, 1]
    absent: np.ndarray  # (K,) in [0, 1]: which classes lack a sound that they cannot go without
    mass: float  # in [0, 1]
    status: str


@cache
def _statement(table: str) -> tuple[str, pa.Schema, tuple[str, ...]]:
    """(CREATE statement normalised by DuckDB, Arrow schema, key columns) of `table`."""
    if not SCHEMA.exists():
        raise CacheError(f"{SCHEMA} is missing: run from the project's root")
    with duckdb.connect() as connection:
        connection.execute(SCHEMA.read_text(encoding="utf-8"))
        sql = connection.execute("SELECT sql FROM duckdb_tables() WHERE table_name = ?", [table]).fetchall()
        key = connection.execute(
            "SELECT constraint_column_names FROM duckdb_constraints() WHERE table_name = ? AND constraint_type = 'PRIMARY KEY'", [table]
        ).fetchall()
        if not sql or not key:
            raise CacheError(f"{SCHEMA} has no table {table} with a primary key")
        return sql[0][0], connection.sql(f"SELECT * FROM {table}").to_arrow_table().schema, tuple(key[0][0])


def schema_sha256(table: str) -> str:
    """The version of `table`: a hash of its statement, comments left out."""
    return hashlib.sha256(_statement(table)[0].encode()).hexdigest()


def _read(path: Path, table: str, labels: list[str] | None = None) -> pa.Table:
    if not path.exists():
        raise CacheError(f"{path} is missing: run `dvc repro`")
    try:
        found = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise CacheError(f"{path}: not a readable Parquet file ({error}): delete it and run `dvc repro`") from error
    metadata = found.schema.metadata or {}
    if metadata.get(b"earshot.schema", b"").decode() != schema_sha256(table):
        raise CacheError(f"{path} does not follow table {table} of {SCHEMA}: delete it and run `dvc repro`")
    if labels is not None and metadata.get(b"earshot.classes_sha256", b"").decode() != classes.sha256(labels):
        raise CacheError(f"{path} was made for another list of classes than {path.parent / 'labels.txt'}: run `dvc repro`")
    return found


def read_labels(dataset: str) -> list[str]:
    """The class names of `dataset` in label_id order, as `scan` wrote them."""
    path = ROOT / dataset / "labels.txt"
    if not path.exists():
        raise CacheError(f"{path} is missing: run `dvc repro scan`")
    try:
        return classes.read(path)
    except ClassesError as error:
        raise CacheError(f"{error}, then run `dvc repro scan`") from error


def read_clips(dataset: str, split: str) -> list[Clip]:
    """The clips of one split in clip_id order."""
    videos = Path("data/videos") / dataset
    rows = [row for row in _read(ROOT / dataset / "clips.parquet", "clips").to_pylist() if row["split"] == split]
    clips = [
        Clip(
            r["clip_id"], videos / r["path"], r["split"], r["label_id"], r["status"], tuple(r["label_ids"] or ()),
            "" if r["content_sha256"] else f"scan could not read it: {r['error']}",
        )
        for r in rows
    ]  # fmt: skip
    if not clips:
        raise CacheError(f"{ROOT / dataset / 'clips.parquet'} has no clip of split {split!r}")
    return clips


def read_sounds(dataset: str, labels: list[str]) -> dict[str, Sound]:
    """clip_id -> what its sound says.  Raises CacheError where the file was made for another class order than `labels`."""
    rows = _read(ROOT / dataset / "pseudo_labels.parquet", "pseudo_labels", labels).to_pylist()
    return {
        r["clip_id"]: Sound(_array(r["probs"]), _array(r["evidence"]), _array(r["absent"]), r["mass"], r["status"]) for r in rows
    }


def _array(values: list[float]) -> np.ndarray:
    return np.array(values, np.float32)


def write_table(path: Path, table: str, rows: Iterable[Mapping[str, object]], provenance: Mapping[str, str]) -> int:
    """Check `rows` against cache/schema.sql, write them ordered by key to a temporary name, rename; return how many."""
    _, schema, key = _statement(table)
    incoming = pa.Table.from_pylist([dict(row) for row in rows], schema=schema)
    with duckdb.connect() as connection:
        connection.execute(SCHEMA.read_text(encoding="utf-8"))
        try:
            connection.register("incoming", incoming)
            connection.execute(f"INSERT INTO {table} BY NAME SELECT * FROM incoming")  # noqa: S608 - table is a name of schema.sql
        except duckdb.Error as error:
            raise CacheError(f"{path}: a row breaks the contract of {table} in {SCHEMA}: {error}") from error
        ordered = connection.sql(f"SELECT * FROM {table} ORDER BY {', '.join(key)}").to_arrow_table()  # noqa: S608
    metadata = {"earshot.table": table, "earshot.schema": schema_sha256(table)}
    metadata |= {f"earshot.{name}": value for name, value in sorted(provenance.items())}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    pq.write_table(ordered.replace_schema_metadata(metadata), temporary, compression="zstd")
    temporary.replace(path)
    return ordered.num_rows


def read_predictions(path: Path) -> list[dict[str, object]]:
    """The rows of one predictions file, in key order."""
    rows: list[dict[str, object]] = _read(path, "predictions").to_pylist()
    return rows

"""Where each table's files lie, which stage makes them, and whether they are what cache/schema.sql says.

Readers of many files at once (`pseudo_label`, SQL) check them here: a few statements of DuckDB read the footers of
thousands of shards.
"""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow.dataset as ds

from adapt.errors import CacheError
from adapt.tables import cache, classes, parquet
from adapt.tables.files import sha256_file
from adapt.tables.schema import SCHEMA, STAGES, schema_of, schema_sha256

PLACES = {
    "clips": "clips.parquet",
    "audio": "audio/part-*.parquet",
    "waveforms": "waveforms/part-*.parquet",
    "tags": "tags/part-*.parquet",
    "label_map": "label_map.parquet",
    "class_map": "class_map.parquet",
    "pseudo_labels": "pseudo_labels.parquet",
    "predictions": "adapt/*/predictions.parquet",
    "traces": "adapt/*/traces.parquet",
}
# table: where its files lie in cache/<dataset>, and the stage that makes them
FILES = {table: (place, STAGES[table]) for table, place in PLACES.items()}


Known = Mapping[str, set[str]]  # what the metadata of a table's files says: name -> the values it has


@dataclass(frozen=True)
class TaggerLabels:
    """The list of sounds that tags were made with, in the order of their logits."""

    path: Path
    sounds: list[str]
    mids: list[str]  # machine ids, the ontology's


def made(folder: Path, table: str) -> list[Path] | None:
    """The files of `table` in a data set's folder, None where its stage has not run; a stage may have had nothing to
    write.
    """
    pattern, _ = FILES[table]
    files = sorted(folder.glob(pattern))
    return files if files or ("part-*" in pattern and (folder / pattern).parent.is_dir()) else None


def needed(folder: Path, table: str) -> list[Path]:
    """The files of `table`.  Raises CacheError, with the command to run, where its stage has not run."""
    files = made(folder, table)
    if files is None:
        place = (folder / FILES[table][0]).parent if "part-*" in FILES[table][0] else folder / FILES[table][0]
        raise CacheError(f"{place} is missing (table {table} of {SCHEMA}): {repair(table)}")
    return files


def repair(table: str) -> str:
    """What makes `table` right again."""
    return f"run `dvc repro {FILES[table][1]}`"


def _again(table: str, file: Path) -> str:
    """What to do about a file of an older version; a run that no stage makes any more is only in the way."""
    of_a_run = table in ("predictions", "traces")
    return repair(table) + (f", or delete {file.parent} where that run is no longer made" if of_a_run else "")


def one_line(error: BaseException) -> str:
    """What a library said over several lines."""
    return " ".join(str(error).split())


def check(
    table: str, files: Sequence[Path], connection: duckdb.DuckDBPyConnection, most_bytes: float = math.inf
) -> Known:
    """Compare every file with cache/schema.sql; return what their metadata says: name -> the values it has.

    Of a table of at most `most_bytes` every byte is verified.  Raises CacheError, with both files and the command that
    repairs, where a file cannot be read, was written under another version of the schema, has other columns, or is
    damaged.
    """
    if not files:
        return {}
    said = _footers(table, files, connection)
    if said.get(("earshot.schema", schema_sha256(table)), ("", 0))[1] != len(files):
        for file in files:
            _check_version(table, file)
    shapes = {path: n for (name, _), (path, n) in said.items() if name == "ARROW:schema"}
    every_shape_is_known = sum(shapes.values()) == len(files)
    for file in files:
        if not every_shape_is_known or str(file.absolute()) in shapes:  # one file of each shape is enough
            _check_columns(table, file, connection)
    if math.isinf(most_bytes) or sum(file.stat().st_size for file in files) <= most_bytes:
        parquet.verify_all(files, table)
    values: dict[str, set[str]] = {}
    for name, value in said:
        if name.startswith("earshot.") and name != parquet.SEAL:
            values.setdefault(name.removeprefix("earshot."), set()).add(value)
    return values


def add(table: str, files: Sequence[Path], connection: duckdb.DuckDBPyConnection) -> None:
    """Make `files` a view of that name, which names them: SQL can read them, and where it may, write.  Without any, an
    empty table with the right columns.
    """
    if files:
        connection.read_parquet([str(file.absolute()) for file in files], hive_partitioning=False).create_view(table)
    else:
        connection.from_arrow(schema_of(table).empty_table()).create(table)


def add_read_only(table: str, files: Sequence[Path], connection: duckdb.DuckDBPyConnection) -> None:
    """Make `files` a view of that name through Arrow, which reads them and verifies the checksum of every page; SQL
    knows no file, and has nothing to write to.
    """
    options = ds.ParquetFragmentScanOptions(pre_buffer=False, page_checksum_verification=True)
    found = ds.dataset(
        [str(file.absolute()) for file in files],
        schema=schema_of(table),
        format=ds.ParquetFileFormat(default_fragment_scan_options=options),
        partitioning=None,
    )
    connection.from_arrow(found).create_view(table)


def read_classes(folder: Path, known: Mapping[str, Known]) -> tuple[list[str], str]:
    """(the class names of a data set's folder in label_id order, their hash).

    `known` has what `check` returned of the tables whose columns follow that order.  Raises CacheError where one was
    made for another list or order.
    """
    path = folder / "labels.txt"
    if not path.exists():
        raise CacheError(
            f"{path} is missing, the order of the classes in {', '.join(known) or 'every table'}: run `dvc repro scan`"
        )
    listed = cache.read_label_file(path)
    sha256 = classes.sha256(listed)
    for table, said in known.items():
        if said.get("classes_sha256") != {sha256}:
            raise CacheError(
                f"{folder / FILES[table][0]} was made for another list of classes than {path}: {repair(table)}"
            )
    return listed, sha256


def read_tagger_labels(folder: Path, known: Known) -> TaggerLabels:
    """The list of sounds that the tags in `folder` name in their metadata.  Raises CacheError where it is not that list
    any more.
    """
    paths, hashes = known.get("labels_file", set()), known.get("labels_sha256", set())
    if len(paths) != 1 or len(hashes) != 1:
        raise CacheError(f"{folder} was made with {len(paths)} lists of sounds, {sorted(paths)}: {repair('tags')}")
    path = Path(*paths)
    if not path.is_file() or {sha256_file(path)} != hashes:
        raise CacheError(
            f"{folder} was made with another list of sounds than {path} holds now: restore it or {repair('tags')}"
        )
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return TaggerLabels(path, [row["display_name"] for row in rows], [row["mid"] for row in rows])


def _footers(
    table: str, files: Sequence[Path], connection: duckdb.DuckDBPyConnection
) -> dict[tuple[str, str], tuple[str, int]]:
    """The metadata of many files at once: (name, value) -> (a file that says so, how many do)."""
    footers = """SELECT decode(key) AS name, if(name = 'ARROW:schema', md5(value), decode(value)) AS said,
        min(file_name), count(*) FROM parquet_kv_metadata(?) GROUP BY ALL"""
    try:
        found = connection.execute(footers, [[str(file.absolute()) for file in files]]).fetchall()
    except duckdb.Error as error:
        for file in files:
            _check_version(table, file)
        raise CacheError(
            f"{files[0].parent} cannot be read as table {table} of {SCHEMA} ({one_line(error)}): {repair(table)}"
        ) from error
    return {(name, value): (path, n) for name, value, path, n in found}


def _check_version(table: str, file: Path) -> None:
    try:
        version = parquet.provenance(file).get("schema")
    except CacheError as error:
        why = one_line(error.__cause__ or error)
        raise CacheError(
            f"{file} is not a whole Parquet file (table {table} of {SCHEMA}; {why}): {repair(table)}"
        ) from error
    if version != schema_sha256(table):
        raise CacheError(
            f"{file} does not follow table {table} of {SCHEMA}: it was written under version {str(version)[:8]}, "
            f"now it is {schema_sha256(table)[:8]}: {_again(table, file)}"
        )


def _check_columns(table: str, file: Path, connection: duckdb.DuckDBPyConnection) -> None:
    contract = connection.from_arrow(schema_of(table).empty_table())
    found = connection.read_parquet(str(file.absolute()), hive_partitioning=False)
    has, wants = (dict(zip(r.columns, map(str, r.types), strict=True)) for r in (found, contract))
    for column in {**wants, **has}:
        if has.get(column) != wants.get(column):
            raise CacheError(
                f"{file}: column {column} is {has.get(column, 'missing')}, but table {table} of {SCHEMA} "
                f"says {wants.get(column, 'nothing of it')}: {repair(table)}"
            )

"""SQL over a data set's cache: a DuckDB connection with a view per table, the views and macros of cache/views.sql, and
nothing else.

The connection lives in memory, reads the files of that data set only, and its settings are locked.  A table whose stage
has not run is left out with all that needs it, so that what is there can be asked; `reason` names the stage when
something left out is used.
"""

import contextlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa

from adapt.errors import CacheError, QueryError
from adapt.tables import cache
from adapt.tables.files import replacing, sha256_file
from adapt.tables.schema import ROOT
from pipeline.labels import ontology
from pipeline.sql.tables import FILES, Known, TaggerLabels, add, check, made, read_classes, read_tagger_labels, repair

VIEWS = ROOT / "views.sql"
STAGES = {table: stage for table, (_, stage) in FILES.items()} | {
    "classes": "scan",
    "tagger_labels": "tag",
    "related_sounds": "pseudo_label",
    "pseudo_label_settings": "pseudo_label",
    "sounds": "tag",
    "loudest": "tag",
    "heard": "tag",
    "why": "pseudo_label",
    "disagreements": "pseudo_label",
    "hearing": "pseudo_label",
    "unheard": "pseudo_label",
    "coverage": "pseudo_label",
    "quality": "pseudo_label",
    "outcomes": "adapt",
}
SETTINGS = {"combine": "VARCHAR", "related": "VARCHAR", "reduce": "VARCHAR", "threshold": "DOUBLE", "top_k": "INTEGER",
            "temperature": "DOUBLE", "tagger": "VARCHAR", "mapper": "VARCHAR"}  # fmt: skip
ORDERED_BY_CLASS = ("clips", "label_map", "pseudo_labels")


@dataclass(frozen=True)
class _Tables:
    """The tables of a data set that are made: their files, and what the files' metadata says."""

    folder: Path
    files: dict[str, list[Path]]
    known: dict[str, Known]


def connect(dataset: str) -> duckdb.DuckDBPyConnection:
    """Open the cache of `dataset`: its tables and all of cache/views.sql that they allow.

    The connection reaches no other file, and its settings are locked; `select` is what keeps a stranger's SQL from
    writing to these. Raises QueryError where the data set has no table, CacheError where a file is broken or does not
    fit the others.
    """
    connection = duckdb.connect()
    found = _fill(connection, dataset)
    readable = [str(path.absolute()) for paths in found.files.values() for path in paths]
    connection.execute(f"SET allowed_paths = {_literal(readable)}")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    return connection


def export(dataset: str, target: Path) -> None:
    """Write a DuckDB file with the views, for the plain `duckdb` client.

    The views name the Parquet files by absolute path, so the file works from any folder as long as the cache stays
    where it is; no row is copied but label lists.  Raises QueryError where `target` exists or lies in the cache.
    """
    refuse_to_write(target)
    if target.exists():
        raise QueryError(f"{target} exists: delete it, or choose another name")
    with replacing(target) as temporary:
        temporary.unlink()  # DuckDB takes no empty file for a database
        with duckdb.connect(str(temporary)) as connection:
            _fill(connection, dataset)


def refuse_to_write(target: Path) -> None:
    """Raise QueryError where a result would be written into the cache, or into no folder at all."""
    if ROOT.resolve() in target.resolve().parents:
        raise QueryError(f"{target} lies in the cache, which SQL only reads: choose another folder")
    if not target.resolve().parent.is_dir():
        raise QueryError(f"{target}: its folder does not exist")


def select(connection: duckdb.DuckDBPyConnection, sql: str) -> duckdb.DuckDBPyRelation:
    """Prepare one SELECT (FROM, VALUES, DESCRIBE and SUMMARIZE are such).

    Raises QueryError for any other statement.
    """
    statements = connection.extract_statements(sql)
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        kinds = [statement.type.name for statement in statements]
        raise QueryError(
            f"the cache is read only and takes one SELECT, not {kinds}: results are written with --csv, --json or "
            "--parquet"
        )
    return connection.sql(sql)


def reason(error: duckdb.Error, dataset: str) -> str:
    """One line: the stage to run where something is not made yet, else what DuckDB says."""
    said = str(error).partition("\n\nLINE ")[0]
    unknown = re.search(r"Table(?: Function)? with name (\w+) does not exist", said)
    if unknown and unknown[1].lower() in STAGES:
        return f"{dataset} has no {unknown[1]} yet: run `dvc repro {STAGES[unknown[1].lower()]}` first"
    return " ".join(said.split())


def _fill(connection: duckdb.DuckDBPyConnection, dataset: str) -> _Tables:
    """Create every table, view and macro that the files allow."""
    if not VIEWS.exists():
        raise CacheError(f"{VIEWS} is missing: run from the project's root")
    if Path(dataset).is_absolute() or ".." in Path(dataset).parts:
        raise QueryError(f"{dataset!r} is no data set: SQL reads nothing but {ROOT}/<dataset>")
    folder = cache.folder(dataset)
    files = {table: paths for table in FILES if (paths := made(folder, table)) is not None}
    if not files:
        there = sorted(path.name for path in ROOT.glob("*") if any(made(path, table) for table in FILES))
        raise QueryError(f"{folder} has no tables: run `dvc repro`, or ask one of {there}")
    found = _Tables(folder, files, {table: check(table, paths, connection) for table, paths in files.items()})
    for table, paths in files.items():
        add(table, paths, connection)
    _add_classes(connection, found)
    _add_sounds(connection, found)
    for statement in connection.extract_statements(VIEWS.read_text(encoding="utf-8")):
        with contextlib.suppress(
            duckdb.CatalogException
        ):  # a table that it needs is not made yet: `reason` names the stage
            connection.execute(statement)
    return found


def _add_classes(connection: duckdb.DuckDBPyConnection, found: _Tables) -> None:
    ordered = {table: found.known[table] for table in ORDERED_BY_CLASS if table in found.files}
    if ordered:
        classes, _ = read_classes(found.folder, ordered)
        _create(connection, "classes", {"label_id": range(len(classes)), "label": classes}, [pa.int32(), pa.string()])


def _add_sounds(connection: duckdb.DuckDBPyConnection, found: _Tables) -> None:
    """tagger_labels, pseudo_label_settings, related_sounds."""
    labels: TaggerLabels | None = None
    if "tags" in found.files:
        if found.files["tags"]:
            labels = read_tagger_labels(found.folder / "tags", found.known["tags"])
        sounds = labels.sounds if labels else []
        _create(
            connection,
            "tagger_labels",
            {"position": range(1, len(sounds) + 1), "sound": sounds},
            [pa.int64(), pa.string()],
        )
    if "pseudo_labels" in found.files:
        (path,) = found.files["pseudo_labels"]
        known = found.known["pseudo_labels"]
        if missing := [name for name in SETTINGS if name not in known]:
            raise CacheError(
                f"{path} does not say with which {missing} it was made, as {VIEWS} needs it: {repair('pseudo_labels')}"
            )
        values = ", ".join(f"?::{type_} AS {name}" for name, type_ in SETTINGS.items())
        connection.execute(
            f"CREATE TABLE pseudo_label_settings AS SELECT {values}", [min(known[name]) for name in SETTINGS]
        )
        kin = _kin(path, known, labels) if labels else []
        _create(
            connection,
            "related_sounds",
            {"sound": [a for a, _ in kin], "other": [b for _, b in kin]},
            [pa.string(), pa.string()],
        )


def _kin(path: Path, known: Known, labels: TaggerLabels) -> list[tuple[str, str]]:
    """The pairs of sounds that were taken for one sound when `path` was made."""
    if known["related"] != {"strongest"}:
        return []
    kin = ontology.kinship(labels.mids)
    if known.get("ontology_sha256") != {sha256_file(ontology.ONTOLOGY)}:
        raise CacheError(
            f"{path} was made with another ontology than {ontology.ONTOLOGY} holds now: {repair('pseudo_labels')}"
        )
    return [(labels.sounds[i], labels.sounds[j]) for i, j in zip(*kin.nonzero(), strict=True)]


def _create(
    connection: duckdb.DuckDBPyConnection,
    name: str,
    columns: Mapping[str, Sequence[object]],
    types: Sequence[pa.DataType],
) -> None:
    arrays = [pa.array(values, type_) for values, type_ in zip(columns.values(), types, strict=True)]
    connection.from_arrow(pa.table(arrays, names=list(columns))).create(name)


def _literal(texts: Sequence[str]) -> str:
    """A list of strings in SQL: SET takes no parameters."""
    return "[" + ", ".join("'" + text.replace("'", "''") + "'" for text in texts) + "]"

"""SQL over a data set's cache: a DuckDB connection with a view per table, the views and macros of cache/views.sql, and
nothing else.

The connection lives in memory and its settings are locked.  Its tables are views of Arrow's: SQL itself reads and
writes no file, whatever parses, nor does it spill to one; what does not fit in memory is an error.  A table whose stage
has not run is left out with all that needs it, so that what is there can be asked; `reason` names the stage when
something left out is used.
"""

import contextlib
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa

from adapt.errors import CacheError, EarshotError, OptionsError, QueryError
from adapt.tables import cache, parquet
from adapt.tables.files import replacing, sha256_file
from adapt.tables.schema import ROOT
from pipeline.labels import ontology
from pipeline.sql.tables import (
    FILES,
    Known,
    TaggerLabels,
    add,
    add_read_only,
    check,
    made,
    read_classes,
    read_tagger_labels,
    repair,
)

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
VERIFIED_BYTES = 1 << 26  # a table of at most so many is verified before SQL reads it: 0.1 s; of a larger one each page
INTERRUPT_EVERY_S = 0.1
ORDERED_BY_CLASS = ("clips", "label_map", "class_map", "pseudo_labels")


@dataclass(frozen=True)
class _Tables:
    """The tables of a data set that are made: their files, and what the files' metadata says."""

    folder: Path
    files: dict[str, list[Path]]
    known: dict[str, Known]
    read_only: bool  # nothing may be written to what SQL is given


def connect(dataset: str, memory_limit: str = "") -> duckdb.DuckDBPyConnection:
    """Open the cache of `dataset`: its tables and all of cache/views.sql that they allow.

    The connection reaches no file, and its settings are locked.  `memory_limit` is DuckDB's, such as 4GB; empty for
    80 % of the machine's.  Raises QueryError where the data set has no table, OptionsError for such a limit as DuckDB
    does not know, CacheError where a file is broken or does not fit the others.
    """
    connection = duckdb.connect()
    try:
        _fill(connection, dataset, read_only=True)
        if memory_limit:
            connection.execute(f"SET memory_limit = {_literal(memory_limit)}")
        for setting in ("temp_directory = ''", "enable_external_access = false", "lock_configuration = true"):
            connection.execute(f"SET {setting}")
    except duckdb.Error as error:
        connection.close()
        if memory_limit and isinstance(error, duckdb.ParserException):
            raise OptionsError(f"memory_limit is {memory_limit!r}: give a size such as 4GB or 500MB") from error
        raise
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def within(timeout_s: float, connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """Interrupt what the block asks of `connection` after `timeout_s` seconds, 0 for never.

    Raises QueryError where it was interrupted, OptionsError for a time below 0.
    """
    if not 0 <= timeout_s < threading.TIMEOUT_MAX:
        raise OptionsError(f"timeout_s is {timeout_s}: give seconds, or 0 for no limit")
    if not timeout_s:
        yield
        return
    answered, late = threading.Event(), threading.Event()

    def watch() -> None:
        if not answered.wait(timeout_s):
            late.set()
            while not answered.wait(INTERRUPT_EVERY_S):  # one may fall between two statements
                connection.interrupt()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    except (duckdb.Error, EarshotError) as error:
        if late.is_set():
            raise QueryError(f"no answer within {timeout_s:g} s: ask for less, or raise --timeout_s") from error
        raise
    finally:
        answered.set()
        thread.join()


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
            _fill(connection, dataset, read_only=False)


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
    if "CRC checksum" in said:
        return _damage(dataset) or " ".join(said.split())
    return " ".join(said.split())


def _damage(dataset: str) -> str:
    """What is to be said of the first damaged file; "" where there is none."""
    for table in FILES:
        try:
            parquet.verify_all(made(cache.folder(dataset), table) or [], table)
        except CacheError as error:
            return str(error)
    return ""


def _fill(connection: duckdb.DuckDBPyConnection, dataset: str, *, read_only: bool) -> _Tables:
    """Create every table, view and macro that the files allow; all of them views where nothing may be written."""
    if not VIEWS.exists():
        raise CacheError(f"{VIEWS} is missing: run from the project's root")
    if Path(dataset).is_absolute() or ".." in Path(dataset).parts:
        raise QueryError(f"{dataset!r} is no data set: SQL reads nothing but {ROOT}/<dataset>")
    folder = cache.folder(dataset)
    files = {table: paths for table in FILES if (paths := made(folder, table)) is not None}
    if not files:
        there = sorted(path.name for path in ROOT.glob("*") if any(made(path, table) for table in FILES))
        raise QueryError(f"{folder} has no tables: run `dvc repro`, or ask one of {there}")
    known = {table: check(table, paths, connection, VERIFIED_BYTES) for table, paths in files.items()}
    found = _Tables(folder, files, known, read_only)
    for table, paths in files.items():
        (add_read_only if read_only else add)(table, paths, connection)
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
        _create(
            connection, found, "classes", {"label_id": range(len(classes)), "label": classes}, [pa.int32(), pa.string()]
        )


def _add_sounds(connection: duckdb.DuckDBPyConnection, found: _Tables) -> None:
    """tagger_labels, pseudo_label_settings, related_sounds."""
    labels: TaggerLabels | None = None
    if "tags" in found.files:
        if found.files["tags"]:
            labels = read_tagger_labels(found.folder / "tags", found.known["tags"])
        sounds = labels.sounds if labels else []
        _create(
            connection,
            found,
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
        stated = connection.sql(f"SELECT {values}", params=[min(known[name]) for name in SETTINGS]).to_arrow_table()
        _put(connection, found, "pseudo_label_settings", stated)
        kin = _kin(path, known, labels) if labels else []
        _create(
            connection,
            found,
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
    found: _Tables,
    name: str,
    columns: Mapping[str, Sequence[object]],
    types: Sequence[pa.DataType],
) -> None:
    arrays = [pa.array(values, type_) for values, type_ in zip(columns.values(), types, strict=True)]
    _put(connection, found, name, pa.table(arrays, names=list(columns)))


def _put(connection: duckdb.DuckDBPyConnection, found: _Tables, name: str, rows: pa.Table) -> None:
    """Give SQL a small table under that name."""
    relation = connection.from_arrow(rows)
    if found.read_only:
        relation.create_view(name)
    else:
        relation.create(name)


def _literal(text: str) -> str:
    """A string in SQL: SET takes no parameters."""
    return "'" + text.replace("'", "''") + "'"

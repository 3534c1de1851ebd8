"""SQL over a data set's cache: `python -m pipeline.query demo "SELECT ..."`.

Every table of cache/schema.sql that has been made is a view of that name, beside those of cache/views.sql, in a DuckDB that lives in
memory, reads those files and nothing else, and takes SELECT only.
"""
import contextlib
import csv
import io
import json
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import tyro

from pipeline import cache, taggers
from pipeline.errors import CacheError, EarshotError, QueryError

VIEWS = cache.ROOT / "views.sql"
FILES = {  # table: where its files lie in cache/<dataset>, and the stage that makes them
    "clips": ("clips.parquet", "scan"),
    "audio": ("audio/part-*.parquet", "decode"),
    "waveforms": ("waveforms/part-*.parquet", "decode"),
    "tags": ("tags/part-*.parquet", "tag"),
    "label_map": ("label_map.parquet", "map_labels"),
    "pseudo_labels": ("pseudo_labels.parquet", "pseudo_label"),
    "predictions": ("adapt/*/predictions.parquet", "adapt"),
    "traces": ("adapt/*/traces.parquet", "adapt"),
}
STAGES = {table: stage for table, (_, stage) in FILES.items()} | {
    "sounds": "tag",
    "tagger_labels": "tag",
    "disagreements": "pseudo_label",
    "hearing": "pseudo_label",
    "unheard": "pseudo_label",
}
TABLE_ROWS = 1000  # of a result that is printed as a table
EXAMPLES = (
    "SELECT sound, probability FROM sounds WHERE clip_id = (SELECT min(clip_id) FROM sounds) ORDER BY probability DESC LIMIT 5",
    "SELECT clip_id, label, top_label, mass FROM disagreements",
    "SELECT * FROM unheard",
)


@dataclass(frozen=True)
class Options:
    """Ask the cache of a data set; without SQL, list what can be asked."""

    dataset: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATASET")]  # names cache/<dataset>
    sql: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="[SQL]")] = ""  # one SELECT
    format: Literal["table", "csv", "json", "parquet"] = "table"
    output: Path | None = None  # a file in place of stdout; needed for parquet


def connect(dataset: str) -> duckdb.DuckDBPyConnection:
    """Open the cache of `dataset`: a view per table that has been made and per view of cache/views.sql that these allow.

    The connection reaches no other file, and its settings are locked; `select` is what keeps a stranger's SQL from writing to these.
    Raises QueryError where the data set has no table, CacheError where one follows another version of cache/schema.sql.
    """
    folder = cache.folder(dataset)
    files = {table: sorted(folder.glob(pattern)) for table, (pattern, _) in FILES.items()}
    made = [table for table, (pattern, _) in FILES.items() if files[table] or _is_empty_folder(folder, pattern)]
    if not made:
        there = sorted(path.name for path in cache.ROOT.glob("*") if path.is_dir())
        raise QueryError(f"{folder} has no tables: run `dvc repro`, or ask one of {there}")
    connection = duckdb.connect()
    for table in made:
        _add_table(connection, table, files[table])
    if "tags" in made:
        _add_tagger_labels(connection, files["tags"])
    for statement in connection.extract_statements(VIEWS.read_text(encoding="utf-8")):
        with contextlib.suppress(duckdb.CatalogException):  # a table that it needs is not made yet: `_reason` names the stage
            connection.execute(statement)
    readable = [str(path.absolute()) for paths in files.values() for path in paths]
    connection.execute(f"SET allowed_paths = {_literal(readable)}")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    return connection


def run(options: Options) -> None:
    """Answer one query on stdout or in `options.output`.  Raises QueryError, with one line, where it cannot be answered."""
    if options.format == "parquet" and options.output is None:
        raise QueryError("parquet is not text: give --output FILE")
    with connect(options.dataset) as connection:
        if not options.sql.strip():
            sys.stdout.write(usage(connection, options.dataset))
            return
        try:
            answer = select(connection, options.sql)
            if options.format == "parquet" and options.output is not None:
                pq.write_table(_unique(answer).to_arrow_table(), options.output)
                return
            text = {"table": as_table, "csv": as_csv, "json": as_json}[options.format](answer)
        except duckdb.Error as error:
            raise QueryError(_reason(error, options.dataset)) from error
    if options.output is not None:
        options.output.write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)


def select(connection: duckdb.DuckDBPyConnection, sql: str) -> duckdb.DuckDBPyRelation:
    """Prepare one SELECT (FROM, VALUES, DESCRIBE and SUMMARIZE are such).  Raises QueryError for any other statement."""
    statements = connection.extract_statements(sql)
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        kinds = [statement.type.name for statement in statements]
        raise QueryError(f"the cache is read only and takes one SELECT, not {kinds}: results are written with --format and --output")
    return connection.sql(sql)


def usage(connection: duckdb.DuckDBPyConnection, dataset: str) -> str:
    """List the views with their columns, and three queries to try."""
    columns = "SELECT table_name, string_agg(column_name, ', ' ORDER BY column_index) FROM duckdb_columns() WHERE NOT internal GROUP BY ALL"
    listed = [f"  {name}: {names}" for name, names in sorted(connection.sql(columns).fetchall())]
    tries = [f'  python -m pipeline.query {dataset} "{example}"' for example in EXAMPLES]
    head = f"The cache of {dataset} has these tables and columns ({cache.SCHEMA} and {VIEWS} say what they mean):"
    return "\n".join([head, *listed, "Try:", *tries, ""])


def as_table(answer: duckdb.DuckDBPyRelation) -> str:
    """Draw the answer as DuckDB does, as wide as the terminal."""
    drawn = io.StringIO()
    with contextlib.redirect_stdout(drawn):
        answer.show(max_width=shutil.get_terminal_size((140, 40)).columns, max_rows=TABLE_ROWS)
    return drawn.getvalue()


def as_csv(answer: duckdb.DuckDBPyRelation) -> str:
    """Write a header and a line a row; NULL is empty, lists and structs are JSON."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(answer.columns)
    for row in answer.fetchall():
        writer.writerow([_json(value) if isinstance(value, (list, dict, bytes)) else value for value in row])
    return text.getvalue()


def as_json(answer: duckdb.DuckDBPyRelation) -> str:
    """Write a list of objects, one a row; binary values are hexadecimal."""
    columns = _unique(answer).columns
    return _json([dict(zip(columns, row, strict=True)) for row in answer.fetchall()]) + "\n"


def _json(value: object) -> str:
    return json.dumps(value, default=lambda other: other.hex() if isinstance(other, bytes) else str(other), ensure_ascii=False)


def _unique(answer: duckdb.DuckDBPyRelation) -> duckdb.DuckDBPyRelation:
    twice = sorted({name for name in answer.columns if answer.columns.count(name) > 1})
    if twice:
        raise QueryError(f"columns {twice} stand twice in the result: name them apart with AS")
    return answer


def _is_empty_folder(folder: Path, pattern: str) -> bool:
    """Whether a stage that writes shards has run and had nothing to write."""
    return "part-*" in pattern and (folder / pattern).parent.is_dir()


def _add_table(connection: duckdb.DuckDBPyConnection, table: str, files: list[Path]) -> None:
    for file in files:
        if cache.provenance(file).get("schema") != cache.schema_sha256(table):
            raise CacheError(f"{file} does not follow table {table} of {cache.SCHEMA}: run `dvc repro {STAGES[table]}`")
    if files:
        connection.read_parquet([str(file.absolute()) for file in files], hive_partitioning=False).create_view(table)
    else:
        connection.from_arrow(cache.schema_of(table).empty_table()).create(table)


def _add_tagger_labels(connection: duckdb.DuckDBPyConnection, files: list[Path]) -> None:
    labels: list[str] = []
    if files:
        known = cache.provenance(files[0])
        path = Path(known["labels_file"])
        labels = taggers.read_labels(path)
        if cache.sha256_file(path) != known["labels_sha256"]:
            raise CacheError(f"{path} is not the list that the tags were made with: run `dvc repro tag`")
    positions = pa.array(range(1, len(labels) + 1), pa.int64())
    connection.from_arrow(pa.table({"position": positions, "sound": pa.array(labels, pa.string())})).create("tagger_labels")


def _literal(texts: list[str]) -> str:
    """A list of strings in SQL: SET takes no parameters."""
    return "[" + ", ".join("'" + text.replace("'", "''") + "'" for text in texts) + "]"


def _reason(error: duckdb.Error, dataset: str) -> str:
    """One line: the stage to run where a table is not made yet, else what DuckDB says."""
    said = str(error).partition("\n\nLINE ")[0]
    unknown = re.search(r"Table with name (\w+) does not exist", said)
    if unknown and unknown[1].lower() in STAGES:
        return f"{dataset} has no {unknown[1]} yet: run `dvc repro {STAGES[unknown[1].lower()]}` first"
    return " ".join(said.split())


def main(args: list[str] | None = None) -> None:
    """Run as a command: exit 0, 1 with a one-line reason, or 2 for wrong flags."""
    options = tyro.cli(Options, prog="python -m pipeline.query", args=args)
    try:
        run(options)
    except EarshotError as error:
        print(f"pipeline.query: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()

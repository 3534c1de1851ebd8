"""Ask a data set's cache in SQL: `python -m pipeline.query demo "SELECT ..."`, or with --file, from stdin, or at a
prompt.

pipeline/sql.py opens the cache and says what can be asked; here are the ways in and out: a table, CSV, JSON, a Parquet
file.
"""

import contextlib
import csv
import io
import json
import math
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Annotated, TextIO

from adapt import command

if __name__ == "__main__":
    command.begin("pipeline.query")  # before what takes time to import

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import tyro

from adapt.command import printable, printable_json, until_the_reader_leaves
from adapt.errors import EarshotError, OptionsError, QueryError
from adapt.tables.files import replacing
from adapt.tables.schema import SCHEMA
from pipeline.sql.connection import VIEWS, export, reason, refuse_to_write, select, within
from pipeline.sql.connection import connect as connect  # for users: the cache as a DuckDB connection

ROWS_AT_ONCE = 8192  # of a result that is written as CSV, JSON or Parquet
TABLE_ROWS = 1000  # of a result that is printed as a table
WIDTH = 140  # characters, where there is no terminal
EXAMPLES = (
    "FROM loudest('{clip}', 3)",
    "FROM why('{clip}')",
    "SELECT clip_id, label, top_label, round(mass, 2) AS mass FROM disagreements LIMIT 5",
    "SELECT label, n_sounds, n_necessary, coverage FROM coverage",
)
PROMPT_HELP = (
    "A SELECT ends with ; and may take several lines.  .tables lists what can be asked, .help shows this, .exit (or "
    "Ctrl-D) leaves.\n"
)
Flag = tyro.conf.FlagCreatePairsOff[bool]  # --csv, and no --no-csv
Write = Callable[[duckdb.DuckDBPyRelation, TextIO], None]


@dataclass(frozen=True)
class Options:
    """Ask the cache of a data set.  Without SQL: a prompt, or in a pipe the SQL from stdin."""

    dataset: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATASET")]  # names cache/<dataset>
    sql: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="[SQL]")] = ""  # one SELECT
    file: Path | None = None  # read the SELECT from this file
    csv: Flag = False  # print CSV in place of a table
    json: Flag = False  # print a list of objects in place of a table
    parquet: Path | None = None  # write the result to this file
    export: Path | None = None
    """write a DuckDB file of all views for the plain duckdb client, which reads the cache where it lies now"""
    timeout_s: float = 0.0  # seconds that an answer may take; 0 for no limit
    memory_limit: str = ""  # that an answer may take, such as 4GB; empty: 80 % of the machine's


def run(options: Options) -> None:
    """Answer on stdout or in a file.  Raises QueryError or OptionsError, with one line, where it cannot be answered."""
    _check(options)
    with until_the_reader_leaves():
        _answer_all(options)


def _answer_all(options: Options) -> None:
    try:
        if options.export is not None:
            export(options.dataset, options.export)
            return
        with connect(options.dataset, options.memory_limit) as connection, command.hook(connection.interrupt):
            sql = _sql(options)
            if sql is None:
                with command.prompting():
                    prompt(connection, options.dataset, _format(options), timeout_s=options.timeout_s)
                return
            with within(options.timeout_s, connection):
                if options.parquet is not None:
                    write_parquet(select(connection, sql), options.parquet)
                else:
                    _format(options)(select(connection, sql), sys.stdout)
    except duckdb.Error as error:
        raise QueryError(reason(error, options.dataset)) from error


def prompt(
    connection: duckdb.DuckDBPyConnection,
    dataset: str,
    write: Write,
    read: Callable[[str], str] = input,
    timeout_s: float = 0.0,
) -> None:
    """Answer SELECT after SELECT until the input ends; what cannot be answered is one line on stderr, and the next may
    be asked.
    """
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - importing it gives `input` its arrow keys and history
    print(f"The cache of {dataset}.  {PROMPT_HELP}", end="")
    asked = ""
    while True:
        try:
            line = read("   ...> " if asked else f"{dataset}> ")
        except EOFError:
            print()
            return
        except KeyboardInterrupt:  # forget what was typed, as other prompts do
            asked = ""
            print()
            continue
        word = line.strip()
        if not asked and word in (".exit", ".quit"):
            return
        if not asked and word.startswith("."):
            told = {".help": PROMPT_HELP + tries(connection), ".tables": tables(connection)}
            print(printable(told.get(word, f"{word} is not known: try .help\n"), lines=True), end="")
            continue
        asked = f"{asked}\n{line}".strip()
        if asked.endswith(";"):
            _answer(connection, dataset, asked, write, timeout_s)
            asked = ""


def tables(connection: duckdb.DuckDBPyConnection) -> str:
    """List what can be asked: tables and views with their columns, macros with their parameters."""
    columns = (
        "SELECT table_name, string_agg(column_name, ', ' ORDER BY column_index) FROM duckdb_columns() WHERE NOT "
        "internal GROUP BY ALL"
    )
    macros = (
        "SELECT function_name, array_to_string(parameters, ', ') FROM duckdb_functions() WHERE function_type = "
        "'table_macro' AND NOT internal"
    )
    listed = [f"  {name}: {names}" for name, names in sorted(connection.sql(columns).fetchall())]
    listed += [f"  {name}({names})" for name, names in sorted(connection.sql(macros).fetchall())]
    return "\n".join([f"{SCHEMA} and {VIEWS} say what these mean:", *listed, ""])


def tries(connection: duckdb.DuckDBPyConnection) -> str:
    """Some queries to try, about a clip of this data set."""
    try:
        found = connection.sql("SELECT clip_id FROM pseudo_labels ORDER BY mass DESC, clip_id LIMIT 1").fetchall()
    except duckdb.CatalogException:
        found = []  # not made yet
    clip = str(found[0][0]).replace("'", "''") if found else "CLIP"
    return "\n".join(["Try:", *(f"  {example.format(clip=clip)};" for example in EXAMPLES), ""])


def write_table(answer: duckdb.DuckDBPyRelation, out: TextIO) -> None:
    """Draw the answer as DuckDB does, as wide as the terminal; control characters are shown, not sent."""
    drawn = io.StringIO()
    with contextlib.redirect_stdout(drawn):
        answer.show(max_width=shutil.get_terminal_size((WIDTH, 40)).columns, max_rows=TABLE_ROWS)
    out.write(printable(drawn.getvalue().rstrip("\n"), lines=True) + "\n")


def write_csv(answer: duckdb.DuckDBPyRelation, out: TextIO) -> None:
    """Write a header and a line a row; NULL is empty, lists and structs are JSON, binary values hexadecimal.

    A file or a pipe gets every character as it is, a terminal what is printable.
    """
    writer = csv.writer(_Terminal(out) if out.isatty() else out, lineterminator="\n")
    writer.writerow(answer.columns)
    for row in _rows(answer):
        writer.writerow(
            [json.dumps(v, ensure_ascii=False) if isinstance(v, (list, dict, bool)) else v for v in map(_plain, row)]
        )


class _Terminal:
    """Writes what is printable."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def write(self, text: str) -> int:
        """As a file does."""
        return self._out.write(printable(text, lines=True))


def write_json(answer: duckdb.DuckDBPyRelation, out: TextIO) -> None:
    """Write a list of objects, one a row and line; binary values are hexadecimal, what is not a number is null."""
    columns = _unique(answer).columns
    before = "["
    for row in _rows(answer):
        line = json.dumps(dict(zip(columns, map(_plain, row), strict=True)), ensure_ascii=False)
        out.write(f"{before}\n{printable_json(line)}")
        before = ","
    out.write("[]\n" if before == "[" else "\n]\n")


def write_parquet(answer: duckdb.DuckDBPyRelation, target: Path) -> None:
    """Write the answer to `target`, batch by batch, under a temporary name until it is whole."""
    refuse_to_write(target)
    reader = _unique(answer).to_arrow_reader(ROWS_AT_ONCE)
    try:
        with replacing(target) as temporary, pq.ParquetWriter(temporary, reader.schema) as file:
            for batch in _batches(reader):
                file.write_batch(batch)
    except OSError as error:
        raise QueryError(f"{target} cannot be written: {error}") from error


def _check(options: Options) -> None:
    asked = [name for name in ("sql", "file") if getattr(options, name)]
    formats = [f"--{name}" for name in ("csv", "json", "parquet", "export") if getattr(options, name)]
    if len(asked) > 1:
        raise OptionsError("SQL is given twice: as an argument or with --file, not both")
    if len(formats) > 1:
        raise OptionsError(f"{' and '.join(formats)} exclude each other: choose one")
    if asked and options.export is not None:
        raise OptionsError("--export writes all views and takes no SQL: leave one of them out")


def _sql(options: Options) -> str | None:
    """The SELECT to answer, None to ask for it at a prompt."""
    if options.sql.strip():
        return options.sql
    if options.file is not None:
        try:
            return options.file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise QueryError(f"{options.file} cannot be read: {error}") from error
    if sys.stdin.isatty():
        if options.parquet is not None:
            raise OptionsError("--parquet needs SQL: give it as an argument or with --file")
        return None
    sql = sys.stdin.read()
    if not sql.strip():
        raise QueryError(f'no SQL: give it as an argument, with --file or on stdin, such as "{EXAMPLES[-1]}"')
    return sql


def _format(options: Options) -> Write:
    return write_csv if options.csv else write_json if options.json else write_table


def _answer(connection: duckdb.DuckDBPyConnection, dataset: str, sql: str, write: Write, timeout_s: float) -> None:
    try:
        with within(timeout_s, connection):
            write(select(connection, sql), sys.stdout)
    except (duckdb.Error, EarshotError) as error:
        print(printable(reason(error, dataset) if isinstance(error, duckdb.Error) else error), file=sys.stderr)


def _rows(answer: duckdb.DuckDBPyRelation) -> Iterator[tuple[object, ...]]:
    for batch in _batches(answer.to_arrow_reader(ROWS_AT_ONCE)):
        yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


def _batches(reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
    """The batches of an answer.  Raises QueryError where a row fails: Arrow passes DuckDB's words on as an OSError, as
    a full disk is one.
    """
    while True:
        try:
            batch = reader.read_next_batch()
        except StopIteration:
            return
        except (OSError, pa.ArrowException) as error:
            raise QueryError(str(error)) from error
        yield batch


def _plain(value: object) -> object:
    """What JSON and CSV know: numbers, text, lists, objects, null."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (bytes, bytearray)):
        return value.hex()
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


def _unique(answer: duckdb.DuckDBPyRelation) -> duckdb.DuckDBPyRelation:
    twice = sorted({name for name in answer.columns if answer.columns.count(name) > 1})
    if twice:
        raise QueryError(f"columns {twice} stand twice in the result: name them apart with AS")
    return answer


def main(args: list[str] | None = None) -> None:
    """Run as a command."""
    command.main(Options, run, prog="pipeline.query", args=args)


if __name__ == "__main__":
    main()

"""query: SQL in by four ways, answers out by four, nothing written and nothing else read."""

import io
import json
import re
import shutil
import sys
import time
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest

from adapt.errors import OptionsError, QueryError
from pipeline import query
from pipeline.sql.connection import connect
from tests import pets


def ask(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    query.main(["pets", *arguments])
    return capsys.readouterr().out


def test_a_table_is_drawn_with_its_values(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drawn = ask(capsys, "SELECT clip_id, status FROM audio ORDER BY clip_id")
    first_cells = [cells[0] for line in drawn.splitlines() if (cells := re.findall(r"\w+", line))]
    assert first_cells == ["clip_id", "varchar", "barks", "broken", "mute", "talks", "turns"]


def test_control_characters_are_shown_and_not_sent_to_the_terminal(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = ask(capsys, "SELECT chr(27) || '[31mred' AS text")
    assert "\x1b" not in drawn
    assert "[31mred" in drawn


def test_csv_has_a_header_and_json_in_its_nested_values(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = ask(
        capsys,
        "--csv",
        "SELECT 'a,b' AS text, NULL AS nothing, [1, 2] AS list, {'x': 0.5::DOUBLE} AS struct, true AS yes",
    )
    assert text == 'text,nothing,list,struct,yes\n"a,b",,"[1, 2]","{""x"": 0.5}",true\n'


def test_json_is_a_list_of_rows(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = "'é' AS accent, '\\xAB'::BLOB AS bytes, 0.5 AS half, 'nan'::DOUBLE AS nan, DATE '2025-01-31' AS day"
    text = ask(capsys, "--json", f"SELECT {values} FROM range(2)")
    row = {"accent": "é", "bytes": "ab", "half": 0.5, "nan": None, "day": "2025-01-31"}
    assert json.loads(text) == [row, row]
    assert json.loads(ask(capsys, "--json", "SELECT 1 AS one WHERE false")) == []


def test_json_and_csv_hold_more_rows_than_one_batch(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    n = 2 * query.ROWS_AT_ONCE + 1
    assert [row["range"] for row in json.loads(ask(capsys, "--json", f"FROM range({n})"))] == list(range(n))
    assert ask(capsys, "--csv", f"FROM range({n})").split() == ["range", *map(str, range(n))]


def test_parquet_goes_to_a_file(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(capsys, "--parquet", "out.parquet", "SELECT clip_id, mass FROM pseudo_labels ORDER BY clip_id") == ""
    assert pq.read_table("out.parquet").column("clip_id").to_pylist() == sorted(pets.STATUSES)
    ask(capsys, "--parquet", "empty.parquet", "SELECT clip_id FROM clips WHERE false")
    assert pq.read_table("empty.parquet").num_rows == 0


def test_a_result_that_fails_half_way_is_one_line_and_leaves_no_file(project: Path) -> None:
    rows = "SELECT if(range = 20000, error('at run time'), 'fine') AS text FROM range(20001)"
    for options in (query.Options("pets", rows, parquet=Path("out.parquet")), query.Options("pets", rows, csv=True)):
        with pytest.raises(QueryError, match="at run time"):
            query.run(options)
    assert not [path for path in project.iterdir() if "out" in path.name]


@pytest.mark.parametrize("flag", ["--parquet", "--export"])
@pytest.mark.parametrize("target", ["cache/pets/clips.parquet", "cache/new", "data/../cache/pets/new"])
def test_a_result_is_not_written_into_the_cache(project: Path, flag: str, target: str) -> None:
    sql = [] if flag == "--export" else ["SELECT 1 AS one"]
    before = Path("cache/pets/clips.parquet").read_bytes()
    with pytest.raises(SystemExit, match="1"):
        query.main(["pets", flag, target, *sql])
    assert Path("cache/pets/clips.parquet").read_bytes() == before
    assert not Path("cache/new").exists()


def test_two_columns_of_one_name_are_not_lost(project: Path) -> None:
    for options in (
        query.Options("pets", "SELECT 1 AS a, 2 AS a", json=True),
        query.Options("pets", "SELECT 1 AS a, 2 AS a", parquet=Path("x")),
    ):
        with pytest.raises(QueryError, match=r"columns \['a'\] stand twice in the result: name them apart with AS"):
            query.run(options)


def test_sql_comes_from_a_file(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("q.sql").write_text("-- how many\nSELECT count(*) AS n\nFROM clips;\n")
    assert ask(capsys, "--csv", "--file", "q.sql") == "n\n5\n"
    with pytest.raises(QueryError, match="nowhere.sql cannot be read: .*No such file"):
        query.run(query.Options("pets", file=Path("nowhere.sql")))


def test_sql_comes_from_a_pipe(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("SELECT count(*) AS n\nFROM clips"))
    assert ask(capsys, "--csv") == "n\n5\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO(" \n"))
    with pytest.raises(QueryError, match="no SQL: give it as an argument, with --file or on stdin"):
        query.run(query.Options("pets"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["SELECT 1", "--file", "q.sql"], "SQL is given twice"),
        (["SELECT 1", "--csv", "--json"], "--csv and --json exclude each other"),
        (["SELECT 1", "--json", "--parquet", "x"], "--json and --parquet exclude each other"),
        (["SELECT 1", "--export", "x.duckdb"], "--export writes all views and takes no SQL"),
    ],
)
def test_flags_that_do_not_go_together_are_one_line(
    project: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit, match="1"):
        query.main(["pets", *arguments])
    assert capsys.readouterr().err.startswith(f"pipeline.query: {message}")


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("SELEC 1", "Parser Error: syntax error"),
        ("SELECT nonesuch FROM clips", 'Binder Error: Referenced column "nonesuch" not found'),
        ("SELECT * FROM nonesuch", "Table with name nonesuch does not exist"),
        ("SELECT error('at run time') FROM clips", "at run time"),
        ("FROM heard('Woof', 0.5)", "tagger_labels has no sound Woof"),
        ("", "no SQL"),
        (";", "takes one SELECT, not []"),
    ],
)
def test_a_wrong_query_is_one_line_and_exit_1(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, sql: str, message: str
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    with pytest.raises(SystemExit, match="1"):
        query.main(["pets", sql])
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize(
    "sql",
    [
        "FROM read_csv('/etc/passwd')",
        "FROM '/etc/passwd'",
        "FROM read_text('outside.txt')",
        "FROM 'outside.txt'",
        "FROM read_parquet('outside.parquet')",
        "FROM parquet_metadata('outside.parquet')",
        "FROM glob('*')",
        "FROM outside",  # a variable of Python's
        "COPY clips TO 'cache/pets/clips.parquet' (FORMAT parquet, USE_TMP_FILE false)",
        "COPY (SELECT 1) TO '../written.csv'",
        "EXPLAIN ANALYZE COPY (SELECT 1) TO 'cache/pets/clips.parquet' (FORMAT parquet, USE_TMP_FILE false)",
        "EXPORT DATABASE 'everything'",
        "CREATE TABLE t (a INTEGER)",
        "INSERT INTO classes VALUES (2, 'cow')",
        "DROP VIEW clips",
        "SET enable_external_access = true",
        "RESET allowed_paths",
        "PRAGMA database_list",
        "ATTACH 'other.duckdb'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SELECT 1; SELECT 2",
        "SELECT 1; COPY clips TO 'x.csv'",
        "WITH gone AS (DELETE FROM classes RETURNING *) SELECT * FROM gone",
        "WITH gone AS (DELETE FROM tags RETURNING *) SELECT * FROM gone",
        "WITH more AS (INSERT INTO classes VALUES (2, 'cow') RETURNING *) SELECT * FROM more",
        "WITH other AS (UPDATE tagger_labels SET sound = 'x' RETURNING *) SELECT * FROM other",
        "FROM read_parquet('cache/pets/clips.parquet')",
        "FROM parquet_scan('cache/pets/tags/part-00000-of-00001.parquet')",
        "FROM read_blob('cache/pets/clips.parquet')",
        "SELECT getenv('HOME')",
    ],
)
def test_nothing_is_written_and_nothing_outside_the_cache_is_read(
    project: Path, capsys: pytest.CaptureFixture[str], sql: str
) -> None:
    outside = pq.read_table("cache/pets/clips.parquet")
    pq.write_table(outside, "outside.parquet")
    Path("outside.txt").write_text("secret\n")
    before = {path: path.read_bytes() for path in project.rglob("*") if path.is_file()}
    with pytest.raises(SystemExit, match="1"):
        query.main(["pets", sql])
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("pipeline.query: ")
    assert captured.err.count("\n") == 1
    assert "secret" not in captured.err
    assert {path: path.read_bytes() for path in project.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("sql", "why"),
    [
        ("FROM read_csv('/etc/passwd')", "disabled by configuration"),
        ("FROM read_parquet('cache/pets/clips.parquet')", "disabled by configuration"),
        ("COPY (SELECT 1) TO 'x.csv'", "disabled by configuration"),
        ("COPY clips TO 'cache/pets/clips.parquet' (FORMAT parquet, USE_TMP_FILE false)", "disabled by configuration"),
        ("COPY (SELECT 1) TO 'cache/pets/labels.txt'", "disabled by configuration"),
        ("EXPORT DATABASE 'x'", "disabled by configuration"),
        ("ATTACH 'x.duckdb'", "disabled by configuration"),
        ("INSTALL httpfs", "disabled by configuration|through configuration"),
        ("LOAD httpfs", "disabled by configuration|through configuration"),
        ("SET threads = 1", "locked"),
        ("SET temp_directory = '.'", "locked"),
        ("SET allowed_directories = ['/']", "locked"),
        ("PRAGMA memory_limit = '1GB'", "locked"),
        ("WITH gone AS (DELETE FROM classes RETURNING *) SELECT * FROM gone", "base table"),
        ("DELETE FROM clips", "base table"),
        ("UPDATE pseudo_label_settings SET threshold = 0", "base table"),
        ("INSERT INTO tags BY NAME SELECT * FROM tags", "not an table|not a table|base table"),
    ],
)
def test_the_connection_that_python_gets_writes_nothing_whatever_parses(project: Path, sql: str, why: str) -> None:
    before = {path: path.read_bytes() for path in project.rglob("*") if path.is_file()}
    with connect("pets") as connection:
        tables = connection.sql("FROM classes").fetchall(), connection.sql("FROM tags").fetchall()
        with pytest.raises(duckdb.Error, match=why):
            connection.execute(sql).fetchall()
        assert (connection.sql("FROM classes").fetchall(), connection.sql("FROM tags").fetchall()) == tables
    assert {path: path.read_bytes() for path in project.rglob("*") if path.is_file()} == before


ENDLESS = "SELECT count(*) FROM range(10000000000) AS a, range(10000000000) AS b WHERE a.range * b.range % 7 = 3"


def test_a_query_that_takes_too_long_is_ended(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    started = time.monotonic()
    with pytest.raises(SystemExit, match="1"):
        query.main(["pets", "--timeout_s", "0.3", ENDLESS])
    assert time.monotonic() - started < 10  # it would take years
    assert capsys.readouterr().err == ("pipeline.query: no answer within 0.3 s: ask for less, or raise --timeout_s\n")


def test_a_query_that_takes_too_much_memory_is_ended_and_spills_to_no_file(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(project.rglob("*"))
    much = "SELECT count(*) FROM (SELECT DISTINCT hash(range)::VARCHAR FROM range(5000000))"
    with pytest.raises(SystemExit, match="1"):
        query.main(["pets", "--memory_limit", "50MB", much])
    said = capsys.readouterr().err
    assert "Out of Memory" in said
    assert said.count("\n") == 1
    assert sorted(project.rglob("*")) == before


def test_limits_that_are_none_are_one_line(project: Path) -> None:
    with pytest.raises(OptionsError, match=r"memory_limit is 'much': give a size such as 4GB"):
        query.run(query.Options("pets", "SELECT 1", memory_limit="much"))
    with pytest.raises(OptionsError, match=r"timeout_s is -1: give seconds"):
        query.run(query.Options("pets", "SELECT 1", timeout_s=-1))


@pytest.mark.parametrize("dataset", ["../elsewhere", "/tmp/elsewhere", "pets/../../elsewhere"])
def test_a_data_set_lies_in_the_cache(project: Path, dataset: str) -> None:
    shutil.copytree("cache/pets", "elsewhere")
    with pytest.raises(QueryError, match="is no data set: SQL reads nothing but cache/<dataset>"):
        connect(dataset)


def test_python_gets_the_same_tables(project: Path) -> None:
    with connect("pets") as connection:
        assert connection.sql("SELECT top_label FROM pseudo_labels WHERE clip_id = 'turns'").fetchall() == [("cat",)]

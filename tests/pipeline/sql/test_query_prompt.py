"""query: the prompt, the terminal, pipes that close, and files that carry the tables elsewhere."""

import io
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from adapt.errors import EarshotError, OptionsError, QueryError
from pipeline import query
from pipeline.sql.connection import connect
from tests import pets
from tests.places import ROOT

ENVIRONMENT = {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"], "TERM": "dumb"}


def ask(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    query.main(["pets", *arguments])
    return capsys.readouterr().out


def run_prompt(lines: list[str | type[BaseException]], capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    """(stdout, stderr) of a session in which `lines` are typed; an exception is what Ctrl-C or Ctrl-D raises."""
    typed = iter([*lines, EOFError])

    def read(_: str) -> str:
        line = next(typed)
        if isinstance(line, str):
            return line
        raise line

    with connect("pets") as connection:
        query.prompt(connection, "pets", query.write_csv, read)
    return capsys.readouterr()


def test_the_prompt_answers_until_the_end_of_input(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, err = run_prompt(["SELECT count(*) AS n", "FROM clips;", "", "SELECT 2 AS two;"], capsys)
    assert out.endswith("n\n5\ntwo\n2\n\n")
    assert err == ""


def test_the_prompt_survives_mistakes(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, err = run_prompt(
        [
            "SELEC 1;",
            "FROM outcomes;",
            "DROP VIEW clips;",
            "SELECT",
            KeyboardInterrupt,
            ".nonsense",
            "SELECT 2 AS two;",
        ],
        capsys,
    )
    first, second, third = err.splitlines()
    assert first.startswith("Parser Error: syntax error")
    assert second == "pets has no outcomes yet: run `dvc repro adapt` first"
    assert third.startswith("the cache is read only and takes one SELECT, not ['DROP']")
    assert ".nonsense is not known: try .help\n" in out
    assert "two\n2\n" in out


def test_the_prompt_lists_what_can_be_asked_and_its_examples_run(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, _ = run_prompt([".tables", ".exit", "SELECT 'not reached';"], capsys)
    assert "  sounds: clip_id, sound, probability\n" in out
    assert "  loudest(clip_id, k)\n" in out
    assert "not reached" not in out
    out, _ = run_prompt([".help"], capsys)
    examples = re.findall(r"^  (.*;)$", out, re.MULTILINE)
    assert len(examples) == len(query.EXAMPLES)
    _, err = run_prompt([*examples], capsys)
    assert err == ""


def test_a_terminal_gets_a_prompt(project: Path) -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "pipeline.query", "pets"], stdin=theirs, stdout=theirs, stderr=theirs, env=ENVIRONMENT
    ) as process:
        os.close(theirs)
        os.write(ours, b"SELECT label FROM classes;\n.exit\n")
        shown = b""
        try:
            while data := os.read(ours, 4096):
                shown += data
        except OSError:  # Linux says so when the other end is closed
            pass
    os.close(ours)
    assert process.returncode == 0
    assert b"pets> " in shown
    assert shown.count(b"dog") == 1


def test_a_reader_that_has_had_enough_ends_the_command_quietly(project: Path) -> None:
    command = [sys.executable, "-m", "pipeline.query", "pets", "--csv", "FROM range(1000000)"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"range\n"
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_an_exported_file_works_from_any_folder_and_holds_no_rows_of_the_cache(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with connect("pets") as connection:
        expected = connection.sql("FROM why('barks')").fetchall()
    assert ask(capsys, "--export", "earshot.duckdb") == ""
    monkeypatch.chdir("/")
    with duckdb.connect(str(project / "earshot.duckdb"), read_only=True) as plain:
        assert plain.sql("FROM why('barks')").fetchall() == expected
        tables = {name for (name,) in plain.sql("SELECT table_name FROM duckdb_tables()").fetchall()}
        assert tables == {"classes", "tagger_labels", "related_sounds", "pseudo_label_settings"}
    monkeypatch.chdir(project)
    pets.write_clips(["barks"])  # the file shows the cache as it is, not as it was
    with duckdb.connect("earshot.duckdb", read_only=True) as plain:
        assert plain.sql("SELECT clip_id FROM clips").fetchall() == [("barks",)]


def test_an_export_does_not_replace_a_file(project: Path) -> None:
    Path("mine.duckdb").write_text("precious")
    with pytest.raises(QueryError, match="mine.duckdb exists: delete it, or choose another name"):
        query.run(query.Options("pets", export=Path("mine.duckdb")))
    assert Path("mine.duckdb").read_text() == "precious"
    with pytest.raises(EarshotError, match="its folder does not exist"):
        query.run(query.Options("pets", export=Path("no/such/folder/x.duckdb")))


def test_parquet_without_sql_at_a_terminal_is_an_error(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", terminal)
    with pytest.raises(OptionsError, match="--parquet needs SQL"):
        query.run(query.Options("pets", parquet=Path("x.parquet")))

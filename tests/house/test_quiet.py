"""A process ends as quietly as it ran: nothing follows the last line, DuckDB's report of leaks among others."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.places import ROOT

# Writes, reads and asks tables with both packages, an error among the answers, with torch in the same process, and
# keeps what it made.
VIEWS = "tests/pipeline/sql/test_query_views.py"
PROPERTIES = "tests/adapt/command/test_printing_properties.py"  # by Hypothesis, which outlives pytest as well
TWO = "every_table or no_text_gets_to_a_terminal_with_a_character_that_steers_it"
LIBRARY = """
import pathlib
import duckdb
import torch
import adapt.tables.cache, adapt.stream.streaming, pipeline.query
from tests import pets

pets.make(pathlib.Path.cwd())
clips = adapt.tables.cache.read_clips("pets", "test")
kept = pipeline.query.connect("pets")
rows = kept.sql("SELECT clip_id FROM clips")
try:
    kept.sql("SELECT nothing FROM clips")
except duckdb.Error as error:
    unknown = error
assert len(rows.fetchall()) == len(clips) == 5
"""


def ended(folder: Path, *command: str) -> "subprocess.CompletedProcess[str]":
    env = os.environ | {"PYTHONPATH": str(ROOT), "PYTEST_ADDOPTS": ""}
    return subprocess.run([sys.executable, *command], cwd=folder, env=env, capture_output=True, text=True, check=False)


def test_a_program_that_uses_both_packages_and_closes_nothing_ends_without_a_word(tmp_path: Path) -> None:
    done = ended(tmp_path, "-c", LIBRARY)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.slow
def test_the_summary_of_the_tests_is_their_last_line() -> None:
    done = ended(ROOT, "-m", "pytest", "-p", "no:cacheprovider", VIEWS, PROPERTIES, "-k", TWO)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1].startswith("2 passed, ")


@pytest.mark.slow
def test_so_it_is_where_tests_run_side_by_side() -> None:
    done = ended(
        ROOT,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "--numprocesses",
        "1",
        VIEWS,
        PROPERTIES,
        "-k",
        TWO,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1].startswith("2 passed")

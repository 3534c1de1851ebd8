"""files: written whole or not at all, under names that are nobody else's."""

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from adapt.tables import files
from tests.places import ROOT


def test_two_that_write_one_file_at_once_do_not_touch_each_others(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with files.replacing(path) as first:
        first.write_text("first")
        with files.replacing(path) as second:
            second.write_text("second")
        assert path.read_text() == "second"
        assert first.read_text() == "first"
    assert path.read_text() == "first"
    assert [*tmp_path.iterdir()] == [path]


def test_what_a_killed_process_left_is_deleted_and_what_is_in_use_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    text = "import os, signal, sys; from pathlib import Path; from adapt.tables import files\n"
    text += "with files.replacing(Path(sys.argv[1])): os.kill(os.getpid(), signal.SIGKILL)"
    for _ in range(2):
        killed = subprocess.run(
            [sys.executable, "-c", text, str(path)], check=False, env=os.environ | {"PYTHONPATH": str(ROOT)}
        )
        assert killed.returncode == -signal.SIGKILL
        assert len([*tmp_path.iterdir()]) == 1  # the second swept what the first left
    with files.replacing(tmp_path / "b.txt") as used:
        files.sweep(tmp_path)
        assert [*tmp_path.iterdir()] == [used]


def test_a_link_at_a_temporary_name_is_not_written_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (victim := tmp_path / "victim").write_text("whole")
    names = iter(["taken", "free"])
    monkeypatch.setattr("secrets.token_hex", lambda n: next(names))
    (tmp_path / ".a.txt.taken.tmp").symlink_to(victim)
    with pytest.raises(FileExistsError):
        files.write_text(tmp_path / "a.txt", "new")
    assert victim.read_text() == "whole"


def test_a_write_without_room_names_the_file_that_was_to_be_made(tmp_path: Path) -> None:
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    table = pa.table({"a": np.random.default_rng(0).random(10_000)})
    writes: list[Callable[[Path], object]] = [
        lambda path: path.write_bytes(b"x" * 10_000),
        lambda path: pq.ParquetWriter(path, table.schema).write_table(table),  # type: ignore[no-untyped-call]
    ]
    for write in writes:
        with pytest.raises(OSError, match="the_target") as error, files.replacing(tmp_path / "the_target") as path:
            resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, limit[1]))  # Python ignores the signal
            try:
                write(path)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        assert error.value.filename == str(tmp_path / "the_target")

"""files: written whole or not at all, under names that are nobody else's."""

import os
import signal
import subprocess
import sys
from pathlib import Path

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

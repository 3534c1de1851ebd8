"""lock: one process at a time for each data set and stage; the second one is told who holds it, and since when."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from adapt import command
from adapt.errors import BusyError, CacheError
from adapt.tables import cache, lock
from tests.places import ROOT

HOLD = (
    "import sys, time; from pathlib import Path; from adapt.tables import lock\n"
    "with lock.holding(Path(sys.argv[1]), 'x'): print('held', flush=True); time.sleep(60)"
)


@dataclass(frozen=True)
class Options:
    """Of a stage."""

    dataset: str = "tiny"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cache, "ROOT", tmp_path / "cache")
    (tmp_path / "cache/tiny").mkdir(parents=True)
    return tmp_path / "cache/tiny"


@contextmanager
def held_by_another(path: Path) -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()  # type: ignore[union-attr]


def test_the_second_process_is_told_in_one_line_who_holds_the_lock_since_when(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[Options] = []
    stage = lock.alone("decode")(ran.append)
    with held_by_another(path := folder / ".decode.lock") as process:
        started = time.monotonic()
        with pytest.raises(SystemExit) as ended:
            command.main(Options, stage, prog="pipeline.decode", args=[])  # type: ignore[arg-type]
        assert time.monotonic() - started < lock.WAIT_S  # it lives: waiting would not help
        said = capsys.readouterr().err
        assert ended.value.code == 1
        assert said.count("\n") == 1
        assert f"decode of tiny is being made by process {process.pid} on {os.uname().nodename} since 20" in said
        assert str(path) in said
    stage(Options())
    assert ran == [Options()]


def test_a_lock_whose_holder_was_killed_is_free(folder: Path) -> None:
    with held_by_another(folder / ".tag.lock") as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        with lock.holding(folder / ".tag.lock", "tag"):
            assert json.loads((folder / ".tag.lock").read_text())["pid"] == os.getpid()


def test_stages_and_data_sets_do_not_hold_each_other_up(folder: Path) -> None:
    (folder.parent / "other").mkdir()
    with (
        lock.holding(lock.path_of("tiny", "tag"), ""),
        lock.holding(lock.path_of("tiny", "decode"), ""),
        lock.holding(lock.path_of("other", "tag"), ""),
        lock.holding(lock.path_of("tiny", "adapt.orders/tent"), ""),
    ):
        assert sorted(path.name for path in folder.iterdir()) == [
            ".adapt.orders%2Ftent.lock",
            ".decode.lock",
            ".tag.lock",
        ]


def test_a_link_in_place_of_a_lock_is_not_written_through(folder: Path) -> None:
    (victim := folder / "labels.txt").write_text("cat\n")
    (folder / ".scan.lock").symlink_to(victim)
    with pytest.raises(OSError, match="symbolic links"), lock.holding(folder / ".scan.lock", ""):
        pass
    assert victim.read_text() == "cat\n"


def test_a_stage_that_fails_before_it_writes_leaves_no_folder(folder: Path) -> None:
    def fail(options: Options) -> None:
        raise CacheError("nothing to read")

    for made in (lock.alone("scan", makes_folder=True), lock.alone("decode")):
        with pytest.raises(CacheError, match="nothing to read"):
            made(fail)(Options("typo"))
        assert [path.name for path in folder.parent.iterdir()] == ["tiny"]


def test_a_lock_file_that_is_deleted_while_another_waits_for_it_is_made_anew(folder: Path) -> None:
    with lock.holding(path := folder / ".x.lock", ""):
        path.unlink()
        with lock.holding(path, ""):
            assert path.exists()
            with pytest.raises(BusyError), lock.holding(path, ""):
                pass

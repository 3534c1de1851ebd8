"""Reading happens in worker processes: what hangs, crashes or is no video costs one file, and nothing is left
behind.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from adapt.errors import AdaptError, VideoError
from adapt.stream import _fingerprint
from adapt.tables import code
from adapt.tables.cache import Clip
from adapt.video import decoding
from adapt.video.clips import VideoOptions, stream
from adapt.video.decoding import ClosedError, DecodeError, Decoders, Video
from tests import numbered, tiny_project
from tests.house.test_architecture import closure
from tests.places import ROOT

OPTIONS = VideoOptions(frames=4, views=2, resize=32, size=24)


def children(pid: int | str = "self") -> set[int]:
    """The child processes of a process."""
    found: set[int] = set()
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(FileNotFoundError):
            found |= {int(child) for child in path.read_text().split()}
    return found


def is_alive(pid: int) -> bool:
    """Whether a process runs: neither gone nor dead, with all its threads, and not waited for."""
    with suppress(FileNotFoundError, ProcessLookupError):
        state, n_threads = (Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[i] for i in (0, 17))
        return state not in "ZX" or int(n_threads) > 1
    return False


def wait_for(condition: object, within_s: float = 20.0) -> bool:
    """Whether `condition` comes true in that time."""
    assert callable(condition)
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


@pytest.fixture
def stopped(film: Path) -> Iterator[tuple[Decoders, int]]:
    """Decoders of 0.5 s with one idle worker that has been stopped, so that it hangs at the next file."""
    with Decoders() as before, before.open(film) as video:
        assert video._process is not None
        pid = video._process._process.pid
    os.kill(pid, signal.SIGSTOP)
    yield Decoders(0.5), pid
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def test_a_worker_is_started_once_and_reads_file_after_file(film: Path) -> None:
    for _ in range(3):
        with Decoders() as decoders:
            decoders.probe(film)
            pids = children()
            decoders.probe(film)
            assert children() == pids


def test_a_worker_that_takes_too_long_is_killed_and_replaced(film: Path, stopped: tuple[Decoders, int]) -> None:
    decoders, pid = stopped
    with pytest.raises(DecodeError, match=r"^took longer than 0.5 s: killed \(raise --decode_timeout_s\)$"):
        decoders.probe(film)
    assert not is_alive(pid)
    with Decoders() as others:
        assert others.probe(film).n_frames == 20


def test_a_file_that_is_worked_on_for_too_long_is_given_up(slow_film: Path) -> None:
    with Decoders(0.1) as decoders, pytest.raises(DecodeError, match="took longer than 0.1 s"):
        decoders.probe(slow_film)


def end_worker(video: Video, number: int) -> None:
    assert video._process is not None
    os.kill(video._process._process.pid, number)


def test_a_worker_that_ends_is_replaced_once_and_the_frames_are_the_same(film: Path) -> None:
    with Decoders() as decoders, decoders.open(film) as video:
        whole = np.concatenate([chunk.copy() for chunk in video.frames([0, 1, 19])])
        end_worker(video, signal.SIGKILL)
        again = np.concatenate([chunk.copy() for chunk in video.frames([0, 1, 19])])
    np.testing.assert_array_equal(again, whole)


def test_a_file_that_costs_two_workers_is_given_up_and_the_reason_is_the_signal(film: Path) -> None:
    with Decoders() as decoders:
        for number, name in ((signal.SIGSEGV, "SIGSEGV"), (signal.SIGKILL, r"SIGKILL \(out of memory\?\)")):
            with (
                pytest.raises(DecodeError, match=f"^the process that read it ended by {name}$"),
                decoders.open(film) as video,
            ):
                for _ in range(2):
                    end_worker(video, number)
                    list(video.frames([0, 1]))
        assert decoders.probe(film).n_frames == 20


def test_closing_ends_what_is_being_read_at_once(film: Path) -> None:
    decoders, said = Decoders(), list[BaseException]()

    def read() -> None:
        try:
            with decoders.open(film) as video:
                assert video._process is not None
                os.kill(video._process._process.pid, signal.SIGSTOP)
                is_reading.set()
                list(video.frames([0]))
        except ClosedError as error:
            said.append(error)

    is_reading, thread = threading.Event(), threading.Thread(target=read)
    thread.start()
    assert is_reading.wait(30)
    decoders.close()
    thread.join(5)
    assert not thread.is_alive() and len(said) == 1
    with pytest.raises(ClosedError):
        decoders.probe(film)


@pytest.fixture(scope="module")
def slow_film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that takes about a second to read."""
    return numbered.write(
        tmp_path_factory.mktemp("film") / "a.avi",
        range(400),
        "-c:v",
        "libx264",
        "-preset",
        "ultrafast",
        size=(720, 1440),
    )


def test_a_stream_that_is_left_early_leaves_no_thread_and_no_busy_worker(slow_film: Path) -> None:
    threads = threading.active_count()
    reader = stream(
        [Clip(str(i), slow_film, "test", 0, "ok") for i in range(20)], OPTIONS, "clean", 0, workers=2, ahead=20
    )
    next(reader)
    pids = children()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    started = time.monotonic()
    reader.close()
    assert time.monotonic() - started < 5
    assert threading.active_count() == threads
    assert sum(is_alive(pid) for pid in pids) <= len(pids) - 2
    for pid in filter(is_alive, pids):
        os.kill(pid, signal.SIGCONT)


def test_a_worker_that_was_killed_while_it_was_idle_costs_no_file(film: Path) -> None:
    with Decoders() as decoders:
        decoders.probe(film)
        for pid in children():
            os.kill(pid, signal.SIGKILL)
        assert wait_for(lambda: not any(map(is_alive, children())))
        assert decoders.probe(film).n_frames == 20


def test_a_clip_that_hangs_is_a_row_and_the_stream_goes_on(film: Path, stopped: tuple[Decoders, int]) -> None:
    clips = [Clip(str(i), film, "test", 0, "ok") for i in range(4)]
    options = VideoOptions(frames=4, views=2, resize=32, size=24, decode_timeout_s=1.0)
    seen = [frames for _, frames in stream(clips, options, "clean", 0, workers=1)]
    assert [isinstance(frames, VideoError) for frames in seen] == [True, False, False, False]
    assert str(seen[0]) == f"{film}: took longer than 1 s: killed (raise --decode_timeout_s)"


def test_a_timeout_that_is_no_time_is_refused() -> None:
    for wrong in (0, -1, float("nan")):
        with pytest.raises(AdaptError, match=f"decode_timeout_s is {wrong}: give seconds, more than 0"):
            Decoders(wrong)


def test_a_child_made_by_fork_reads_with_workers_of_its_own(film: Path) -> None:
    """As processes of multiprocessing do, which share their parent's handles and must not share its workers."""
    code = (
        "import multiprocessing, sys\nfrom pathlib import Path\nfrom adapt.video.decoding import Decoders\nfilm = "
        "Path(sys.argv[1])\n"
        "def pid():\n"
        "    with Decoders() as decoders, decoders.open(film) as video:\n"
        "        assert next(video.frames([3])).shape[0] == 1\n"
        "        return video._process._process.pid\n"
        "mine = pid()\n"
        "with multiprocessing.get_context('fork').Pool(2) as pool:\n"
        "    theirs = [result.get() for result in [pool.apply_async(pid) for _ in range(6)]]\n"
        "    pool.close()\n"
        "    pool.join()\n"
        "print(mine, pid(), *theirs)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(film)],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0 and done.stderr == "", done.stderr
    mine, again, *theirs = map(int, done.stdout.split())
    assert mine == again and mine not in theirs and 1 <= len(set(theirs)) <= 2
    assert wait_for(lambda: not any(map(is_alive, {mine, *theirs})))


def environment() -> dict[str, str]:
    return {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}


HOLDING = (
    "import os, signal, sys, threading\nfrom pathlib import Path\nfrom adapt.video.decoding import Decoders\n"
    "decoders = Decoders()\n"
    "with decoders.open(Path(sys.argv[1])) as video:\n"
    "    pid = video._process._process.pid\n"
    "    os.kill(pid, signal.SIGSTOP) if sys.argv[2] == 'stopped' else None\n"
    "    print(pid, flush=True)\n"
    "    thread = threading.Thread(target=lambda: list(video.frames([0])))\n"
    "    thread.start() if sys.argv[2] == 'stopped' else None\n"
    "    sys.stdin.read()\n"
)


@pytest.mark.parametrize("how", ["killed", "ended"])
@pytest.mark.parametrize("state", ["idle", "stopped"])
def test_workers_end_with_their_parent_however_it_ends(film: Path, how: str, state: str) -> None:
    command = [sys.executable, "-c", HOLDING, str(film), state]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment()) as parent:
        assert parent.stdout is not None and parent.stdin is not None
        pid = int(parent.stdout.readline())
        assert is_alive(pid)
        if how == "killed":
            parent.kill()
        else:
            parent.stdin.close()
            parent.wait(20)
    assert wait_for(lambda: not is_alive(pid))


def test_a_program_that_is_left_by_an_error_does_not_wait_for_a_file_that_hangs(film: Path) -> None:
    """A thread waits for a worker that hangs; Ctrl-C ends the program all the same, and the worker with it."""
    command = [sys.executable, "-c", HOLDING, str(film), "stopped"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        time.sleep(0.3)
        parent.send_signal(signal.SIGINT)
        parent.wait(10)
    assert wait_for(lambda: not is_alive(pid))


def test_the_code_of_the_worker_counts_in_a_runs_fingerprint_and_in_a_stages_deps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hashed: set[str] = set()
    take = code.meaning

    def seen(source: str) -> str:
        hashed.add(source)
        return take(source)

    monkeypatch.setattr(code, "meaning", seen)
    _fingerprint.code_sha256(["adapt.stream.streaming"])
    paths = list(Path(decoding.__file__).parent.glob("*.py"))
    files = {path.name for path in paths}
    assert hashed >= {path.read_text(encoding="utf-8") for path in paths}
    assert {Path(name).name for name in closure(ROOT / "adapt/video/clips.py")} >= files


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tiny project in which one of the test clips is a cut that decord never finishes."""
    return tiny_project.copy(tmp_path_factory)


def test_adapting_on_cuts_on_which_decord_never_ends_ends(project: Path, tmp_path: Path) -> None:
    """The report's file: `ffmpeg -ss 16 -t 3.5 -c copy` of 20 s with a key frame every 250 frames."""
    long = numbered.write(tmp_path / "long.mp4", range(600), "-c:v", "libx264", "-g", "250", "-bf", "3", fps=30)
    clips = sorted((project / "data/videos/tiny/test").rglob("[0-3].mp4"))
    for i, path in enumerate(clips):
        numbered.ffmpeg("-ss", 16 - 0.37 * i, "-t", 3.5, "-i", long, "-c", "copy", path)
    command = [sys.executable, "-m", "adapt", "--dataset", "tiny", "--backbone", "tanet", "--method", "source",
    "--corruptions", "clean",
               "--frames", "4", "--views", "2", "--resize", "32", "--size", "32", "--name", "cuts"]  # fmt: skip
    done = subprocess.run(
        command, cwd=project, env=environment(), capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["n_failed"] == 1  # the one that is no video


def watches_its_parent(pid: int) -> bool:
    """Whether a process is a worker that has started: the kernel tells it of its lifeline (O_ASYNC)."""
    with suppress(FileNotFoundError, ProcessLookupError):
        infos = [path.read_text() for path in Path(f"/proc/{pid}/fdinfo").iterdir()]
        return any(int(info.split("flags:")[1].split()[0], 8) & os.O_ASYNC for info in infos)
    return False


@pytest.mark.parametrize("jobs", [pytest.param("1", marks=pytest.mark.slow), "2"])
def test_ctrl_c_ends_a_run_whose_file_hangs(jobs: str, project: Path) -> None:
    def workers() -> set[int]:
        """Of the run, or, where it has several streams at a time, of theirs."""
        found = children(run.pid)
        found = found if jobs == "1" else set().union(*map(children, found))
        return set(filter(watches_its_parent, found))

    command = [sys.executable, "-m", "adapt", "--dataset", "tiny", "--backbone", "tanet", "--method", "source",
    "--corruptions", "gauss", "jpeg",
               "--frames", "4", "--views", "2", "--resize", "32", "--size", "32", "--name", "hangs", "--jobs", jobs,
               "--order_seeds", *map(str, range(50))]  # fmt: skip
    with subprocess.Popen(
        command, cwd=project, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        assert wait_for(lambda: bool(workers()), 60)
        stopped = workers()
        for worker in stopped:
            os.kill(worker, signal.SIGSTOP)
        time.sleep(1.0)
        assert run.poll() is None
        run.send_signal(signal.SIGINT)
        _, said = run.communicate(timeout=20)
        assert run.returncode == 130
        assert said.splitlines()[-1] == "adapt: interrupted"
    assert wait_for(lambda: not any(map(is_alive, stopped)))

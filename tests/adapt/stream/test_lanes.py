"""Streams side by side give the rows of streams one after another; what happens to one of them happens to the run."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from adapt.errors import AdaptError, CacheError
from adapt.stream import _lanes, streaming
from adapt.stream._streams import adapt_batches
from tests.places import ROOT
from tests.tiny_project import options

OUT = Path("cache/tiny/adapt/side")
Tell = Callable[[object], None]


def rows(table: str) -> list[dict[str, object]]:
    """All columns but milliseconds."""
    found: list[dict[str, object]] = pq.read_table(OUT / f"{table}.parquet").drop_columns("ms").to_pylist()
    return found


@pytest.mark.parametrize(
    ("method", "setting"),
    [
        ("vitta", "continual"),
        pytest.param("audio", "online", marks=pytest.mark.slow),
        pytest.param("t3a", "episodic", marks=pytest.mark.slow),
    ],
)
def test_rows_are_the_same_whatever_the_number_of_jobs(method: str, setting: str, here: Path) -> None:
    def run(jobs: int) -> list[list[dict[str, object]]]:
        chosen = options(
            method,
            name="side",
            setting=setting,
            corruptions=("clean", "gauss"),
            order_seeds=(0, 1),
            max_clips=3,
            jobs=jobs,
        )
        streaming.run(chosen)
        found = [rows(table) for table in ("predictions", "traces")]
        shutil.rmtree(OUT)
        return found

    alone = run(1)
    assert len(alone[0]) == 12
    assert run(2) == alone
    assert run(5) == alone


def test_the_streams_of_a_continual_order_stay_in_one_lane() -> None:
    streams = streaming.plan(options("source", corruptions=("clean", "gauss"), order_seeds=(0, 1)))
    assert streaming.lanes(streams, "continual") == [range(0, 2), range(2, 4)]
    for setting in ("online", "sorted", "episodic"):
        assert streaming.lanes(streams, setting) == [range(i, i + 1) for i in range(4)]


def test_jobs_are_the_cores_unless_told_and_one_on_a_gpu() -> None:
    assert streaming.jobs(options("source", jobs=0)) == len(os.sched_getaffinity(0))
    assert streaming.jobs(options("source", jobs=3)) == 3
    assert streaming.jobs(options("source", jobs=0, device="cuda:0")) == 1
    with pytest.raises(AdaptError, match="jobs is 2, but a GPU takes one stream at a time: give --jobs 1"):
        streaming.jobs(options("source", jobs=2, device="cuda:0"))


@pytest.mark.parametrize("n_jobs", [1, 3])
def test_every_item_is_worked_on_by_one_thread_and_what_is_told_arrives(n_jobs: int) -> None:
    def work(item: int, tell: Tell) -> None:
        tell((item, torch.get_num_threads()))
        tell((10 * item, torch.get_num_threads()))

    told: list[object] = []
    _lanes.each(work, [1, 2, 3, 4], n_jobs, told.append)
    assert sorted(told) == [(i, 1) for i in (1, 2, 3, 4, 10, 20, 30, 40)]  # type: ignore[type-var]


def test_no_more_than_so_many_work_at_a_time(tmp_path: Path) -> None:
    def work(item: int, tell: Tell) -> None:
        (tmp_path / str(item)).touch()
        time.sleep(0.2)
        tell(len(list(tmp_path.iterdir())))
        (tmp_path / str(item)).unlink()

    seen: list[object] = []
    _lanes.each(work, range(6), 2, seen.append)
    assert len(seen) == 6
    assert max(map(int, map(str, seen))) == 2


def pid_noted(folder: Path, item: int) -> None:
    (folder / f"{item}.making").write_text(str(os.getpid()))
    (folder / f"{item}.making").rename(folder / str(item))


def wait_for(condition: Callable[[], bool], seconds: float = 20) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def has_ended(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    try:
        return status.read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.parametrize(
    ("fault", "kind", "said"),
    [
        ("error", AdaptError, "^the second is no good$"),
        ("table", CacheError, "^a row breaks the contract$"),
        ("bug", RuntimeError, "ZeroDivisionError"),
        ("killed", AdaptError, "ended by SIGKILL: is there too little memory for --jobs"),
    ],
)
def test_an_error_in_one_process_ends_the_others_and_is_raised(
    fault: str, kind: type[Exception], said: str, tmp_path: Path
) -> None:
    def work(item: int, tell: Tell) -> None:
        pid_noted(tmp_path, item)
        if item != 1:
            time.sleep(60)
        wait_for(lambda: (tmp_path / "0").exists())
        if fault == "error":
            raise AdaptError("the second is no good")
        if fault == "table":
            raise CacheError("a row breaks the contract")
        if fault == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        tell(1 // 0)

    with pytest.raises(kind, match=said):
        _lanes.each(work, [0, 1, 2], 2, lambda _: None)
    assert not (tmp_path / "2").exists()
    assert all(has_ended(int((tmp_path / name).read_text())) for name in ("0", "1"))


@pytest.mark.slow
def test_a_process_that_is_killed_is_one_clear_error_and_the_same_command_goes_on(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = options("audio", name="side", corruptions=("clean", "gauss"), max_clips=4, save_every=1, jobs=2)
    streaming.run(chosen)
    undisturbed = [rows(table) for table in ("predictions", "traces")]
    shutil.rmtree(OUT)

    def dying(*args: object) -> object:
        for n, made in enumerate(adapt_batches(*args)):  # type: ignore[arg-type]
            if n == 2 and made[0][0]["corruption"] == "gauss":
                os.kill(os.getpid(), signal.SIGKILL)
            yield made

    with monkeypatch.context() as patch:
        patch.setattr(streaming, "adapt_batches", dying)
        with pytest.raises(AdaptError, match="SIGKILL"):
            streaming.run(chosen)
    assert (OUT / "progress/00001/state.pt").exists()
    streaming.run(chosen)
    assert [rows(table) for table in ("predictions", "traces")] == undisturbed


@pytest.mark.slow
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_a_command_that_is_ended_leaves_no_process_and_goes_on_to_the_same_rows(
    sent: signal.Signals, code: int, here: Path
) -> None:
    command = [
        sys.executable,
        "-m",
        "adapt",
        "--dataset",
        "tiny",
        "--backbone",
        "tanet",
        "--method",
        "audio",
        "--name",
        "side",
        "--save_every",
        "1",
    ]
    command += [
        "--frames",
        "4",
        "--resize",
        "32",
        "--size",
        "32",
        "--jobs",
        "2",
        "--corruptions",
        "clean",
        "gauss",
        "impulse",
    ]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    shutil.rmtree(OUT, ignore_errors=True)
    assert subprocess.run(command, env=env, capture_output=True, check=False).returncode == 0
    undisturbed = [rows(table) for table in ("predictions", "traces")]
    shutil.rmtree(OUT)
    process = subprocess.Popen(
        command, env=env, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, start_new_session=True
    )
    wait_for(lambda: (OUT / "progress/00001/state.pt").exists() or OUT.joinpath("predictions.parquet").exists(), 60)
    found = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    os.killpg(process.pid, sent) if sent == signal.SIGINT else process.send_signal(sent)
    _, said = process.communicate(timeout=20)
    assert process.returncode == code, said
    assert code < 0 or said.splitlines()[-1] == "adapt: interrupted"
    wait_for(lambda: all(map(has_ended, found)))
    assert subprocess.run(command, env=env, capture_output=True, check=False).returncode == 0
    assert [rows(table) for table in ("predictions", "traces")] == undisturbed

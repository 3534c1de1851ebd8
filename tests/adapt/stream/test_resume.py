"""A run killed by SIGKILL, anywhere and several times over, ends with the rows, weights and random state of one that
was left alone.

Children are really killed: forked off a server that has imported torch once, each is a process of its own.
"""

import dataclasses
import json
import logging
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from adapt import methods
from adapt.errors import AdaptError, BusyError
from adapt.stream import _progress, streaming
from adapt.stream._progress import Lane, Progress
from adapt.stream._streams import Rows, adapt_batches
from adapt.stream.options import Options
from adapt.tables import code
from tests import built
from tests.places import ROOT
from tests.tiny_project import options

STEPS: dict[str, Any] = {
    "max_iterations": 2, "dropout": True, "momentum": 0.9, "entropy_margin": 1.1, "eata_similarity": 1.1,
    "sar_reset": 0.0,
}  # fmt: skip
N_CLIPS = 8  # of both streams
OUT = Path("cache/tiny/adapt")
TABLES = [OUT / "resumed" / f"{table}.parquet" for table in ("predictions", "traces")]


def resumed(method: str, **changes: object) -> Options:
    """Two streams of four clips, saved every two."""
    chosen = built.fitting(method, "trusted", **STEPS)
    return dataclasses.replace(options(method, name="resumed", settings=chosen, max_clips=4, save_every=2), **changes)  # type: ignore[arg-type]


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def dying(function: Callable[..., Any], calls: int) -> Callable[..., Any]:
    """`function`, but the process dies in place of that call."""
    left = calls

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal left
        left -= 1
        if left == 0:
            die()
        return function(*args, **kwargs)

    return wrapped


def child(folder: Path, chosen: Options, dies_in: str, calls: int) -> None:
    """Run the stage in `folder`, noting every batch in the file `batches` and the last state in `final.pt`; die in that
    call of that part.
    """
    os.chdir(folder)
    torch.set_num_threads(1)
    finish = Progress.finish

    def noted(*args: Any) -> Iterator[Rows]:
        for rows in adapt_batches(*args):
            with Path("batches").open("a") as file:
                file.write(f"{rows[0][0]['corruption']} {rows[0][0]['position']}\n")
            yield rows

    def finished(self: Progress, *args: Any) -> None:
        shutil.copy(max(self.folder.glob("*/state.pt")), "final.pt")  # of the last lane
        finish(self, *args)

    setattr(streaming, "adapt_batches", noted)  # noqa: B010
    setattr(Progress, "finish", finished)  # noqa: B010
    parts = {
        "adding rows": (Lane, "add"),
        "renaming": (_progress, "_sync"),
        "merging": (Progress, "_merge"),
        "clearing": (Progress, "drop"),
    }
    if dies_in:
        owner, name = parts[dies_in]
        setattr(owner, name, dying(getattr(owner, name), calls))
    streaming.run(chosen)


@pytest.fixture(scope="module")
def start(project: Path) -> Iterator[Callable[..., int]]:
    """Runs a child and returns its exit code: -9 when it was killed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("PYTHONWARNINGS", "ignore")
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])

        def run(chosen: Options, dies_in: str = "", calls: int = 0) -> int:
            process = context.Process(target=child, args=(project, chosen, dies_in, calls))
            process.start()
            process.join()
            assert process.exitcode is not None
            return process.exitcode

        yield run


def content() -> list[object]:
    """Everything that a run leaves but milliseconds: rows and metadata of both tables, scores, the method's last state
    and the generator's.
    """
    tables = [pq.read_table(path).drop_columns("ms") for path in TABLES]
    scores = json.loads(Path("cache/metrics/tiny/resumed.json").read_text())
    state = torch.load("final.pt", weights_only=True)
    return [
        tables,
        [table.schema.metadata for table in tables],
        {**scores, "ms_per_clip": 0},
        _plain([state["method"], state["generator"]]),
    ]


def _plain(value: Any) -> Any:
    """Tensors as bytes, so that == compares bit for bit."""
    if isinstance(value, torch.Tensor):
        return value.shape, value.numpy().tobytes()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def batches() -> list[str]:
    return Path("batches").read_text().splitlines()


@pytest.mark.parametrize(
    ("method", "deaths"),
    [
        ("audio", [("adding rows", 4), ("adding rows", 5), ("renaming", 3)]),
        ("sar", [("adding rows", 4), ("adding rows", 5)]),
        ("vitta", [("adding rows", 4), ("renaming", 3)]),
        ("eata", [("renaming", 3), ("adding rows", 7)]),
        ("t3a", [("adding rows", 6), ("merging", 1), ("clearing", 1)]),
    ],
)
def test_a_run_killed_at_several_places_ends_as_one_that_was_not(
    method: str, deaths: list[tuple[str, int]], here: Path, start: Callable[..., int]
) -> None:
    chosen = resumed(method)
    Path("batches").unlink(missing_ok=True)
    assert start(chosen) == 0
    undisturbed = content()
    assert any(steps for steps in pq.read_table(TABLES[0])["steps"].to_pylist()) == (method != "t3a")
    assert len(batches()) == N_CLIPS
    shutil.rmtree(OUT)
    Path("batches").unlink()
    assert [start(chosen, *death) for death in deaths] == [-signal.SIGKILL] * len(deaths)
    assert start(chosen) == 0
    assert content() == undisturbed
    assert len(batches()) <= N_CLIPS + 3 * len(
        deaths
    )  # a death costs the clips since the last save, which was two clips ago, and the one in hand
    assert not (OUT / "resumed/progress").exists()


def interrupted(here: Path, start: Callable[..., int], **changes: object) -> None:
    """Leave the progress of a killed run behind."""
    shutil.rmtree(OUT, ignore_errors=True)
    assert start(resumed("t3a", **changes), "adding rows", 4) == -signal.SIGKILL
    assert (OUT / "resumed/progress/00000/state.pt").exists()


def test_progress_of_other_options_or_data_is_left_and_one_line_says_why(
    here: Path, start: Callable[..., int], caplog: pytest.LogCaptureFixture
) -> None:
    def lines() -> list[str]:
        caplog.clear()
        with caplog.at_level(logging.INFO, "adapt"):
            streaming.run(resumed("t3a"))
        return [record.message for record in caplog.records if "anew" in record.message or "going on" in record.message]

    interrupted(here, start)
    assert lines() == ["going on at clip 3 of stream 1"]
    interrupted(here, start, max_clips=5, workers=2)
    assert lines() == [f"{OUT}/resumed/progress/00000 cannot be gone on with (max_clips changed since): adapting anew"]
    interrupted(here, start)
    state = OUT / "resumed/progress/00000/state.pt"
    state.write_bytes(state.read_bytes()[:-100])
    assert [line.split(" (")[1] for line in lines()] == ["state.pt is broken, OSError): adapting anew"]
    interrupted(here, start)
    next((OUT / "resumed/progress").glob("*/predictions-00000-*")).unlink()
    assert [line.split(" (")[1] for line in lines()] == ["its rows are not all there): adapting anew"]


def test_a_finished_run_is_kept_until_something_it_depends_on_changes(
    here: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def ran(**changes: object) -> str:
        caplog.clear()
        with caplog.at_level(logging.INFO, "adapt"):
            streaming.run(resumed("source", **changes))
        return "\n".join(record.message for record in caplog.records)

    ran()
    before, written = TABLES[0].read_bytes(), TABLES[0].stat().st_mtime_ns
    assert "finished, of the same options, data and code: kept" in ran(workers=2, save_every=7)
    assert (TABLES[0].read_bytes(), TABLES[0].stat().st_mtime_ns) == (before, written)
    assert "kept" not in ran(force=True)
    assert TABLES[0].stat().st_mtime_ns > written
    assert "is of another run (max_clips): adapting anew" in ran(max_clips=3)
    scores = Path("cache/metrics/tiny/resumed.json")
    scores.unlink()
    assert "kept" in ran(max_clips=3)
    assert json.loads(scores.read_text())["n"] == 6  # three of each stream


@pytest.mark.parametrize("name", ["source+none", "source+plain", "vitta", "audio"])
def test_a_fingerprint_holds_the_settings_that_the_run_reads_and_no_others(name: str, here: Path) -> None:
    method, _, fusion = name.partition("+")
    made = streaming.identify(options(name), streaming.read(options(name)).source)
    assert json.loads(made["options"])["settings"].keys() == methods.settings_of(method, fusion or "trusted").keys()


def test_a_setting_is_the_same_by_flag_by_file_or_as_the_default(here: Path) -> None:
    source = streaming.read(options("vitta")).source

    def made(**changes: object) -> dict[str, str]:
        return streaming.identify(options("vitta", **changes), source)

    Path("vitta.json").write_text(json.dumps({"lr": 0.5}))
    assert made(settings={"lr": 0.5}) == made(settings={}, settings_file="vitta.json")
    assert made(settings={"lr": 0.5}) != made(settings={})
    default = methods.settings_of("vitta")["lr"].default
    assert made(settings={"lr": default}, settings_file="vitta.json") == made(settings={})  # a flag wins


def test_a_reworded_comment_keeps_a_finished_run_and_changed_code_does_not(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(code.PACKAGE, tmp_path / "adapt", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(code, "PACKAGE", tmp_path / "adapt")

    def is_kept() -> bool:
        caplog.clear()
        with caplog.at_level(logging.INFO, "adapt"):
            streaming.run(options("source", name="worded", max_clips=1, corruptions=("clean",)))
        return "data and code: kept" in caplog.text

    path = tmp_path / "adapt/methods/source.py"
    text = path.read_text()
    assert not is_kept()
    path.write_text(text.replace('"""Predict `batch`."""', '"""Say what `batch` shows."""') + "# the end\n")
    assert path.read_text() != text
    assert is_kept()
    path.write_text(text + "MORE = 1\n")
    assert not is_kept()


def test_two_runs_of_one_name_at_once_are_one_clear_error(here: Path) -> None:
    with (
        Progress(OUT / "both", {}, 10),
        pytest.raises(BusyError, match=r"adapt/both is being made by process \d+ on .* since 20"),
        Progress(OUT / "both", {}, 10),
    ):
        pass
    with Progress(OUT / "both", {}, 10):  # the first has let go
        pass


def test_a_stream_of_which_most_cannot_be_read_ends_the_run_and_leaves_nothing(here: Path) -> None:
    with pytest.raises(
        AdaptError, match="1 of 9 clips cannot be read, more than max_failed_share=0.1: test/dark/broken"
    ):
        streaming.run(resumed("source", max_failed_share=0.1, name="few", max_clips=0))
    assert not list((OUT / "few").iterdir())

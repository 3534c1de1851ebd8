"""Which clips come when, in which batches, and when the source weights come back; what memory holds of it all."""

import dataclasses
import json
import os
import subprocess
import sys
import threading
import weakref
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from adapt import fusion, methods
from adapt.contract import Answer, Batch, Step
from adapt.core.device import device_of
from adapt.core.state import Stateful
from adapt.errors import EarshotError, MethodError
from adapt.stream import streaming
from adapt.stream._progress import Lane
from adapt.stream._streams import order
from adapt.stream.options import method_and_fusion, run_name
from adapt.tables import cache
from adapt.tables.cache import Clip
from adapt.video import clips
from adapt.video.clips import LOOKAHEAD, ClipFrames
from tests import built, greys
from tests.pairs import pairs, singles
from tests.places import ROOT
from tests.tiny_project import N_TEST, options

CLIPS = [Clip(f"{label}/{i}", Path("unread"), "test", label, "ok") for label in range(4) for i in range(5)]


class Counting(Stateful):
    """Notes what it is told to do; answers class 0 for the first clip of a batch, 1 for the second, and so on, in two
    steps of 6 ms.
    """

    running = ("n_clips",)

    def __init__(self) -> None:
        self.n_clips, self.told = 0, list[str]()

    def reset(self) -> None:
        self.n_clips = 0
        self.told.append("reset")

    def adapt(self, batch: Batch) -> Answer:
        self.n_clips += len(batch.clip_ids)
        self.told.append(" ".join(batch.clip_ids))
        log_p = torch.eye(N_TEST)[: len(batch.clip_ids)].log_softmax(1)
        return Answer(
            log_p, log_p, steps=2, stop_reason="converged", trace=[Step(1.0, True, 6.0), Step(0.5, True, 6.0)]
        )


@pytest.fixture
def told(here: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What the method of every run in this test was told."""
    method = Counting()
    monkeypatch.setattr(methods, "build", lambda *_: method)
    yield method.told


def rows(method: str, table: str = "predictions") -> list[dict[str, object]]:
    read: list[dict[str, object]] = pq.read_table(f"cache/tiny/adapt/{method}/{table}.parquet").to_pylist()
    return read


def test_a_seed_gives_an_order_and_the_first_clips_of_it_for_trials() -> None:
    whole = order(CLIPS, 0, "online")
    assert whole == order(CLIPS, 0, "continual")
    assert whole != order(CLIPS, 1, "online")
    assert sorted(clip.clip_id for clip in whole) == sorted(clip.clip_id for clip in CLIPS)
    assert order(CLIPS, 0, "online", max_clips=7) == whole[:7]


def test_a_sorted_stream_has_the_same_clips_class_after_class() -> None:
    def classes(seed: int) -> list[int]:
        return (
            [label for i, label in enumerate(labels) if i == 0 or labels[i - 1] != label]
            if (labels := labels_of(seed))
            else []
        )

    def labels_of(seed: int) -> list[int]:
        return [clip.label_id for clip in order(CLIPS, seed, "sorted")]

    assert all(sorted(classes(seed)) == [0, 1, 2, 3] for seed in range(5))  # each class once, in one piece
    assert len({tuple(classes(seed)) for seed in range(5)}) > 1
    first = classes(0)[0]
    unsorted = order(CLIPS, 0, "online")
    assert order(CLIPS, 0, "sorted")[:5] == [clip for clip in unsorted if clip.label_id == first]
    assert sorted(order(CLIPS, 0, "sorted", 7), key=str) == sorted(unsorted[:7], key=str)


@pytest.mark.parametrize(
    ("setting", "resets"),
    [("online", [0, 8, 16, 24]), ("sorted", [0, 8, 16, 24]), ("continual", [0, 16]), ("episodic", None)],
)
@pytest.mark.slow
def test_the_source_weights_come_back_when_the_setting_says(
    setting: str, resets: list[int] | None, told: list[str]
) -> None:
    streaming.run(options("source", setting=setting, order_seeds=(0, 1), name=setting))
    adapted = [i for i, what in enumerate(told) if what != "reset"]
    assert len(adapted) == 4 * (N_TEST - 1)  # two corruptions in two orders; one clip cannot be read
    if resets is None:
        assert all(told[i - 1] == "reset" for i in adapted)
    else:
        assert [sum(i < place for i in adapted) for place, what in enumerate(told) if what == "reset"] == resets


def test_a_batch_is_answered_row_by_row_without_its_unreadable_clips(
    told: list[str],
) -> None:
    streaming.run(options("source", corruptions=("clean",), batch_size=4, name="batched"))
    found = rows("batched")
    ids = [str(row["clip_id"]) for row in found]
    assert ids == [clip.clip_id for clip in order(cache.read_clips("tiny", "test"), 0, "online")]
    readable = [[i for i in ids[first : first + 4] if i != "test/dark/broken"] for first in (0, 4, 8)]
    assert told[1:] == [" ".join(batch) for batch in readable if batch]
    answers = {row["clip_id"]: row["after_id"] for row in found}
    assert answers == {clip_id: place for batch in readable for place, clip_id in enumerate(batch)} | {
        "test/dark/broken": None
    }


def test_every_clip_of_a_batch_has_its_steps_and_its_share_of_their_milliseconds(told: list[str]) -> None:
    streaming.run(options("source", corruptions=("clean",), batch_size=9, name="batched"))
    steps = Counter(row["position"] for row in rows("batched", "traces"))
    assert steps == {row["position"]: row["steps"] for row in rows("batched") if row["stop_reason"] != "failed"}
    assert {row["ms"] for row in rows("batched", "traces")} == {6.0 / 8}
    assert len({row["ms"] for row in rows("batched")}) == 2  # none for the broken clip, the same for all others


BATCHED = [name for name in methods.names() if name not in ("source", "audio_only", "oracle_gate")]


@pytest.mark.parametrize(
    "method", singles([*BATCHED, "source+balanced"], ("norm", "shot", "eata", "vitta", "audio", "source+balanced"))
)
def test_methods_take_batches(method: str, here: Path) -> None:
    name, _, fused = method.partition("+")
    chosen = built.fitting(name, fused or "trusted", entropy_margin=1.1)
    counts = streaming.run(
        options(method, corruptions=("gauss",), batch_size=3, max_clips=6, name="batches", settings=chosen)
    )
    assert (counts["n_predictions"], len(rows("batches"))) == (6, 6)


@pytest.mark.parametrize(
    ("method", "fused"), pairs(methods.names(), fusion.names(), lambda one, fused: fused == "trusted")
)
def test_every_method_with_every_fusion_runs_and_stores_both_answers(method: str, fused: str, here: Path) -> None:
    done = streaming.run(options(method, fusion=fused, settings={}, corruptions=("gauss",), max_clips=3))
    name = method if fused == "trusted" else f"{method}+{fused}"
    answered = [row for row in rows(name) if row["stop_reason"] != "failed"]
    assert len(rows(name)) == done["n_predictions"] == 3
    assert {(row["run"], row["method"], row["fusion"]) for row in rows(name)} == {(name, method, fused)}
    assert {row["run"] for row in rows(name, "traces")} <= {name}
    assert all(row["after_id"] is not None and row["before_id"] is not None for row in answered)
    assert all((row["fused_id"] is None) == (fused == "none") for row in answered)
    scores = json.loads(Path(f"cache/metrics/tiny/{name}.json").read_text())
    assert ("alone" in scores, "fused" in scores) == (True, fused != "none")


@pytest.mark.slow
def test_a_methods_own_answers_are_the_same_beside_every_fusion(here: Path) -> None:
    found = []
    for fused in fusion.names():
        streaming.run(options("vitta", fusion=fused, settings={}, corruptions=("gauss",), max_clips=4))
        name = "vitta" if fused == "trusted" else f"vitta+{fused}"
        found.append([(row["clip_id"], row["before_id"], row["after_id"], row["steps"]) for row in rows(name)])
    assert all(one == found[0] for one in found)


def test_a_method_with_a_fusion_behind_a_plus_is_that_run(here: Path) -> None:
    for chosen in (options("source+plain", max_clips=2), options("source", fusion="plain", max_clips=2)):
        assert method_and_fusion(chosen) == ("source", "plain")
        assert run_name(chosen) == "source+plain"
    assert run_name(options("source")) == "source"  # trusted
    assert run_name(options("source+none")) == "source+none"
    assert run_name(options("source+none", name="mine")) == "mine"
    streaming.run(options("source+plain", max_clips=2, force=True))
    written = rows("source+plain")
    streaming.run(options("source", fusion="plain", max_clips=2))  # the same run: kept
    assert rows("source+plain") == written


@pytest.mark.parametrize("name", ["source+lr=1e-4", "ablation/no_gate"])
def test_a_run_has_a_name_of_its_own_in_its_folder_its_metrics_and_its_rows(name: str, told: list[str]) -> None:
    streaming.run(options("source", name=name, max_clips=2))
    assert Path(f"cache/metrics/tiny/{name}.json").exists()
    assert {row["run"] for table in ("predictions", "traces") for row in rows(name, table)} == {name}
    assert {(row["method"], row["fusion"]) for row in rows(name)} == {("source", "trusted")}


def test_the_tables_are_in_the_order_of_their_key_whatever_the_order_of_the_streams(told: list[str]) -> None:
    streaming.run(
        options(
            "source",
            corruptions=("jpeg", "clean", "gauss"),
            order_seeds=(1, 0),
            max_clips=3,
            name="ordered",
            save_every=2,
        )
    )
    for table in ("predictions", "traces"):
        keys = [
            (r["corruption"], r["severity"], r["order_seed"], r["position"], r.get("step", 0))
            for r in rows("ordered", table)
        ]
        assert keys == sorted(keys)  # type: ignore[type-var]
        assert {key[:3] for key in keys} == {
            (c, s, seed) for c, s in (("clean", 0), ("gauss", 5), ("jpeg", 5)) for seed in (0, 1)
        }


def test_a_reader_never_holds_more_than_its_few_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    alive: weakref.WeakSet[torch.Tensor] = weakref.WeakSet()
    lock, most = threading.Lock(), 0

    def read(clip: Clip, *_: object) -> ClipFrames:
        nonlocal most
        frames = ClipFrames(torch.zeros(1), torch.zeros(1))
        with lock:
            alive.add(frames.views)
            most = max(most, len(alive))
        return frames

    monkeypatch.setattr(clips, "read_clip", read)
    reader = clips.stream(CLIPS * 5, greys.VIDEO, "clean", 0, workers=3)
    while in_hand := next(reader, None):
        del in_hand
    assert most == LOOKAHEAD


def test_a_run_keeps_rows_in_memory_until_the_next_save_only(told: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[int] = []
    add = Lane.add

    def counted(self: Lane, *args: object) -> None:
        add(self, *args)  # type: ignore[arg-type]
        held.append(len(self._rows["predictions"]))

    monkeypatch.setattr(Lane, "add", counted)
    streaming.run(options("source", save_every=3, name="held"))
    assert held == [1, 2, 3] * 6


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"setting": "offline"}, "setting is 'offline': give one of"),
        ({"name": "a/../b"}, "name is 'a/../b': give letters"),
        ({"name": "/a"}, "name is '/a': give letters"),
        ({"name": "a b"}, "name is 'a b': give letters"),
        ({"batch_size": 0}, "batch_size is 0: give 1 to 4096"),
        ({"max_clips": -1}, "max_clips is -1: give 0"),
        ({"jobs": -1}, "jobs is -1: give 0"),
        ({"jobs": 2, "profile": True}, "jobs is 2, but --profile looks at one process: give --jobs 1"),
        ({"save_every": 0}, "save_every is 0: give 1 or more"),
        ({"workers": -2}, "workers is -2: give 1 to 1024"),
        ({"severity": 6}, "severity is 6: give 1 to 5"),
        ({"order_seeds": (-1,)}, "order_seeds is -1: give 0 or more"),
        ({"order_seeds": ()}, "order_seeds is ..: give at least one"),
        ({"corruptions": ("gauss", "gauss")}, "corruptions is .*: give at least one, each once"),
        ({"corruptions": ("clean", "gaus")}, "unknown corruption 'gaus'"),
        ({"method": "vitta", "settings": {"lr": -1.0}}, "lr is -1.0: give 0 or more"),
        ({"method": "vitta", "settings": {"ema": float("nan")}}, "ema is nan: give 0 to 1"),
        ({"settings": {"lr": 0.1}}, "source [+] trusted: unknown setting 'lr'"),
        ({"settings_file": "gone.json"}, "settings_file gone.json cannot be read"),
        ({"method": "late_fusion"}, "method 'late_fusion' is 'source[+]plain' now: a fusion goes with any method"),
        ({"fusion": "plane"}, "unknown fusion 'plane': choose one of"),
        ({"max_failed_share": 1.5}, "max_failed_share is 1.5: give 0 to 1"),
        ({"method": "audoi"}, "unknown method 'audoi'"),
        ({"split": "dev"}, "has no clip of split 'dev'"),
        ({"device": "gpu"}, "device 'gpu' is unknown"),
        ({"device": "meta"}, "device 'meta' is none"),
    ],
)
def test_what_cannot_be_is_one_clear_error_before_anything_runs(
    wrong: dict[str, object], said: str, told: list[str]
) -> None:
    with pytest.raises(EarshotError, match=said):
        streaming.run(dataclasses.replace(options("source"), **wrong))  # type: ignore[arg-type]
    assert told == []


def test_a_gpu_that_is_not_there_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(MethodError, match="torch finds no CUDA: set device to cpu"):
        device_of("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device_of("cuda:1") == torch.device("cuda:1")
    with pytest.raises(MethodError, match="'cuda:2' was asked for but there are 2, counted from 0"):
        device_of("cuda:2")


def test_as_a_command_an_error_is_one_line_and_exit_1(here: Path) -> None:
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "adapt",
        "--dataset",
        "tiny",
        "--backbone",
        "tanet",
        "--method",
        "source",
    ]
    command += ["--corruptions", "clean", "--setting", "offline"]
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines() == [
        "adapt: setting is 'offline': give one of ['online', 'episodic', 'continual', 'sorted']"
    ]


@pytest.mark.parametrize(("chosen", "policy"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")])
def test_openmp_waits_quietly_unless_the_user_chose(chosen: dict[str, str], policy: str, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("import os\nprint(os.environ['OMP_WAIT_POLICY'])\nraise SystemExit\n")
    env = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"} | {
        "PYTHONPATH": f"{tmp_path}:{ROOT}",
        **chosen,
    }
    done = subprocess.run([sys.executable, "-m", "adapt"], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == policy

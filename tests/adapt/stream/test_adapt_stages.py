"""train -> statistics -> adapt on the tiny project (tests/tiny_project.py)."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from adapt.core import moments
from adapt.core.oracle import Oracle
from adapt.errors import AdaptError, CheckpointError
from adapt.report import metrics
from adapt.source import checkpoints
from adapt.stream import streaming
from adapt.tables import cache
from tests.greys import LABELS, VIDEO
from tests.tiny_project import options


def test_source_counts_the_clip_that_cannot_be_read_as_wrong(here: Path) -> None:
    done = streaming.run(options("source", corruptions=("clean",)))
    assert done == {"n_predictions": 9, "n_failed": 1, "top1": round(8 / 9, 4)}
    rows = cache.read_predictions(Path("cache/tiny/adapt/source/predictions.parquet"))
    assert [r["position"] for r in rows] == list(range(9))
    failed = [r for r in rows if r["stop_reason"] == "failed"]
    assert [(r["clip_id"], r["after_id"]) for r in failed] == [("test/dark/broken", None)]


def test_audio_leaves_one_trace_row_a_step_and_a_fused_answer(here: Path) -> None:
    streaming.run(options("audio"))
    predictions = cache.read_predictions(Path("cache/tiny/adapt/audio/predictions.parquet"))
    traces = pq.read_table("cache/tiny/adapt/audio/traces.parquet").to_pylist()
    assert sum(int(str(r["steps"])) for r in predictions) == len(traces)
    answered = [r for r in predictions if r["stop_reason"] != "failed"]
    assert all(r["fused_id"] is not None and 1 <= int(str(r["steps"])) <= 3 for r in answered)
    summary = json.loads(Path("cache/metrics/tiny/audio.json").read_text())
    assert {"alone", "fused", "mean_steps", "ms_per_clip"} <= summary.keys()


@pytest.mark.parametrize("method", ["audio", "oracle_gate"])
def test_the_stage_makes_an_oracle_for_the_upper_bound_alone(
    method: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Oracle] = []

    class Counted(Oracle):
        def __init__(self, label_ids: Mapping[str, Collection[int]]) -> None:
            super().__init__(label_ids)
            made.append(self)

    monkeypatch.setattr(streaming, "Oracle", Counted)
    streaming.run(options(method, corruptions=("clean",), force=True))
    assert len(made) == (method == "oracle_gate")


def test_the_upper_bound_is_marked_in_its_metrics(here: Path) -> None:
    for method in ("oracle_gate", "source"):
        streaming.run(options(method, corruptions=("clean",)))
    marks = [
        json.loads(Path(f"cache/metrics/tiny/{method}.json").read_text()).get("sees_labels")
        for method in ("oracle_gate", "source")
    ]
    assert marks == [True, None]


def test_the_same_run_gives_the_same_answers_and_another_order_seed_another_order(here: Path) -> None:
    def ids(seed: int) -> list[tuple[object, ...]]:
        streaming.run(options("vitta", corruptions=("gauss",), order_seeds=(seed,), force=True))
        rows = cache.read_predictions(Path("cache/tiny/adapt/vitta/predictions.parquet"))
        return [(r["clip_id"], r["after_id"]) for r in rows]

    once = ids(0)
    assert ids(0) == once
    assert [clip_id for clip_id, _ in ids(1)] != [clip_id for clip_id, _ in once]


def test_a_class_is_sounding_when_more_than_half_of_its_clips_have_sound(here: Path) -> None:
    assert metrics.sounding_classes(cache.read_clips("tiny", "test"), cache.read_sounds("tiny", LABELS)) == {0}


def test_a_checkpoint_for_other_classes_or_frames_is_one_clear_error(here: Path) -> None:
    path = checkpoints.model_path("tiny", "tanet")
    with pytest.raises(CheckpointError, match="labels_sha256 is .* run `dvc repro train`"):
        checkpoints.load_model(path, "tanet", LABELS[::-1], VIDEO.frames)
    with pytest.raises(CheckpointError, match="n_frames is 4, 8 is wanted"):
        checkpoints.load_model(path, "tanet", LABELS, 8)
    with pytest.raises(CheckpointError, match="was taken of another checkpoint"):
        checkpoints.load_statistics(checkpoints.statistics_path("tiny", "tanet"), "0" * 64)


def test_a_clip_without_pseudo_label_is_one_clear_error(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "read_sounds", lambda dataset, labels: {})
    with pytest.raises(AdaptError, match="9 clips have no pseudo-label"):
        streaming.run(options("source"))


def test_running_statistics_equal_those_of_all_clips_at_once() -> None:
    data = np.random.default_rng(0).normal(1000, 0.1, (5, 4, 300))  # a large mean: naive sums of squares would cancel
    running = moments.Running()
    for clip in data:
        running.add({"n": (torch.from_numpy(clip.mean(1)), torch.from_numpy(clip.var(1)))}, {"n": clip.shape[1]})
    together = data.transpose(1, 0, 2).reshape(4, -1)
    mean, variance = running.result()["n"]
    assert mean.numpy() == pytest.approx(together.mean(1))
    assert variance.numpy() == pytest.approx(together.var(1), rel=1e-5)

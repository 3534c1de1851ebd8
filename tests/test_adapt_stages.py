"""train -> statistics -> adapt on a tiny data set made here: two classes of flat grey clips, dark and bright."""
import dataclasses
import json
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from adapt import __main__ as adapt_stage
from adapt import alignment, cache, checkpoints, methods, metrics, statistics, train
from adapt.errors import AdaptError, CheckpointError, VideoError
from adapt.methods import Settings
from adapt.oracle import Oracle
from adapt.video import ClipFrames, VideoOptions, stream
from pipeline import cache as writer
from tests.clips import write_video

ROOT = Path(__file__).parent.parent
LABELS = ["dark", "bright"]
VIDEO = VideoOptions(frames=4, views=2, resize=64, size=64)


def add_clip(split: str, label_id: int, i: int) -> dict[str, object]:
    name = f"{split}/{LABELS[label_id]}/{i}"
    level = (40, 200)[label_id]
    write_video(Path(f"data/videos/tiny/{name}.mp4"), [level + 3 * i, level, level + i, level])
    return {
        "clip_id": name, "path": f"{name}.mp4", "split": split, "label_id": label_id, "label": LABELS[label_id], "status": "ok",
        "duration_s": 0.5, "n_frames": 4, "content_sha256": "0" * 64, "error": None,
    }  # fmt: skip


def pseudo_label(clip_id: str, label_id: int | None) -> dict[str, object]:
    heard = label_id is not None
    s = [0.9 if c == label_id else 0.0 for c in range(2)]
    q = [0.95 if c == label_id else 0.05 for c in range(2)] if heard else [0.5, 0.5]
    return {
        "clip_id": clip_id, "status": "ok" if heard else "silent", "probs": q, "evidence": s, "absent": [0.0, 0.0], "mass": 0.9 if heard else 0.0,
        "top_label": LABELS[label_id] if label_id is not None else None, "causes": [],
    }  # fmt: skip


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project folder with data set `tiny`, trained and with statistics; class 0 sounds, class 1 is silent."""
    folder = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("cache/tiny").mkdir(parents=True)
        shutil.copy(ROOT / "cache/schema.sql", "cache/schema.sql")
        Path("cache/tiny/labels.txt").write_text("\n".join(LABELS) + "\n")
        rows = [add_clip(split, label, i) for split, n in (("train", 8), ("val", 2), ("test", 4)) for label in (0, 1) for i in range(n)]
        broken = Path("data/videos/tiny/test/dark/broken.mp4")
        broken.write_bytes(b"not a video")
        rows.append(rows[-1] | {"clip_id": "test/dark/broken", "path": "test/dark/broken.mp4", "label_id": 0, "label": "dark", "status": "failed"})
        writer.write_table(Path("cache/tiny/clips.parquet"), "clips", rows)
        heard = [pseudo_label(str(r["clip_id"]), 0 if r["label"] == "dark" else None) for r in rows]
        provenance = {"classes_sha256": cache.labels_sha256(LABELS)}
        writer.write_table(Path("cache/tiny/pseudo_labels.parquet"), "pseudo_labels", heard, provenance)
        done = train.run(train.Options("tiny", "tanet", video=VIDEO, epochs=6, batch_size=8, lr=0.01, flip=False, augment=False))
        assert done["val_accuracy"] == 1.0
        assert statistics.run(statistics.Options("tiny", "tanet", video=VIDEO))["n_clips"] == 16
    return folder


@pytest.fixture
def here(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(project)
    return project


def options(method: str, **changes: object) -> adapt_stage.Options:
    made = adapt_stage.Options("tiny", "tanet", method, ("clean", "gauss"), video=VIDEO, settings=Settings(max_iterations=3))
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


def test_source_scores_the_clean_stream_and_counts_the_clip_that_cannot_be_read_as_wrong(here: Path) -> None:
    done = adapt_stage.run(options("source", corruptions=("clean",)))
    assert done == {"n_predictions": 9, "n_failed": 1, "top1": round(8 / 9, 4)}
    rows = cache.read_predictions(Path("cache/tiny/adapt/source/predictions.parquet"))
    assert [r["position"] for r in rows] == list(range(9))
    failed = [r for r in rows if r["stop_reason"] == "failed"]
    assert [(r["clip_id"], r["after_id"]) for r in failed] == [("test/dark/broken", None)]


def test_audio_leaves_one_trace_row_a_step_and_a_fused_answer(here: Path) -> None:
    adapt_stage.run(options("audio"))
    predictions = cache.read_predictions(Path("cache/tiny/adapt/audio/predictions.parquet"))
    traces = pq.read_table("cache/tiny/adapt/audio/traces.parquet").to_pylist()
    assert sum(int(str(r["steps"])) for r in predictions) == len(traces)
    answered = [r for r in predictions if r["stop_reason"] != "failed"]
    assert all(r["fused_id"] is not None and 1 <= int(str(r["steps"])) <= 3 for r in answered)
    summary = json.loads(Path("cache/metrics/tiny/audio.json").read_text())
    assert {"alone", "fused", "mean_steps", "ms_per_clip"} <= summary.keys()


@pytest.fixture(scope="module")
def decoded(project: Path) -> dict[str, ClipFrames | VideoError]:
    """clip_id -> frames under gauss, read once for the many runs below."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        return {clip.clip_id: frames for clip, frames in stream(cache.read_clips("tiny", "test"), VIDEO, "gauss", 5, workers=1)}


def answers_of(name: str, swap: bool) -> list[tuple[object, ...]]:
    """All that one stream's rows hold but ground truth and milliseconds; `swap` gives every clip the other class for its truth."""
    clips = [dataclasses.replace(c, label_id=1 - c.label_id if swap else c.label_id) for c in cache.read_clips("tiny", "test")[::2]]
    source = checkpoints.load_model(checkpoints.model_path("tiny", "tanet"), "tanet", LABELS, VIDEO.frames)
    oracle = Oracle({clip.clip_id: (clip.label_id,) for clip in clips})  # which `build` hands to a method that declares it
    settings = Settings(commit=0.5)
    method = methods.build(name, source.model, None, len(LABELS), settings, oracle)
    rows, traces = adapt_stage.adapt_stream(method, clips, cache.read_sounds("tiny", LABELS), options(name), "gauss", 0)
    return [tuple(value for column, value in row.items() if column not in ("label_id", "ms")) for row in [*rows, *traces]]


@pytest.mark.parametrize("name", methods.names())
def test_no_answer_of_any_method_but_the_upper_bound_depends_on_the_labels(
    name: str, here: Path, decoded: dict[str, ClipFrames | VideoError], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapt_stage, "stream", lambda clips, *rest: ((clip, decoded[clip.clip_id]) for clip in clips))
    assert (answers_of(name, swap=True) == answers_of(name, swap=False)) == (name != "oracle_gate")


@pytest.mark.parametrize("method", ["audio", "oracle_gate"])
def test_the_stage_makes_an_oracle_for_the_upper_bound_alone(method: str, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Oracle] = []

    class Counted(Oracle):
        def __init__(self, label_ids: Mapping[str, Collection[int]]) -> None:
            super().__init__(label_ids)
            made.append(self)

    monkeypatch.setattr(adapt_stage, "Oracle", Counted)
    adapt_stage.run(options(method, corruptions=("clean",)))
    assert len(made) == (method == "oracle_gate")


def test_the_upper_bound_is_marked_in_its_metrics(here: Path) -> None:
    for method in ("oracle_gate", "source"):
        adapt_stage.run(options(method, corruptions=("clean",)))
    marks = [json.loads(Path(f"cache/metrics/tiny/{method}.json").read_text()).get("sees_labels") for method in ("oracle_gate", "source")]
    assert marks == [True, None]


def test_the_same_run_gives_the_same_answers_and_another_order_seed_another_order(here: Path) -> None:
    def ids(seed: int) -> list[tuple[object, ...]]:
        adapt_stage.run(options("vitta", order_seeds=(seed,)))
        rows = cache.read_predictions(Path("cache/tiny/adapt/vitta/predictions.parquet"))
        return [(r["clip_id"], r["after_id"]) for r in rows]

    assert ids(0) == ids(0)
    assert [c for c, _ in ids(0)] != [c for c, _ in ids(1)]


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
        adapt_stage.run(options("source"))


def test_running_statistics_equal_those_of_all_clips_at_once() -> None:
    data = np.random.default_rng(0).normal(1000, 0.1, (5, 4, 300))  # a large mean: naive sums of squares would cancel
    running = alignment.Running()
    for clip in data:
        running.add({"n": (torch.from_numpy(clip.mean(1)), torch.from_numpy(clip.var(1)))})
    together = data.transpose(1, 0, 2).reshape(4, -1)
    mean, variance = running.result()["n"]
    assert mean.numpy() == pytest.approx(together.mean(1))
    assert variance.numpy() == pytest.approx(together.var(1), rel=1e-5)

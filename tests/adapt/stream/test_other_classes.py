"""`python -m adapt --classes FILE`: a model of other classes on the tiny project, its head led to the data set's."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from adapt.errors import CacheError
from adapt.source import checkpoints
from adapt.stream import streaming
from adapt.stream.options import run_name
from adapt.tables import cache, classes, parquet
from tests.greys import LABELS
from tests.tiny_project import options

HEAD = ["night", "cellar", "noon", "snow"]  # two dark ones, two bright ones
FILE = "heads.txt"
FIELDS = ("clip_id", "before_id", "after_id", "fused_id", "steps", "stop_reason")
MODEL = checkpoints.model_path("tiny", "tanet")
STATISTICS = checkpoints.statistics_path("tiny", "tanet")


@pytest.fixture
def mapped(here: Path) -> Iterator[Path]:
    """The tiny model with a head that says each of its classes twice; the files are put back afterwards."""
    kept = {path: path.read_bytes() for path in (MODEL, STATISTICS)}
    content = checkpoints.load(MODEL, "train")
    state = dict(content["state"])
    for name in ("new_fc.weight", "new_fc.bias"):  # dark dark bright bright, each with half of the probability
        state[name] = state[name].repeat_interleave(2, 0)
    state["new_fc.bias"] = state["new_fc.bias"] - math.log(2)
    about = {"labels": HEAD, "labels_sha256": classes.sha256(HEAD), "n_classes": len(HEAD)}
    checkpoints.save(MODEL, content | about | {"state": state})
    sha256 = checkpoints.load_model(MODEL, "tanet", HEAD, 4).sha256
    of_model = {"model_sha256": sha256, "labels_sha256": classes.sha256(HEAD)}
    checkpoints.save(STATISTICS, checkpoints.load(STATISTICS, "statistics") | of_model)
    Path(FILE).write_text("".join(f"{name}\n" for name in HEAD))
    write_map([(0, 0, 1.0), (1, 0, 1.0), (2, 1, 1.0), (3, 1, 1.0)])
    yield here
    for path, old in kept.items():
        path.write_bytes(old)


def write_map(pairs: list[tuple[int, int, float]], head: list[str] = HEAD) -> None:
    told = {"reason": "r", "source": "hand"}
    rows = [
        told | {"head_id": i, "head_label": HEAD[i], "label_id": j, "label": LABELS[j], "weight": weight}
        for i, j, weight in pairs
    ]
    known = {"head_sha256": classes.sha256(head), "classes_sha256": classes.sha256(LABELS)}
    parquet.write_table(Path("cache/tiny/class_map.parquet"), "class_map", rows, known)


def rows(method: str, **changes: object) -> list[dict[str, object]]:
    run = options(method, force=True, corruptions=("gauss",), **changes)
    streaming.run(run)
    return cache.read_predictions(Path("cache/tiny/adapt") / run_name(run) / "predictions.parquet")


@pytest.mark.parametrize("method", ["source", "vitta+plain", "audio"])
def test_a_head_that_says_each_class_twice_answers_as_the_head_of_the_data_set(method: str, mapped: Path) -> None:
    found = rows(method, classes=FILE)
    summary = json.loads(next(Path("cache/metrics/tiny").glob(f"{method}.json")).read_text())
    assert summary["left_out"] == pytest.approx(0, abs=0.01)
    left_out = [row["left_out"] for row in found if row["stop_reason"] != "failed"]
    assert left_out == pytest.approx([0.0] * 8, abs=1e-5)
    content = checkpoints.load(MODEL, "train")
    state = dict(content["state"])
    for name in ("new_fc.weight", "new_fc.bias"):
        state[name] = state[name][::2]
    checkpoints.save(MODEL, content | {"state": state, "labels": LABELS, "labels_sha256": classes.sha256(LABELS)})
    sha256 = checkpoints.load_model(MODEL, "tanet", LABELS, 4).sha256
    of_model = {"model_sha256": sha256, "labels_sha256": classes.sha256(LABELS)}
    checkpoints.save(STATISTICS, checkpoints.load(STATISTICS, "statistics") | of_model)
    plain = rows(method)
    assert [[row[name] for name in FIELDS] for row in plain] == [[row[name] for name in FIELDS] for row in found]
    assert {row["left_out"] for row in plain} == {None}
    assert "left_out" not in json.loads(Path(f"cache/metrics/tiny/{method}.json").read_text())


def test_what_maps_to_nothing_is_told_and_a_changed_map_runs_again(mapped: Path) -> None:
    write_map([(0, 0, 1.0), (2, 1, 1.0)])  # half of each class's probability is left out
    run = options("source", corruptions=("gauss",), classes=FILE, force=True)
    streaming.run(run)
    path = Path("cache/tiny/adapt/source/predictions.parquet")
    told = [row["left_out"] for row in cache.read_predictions(path) if row["stop_reason"] != "failed"]
    assert told == pytest.approx([0.5] * 8, abs=1e-5)
    assert json.loads(Path("cache/metrics/tiny/source.json").read_text())["left_out"] == pytest.approx(50, abs=0.01)
    write_map([(0, 0, 1.0), (2, 1, 1.0), (3, 1, 1.0)])
    before = parquet.provenance(path)["class_map_sha256"]
    streaming.run(options("source", corruptions=("gauss",), classes=FILE))
    assert parquet.provenance(path)["class_map_sha256"] != before


def test_a_class_map_of_other_lists_or_without_pairs_is_one_clear_error(mapped: Path) -> None:
    run = options("source", classes=FILE)
    write_map([(0, 0, 1.0)], head=HEAD[::-1])
    with pytest.raises(CacheError, match="made for another list of classes than model.classes: run `dvc repro map_cl"):
        streaming.run(run)
    write_map([])
    with pytest.raises(CacheError, match="leads from no class of the model to one of tiny"):
        streaming.run(run)
    with pytest.raises(CacheError, match="model.classes: nowhere.txt cannot be read"):
        streaming.run(options("source", classes="nowhere.txt"))
    Path("cache/tiny/class_map.parquet").unlink()
    with pytest.raises(CacheError, match="class_map.parquet is missing: run `dvc repro map_classes`"):
        streaming.run(run)


def test_weights_of_eata_taken_of_the_bare_model_fit_the_mapped_one(mapped: Path) -> None:
    loaded = checkpoints.load_model(MODEL, "tanet", HEAD, 4).model
    fisher = {name: [torch.ones_like(p), p.detach()] for name, p in loaded.named_parameters()}
    content = checkpoints.load(STATISTICS, "statistics")
    checkpoints.save(STATISTICS, content | {"fisher": fisher, "bn_prior": 0.3})
    assert {row["left_out"] is None for row in rows("eata", classes=FILE)} == {True, False}  # the failed clip has none

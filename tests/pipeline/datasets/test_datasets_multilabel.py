"""Clips of several classes, as AVA has them: right by any of them, ranked for each; all others stay as they were."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from adapt.contract import Answer, Batch
from adapt.core.state import Stateful
from adapt.fusion import Fused
from adapt.report import metrics
from adapt.stream import streaming
from adapt.stream.options import Options
from adapt.tables import cache
from adapt.tables.cache import Clip, Sound
from adapt.video.clips import VideoOptions
from tests.clips import write_video
from tests.sounds import make_project


class AlwaysThe(Stateful):
    """A method that answers one class whatever it sees."""

    def __init__(self, label_id: int) -> None:
        self.answer = torch.tensor([[0.1, 0.2, 0.7]]).log().roll(label_id - 2, 1)

    def reset(self) -> None:
        pass

    def adapt(self, batch: Batch) -> Answer:
        return Answer(self.answer, self.answer)

    def source_answer(self, batch: Batch) -> Tensor:
        return self.answer


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    """Predictions of class 2 for clips of classes (0, 2), (1,) and 2, the last of one class only."""
    make_project(tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    path = write_video(tmp_path / "a.mp4", [0, 255], (64, 64))
    clips = [
        Clip("a", path, "test", 0, "ok", (0, 2)),
        Clip("b", path, "test", 1, "ok", (1,)),
        Clip("c", path, "test", 2, "ok"),
    ]
    silence = Sound(np.full(3, 1 / 3, np.float32), np.zeros(3, np.float32), np.zeros(3, np.float32), 0.0, "no_track")
    options = Options("ava", "tanet", "source", ("clean",), video=VideoOptions(frames=1, views=1, resize=32, size=32))
    found, _ = streaming.adapt_stream(
        Fused(AlwaysThe(2), None), clips, dict.fromkeys("abc", silence), options, "clean", 0
    )
    return sorted(found, key=lambda row: str(row["clip_id"]))


def test_an_answer_is_right_where_it_is_any_of_the_clips_classes(rows: list[dict[str, object]]) -> None:
    assert metrics.top1(rows) == pytest.approx(2 / 3)  # a by its second class, c by its only one
    assert metrics.top1(rows[1:2]) == 0


def test_only_predictions_of_such_clips_keep_classes_and_probabilities(
    rows: list[dict[str, object]],
) -> None:
    cache.write_table(Path("predictions.parquet"), "predictions", rows, {})
    read = cache.read_predictions(Path("predictions.parquet"))
    kept = {row["clip_id"]: (row["label_ids"], row["probs"]) for row in read}
    assert kept["a"] == ([0, 2], pytest.approx([0.1, 0.2, 0.7]))
    assert kept["c"] == (None, None)


def test_a_summary_has_map_only_where_clips_have_several_classes(
    rows: list[dict[str, object]],
) -> None:
    assert "map_alone" in metrics.summary(rows, set())
    assert "map_fused" not in metrics.summary(rows, set())  # AlwaysThe has no fused answer
    assert not {"map_alone", "map_fused"} & metrics.summary(rows[2:], set()).keys()


def test_average_precision_is_the_mean_precision_at_the_ranks_of_a_class() -> None:
    scores = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.1, 0.4]])
    truth = np.array([[1, 0], [0, 0], [1, 0], [0, 0]])
    assert metrics.mean_average_precision(scores, truth) == pytest.approx(
        (1 / 1 + 2 / 3) / 2
    )  # of class 0; class 1 has no clip
    truth[0, 1] = 1  # the clip that class 1 ranks last
    assert metrics.mean_average_precision(scores, truth) == pytest.approx(((1 / 1 + 2 / 3) / 2 + 1 / 4) / 2)
    assert metrics.mean_average_precision(scores, np.zeros((4, 2))) == 0


def test_every_stream_is_ranked_by_itself_and_a_clip_without_an_answer_ranks_nowhere() -> None:
    def row(corruption: str, label_id: int, probs: list[float] | None) -> dict[str, object]:
        return {"corruption": corruption, "order_seed": 0, "label_ids": [label_id], "probs": probs}

    perfect = [row("rain", 0, [0.6, 0.4]), row("rain", 1, [0.5, 0.5])]
    assert metrics.multi_label_map(perfect) == 1
    failed = [row("gauss", 0, None), row("gauss", 1, [0.5, 0.5])]
    assert metrics.multi_label_map(failed) == pytest.approx((1 / 2 + 1) / 2)
    assert metrics.multi_label_map(perfect + failed) == pytest.approx((1 + 3 / 4) / 2)
    assert metrics.multi_label_map([{"corruption": "rain", "order_seed": 0, "label_ids": None, "probs": None}]) is None


def test_clean_is_not_in_the_mean_average_precision_unless_it_is_all_there_is() -> None:
    def row(corruption: str, probs: list[float]) -> dict[str, object]:
        return {"corruption": corruption, "order_seed": 0, "label_ids": [0], "probs": probs, "fused_probs": None}

    clean = [row("clean", [1.0, 0.0]), row("clean", [0.9, 0.1])]
    rain = [row("rain", [0.5, 0.5]) | {"label_ids": [1]}, row("rain", [0.5, 0.5])]
    assert metrics.multi_label_map(clean) == 1
    assert metrics.multi_label_map(clean + rain) == metrics.multi_label_map(rain) == pytest.approx((1 + 1 / 2) / 2)
    assert metrics.multi_label_map(clean + rain, "fused_probs") is None

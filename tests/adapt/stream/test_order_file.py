"""A fixed order of clips from a file, in the form of ViTTA's lists or of clip ids."""

import json
from pathlib import Path

import pytest

from adapt.errors import AdaptError
from adapt.source import checkpoints
from adapt.stream import options, streaming
from adapt.stream._order import read_order
from adapt.tables import cache
from adapt.tables.cache import Clip
from tests import tiny, tiny_project


def clip(clip_id: str, path: str) -> Clip:
    return Clip(clip_id, Path("data/videos/mine") / path, "test", 0, "ok")


CLIPS = [
    clip(name, f"{name}.mp4") for name in ("test/run/a", "test/run/b c", "test/jump/x", "test/run/x")
]  # fmt: skip


@pytest.mark.parametrize("lines", [
    ["run/x.avi 10 0", "run/b c.avi 7 0", "run/a.avi 186 1", "jump/x.avi 12 1"],  # as ViTTA's: path, frames, class
    ["test/run/x", "test/run/b c", "test/run/a", "test/jump/x"],
    ["run/x.mp4", "", "test/run/b c", "a.webm", "deep/down/jump/x.mp4", ""],
])  # fmt: skip
def test_a_line_names_a_clip_by_its_id_or_its_file(lines: list[str], tmp_path: Path) -> None:
    (tmp_path / "order.txt").write_text("\n".join(lines))
    found = [one.clip_id for one in read_order(tmp_path / "order.txt", CLIPS)]
    assert found == ["test/run/x", "test/run/b c", "test/run/a", "test/jump/x"]


@pytest.mark.parametrize(("content", "said"), [
    ("test/run/a\ntest/run/x\ntest/jump/x", r"lacks 1 of 4 clips \(test/run/b c\)"),
    ("test/run/a\nrun/a.mp4 3 0", "line 2: clip test/run/a stands in line 1 already"),
    ("test/run/d", "line 1: 'test/run/d' names no clips of the split"),
    ("x.mp4 3 0", "line 1: 'x.mp4 3 0' names no clips of the split"),  # two of that name, none in that folder
    (None, "cannot be read"),
])  # fmt: skip
def test_a_file_that_is_no_order_of_the_clips_is_one_line(content: str | None, said: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "order.txt").write_text(content)
    with pytest.raises(AdaptError, match=said) as error:
        read_order(tmp_path / "order.txt", CLIPS)
    assert "\n" not in str(error.value)


def test_a_run_follows_the_file_of_each_corruption(here: Path) -> None:
    clips = [one.clip_id for one in cache.read_clips("tiny", "test")]
    orders = {"clean": clips[::-1], "gauss": [*clips[3:], *clips[:3]]}
    for name, ids in orders.items():
        Path(f"{name}_shuffled.txt").write_text("".join(f"{clip_id}.mp4 4 0\n" for clip_id in ids))
    wanted = tiny_project.options("source+none", order_file="{}_shuffled.txt", name="ordered")
    streaming.run(wanted)
    rows = cache.read_predictions(Path("cache/tiny/adapt/ordered/predictions.parquet"))
    for name, ids in orders.items():
        placed = sorted((int(str(row["position"])), row["clip_id"]) for row in rows if row["corruption"] == name)
        assert [clip_id for _, clip_id in placed] == ids
    known = streaming.identify(wanted, checkpoints.Source(tiny.trained(), "0"))
    Path("gauss_shuffled.txt").write_text("".join(f"{clip_id}\n" for clip_id in clips))
    changed = streaming.identify(wanted, checkpoints.Source(tiny.trained(), "0"))
    assert {key for key in known if known[key] != changed[key]} == {"orders_sha256"}
    assert "order_file" not in json.loads(known["options"])


def test_a_fixed_order_takes_one_seed_and_no_sorting() -> None:
    with pytest.raises(AdaptError, match=r"order_seeds is \(0, 1\): give one: order_file is one order"):
        options.check(tiny_project.options("source", order_file="a.txt", order_seeds=(0, 1)))
    with pytest.raises(AdaptError, match="setting is 'sorted': give another, or no order_file"):
        options.check(tiny_project.options("source", order_file="a.txt", setting="sorted"))

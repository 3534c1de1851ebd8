"""The data set made for tests: two classes of flat grey clips, dark and bright, in a project folder of its own."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from adapt.tables import classes, parquet
from adapt.video.clips import VideoOptions
from tests.clips import write_video
from tests.places import ROOT

LABELS = ["dark", "bright"]
LEVELS = (40, 200)
VIDEO = VideoOptions(frames=4, views=2, resize=32, size=32)
CLIPS = {"train": 4, "val": 2, "test": 1}  # a class
Row = dict[str, object]


def make(
    folder: Path, dataset: str = "greys", n: Mapping[str, int] = CLIPS, size: tuple[int, int] = (32, 32)
) -> list[Row]:
    """Write the videos, `n` clips a class in each split, and clips.parquet of `dataset` into the project `folder`.

    Returns the rows of `clips`.
    """
    (folder / "cache" / dataset).mkdir(parents=True)
    shutil.copy(ROOT / "cache/schema.sql", folder / "cache/schema.sql")
    (folder / f"cache/{dataset}/labels.txt").write_text("".join(f"{label}\n" for label in LABELS))
    rows = [
        _clip(folder / "data/videos" / dataset, split, label_id, i, size)
        for split in n
        for label_id in range(len(LABELS))
        for i in range(n[split])
    ]
    write_clips(folder / "cache" / dataset, rows)
    return rows


def write_clips(cache: Path, rows: list[Row]) -> None:
    """Write clips.parquet into a data set's folder of the cache, as `scan` does."""
    parquet.write_table(cache / "clips.parquet", "clips", rows, {"classes_sha256": classes.sha256(LABELS)})


def _clip(videos: Path, split: str, label_id: int, i: int, size: tuple[int, int]) -> Row:
    """Write a video of four frames; its row of `clips`."""
    name, level = f"{split}/{LABELS[label_id]}/{i}", LEVELS[label_id]
    write_video(videos / f"{name}.mp4", [level + 4 * i, level, level + i, level], size)
    return {
        "clip_id": name, "path": f"{name}.mp4", "split": split, "label_id": label_id, "label": LABELS[label_id],
        "status": "ok", "duration_s": 0.5, "n_frames": 4, "content_sha256": "0" * 64, "error": None,
    }  # fmt: skip

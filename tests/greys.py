"""A data set made for tests, in a project folder of its own: two classes of flat grey clips, dark and bright."""

import shutil
from pathlib import Path

from adapt.tables import parquet
from adapt.video.clips import VideoOptions
from tests.clips import write_video
from tests.places import ROOT

LABELS = ["dark", "bright"]
LEVELS = (40, 200)
VIDEO = VideoOptions(frames=4, views=2, resize=32, size=32)


def make(folder: Path, n_train: int = 4, n_val: int = 2, size: tuple[int, int] = (32, 32)) -> Path:
    """Write data set `greys` into the project `folder`: `n_train` and `n_val` clips a class, and one to test."""
    (folder / "cache/greys").mkdir(parents=True)
    shutil.copy(ROOT / "cache/schema.sql", folder / "cache/schema.sql")
    (folder / "cache/greys/labels.txt").write_text("".join(f"{label}\n" for label in LABELS))
    rows = []
    for split, n in (("train", n_train), ("val", n_val), ("test", 1)):
        for label_id, label in enumerate(LABELS):
            for i in range(n):
                name, level = f"{split}/{label}/{i}", LEVELS[label_id]
                write_video(folder / f"data/videos/greys/{name}.mp4", [level + 4 * i, level, level + i, level], size)
                rows.append({
                    "clip_id": name, "path": f"{name}.mp4", "split": split, "label_id": label_id, "label": label,
                    "status": "ok",
                    "duration_s": 0.5, "n_frames": 4, "content_sha256": "0" * 64, "error": None,
                })  # fmt: skip
    parquet.write_table(folder / "cache/greys/clips.parquet", "clips", rows)
    return folder

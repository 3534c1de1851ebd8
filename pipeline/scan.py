"""The `scan` stage: which clips a data set has, with their split, label, hash, length and whether a picture can be read.

In: data/videos/<dataset>, through the recipe that knows its folders.  Out: cache/<dataset>/clips.parquet and labels.txt, one class
a line in label_id order.  A file without a readable picture is a row with a status; nothing is dropped.
"""
import hashlib
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

import decord

from pipeline import cache, datasets, engine, stage
from pipeline.errors import DatasetError

SPLITS = ("train", "val", "test")
DECORD_PREFIX = re.compile(r"\[\d\d:\d\d:\d\d\] \S+:\d+: ")  # a clock and a source line, which would make every run's table another
ERROR_LENGTH = 200  # characters

log = logging.getLogger("scan")


@dataclass(frozen=True)
class Options:
    """List a data set's clips."""

    dataset: str  # names data/videos/<dataset> and cache/<dataset>
    recipe: str = "folder"  # pipeline/datasets/<recipe>.py, which knows the folders
    jobs: int = 2  # files at a time


@dataclass(frozen=True)
class Listed:
    """A video as a recipe lists it."""

    path: str  # relative to the data set's folder, '/' between parts
    split: str
    label: str

    @property
    def clip_id(self) -> str:
        return str(PurePosixPath(self.path).with_suffix(""))


def run(options: Options) -> dict[str, int]:
    """Write clips.parquet and labels.txt of `options.dataset` and return counts.

    Raises DatasetError for an unknown recipe, no videos, folders that do not fit, or two files that would share a clip_id.
    """
    recipe, root = datasets.build(options.recipe), Path("data/videos") / options.dataset
    labels = recipe.labels(options.dataset, root)
    clips = sorted((Listed(*row) for row in recipe.rows(root, labels)), key=lambda clip: clip.path)
    _check(clips, labels, root)
    decord.logging.set_level(decord.logging.QUIET)  # ffmpeg's complaints; of decord's own, a line a file still goes to stderr
    rows = engine.map_clips(partial(_row, root, {label: i for i, label in enumerate(labels)}), clips, options.jobs)
    folder = cache.folder(options.dataset)
    known = {"recipe": options.recipe, "classes_sha256": hashlib.sha256("\n".join(labels).encode()).hexdigest()}
    cache.write_table(folder / "clips.parquet", "clips", rows, known)
    cache.write_text(folder / "labels.txt", "".join(f"{label}\n" for label in labels))
    failed = [row for row in rows if row["status"] == "failed"]
    for row in failed[:5]:
        log.warning("%s: %s", row["path"], row["error"])
    by_split = {f"n_{split}": sum(clip.split == split for clip in clips) for split in SPLITS}
    return {"n_clips": len(rows), "n_failed": len(failed), "n_labels": len(labels), **by_split}


def _check(clips: Sequence[Listed], labels: Sequence[str], root: Path) -> None:
    if not clips:
        raise DatasetError(f"no video under {root}: put them at {root}/<split>/<class>/<name>.mp4, split one of {', '.join(SPLITS)}")
    seen: dict[str, str] = {}
    for clip in clips:
        if clip.clip_id in seen:
            raise DatasetError(f"{root}: {seen[clip.clip_id]} and {clip.path} would both be clip {clip.clip_id!r}: rename one of them")
        seen[clip.clip_id] = clip.path
        if clip.label not in labels or clip.split not in SPLITS:
            raise DatasetError(f"{root}/{clip.path}: label {clip.label!r} or split {clip.split!r} is unknown: the recipe has a fault")


def _row(root: Path, label_ids: dict[str, int], clip: Listed) -> cache.Row:
    path = root / clip.path
    row: dict[str, object] = {"clip_id": clip.clip_id, "path": clip.path, "split": clip.split, "label": clip.label, "label_id": label_ids[clip.label],
                              "content_sha256": cache.sha256_file(path)}
    try:
        return row | probe(path) | {"status": "ok"}
    except (decord.DECORDError, RuntimeError) as error:
        return row | {"status": "failed", "error": one_line(str(error))}


def probe(path: Path) -> dict[str, object]:
    """Length of the video track of `path`: duration_s and n_frames; the first frame is decoded to be sure that there are pictures.

    Raises decord.DECORDError or RuntimeError where no picture can be read.
    """
    if not path.stat().st_size:
        raise RuntimeError("the file is empty")
    try:
        reader = decord.VideoReader(str(path), num_threads=1)
    except RuntimeError as error:
        raise RuntimeError("decord cannot open it: no video, or one that is cut short") from error
    if not (n_frames := len(reader)):
        raise RuntimeError("the video track has no frames")
    reader.seek(0)
    reader.next()
    return {"n_frames": n_frames, "duration_s": max(0.0, float(reader.get_frame_timestamp(n_frames - 1)[1]))}


def one_line(message: str) -> str:
    """The first line of what decord says, without clock and source line."""
    lines = [line for line in DECORD_PREFIX.sub("", message).splitlines() if line.strip()]
    return lines[0].strip()[:ERROR_LENGTH] if lines else "decord gives no reason"


if __name__ == "__main__":
    stage.main(Options, run, prog="pipeline.scan")

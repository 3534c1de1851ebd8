"""What a data set's folder of the cache holds, by name.

Its list of classes, its clips, what their sounds say, and predictions.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from adapt.errors import CacheError
from adapt.tables import classes
from adapt.tables.classes import ClassesError
from adapt.tables.files import sha256_file
from adapt.tables.parquet import check_version, provenance, read_table
from adapt.tables.parquet import write_table as write_table
from adapt.tables.schema import ROOT as ROOT


@dataclass(frozen=True)
class Clip:
    """A row of `clips`: where the video lies, and its ground truth (for scoring and for training only)."""

    clip_id: str
    path: Path  # from the project's root
    split: str
    label_id: int
    status: str  # ok or failed
    label_ids: tuple[int, ...] = ()  # every class of a clip of several, label_id among them
    unread: str = ""  # why `scan` could not open its file, whose path may be escaped then


@dataclass(frozen=True)
class Sound:
    """A row of `pseudo_labels`: what the clip's sound says."""

    q: np.ndarray  # (K,) sums to 1
    s: np.ndarray  # (K,) in [0, 1]
    absent: np.ndarray  # (K,) in [0, 1]: which classes lack a sound that they cannot go without
    mass: float  # in [0, 1]
    status: str


def folder(dataset: str) -> Path:
    """The cache folder of `dataset`, relative to the project's root."""
    return ROOT / dataset


def read_labels(dataset: str) -> list[str]:
    """The class names of `dataset` in label_id order, as `scan` wrote them.

    Raises CacheError where they are missing, no such list, or not those in the order of clips.parquet, which `scan`
    wrote with them.
    """
    path, clips = folder(dataset) / "labels.txt", folder(dataset) / "clips.parquet"
    if not path.exists():
        raise CacheError(f"{path} is missing: run `dvc repro scan`")
    labels = read_label_file(path)
    if clips.is_file():
        check_stated(clips, check_version(clips, "clips"), "classes_sha256", classes.sha256(labels), path, "scan")
    return labels


def check_stated(path: Path, known: Mapping[str, str], name: str, value: str, source: Path, stage: str) -> None:
    """Raise CacheError where `path` says in its metadata that it was made of another `source` than lies there now, or
    does not say of which.

    `value` is what it should say under `name`.
    """
    if name not in known:
        raise CacheError(f"{path} does not say for which {source} it was made: run `dvc repro {stage}`")
    if known[name] != value:
        what = "another list of classes than" if name == "classes_sha256" else "another"
        raise CacheError(f"{path} was made for {what} {source}, which has changed: run `dvc repro {stage}`")


def data_sha256(dataset: str) -> str:
    """Hash what a run's rows take from the cache: clips (with the hash of every video), classes, what sounds say."""
    names = ("clips.parquet", "labels.txt", "pseudo_labels.parquet")
    return hashlib.sha256(json.dumps([sha256_file(ROOT / dataset / name) for name in names]).encode()).hexdigest()


def read_label_file(path: Path) -> list[str]:
    """The class names of a labels.txt that `scan` wrote.  Raises CacheError where it is no such list."""
    try:
        return classes.read(path)
    except ClassesError as error:
        raise CacheError(f"{error}, then run `dvc repro scan`") from error


def read_clips(dataset: str, split: str, *, needed: bool = True) -> list[Clip]:
    """The clips of one split in clip_id order.  Raises CacheError where there is none and one is `needed`."""
    path, videos = folder(dataset) / "clips.parquet", Path("data/videos") / dataset
    clips = [
        Clip(
            r["clip_id"], videos / r["path"], r["split"], r["label_id"], r["status"], tuple(r["label_ids"] or ()),
            "" if r["content_sha256"] else f"scan could not read it: {r['error']}",
        )
        for r in read_table(path, "clips").to_pylist()
        if r["split"] == split
    ]  # fmt: skip
    if needed and not clips:
        raise CacheError(f"{path} has no clip of split {split!r}")
    return clips


def read_sounds(dataset: str, labels: list[str]) -> dict[str, Sound]:
    """clip_id -> what its sound says.

    Raises CacheError where the file was made for another class order than `labels`.
    """
    path = folder(dataset) / "pseudo_labels.parquet"
    rows = read_table(path, "pseudo_labels").to_pylist()
    known = provenance(path)
    if known.get("classes_sha256") != classes.sha256(labels):
        raise CacheError(
            f"{path} was made for another list of classes than {path.parent / 'labels.txt'}: run `dvc repro`"
        )
    for name in ("clips", "label_map"):
        if (source := path.parent / f"{name}.parquet").is_file():
            check_stated(path, known, f"{name}_sha256", sha256_file(source), source, "pseudo_label")
    for row in rows:
        if not len(row["probs"]) == len(row["evidence"]) == len(row["absent"]) == len(labels):
            raise CacheError(
                f"{path}: clip {row['clip_id']!r} has not one value for each of the {len(labels)} classes: run `dvc "
                "repro pseudo_label`"
            )
    return {
        r["clip_id"]: Sound(_array(r["probs"]), _array(r["evidence"]), _array(r["absent"]), r["mass"], r["status"])
        for r in rows
    }


def _array(values: list[float]) -> np.ndarray:
    return np.array(values, np.float32)


def read_head(path: str, labels: list[str]) -> list[str]:
    """The names of a head's outputs: those of the list at `path`, or where that is "" the data set's own, `labels`.

    Raises CacheError where it is no such list.
    """
    try:
        return classes.read(Path(path), by_hand=True) if path else labels
    except ClassesError as error:
        raise CacheError(f"model.classes: {error}") from error


def read_class_map(dataset: str, head: list[str], labels: list[str]) -> list[tuple[int, int, float]]:
    """(head class, class, weight) of each pair of the class map.

    Raises CacheError where it was made for another head or other classes, or holds no pair.
    """
    path = folder(dataset) / "class_map.parquet"
    rows = read_table(path, "class_map").to_pylist()
    known, stage = provenance(path), "run `dvc repro map_classes`"
    for name, names, what in (("head_sha256", head, "model.classes"), ("classes_sha256", labels, "labels.txt")):
        if known.get(name) != classes.sha256(names):
            raise CacheError(f"{path} was made for another list of classes than {what}: {stage}")
    if not rows:
        raise CacheError(f"{path} leads from no class of the model to one of {dataset}: choose another mapper, {stage}")
    return [(row["head_id"], row["label_id"], row["weight"]) for row in rows]


def read_predictions(path: Path) -> list[dict[str, object]]:
    """The rows of one predictions file, in key order."""
    rows: list[dict[str, object]] = read_table(path, "predictions").to_pylist()
    return rows

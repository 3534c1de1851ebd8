"""An archive as a place of runs: a small folder for git that holds what tables need of finished runs
(`python -m adapt.archive`, adapt/report/archive.py).

    labels.txt            the classes in label_id order
    clips.parquet         table `archived_clips`; its metadata names data set, checkpoint and data
    runs/<run>.parquet    table `archived_predictions`; its metadata says the same, whether the run saw labels, and each
                          sitting: the fingerprint of a run (adapt/stream/_fingerprint.py), and which streams are its

A cache is made again where a file does not fit; an archive cannot be, so it is held to the columns of cache/schema.sql
that it has, not to the version that it was written under.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from adapt.errors import CacheError, is_of_the_machine
from adapt.report._condensed import Row
from adapt.report._places import Truth
from adapt.tables import classes, parquet
from adapt.tables.cache import read_label_file

SAME = {  # what all files of an archive say alike, in words where one does not
    "dataset": "another data set", "data_sha256": "other clips or sounds",
    "checkpoint_sha256": "another checkpoint", "classes_sha256": "another list of classes",
}  # fmt: skip
REMEDY = "restore it from git, or archive the runs anew"


@dataclass(frozen=True)
class ArchivedClip:
    """A row of `archived_clips`."""

    clip_id: str
    split: str
    label_id: int
    label_ids: tuple[int, ...]  # every class of a clip of several, else none
    status: str  # of its sound


def read_table(path: Path, table: str) -> tuple[list[Row], dict[str, str]]:
    """(the rows of a file of an archive in key order, its metadata); every byte is verified.

    Raises CacheError where it is missing, damaged, of another table, or does not follow cache/schema.sql.
    """
    if not path.is_file():
        raise CacheError(f"{path} is missing: {REMEDY}")
    try:
        if not parquet.is_whole(path):
            raise CacheError("its bytes are not those that were written")
        known = parquet.provenance(path)
        rows = pq.read_table(path, partitioning=None)
    except (OSError, pa.ArrowException, CacheError) as error:
        if is_of_the_machine(error):
            raise
        raise CacheError(f"{path} is damaged ({' '.join(str(error).split())}): {REMEDY}") from error
    if known.get("table") != table:
        raise CacheError(f"{path} holds the table {known.get('table')}, not {table}: {REMEDY}")
    checked: list[Row] = parquet.checked(rows, table, path).to_pylist()
    return checked, known


class Archive:
    """An archive that is there; of one data set, one checkpoint and one set of clips."""

    def __init__(self, path: Path, dataset: str, folder: str = "") -> None:
        """`folder` is that of runs named FOLDER/NAME, or "".  Raises CacheError where `path` is no archive of
        `dataset`, or a part of it does not fit the others.
        """
        if not path.is_dir():
            raise CacheError(
                f"{path} is no folder: make it by `python -m adapt.archive --dataset {dataset} --out {path}`"
            )
        self.dataset, self._path, self._folder = dataset, path, folder
        rows, known = read_table(path / "clips.parquet", "archived_clips")
        self.known = {name: known.get(name, "") for name in SAME}
        if self.known["dataset"] != dataset:
            raise CacheError(f"{path} is an archive of {self.known['dataset']}: give --dataset {self.known['dataset']}")
        if classes.sha256(read_label_file(path / "labels.txt")) != self.known["classes_sha256"]:
            raise CacheError(f"{path / 'labels.txt'} lists other classes than {path / 'clips.parquet'}: {REMEDY}")
        self.clips = {
            row["clip_id"]: ArchivedClip(
                row["clip_id"], row["split"], row["label_id"], tuple(row["label_ids"] or ()), row["sound_status"]
            )
            for row in rows
        }

    def path(self, name: str) -> Path:
        """As `Place` has it."""
        return self._path / "runs" / self._folder / f"{name}.parquet"

    def exists(self, name: str) -> bool:
        """As `Place` has it."""
        return self.path(name).is_file()

    def read(self, name: str) -> tuple[list[Row], dict[str, str]]:
        """(rows of `archived_predictions`, the file's metadata).  Raises CacheError where the run is missing, damaged,
        or not of the archive's data set, data and checkpoint.
        """
        path = self.path(name)
        if not path.is_file():
            there = sorted(file.stem for file in path.parent.glob("*.parquet")) if path.parent.is_dir() else []
            raise CacheError(f"{path} is missing: choose other runs ({' '.join(there) or 'none'} are there)")
        rows, known = read_table(path, "archived_predictions")
        check_same(f"{path} is", known, self.known, self._path)
        if odd := [row["clip_id"] for row in rows if row["clip_id"] not in self.clips]:
            raise CacheError(f"{path} has {len(odd)} rows of clips that clips.parquet has not ({odd[0]}): {REMEDY}")
        return rows, known

    def rows(self, name: str) -> list[Row]:
        """As `Place` has it."""
        rows, _ = self.read(name)
        for row in rows:
            clip = self.clips[row["clip_id"]]
            row |= {"label_id": clip.label_id, "label_ids": list(clip.label_ids) or None}
        return rows

    def sees_labels(self, name: str) -> bool:
        """As `Place` has it."""
        return bool(json.loads(parquet.provenance(self.path(name)).get("sees_labels", "false")))

    def truth(self, split: str) -> Truth:
        """As `Place` has it."""
        chosen = [clip for clip in self.clips.values() if clip.split == split]
        if not chosen:
            there = " ".join(sorted({clip.split for clip in self.clips.values()}))
            raise CacheError(f"{self._path} has no clip of split {split!r}: choose another --split ({there} is there)")
        return chosen, self.clips


def check_same(what: str, ours: Mapping[str, Any], theirs: Mapping[str, Any], path: Path) -> None:
    """Raise CacheError, which begins with `what`, where the two say something else of what all files of the archive at
    `path` have in common.
    """
    for name, words in SAME.items():
        if ours.get(name) != theirs[name]:
            said = f"{str(ours.get(name))[:8]}, there {theirs[name][:8]}"
            raise CacheError(f"{what} of {words} than {path} holds ({said}): keep them in folders of their own")

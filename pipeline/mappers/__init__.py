"""The door of the mappers: two lists of names in, pairs of sound and class out.

A file of this folder *is* the mapper of that name: `llm` replays recorded replies of a language model, `lexical` compares
words.  A mapper sees names only, never a clip, so its map is made once per pair of label lists and fits every tagger.
"""
import csv
import hashlib
import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pipeline.cache import sha256_file
from pipeline.errors import MapperError

SOUNDS = Path("data/labels/audioset.csv")


@dataclass(frozen=True)
class LabelLists:
    """What a mapper may know: the sounds in audio_id order, the classes of `dataset` in label_id order, and their hashes."""

    dataset: str
    sounds: tuple[str, ...]
    classes: tuple[str, ...]
    sounds_sha256: str
    classes_sha256: str


@dataclass(frozen=True)
class Pair:
    """Hearing sound `audio_id` supports class `label_id` with `weight` in (0, 1]."""

    audio_id: int
    label_id: int
    weight: float
    necessary: bool  # the class cannot go without this sound
    reason: str


@dataclass(frozen=True)
class LabelMap:
    """What a mapper found: at most one pair per sound and class, in any order."""

    pairs: list[Pair]
    source: str  # the mapper, and for a language model which
    provenance: dict[str, str]


class Mapper(Protocol):
    """The function `map_labels` of each file in this folder."""

    def __call__(self, lists: LabelLists) -> LabelMap:
        """Connect `lists.sounds` with `lists.classes`; the same lists give the same map.  Raises MapperError."""
        ...


def names() -> list[str]:
    """The mappers there are: the files of this folder."""
    return sorted(file.stem for file in Path(__file__).parent.glob("*.py") if file.stem != "__init__")


def build(name: str) -> Mapper:
    """Import the mapper `name`.  Raises MapperError where the folder has none of that name."""
    if name not in names():
        raise MapperError(f"unknown mapper {name!r}: choose one of {names()}")
    mapper: Mapper = importlib.import_module(f"pipeline.mappers.{name}").map_labels
    return mapper


def classes_sha256(classes: Sequence[str]) -> str:
    """Hash of a list of class names in order, as files carry it in `earshot.classes_sha256`."""
    return hashlib.sha256("\n".join(classes).encode()).hexdigest()


def label_lists(dataset: str, classes: Sequence[str]) -> LabelLists:
    """Put AudioSet's sounds beside `classes`.  Raises MapperError where the list of sounds is missing or out of order."""
    if not SOUNDS.exists():
        raise MapperError(f"{SOUNDS} is missing: run from the project's root")
    with SOUNDS.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if [row["index"] for row in rows] != [str(i) for i in range(len(rows))]:
        raise MapperError(f"{SOUNDS}: column index does not count 0, 1, 2, ...: restore the file")
    return LabelLists(dataset, tuple(row["display_name"] for row in rows), tuple(classes), sha256_file(SOUNDS), classes_sha256(classes))

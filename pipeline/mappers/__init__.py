"""The door of the mappers: two lists of names in, pairs of sound and class out.

A file of this folder *is* the mapper of that name: `llm` replays recorded replies of a language model, `embedding` compares
sentence embeddings, `lexical` compares words, `table` reads what a person wrote.  A mapper sees names only, never a clip, so its
map is made once per pair of label lists and fits every tagger.
"""
import csv
import functools
import importlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from adapt.tables import classes
from adapt.tables.classes import ClassesError
from pipeline import cache
from pipeline.errors import MapperError

LABELS = Path("data/labels")
SOUNDS = LABELS / "audioset.csv"


@dataclass(frozen=True)
class LabelLists:
    """What a mapper may know: the sounds in audio_id order, the classes of `dataset` in label_id order, and their hashes."""

    dataset: str
    sounds: tuple[str, ...]
    classes: tuple[str, ...]
    sounds_sha256: str
    classes_sha256: str


@dataclass(frozen=True)
class Settings:
    """What a mapper can be told; each reads what concerns it."""

    table: str = ""  # path of the CSV of `table`; "" is data/maps/<dataset>.csv
    # of `embedding`.  Mean precision and F1 over the six sets of data/maps/reference: 0.60 .63 .46, 0.68 .81 .44, 0.76 .89 .37; a wrong
    # pair does more harm than a missing one
    min_cosine: float = 0.68


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
    source: str  # the mapper, and for a language model which; "edited" or "hand" for a table that a person changed or wrote
    provenance: dict[str, str]


class Mapper(Protocol):
    """The function `map_labels` of each file in this folder."""

    def __call__(self, lists: LabelLists, settings: Settings) -> LabelMap:
        """Connect `lists.sounds` with `lists.classes`; the same lists and settings give the same map.  Raises MapperError."""
        ...


def names() -> list[str]:
    """The mappers there are: the files of this folder."""
    return sorted(file.stem for file in Path(__file__).parent.glob("*.py") if file.stem != "__init__")


def build(name: str, settings: Settings | None = None) -> Callable[[LabelLists], LabelMap]:
    """Import the mapper `name`.  Raises MapperError where the folder has none of that name."""
    if name not in names():
        raise MapperError(f"unknown mapper {name!r}: choose one of {names()}")
    mapper: Mapper = importlib.import_module(f"pipeline.mappers.{name}").map_labels
    return functools.partial(mapper, settings=settings or Settings())


def shown(label: str) -> str:
    """A class name as words: `drum_kit` is `drum kit`, `PlayingDhol` is `Playing Dhol`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", label.replace("_", " "))


def listed_classes(dataset: str) -> list[str]:
    """The classes of data/labels/<dataset>.txt, which needs no cache.  Raises MapperError where the file is missing."""
    path = LABELS / f"{dataset}.txt"
    if not path.exists():
        raise MapperError(f"{path} is missing: write the class names of {dataset} there, one a line, in label_id order")
    return read_list(path)


def read_list(path: Path) -> list[str]:
    """The names of a list of data/labels, one a line.  Raises MapperError where one of them is no name, or stands there twice."""
    try:
        return classes.read(path, by_hand=True)
    except ClassesError as error:
        raise MapperError(str(error)) from error


def read_classes(dataset: str) -> list[str]:
    """The classes as `scan` wrote them, or before it has run those of data/labels.  Raises MapperError where neither is there."""
    scanned = cache.folder(dataset) / "labels.txt"
    if scanned.exists():
        return cache.read_labels(dataset)
    if not (LABELS / f"{dataset}.txt").exists():
        raise MapperError(f"{scanned} and {LABELS / f'{dataset}.txt'} are missing: run `dvc repro scan` or write the class list")
    return listed_classes(dataset)


def label_lists(dataset: str, listed: Sequence[str]) -> LabelLists:
    """Put AudioSet's sounds beside the classes `listed`.

    Raises MapperError where the list of sounds is missing or out of order, or where two classes read the same (`drum_kit`, `drum kit`).
    """
    if not SOUNDS.exists():
        raise MapperError(f"{SOUNDS} is missing: run from the project's root")
    with SOUNDS.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if [row["index"] for row in rows] != [str(i) for i in range(len(rows))]:
        raise MapperError(f"{SOUNDS}: column index does not count 0, 1, 2, ...: restore the file")
    seen: dict[str, str] = {}
    for label in listed:
        if (other := seen.setdefault(shown(label), label)) != label or list(listed).count(label) > 1:
            raise MapperError(f"classes {other!r} and {label!r} of {dataset} read the same: rename one")
        if not label.strip():
            raise MapperError(f"the class list of {dataset} has an empty name: give each line a name")
    sounds = tuple(row["display_name"] for row in rows)
    return LabelLists(dataset, sounds, tuple(listed), cache.sha256_file(SOUNDS), classes.sha256(listed))

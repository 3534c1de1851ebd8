"""The two lists of names that label maps connect: AudioSet's sounds, or the classes of a model's head, and a data set's
classes, as they lie in data/labels and the cache.
"""

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from adapt.errors import MapperError
from adapt.tables import cache, classes
from adapt.tables.classes import ClassesError
from adapt.tables.files import sha256_file

LABELS = Path("data/labels")
SOUNDS = LABELS / "audioset.csv"
GENERIC = LABELS / "generic_sounds.txt"  # sounds that many things make, or nothing in particular


@dataclass(frozen=True)
class LabelLists:
    """What a mapper may know: the sounds in audio_id order, the classes of `dataset` in label_id order, and their
    hashes.

    In a class map the classes of a model's head stand in the place of the sounds.
    """

    dataset: str  # names the replies and the table; of a class map <dataset>.classes
    sounds: tuple[str, ...]
    classes: tuple[str, ...]
    sounds_sha256: str
    classes_sha256: str
    head: str = ""  # the list that names the head's classes; "" where the sounds are sounds


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
    """The names of a list of data/labels, one a line.  Raises MapperError where one of them is no name, or stands there
    twice.
    """
    try:
        return classes.read(path, by_hand=True)
    except ClassesError as error:
        raise MapperError(str(error)) from error


def classes_with_sound(dataset: str, listed: Sequence[str]) -> list[str]:
    """Those of `listed` whose videos carry sound: all, or where there is a data/labels/<dataset>_with_sound.txt those
    in it.  Raises MapperError where that holds none of them.
    """
    path = LABELS / f"{dataset}_with_sound.txt"
    if not path.exists():
        return list(listed)
    known = set(read_list(path))
    found = [label for label in listed if label in known]
    if not found:
        raise MapperError(f"{path} holds none of the classes of {dataset}: write them as in the class list")
    return found


def read_classes(dataset: str) -> list[str]:
    """The classes as `scan` wrote them, or before it has run those of data/labels.  Raises MapperError where neither is
    there.
    """
    scanned = cache.folder(dataset) / "labels.txt"
    if scanned.exists():
        return cache.read_labels(dataset)
    if not (LABELS / f"{dataset}.txt").exists():
        raise MapperError(
            f"{scanned} and {LABELS / f'{dataset}.txt'} are missing: run `dvc repro scan` or write the class list"
        )
    return listed_classes(dataset)


def label_lists(dataset: str, listed: Sequence[str]) -> LabelLists:
    """Put AudioSet's sounds beside the classes `listed`.

    Raises MapperError where the list of sounds is missing or out of order, or where two classes read the same
    (`drum_kit`, `drum kit`).
    """
    if not SOUNDS.exists():
        raise MapperError(f"{SOUNDS} is missing: run from the project's root")
    try:
        with SOUNDS.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise MapperError(f"{SOUNDS} is no list of sounds ({error}): restore the file") from error
    if not rows or not all(row.get("display_name") for row in rows):
        raise MapperError(f"{SOUNDS} has no sounds, or a line without display_name: restore the file")
    if [row.get("index") for row in rows] != [str(i) for i in range(len(rows))]:
        raise MapperError(f"{SOUNDS}: column index does not count 0, 1, 2, ...: restore the file")
    _check_shown(dataset, listed)
    sounds = tuple(row["display_name"] for row in rows)
    return LabelLists(dataset, sounds, tuple(listed), sha256_file(SOUNDS), classes.sha256(listed))


def head_lists(dataset: str, head: str, listed: Sequence[str]) -> LabelLists:
    """Put the classes of a model's head, named by the list at the path `head`, beside the classes `listed`.

    Raises MapperError where that is no such list, or two names of a list read the same.
    """
    names = read_list(Path(head))
    _check_shown(dataset, listed)
    _check_shown(head, names)
    return LabelLists(
        f"{dataset}.classes", tuple(names), tuple(listed), classes.sha256(names), classes.sha256(listed), head
    )


def _check_shown(where: str, listed: Sequence[str]) -> None:
    """Raise MapperError where two names of a list read the same (`drum_kit`, `drum kit`), or one is empty."""
    seen: dict[str, str] = {}
    named = where or "a caller"
    for label in listed:
        if (other := seen.setdefault(shown(label), label)) != label or list(listed).count(label) > 1:
            raise MapperError(f"classes {other!r} and {label!r} of {named} read the same: rename one")
        if not label.strip():
            raise MapperError(f"the class list of {named} has an empty name: give each line a name")

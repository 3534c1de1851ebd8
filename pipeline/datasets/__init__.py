"""Data sets: pipeline/datasets/<recipe>.py knows the folders of one, and yields rows; everything after knows no data set.

What recipes share is here: how lists are read (file names in them are untrusted, and a malformed line is one error with its place), how
videos on disk are found by name, and where label lists lie.
"""
import csv
import hashlib
import importlib
import logging
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Protocol, cast

from pipeline.errors import DatasetError

SPLITS = ("train", "val", "test")
ENDINGS = (".3gp", ".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".ts", ".webm", ".wmv")
LABEL_LISTS = Path("data/labels")
SOUND = "sound"  # a data set's folder of originals whose sound its clips have (pipeline/scan.py)
QUOTED = 80  # characters of a bad line that an error repeats
NUMBER = re.compile(r"[0-9]{1,9}")  # int() of what matches is quick and small, whatever a list holds

log = logging.getLogger(__name__)


class Listed(NamedTuple):
    """A clip as a recipe lists it; the file may be missing."""

    path: str  # relative to the data set's folder, '/' between parts
    split: str  # train, val or test
    label: str  # the class, and where there are several the first
    labels: tuple[str, ...] = ()  # all classes, for a set whose clips have several
    clip_id: str = ""  # where the path without its ending does not name the clip, since several clips share a file


class Recipe(Protocol):
    """What the module of a recipe offers."""

    VARIANTS: Sequence[str]
    """what `scan --variant` may choose, such as one of several official splits; the first is the default"""

    def labels(self, dataset: str, root: Path) -> list[str]:
        """The class names in label_id order of the set `dataset`, whose videos lie under `root`.  Raises DatasetError."""

    def rows(self, root: Path, labels: Sequence[str], variant: str = "") -> Iterable[tuple[str, str, str] | Listed]:
        """Yield every clip of `labels`: a Listed, or its first three fields.  Raises DatasetError."""


def names() -> list[str]:
    """The recipes that exist: the modules of this folder."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if not path.stem.startswith("_"))


def build(name: str) -> Recipe:
    """Import the recipe `name`, and no other.  Raises DatasetError for an unknown name."""
    if name not in names():
        raise DatasetError(f"unknown recipe {name!r}: choose one of [{', '.join(names())}]")
    return cast(Recipe, importlib.import_module(f"pipeline.datasets.{name}"))


def label_list(dataset: str, recipe: str) -> list[str]:
    """The lines of data/labels/<dataset>.txt, or else of data/labels/<recipe>.txt: so a set's name can choose a part of its classes.

    Raises DatasetError where neither exists, or a class is named twice.
    """
    path = LABEL_LISTS / f"{dataset}.txt"
    return read_labels(path if path.exists() else LABEL_LISTS / f"{recipe}.txt")


def read_labels(path: Path) -> list[str]:
    """The class names of a list, one a line, in label_id order.  Raises DatasetError where a class is named twice."""
    listed = [line for _, line in lines(path)]
    if twice := sorted({label for label in listed if listed.count(label) > 1}):
        raise DatasetError(f"{path} names {twice[0]!r} more than once: a class has one line")
    return listed


def lines(path: Path, what: str = "it is part of the data set's release") -> Iterator[tuple[str, str]]:
    """Yield ("<path> line <number>", text) for every line that is not blank.  Raises DatasetError where the file is missing or no text."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DatasetError(f"{path} cannot be read ({error.strerror}): {what}") from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path} is not UTF-8 text (byte {error.start}): save it as UTF-8") from error
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            yield f"{path} line {number}", line.strip()


def table(path: Path, columns: Sequence[str], what: str = "it is part of the data set's release") -> Iterator[tuple[str, dict[str, str]]]:
    """Yield (place, fields by name) for every row of a CSV file whose first line names its columns.

    Raises DatasetError where one of `columns` is missing, or a row is shorter than the first line.
    """
    header: list[str] = []
    for where, line in lines(path, what):
        try:
            fields = next(csv.reader([line]))
        except csv.Error as error:
            raise DatasetError(f"{where}: no row of a CSV file ({error}): {line[:QUOTED]!r}") from error
        if not header:
            header = fields
            if missing := [column for column in columns if column not in header]:
                raise DatasetError(f"{where}: column {missing[0]!r} is missing among {header}: take the published file")
        elif len(fields) < len(header):
            raise DatasetError(f"{where}: {len(fields)} fields where {len(header)} are expected: {line[:QUOTED]!r}")
        else:
            yield where, dict(zip(header, fields, strict=False))


def relative(path: str, where: str) -> str:
    """`path` as it stands in a list, checked to stay inside the data set's folder.  Raises DatasetError with the place `where`."""
    pure = PurePosixPath(path)
    if not path or "\0" in path or pure.is_absolute() or ".." in pure.parts:
        raise DatasetError(f"{where}: path {path[:QUOTED]!r} leads out of the data set's folder: make it relative to it")
    return path


def find_videos(root: Path, *folders: str) -> dict[str, list[str]]:
    """Name without ending -> the videos of that name under the `folders` of `root`, relative to it; links are followed."""
    found: dict[str, list[str]] = {}
    for folder in folders:
        for place, inner, files in os.walk(root / folder, followlinks=True):
            inner[:] = sorted(name for name in inner if not name.startswith("."))
            for name in sorted(files):
                stem, ending = os.path.splitext(name)  # noqa: PTH122 - a million files: no Path for each
                if ending.lower() in ENDINGS and not name.startswith("."):
                    found.setdefault(stem, []).append(Path(place, name).relative_to(root).as_posix())
    return found


def one_of(found: Sequence[str], wanted: str) -> str:
    """The file to take for `wanted`: itself where it is among `found`, else the one with the most folders in common; `wanted` for none."""
    def shared(path: str) -> int:
        pairs = zip(reversed(PurePosixPath(path).parent.parts), reversed(PurePosixPath(wanted).parent.parts), strict=False)
        return sum(1 for a, b in pairs if a.lower() == b.lower())

    return wanted if wanted in found or not found else max(found, key=shared)


def held_out(name: str) -> bool:
    """Whether `name` is one of the 5 % of a train split that validate, where a release has no validation split of its own (ours)."""
    return hashlib.sha256(name.encode()).digest()[0] % 20 == 0


def check_count(dataset: str, what: str, n_listed: int, n_published: int) -> None:
    """Say so where the lists at hand are not as long as the published ones."""
    if n_listed != n_published:
        counts = f"the lists name {n_listed:,} {what}, the published ones {n_published:,}"
        log.warning("%s: %s: are these the original files?", dataset, counts)

"""Data sets: pipeline/datasets/<recipe>.py knows the folders of one, and yields rows; everything after knows no data
set.

What recipes share is here: how lists are read (file names in them are untrusted, and a malformed line is one error with
its place), how folders are walked, links and all, how videos on disk are found by name, and where label lists lie.
"""

import csv
import errno
import hashlib
import importlib
import logging
import os
import posixpath
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Protocol, cast

from adapt.errors import DatasetError
from adapt.tables import classes
from adapt.tables.classes import ClassesError

SPLITS = ("train", "val", "test")
ENDINGS = (".3gp", ".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".ts", ".webm", ".wmv")
LABEL_LISTS = Path("data/labels")
SOUND = "sound"  # a data set's folder of originals whose sound its clips have (pipeline/scan.py)
QUOTED = 80  # characters of a bad line that an error repeats
NUMBER = re.compile(r"[0-9]{1,9}")  # int() of what matches is quick and small, whatever a list holds
NAMED = 5  # of files that are missing, failed or left out
NO_VIDEO = "no video of a class"
NOWHERE = "a link to nowhere"
LOOP = "a link to a folder that it lies in"
NO_FILE = "neither a file nor a folder"

log = logging.getLogger(__name__)


class Listed(NamedTuple):
    """A clip as a recipe lists it; the file may be missing."""

    path: str  # relative to the data set's folder, '/' between parts
    split: str  # train, val or test
    label: str  # the class, and where there are several the first
    labels: tuple[str, ...] = ()  # all classes, for a set whose clips have several
    clip_id: str = ""  # where the path without its ending does not name the clip, since several clips share a file


class LeftOut(NamedTuple):
    """What lies in a data set's folder and becomes no clip."""

    path: str  # as in Listed
    why: str


class Recipe(Protocol):
    """What the module of a recipe offers."""

    VARIANTS: Sequence[str]
    """what `scan --variant` may choose, such as one of several official splits; the first is the default"""

    def labels(self, dataset: str, root: Path) -> list[str]:
        """The class names in label_id order of the set `dataset`, whose videos lie under `root`.

        Raises DatasetError.
        """

    def rows(
        self, root: Path, labels: Sequence[str], variant: str = ""
    ) -> Iterable[tuple[str, str, str] | Listed | LeftOut]:
        """Yield every clip of `labels`, a Listed or its first three fields, and a LeftOut for what `scan` should name.
        Raises DatasetError.
        """


def names() -> list[str]:
    """The recipes that exist: the modules of this folder."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if not path.stem.startswith("_"))


def build(name: str) -> Recipe:
    """Import the recipe `name`, and no other.  Raises DatasetError for an unknown name."""
    if name not in names():
        raise DatasetError(f"unknown recipe {name!r}: choose one of [{', '.join(names())}]")
    return cast(Recipe, importlib.import_module(f"pipeline.datasets.{name}"))


def label_list(dataset: str, recipe: str) -> list[str]:
    """The lines of data/labels/<dataset>.txt, or else of data/labels/<recipe>.txt: so a set's name can choose a part of
    its classes.

    Raises DatasetError where neither exists, or a class is named twice.
    """
    path = LABEL_LISTS / f"{dataset}.txt"
    return read_labels(path if path.exists() else LABEL_LISTS / f"{recipe}.txt")


def read_labels(path: Path) -> list[str]:
    """The class names of a list, one a line, in label_id order.  Raises DatasetError where one is no name, or stands
    there twice.
    """
    try:
        return classes.read(path, by_hand=True)
    except ClassesError as error:
        raise DatasetError(str(error)) from error


def lines(path: Path, what: str = "it is part of the data set's release") -> Iterator[tuple[str, str]]:
    """Yield ("<path> line <number>", text) for every line that is not blank.  Raises DatasetError where the file is
    missing or no text.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DatasetError(f"{path} cannot be read ({error.strerror}): {what}") from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path} is not UTF-8 text (byte {error.start}): save it as UTF-8") from error
    for number, line in enumerate(text.split("\n"), 1):  # not splitlines: a file's name may hold U+0085 or U+2028
        if line := line.strip(" \t\r"):
            yield f"{path} line {number}", line


def table(
    path: Path, columns: Sequence[str], what: str = "it is part of the data set's release"
) -> Iterator[tuple[str, dict[str, str]]]:
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
    """`path` as it stands in a list, checked to stay inside the data set's folder.  Raises DatasetError with the place
    `where`.
    """
    pure = PurePosixPath(path)
    if not path or "\0" in path or pure.is_absolute() or ".." in pure.parts:
        raise DatasetError(
            f"{where}: path {path[:QUOTED]!r} leads out of the data set's folder: make it relative to it"
        )
    return path


def walk(root: Path, *folders: str) -> Iterator[str | LeftOut]:
    """Yield the path, relative to `root`, of every video under its `folders`, in order, and a LeftOut for whatever else
    lies there.

    Links are followed, also out of `root`; one to a folder that it lies in is left out, so that the walk ends.  A video
    that cannot be looked at, such as a link to nowhere, is yielded, since its name is there.  Hidden names, and
    `folders` that are not there, are passed over.
    """
    todo = [
        (folder, _identity(root) if folder != "." else frozenset())
        for folder in reversed(folders)
        if os.path.lexists(root / folder)
    ]
    while todo:
        path, above = todo.pop()
        place = os.path.join(root, path)  # noqa: PTH118 - a million files: no Path for each
        try:
            about = os.stat(place)  # noqa: PTH116
            names = os.listdir(place) if stat.S_ISDIR(about.st_mode) else []  # noqa: PTH208
        except OSError as error:
            yield path if _is_video(path) else LeftOut(path, _why(place, error))
            continue
        this = (about.st_dev, about.st_ino)
        if not stat.S_ISDIR(about.st_mode):
            # a pipe or a device named like a video is a row that says so: `scan` does not open it
            yield path if _is_video(path) else LeftOut(path, NO_VIDEO if stat.S_ISREG(about.st_mode) else NO_FILE)
        elif this in above:
            yield LeftOut(path, LOOP)
        else:
            inside = sorted((name for name in names if not name.startswith(".")), reverse=True)
            todo += [(posixpath.join("" if path == "." else path, name), above | {this}) for name in inside]


def find_videos(root: Path, *folders: str) -> tuple[dict[str, list[str]], list[LeftOut]]:
    """(name without ending -> the videos of that name under the `folders` of `root`, relative to it; what the walk
    could not follow).
    """
    found: dict[str, list[str]] = {}
    left_out: list[LeftOut] = []
    for one in walk(root, *folders):
        if isinstance(one, LeftOut):
            left_out += (
                [one] if one.why != NO_VIDEO else []
            )  # of what a list does not name, only what may have hidden a file that it names
        else:
            found.setdefault(PurePosixPath(one).stem, []).append(one)
    return found, left_out


def say_left_out(dataset: str, left_out: Iterable[LeftOut]) -> None:
    """Log how many things of each kind became no clip, and name the first."""
    by_kind: dict[str, list[str]] = {}
    for path, why in left_out:
        by_kind.setdefault(why, []).append(path)
    for why, paths in sorted(by_kind.items()):
        log.log(
            logging.INFO if why == NO_VIDEO else logging.WARNING,
            "%s: %s left out (%s): %s",
            dataset,
            f"{len(paths):,}",
            why,
            named(paths),
        )


def named(paths: Sequence[str]) -> str:
    """The first of `paths` for a message, escaped, and how many more there are."""
    first = ", ".join(map(classes.escaped, paths[:NAMED]))
    return first + (f" and {len(paths) - NAMED:,} more" if len(paths) > NAMED else "")


def absence(place: Path) -> str | None:
    """None where a file, a pipe or a device is at `place`; why there is none, "" where there is nothing at all."""
    try:
        return "no file" if stat.S_ISDIR(os.stat(place).st_mode) else None  # noqa: PTH116 - Path.stat is twice as slow
    except OSError as error:
        return _why(str(place), error) if os.path.lexists(place) else ""
    except ValueError:  # a name that no file can have
        return ""


def _identity(folder: Path) -> frozenset[tuple[int, int]]:
    """Which folder it is, whatever links lead there; empty for one that is not there."""
    if not folder.is_dir():
        return frozenset()
    about = folder.stat()
    return frozenset({(about.st_dev, about.st_ino)})


def _is_video(path: str) -> bool:
    return os.path.splitext(path)[1].lower() in ENDINGS  # noqa: PTH122


def _why(place: str, error: OSError) -> str:
    if error.errno in (errno.ENOENT, errno.ELOOP) and os.path.islink(place):  # noqa: PTH114
        return NOWHERE
    return f"cannot be opened: {error.strerror}"


def one_of(found: Sequence[str], wanted: str) -> str:
    """The file to take for `wanted`: itself where it is among `found`, else the one with the most folders in common;
    `wanted` for none.
    """

    def shared(path: str) -> int:
        pairs = zip(
            reversed(PurePosixPath(path).parent.parts), reversed(PurePosixPath(wanted).parent.parts), strict=False
        )
        return sum(1 for a, b in pairs if a.lower() == b.lower())

    return wanted if wanted in found or not found else max(found, key=shared)


def held_out(name: str) -> bool:
    """Whether `name` is one of the 5 % of a train split that validate, where a release has no validation split of its
    own (ours).
    """
    return hashlib.sha256(name.encode()).digest()[0] % 20 == 0


def check_count(dataset: str, what: str, n_listed: int, n_published: int) -> None:
    """Say so where the lists at hand are not as long as the published ones."""
    if n_listed != n_published:
        counts = f"the lists name {n_listed:,} {what}, the published ones {n_published:,}"
        log.warning("%s: %s: are these the original files?", dataset, counts)

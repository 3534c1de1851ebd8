"""Any user's own videos: data/videos/<dataset>/<split>/<class>/*.mp4, read off the folders' names.

The classes are those of data/labels/<dataset>.txt where that file exists, else the names of the class folders in
order.  Folders and files may be links.  Hidden files are passed over; what else is no video of a class, such as a loose
file above the class folders, is left out.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from unicodedata import normalize

from adapt.errors import DatasetError
from adapt.tables import classes
from adapt.tables.classes import ClassesError
from pipeline import datasets
from pipeline.datasets import NO_VIDEO, SOUND, SPLITS, LeftOut

VARIANTS = ("",)


def labels(dataset: str, root: Path) -> list[str]:
    """The class names of `dataset` in label_id order.

    Raises DatasetError where a class folder under `root` has a name that no class can have, or is not on the list
    data/labels/<dataset>.txt, or the list names a class twice.
    """
    found = sorted({path.name for split in _splits(root) for path in _visible(split) if _is_class(path, root)})
    try:
        classes.check(found, str(root))
    except ClassesError as error:
        raise DatasetError(str(error)) from error
    path = datasets.LABEL_LISTS / f"{dataset}.txt"
    if not path.exists():
        return found
    listed = datasets.read_labels(path)
    if unknown := [label for label in found if label not in listed]:
        if alike := [label for label in listed if normalize("NFC", label) == normalize("NFC", unknown[0])]:
            raise DatasetError(
                f"{root}: class folder {ascii(unknown[0])} is {ascii(alike[0])} in {path}, one name in two spellings "
                "of Unicode: "
                f"rename the folder ({len(unknown)} such folders)"
            )
        raise DatasetError(
            f"{root}: class folder {unknown[0]!r} is not in {path}: add it there, rename or remove the folder "
            f"({len(unknown)} such folders)"
        )
    return listed


def rows(root: Path, labels: Sequence[str], variant: str = "") -> Iterator[tuple[str, str, str] | LeftOut]:
    """Yield (path relative to `root`, split, label) of every video, in the order of the paths, and a LeftOut for what
    is none of a class.

    Raises DatasetError where `root` is missing, holds no video, or has folders other than train, val and test.
    """
    n_videos, splits, known = 0, [path.name for path in _splits(root)], frozenset(labels)
    yield from (
        LeftOut(path.name, datasets.absence(path) or NO_VIDEO) for path in _visible(root) if not _is_folder(path)
    )
    for split in splits:
        for found in datasets.walk(root, split):
            parts = found.split("/") if isinstance(found, str) else []
            if len(parts) > 2 and parts[1] in known:
                n_videos += 1
                yield "/".join(parts), split, parts[1]
            else:
                yield found if isinstance(found, LeftOut) else LeftOut(found, NO_VIDEO)
    if not n_videos:
        raise DatasetError(
            f"no video under {root}: put them at {root}/<split>/<class>/<name>.mp4, split one of {', '.join(SPLITS)}"
        )


def _splits(root: Path) -> list[Path]:
    if not _is_folder(root):
        raise DatasetError(
            f"{root} is missing: put videos at {root}/<split>/<class>/<name>.mp4, split one of {', '.join(SPLITS)}"
        )
    found = [path for path in _visible(root) if _is_folder(path) and path.name != SOUND]
    if unknown := [path.name for path in found if path.name not in SPLITS]:
        raise DatasetError(
            f"{root}: folder {unknown[0]!r} is no split: the folders there are {', '.join(SPLITS)}, with a folder a "
            "class in each"
        )
    return found


def _is_folder(path: Path) -> bool:
    return os.path.isdir(path)  # noqa: PTH112 - Path.is_dir raises where a link or its target may not be looked at


def _is_class(path: Path, root: Path) -> bool:
    """Whether it is a folder, and no link to one that it lies in."""
    return _is_folder(path) and not any(path.samefile(above) for above in (path.parent, root))


def _visible(folder: Path) -> list[Path]:
    try:
        return sorted(child for child in folder.iterdir() if not child.name.startswith("."))
    except OSError as error:
        raise DatasetError(f"{folder} cannot be opened ({error.strerror}): make it readable, or remove it") from error

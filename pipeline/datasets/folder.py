"""Any user's own videos: data/videos/<dataset>/<split>/<class>/*.mp4, read off the folders' names.

The classes are those of data/labels/<dataset>.txt where that file exists, else the names of the class folders in order.  Hidden
files are passed over; files that are no videos, and loose files above the class folders, are counted and left out.
"""
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline import datasets
from pipeline.datasets import ENDINGS, SOUND, SPLITS
from pipeline.errors import DatasetError

VARIANTS = ("",)

log = logging.getLogger(__name__)


def labels(dataset: str, root: Path) -> list[str]:
    """The class names of `dataset` in label_id order.

    Raises DatasetError where a class folder under `root` is not on the list data/labels/<dataset>.txt, or the list names a class twice.
    """
    found = sorted({label.name for split in _splits(root) for label in _visible(split) if label.is_dir()})
    path = datasets.LABEL_LISTS / f"{dataset}.txt"
    if not path.exists():
        return found
    listed = datasets.read_labels(path)
    if unknown := [label for label in found if label not in listed]:
        raise DatasetError(f"{root}: class folder {unknown[0]!r} is not in {path}: add it there, rename or remove the folder "
                           f"({len(unknown)} such folders)")
    return listed


def rows(root: Path, labels: Sequence[str], variant: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield (path relative to `root`, split, label) of every video, in the order of the paths.

    Raises DatasetError where `root` is missing, holds no video, or has folders other than train, val and test.
    """
    n_videos, others = 0, [path for path in _visible(root) if path.is_file()]
    for split in _splits(root):
        for path in sorted(split.rglob("*")):
            parts = path.relative_to(split).parts
            if not path.is_file() or any(part.startswith(".") for part in parts):
                continue
            if len(parts) > 1 and parts[0] in labels and path.suffix.lower() in ENDINGS:
                n_videos += 1
                yield path.relative_to(root).as_posix(), split.name, parts[0]
            else:
                others.append(path)
    if others:
        log.info("%d files under %s are no videos of a class and were left out, the first: %s", len(others), root, others[0].relative_to(root))
    if not n_videos:
        raise DatasetError(f"no video under {root}: put them at {root}/<split>/<class>/<name>.mp4, split one of {', '.join(SPLITS)}")


def _splits(root: Path) -> list[Path]:
    if not root.is_dir():
        raise DatasetError(f"{root} is missing: put videos at {root}/<split>/<class>/<name>.mp4, split one of {', '.join(SPLITS)}")
    found = [path for path in _visible(root) if path.is_dir() and path.name != SOUND]
    if unknown := [path.name for path in found if path.name not in SPLITS]:
        raise DatasetError(f"{root}: folder {unknown[0]!r} is no split: the folders there are {', '.join(SPLITS)}, with a folder a class in each")
    return found


def _visible(path: Path) -> list[Path]:
    return sorted(child for child in path.iterdir() if not child.name.startswith("."))

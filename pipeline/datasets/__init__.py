"""Data sets: pipeline/datasets/<recipe>.py knows the folders of one, and yields rows; everything after knows no data set."""
import importlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol, cast

from pipeline.errors import DatasetError


class Recipe(Protocol):
    """What the module of a recipe offers."""

    def labels(self, dataset: str, root: Path) -> list[str]:
        """The class names in label_id order of the set `dataset`, whose videos lie under `root`.  Raises DatasetError."""

    def rows(self, root: Path, labels: Sequence[str]) -> Iterable[tuple[str, str, str]]:
        """Yield (path relative to `root` with '/' between parts, split, label) for every video.  Raises DatasetError."""


def names() -> list[str]:
    """The recipes that exist: the modules of this folder."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if not path.stem.startswith("_"))


def build(name: str) -> Recipe:
    """Import the recipe `name`, and no other.  Raises DatasetError for an unknown name."""
    if name not in names():
        raise DatasetError(f"unknown recipe {name!r}: choose one of [{', '.join(names())}]")
    return cast(Recipe, importlib.import_module(f"pipeline.datasets.{name}"))

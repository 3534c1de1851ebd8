"""Videos that one table names: data/videos/<dataset>/clips.csv with the columns path and label, and split where there
are several.

    data/videos/<dataset>/clips.csv        a line a clip; further columns are passed over
    data/videos/<dataset>/...              the videos, their paths relative to that folder

Without the column split all clips are for testing: a set too small to train on, for a model that is there already.  The
classes are those of data/labels/<dataset>.txt where that file exists, else the labels of the table in order.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from adapt.errors import DatasetError
from adapt.tables import classes
from adapt.tables.classes import ClassesError
from pipeline import datasets
from pipeline.datasets import QUOTED, SPLITS, Listed

VARIANTS = ("",)
TABLE = "clips.csv"
WANTED = "a line names path and label of a clip"


def labels(dataset: str, root: Path) -> list[str]:
    """The class names in label_id order.  Raises DatasetError for a label that no class can have, or that is not on the
    list data/labels/<dataset>.txt.
    """
    found = sorted({row["label"] for _, row in datasets.table(root / TABLE, ("path", "label"), WANTED)})
    try:
        classes.check(found, str(root / TABLE))
    except ClassesError as error:
        raise DatasetError(str(error)) from error
    path = datasets.LABEL_LISTS / f"{dataset}.txt"
    listed = datasets.read_labels(path) if path.exists() else found
    if unknown := [label for label in found if label not in listed]:
        raise DatasetError(f"{root / TABLE}: label {unknown[0]!r} is not in {path}: add it there, or correct the table")
    return listed


def rows(root: Path, labels: Sequence[str], variant: str = "") -> Iterator[Listed]:
    """Yield every line of the table.  Raises DatasetError, with the line's number, for a path that leads out of the
    folder, or an unknown split.
    """
    for where, row in datasets.table(root / TABLE, ("path", "label"), WANTED):
        split = row.get("split", "test")
        if split not in SPLITS:
            raise DatasetError(f"{where}: split {split[:QUOTED]!r} is none of {', '.join(SPLITS)}")
        yield Listed(datasets.relative(row["path"], where), split, row["label"])

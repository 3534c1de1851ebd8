"""Videos that lists name, in the format of TSN, TANet and ViTTA: a line is `path n_frames class_id`, and the path may
hold spaces.

    data/videos/<dataset>/{train,val,test}.txt        those that there are; class_id counts from 0 in label order
    data/videos/<dataset>/...                         the videos, their paths relative to that folder
    data/labels/<dataset>.txt                         the class names in class_id order, one a line

Files that were corrupted and encoded without sound can borrow it: originals of the same name in
data/videos/<dataset>/sound (any folders, any ending) are what `decode` then listens to.  n_frames is checked for its
form only: frames are counted.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from adapt.errors import DatasetError
from pipeline import datasets
from pipeline.datasets import QUOTED, SPLITS, Listed

VARIANTS = ("",)


def labels(dataset: str, root: Path) -> list[str]:
    """The classes of data/labels/<dataset>.txt.  Raises DatasetError where there is no such list."""
    return datasets.label_list(dataset, dataset)


def rows(root: Path, labels: Sequence[str], variant: str = "") -> Iterator[Listed]:
    """Yield the lines of the lists that are there.

    Raises DatasetError where there is none, or for a malformed line.
    """
    lists = {split: root / f"{split}.txt" for split in SPLITS if (root / f"{split}.txt").exists()}
    if not lists:
        raise DatasetError(
            f"{root} has none of the lists {', '.join(f'{split}.txt' for split in SPLITS)}: a line is `path n_frames "
            "class_id`"
        )
    for split, path in lists.items():
        for where, line in datasets.lines(path):
            parts = line.rsplit(maxsplit=2)
            if len(parts) != 3 or not all(datasets.NUMBER.fullmatch(part) for part in parts[1:]):
                raise DatasetError(f"{where}: {line[:QUOTED]!r} is not `path n_frames class_id`")
            if int(parts[2]) >= len(labels):
                raise DatasetError(
                    f"{where}: class_id {parts[2]} of {len(labels)} classes, which count from 0: correct it, or the "
                    "label list"
                )
            yield Listed(datasets.relative(parts[0], where), split, labels[int(parts[2])])

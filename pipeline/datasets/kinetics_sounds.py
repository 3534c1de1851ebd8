"""Kinetics-Sounds: the Kinetics clips of 31 classes that one hears as well as sees.

From https://github.com/cvdfoundation/kinetics-dataset (Kinetics-400, 600 or 700-2020; its download and extract
scripts), in folders as they write them, or sorted by class as other copies have them:

    data/videos/kinetics_sounds/annotations/{train,val,test}.csv     label,youtube_id,time_start,time_end,split[,is_cc]
    data/videos/kinetics_sounds/{train,val,test}/**/<youtube_id>[_<start>_<end>].mp4

The csv files may be the whole ones: only the classes of data/labels/kinetics_sounds.txt are taken.  Videos leave
YouTube, so that copies differ; how many are missing is counted and said.  Kinetics-400 lists 246,534 train, 19,906 val
and 39,805 test videos, hence about 50 a class in val, of which 240,258, 19,881 and 38,685 are in that copy.  `scan
--variant val` (default) streams the val split and validates on 5 % of train [ours]; `--variant test` takes the three
splits as they are, for copies whose test.csv has labels.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from adapt.errors import DatasetError
from pipeline import datasets
from pipeline.datasets import SPLITS, LeftOut, Listed

VARIANTS = ("val", "test")
COLUMNS = ("label", "youtube_id")
HOW = "take it from the annotations folder of the Kinetics download"
YOUTUBE_ID = re.compile(r"[\w-]{11}")


def labels(dataset: str, root: Path) -> list[str]:
    """The classes of data/labels/<dataset>.txt, else the 31 of kinetics_sounds.txt; '_' stands for the blanks of
    Kinetics' own names.
    """
    return datasets.label_list(dataset, "kinetics_sounds")


def rows(root: Path, labels: Sequence[str], variant: str = VARIANTS[0]) -> Iterator[Listed | LeftOut]:
    """Yield the clips that the csv files list for `labels`.  Raises DatasetError for a missing file, a malformed row or
    an absent class.
    """
    wanted = {_folded(label): label for label in labels}
    found, left_out = datasets.find_videos(root, *SPLITS, "videos")
    yield from left_out
    videos = {stem[:11]: paths for stem, paths in found.items()}
    seen: set[str] = set()
    taken: set[str] = set()
    for split in ("train", "val") if variant == "val" else SPLITS:
        for where, row in datasets.table(root / "annotations" / f"{split}.csv", COLUMNS, HOW):
            if not YOUTUBE_ID.fullmatch(row["youtube_id"]):
                raise DatasetError(
                    f"{where}: {row['youtube_id'][: datasets.QUOTED]!r} is no YouTube id of 11 characters"
                )
            if (label := wanted.get(_folded(row["label"]))) is None:
                continue
            seen.add(label)
            clip_id = f"{split}/{row['youtube_id']}"
            if clip_id in taken:  # two stretches of one video: copies have one file for both
                continue
            taken.add(clip_id)
            path = datasets.one_of(videos.get(row["youtube_id"], []), f"{split}/{row['youtube_id']}.mp4")
            yield Listed(path, _split(split, row["youtube_id"], variant), label, clip_id=clip_id)
    if missing := [label for label in labels if label not in seen]:
        raise DatasetError(
            f"{root / 'annotations'}: no row has class {missing[0]!r} ({len(missing)} such classes): is this Kinetics' "
            "csv?"
        )


def _split(split: str, youtube_id: str, variant: str) -> str:
    if variant == "test":
        return split
    return "test" if split == "val" else "val" if datasets.held_out(youtube_id) else "train"


def _folded(label: str) -> str:
    return label.strip().replace(" ", "_").lower()

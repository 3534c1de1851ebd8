"""UCF101: 13,320 videos of 101 actions in three official splits; about half of the classes carry sound.

From https://www.crcv.ucf.edu/data/UCF101.php, UCF101.rar and UCF101TrainTestSplits-RecognitionTask.zip, unpacked where
they lie:

    data/videos/ucf101/UCF-101/<Class>/v_<Class>_g01_c01.avi
    data/videos/ucf101/ucfTrainTestlist/{classInd.txt,trainlist01.txt,testlist01.txt,...}

`scan --variant 1` to 3 chooses the split: 9,537 train and 3,783 test videos, 9,586 and 3,734, or 9,624 and 3,696.
Group 25 of the train list (4 to 7 videos a class, in no test list) validates [ours: a group is one source video].  A
data set named ucf101_with_sound (its folder may be a link to ucf101) takes the 51 classes of
data/labels/ucf101_with_sound.txt, whose videos carry sound; the others have no track at all.  Files that were encoded
again may have another ending.  All 101 labels are in the order of classInd.txt.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from adapt.errors import DatasetError
from pipeline import datasets
from pipeline.datasets import LeftOut, Listed

VARIANTS = ("1", "2", "3")
N_VIDEOS = 13_320
LISTS = "ucfTrainTestlist"
HOW = f"unpack UCF101TrainTestSplits-RecognitionTask.zip to {LISTS}/ there"
LINE = re.compile(r"(?P<folder>[^/]+)/(?P<stem>[^/]+)\.\w+(?:\s+(?P<number>[0-9]{1,9}))?")
VALIDATING = re.compile(r"_g25_", re.IGNORECASE)


def labels(dataset: str, root: Path) -> list[str]:
    """The classes of data/labels/<dataset>.txt, else all 101.

    Raises DatasetError where classInd.txt lacks one of them, or has all in another order (a list of some has an order
    of its own).
    """
    listed = datasets.label_list(dataset, "ucf101")
    numbers = _class_numbers(root)
    for label in listed:
        if label not in numbers:
            raise DatasetError(
                f"class {label!r} of the label list is not in {root / LISTS / 'classInd.txt'}: correct one of them"
            )
    if len(listed) == len(numbers) and listed != sorted(listed, key=numbers.__getitem__):
        raise DatasetError(
            f"the label list of {dataset} is not in the order of {root / LISTS / 'classInd.txt'}: sort it by class "
            "number"
        )
    return listed


def rows(root: Path, labels: Sequence[str], variant: str = VARIANTS[0]) -> Iterator[Listed | LeftOut]:
    """Yield the videos of split `variant` whose class is among `labels`.  Raises DatasetError for a missing list or a
    malformed line.
    """
    numbers = _class_numbers(root)
    names = {label.lower(): label for label in numbers}
    found, left_out = datasets.find_videos(root, "UCF-101")
    yield from left_out
    videos = {stem.lower(): paths for stem, paths in found.items()}  # v_HandStandPushups, HandstandPushups
    n_listed = 0
    for split in ("train", "test"):
        for where, line in datasets.lines(root / LISTS / f"{split}list0{variant}.txt", HOW):
            match = LINE.fullmatch(line)
            if not match or match["folder"].lower() not in names or (split == "train" and not match["number"]):
                raise DatasetError(
                    f"{where}: {line[: datasets.QUOTED]!r} is not `Class/video.avi class_number` with a class of "
                    "classInd.txt"
                )
            label = names[match["folder"].lower()]
            if match["number"] and int(match["number"]) != numbers[label]:
                raise DatasetError(
                    f"{where}: class number {match['number']} of {label}, which is {numbers[label]} in classInd.txt"
                )
            n_listed += 1
            if label in labels:
                path = datasets.relative(f"UCF-101/{line.split(maxsplit=1)[0]}", where)
                chosen = "val" if split == "train" and VALIDATING.search(match["stem"]) else split
                yield Listed(datasets.one_of(videos.get(match["stem"].lower(), []), path), chosen, label)
    datasets.check_count("ucf101", "videos", n_listed, N_VIDEOS)


def _class_numbers(root: Path) -> dict[str, int]:
    """Class -> its number, from 1."""
    numbers: dict[str, int] = {}
    for where, line in datasets.lines(root / LISTS / "classInd.txt", HOW):
        number, _, label = line.partition(" ")
        if not datasets.NUMBER.fullmatch(number) or not label.strip():
            raise DatasetError(f"{where}: {line[: datasets.QUOTED]!r} is not `number Class`")
        numbers[label.strip()] = int(number)
    return numbers

"""AVMIT: 3 s clips of Moments in Time in which an action of 16 is heard and seen; 960 of them, 60 a class, are the test
set.

The lists from https://github.com/mjoannou/audiovisual-moments-in-time (CC0), the videos from
http://moments.csail.mit.edu, unpacked as they come:

    data/videos/avmit/test_set.csv                                    filename,AVMIT_label,MIT_label,video_location,...
    data/videos/avmit/{AVMIT_train.csv,AVMIT_validation.csv}          filename,...,label,video_location,...   (optional)
    data/videos/avmit/Moments_in_Time_Raw/{training,validation}/<MIT class>/<name>.mp4

Without the two optional lists there are test clips only, enough to adapt a checkpoint that comes from elsewhere.  The
class is AVMIT's label; the folder is that of Moments in Time, whose class may be another.  A file that two lists name
stays in the first of test, val, train.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from adapt.errors import DatasetError
from pipeline import datasets
from pipeline.datasets import QUOTED, Listed

VARIANTS = ("",)
N_TEST = 960
FILES = (
    ("test", "test_set.csv", "AVMIT_label"),
    ("val", "AVMIT_validation.csv", "label"),
    ("train", "AVMIT_train.csv", "label"),
)
LOCATIONS = ("training", "validation")
HOW = "take it from the repository audiovisual-moments-in-time"


def labels(dataset: str, root: Path) -> list[str]:
    """The classes of data/labels/<dataset>.txt, else the 16 of avmit.txt."""
    return datasets.label_list(dataset, "avmit")


def rows(root: Path, labels: Sequence[str], variant: str = "") -> Iterator[Listed]:
    """Yield the clips of the lists that are there.

    Raises DatasetError without test_set.csv, or for a malformed row.
    """
    seen: set[str] = set()
    for split, name, label_column in FILES:
        path, n_rows = root / name, 0
        if split != "test" and not path.exists():
            continue
        for where, row in datasets.table(path, ("filename", label_column, "video_location"), HOW):
            location = row["video_location"].removeprefix("MIT_")
            if location not in LOCATIONS or row[label_column] not in labels:
                raise DatasetError(
                    f"{where}: location {location[:QUOTED]!r} or class {row[label_column][:QUOTED]!r} is unknown: a "
                    "location is one "
                    f"of {', '.join(LOCATIONS)}, a class is on the label list"
                )
            n_rows += 1
            video = datasets.relative(f"Moments_in_Time_Raw/{location}/{row['filename']}", where)
            if video not in seen:
                seen.add(video)
                yield Listed(video, split, row[label_column])
        if split == "test":
            datasets.check_count("avmit", "test clips", n_rows, N_TEST)

"""AVE: 10 s videos of 28 audio-visual events in official splits of 3,339 train, 402 val and 402 test samples.

From https://github.com/YapengTian/AVE-ECCV18 (AVE_Dataset.zip, the link in its README), unpacked so that there are

    data/videos/ave/AVE/<youtube_id>.mp4
    data/videos/ave/{Annotations.txt,trainSet.txt,valSet.txt,testSet.txt}
    Category&VideoID&Quality&StartTime&EndTime

4,143 samples lie in 4,097 files, since 46 videos show two events: each is a clip of its own, named
`AVE/<id>@<Category>`.  Where a split names a sample twice it counts once, and one that several splits name stays in the
first of test, val, train.  The class is that of the whole 10 s; StartTime and EndTime (seconds, when the event can be
seen and heard) are checked for their form only.
"""

import logging
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from adapt.errors import DatasetError
from pipeline import datasets
from pipeline.datasets import LeftOut, Listed

VARIANTS = ("",)
N_SAMPLES = 4_143
HEADER = "Category&VideoID"
FILES = {"test": "testSet.txt", "val": "valSet.txt", "train": "trainSet.txt"}
VIDEO_ID = re.compile(r"[\w-]+")
Sample = tuple[str, str]  # (video id, category)

log = logging.getLogger(__name__)


def labels(dataset: str, root: Path) -> list[str]:
    """The classes of data/labels/<dataset>.txt, else the 28 of ave.txt."""
    return datasets.label_list(dataset, "ave")


def rows(root: Path, labels: Sequence[str], variant: str = "") -> Iterator[Listed | LeftOut]:
    """Yield a clip for every sample of the three splits.  Raises DatasetError for a malformed line, or one that
    Annotations.txt lacks.
    """
    annotated = {sample for _, sample in _samples(root / "Annotations.txt", labels)}
    videos, left_out = datasets.find_videos(root, "AVE")
    yield from left_out
    n_events = Counter(video_id for video_id, _ in annotated)
    taken: set[Sample] = set()
    n_lines = 0
    for split, name in FILES.items():
        for where, sample in _samples(root / name, labels):
            if sample not in annotated:
                raise DatasetError(
                    f"{where}: {sample[1]!r} of {sample[0]!r} is not in {root / 'Annotations.txt'}: take both from one "
                    "release"
                )
            n_lines += 1
            if sample not in taken:
                taken.add(sample)
                video_id, label = sample
                clip_id = f"AVE/{video_id}@{label}" if n_events[video_id] > 1 else ""
                yield Listed(
                    datasets.one_of(videos.get(video_id, []), f"AVE/{video_id}.mp4"), split, label, clip_id=clip_id
                )
    if n_lines != len(taken) or len(annotated - taken):
        log.info(
            "ave: %d lines repeat a sample, %d samples of Annotations.txt are in no split",
            n_lines - len(taken),
            len(annotated - taken),
        )
    datasets.check_count("ave", "samples", n_lines, N_SAMPLES)


def _samples(path: Path, labels: Sequence[str]) -> Iterator[tuple[str, Sample]]:
    for where, line in datasets.lines(path, "take it from AVE_Dataset.zip"):
        if line.startswith(HEADER):
            continue
        parts = line.rsplit("&", 4)
        if (
            len(parts) != 5
            or not VIDEO_ID.fullmatch(parts[1])
            or not all(datasets.NUMBER.fullmatch(part) for part in parts[3:])
        ):
            raise DatasetError(
                f"{where}: {line[: datasets.QUOTED]!r} is not `Category&VideoID&Quality&StartTime&EndTime`"
            )
        if parts[0] not in labels:
            raise DatasetError(
                f"{where}: category {parts[0][: datasets.QUOTED]!r} is not in the label list: correct one of them"
            )
        yield where, (parts[1], parts[0])

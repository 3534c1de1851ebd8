"""Something-Something-V2: 220,847 short videos of 174 everyday actions, without any sound.

From https://www.qualcomm.com/developer/software/something-something-v-2-dataset, videos and labels unpacked to

    data/videos/ssv2/20bn-something-something-v2/<id>.webm
    data/videos/ssv2/labels/{labels.json,train.json,validation.json}    or something-something-v2-<name>.json there

168,913 train and 24,777 validation videos have labels; the 27,157 of the test split have none and are left out.  The
validation split is streamed, and 5 % of train validates [ours].  A class is the template without its brackets, and its
number that of labels.json. No video has a sound track: every pseudo-label is empty and only the visual losses work.
The stage says so once.
"""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from adapt.errors import DatasetError
from pipeline import datasets
from pipeline.datasets import QUOTED, Listed

VARIANTS = ("",)
N_VIDEOS = 168_913 + 24_777
VIDEOS = "20bn-something-something-v2"
FILES = {"train": "train", "test": "validation"}

log = logging.getLogger(__name__)


def labels(dataset: str, root: Path) -> list[str]:
    """The classes of data/labels/<dataset>.txt, else the 174 of ssv2.txt.  Raises DatasetError where labels.json
    numbers them otherwise.
    """
    listed = datasets.label_list(dataset, "ssv2")
    path, numbers = _load(root, "labels")
    if not isinstance(numbers, dict) or not all(datasets.NUMBER.fullmatch(str(n)) for n in numbers.values()):
        raise DatasetError(f"{path}: not an object of class names and numbers: take the published file")
    order = sorted(numbers, key=lambda label: int(numbers[label]))
    if missing := [label for label in listed if label not in numbers]:
        raise DatasetError(f"{path} has no class {missing[0]!r} ({len(missing)} such classes): is this version 2?")
    if listed != [label for label in order if label in listed]:
        raise DatasetError(f"the label list of {dataset} is not in the order of {path}: sort it by class number")
    return listed


def rows(root: Path, labels: Sequence[str], variant: str = "") -> Iterator[Listed]:
    """Yield the labelled videos of both splits.  Raises DatasetError for a missing file or a malformed entry."""
    log.info(
        "ssv2: the release has no sound track at all: every pseudo-label is empty, and only the visual losses work"
    )
    known, n_listed = set(labels), 0
    for split, name in FILES.items():
        path, entries = _load(root, name)
        if not isinstance(entries, list):
            raise DatasetError(f"{path}: not a list of entries: take the published file")
        for number, entry in enumerate(entries, 1):
            video_id, label = _entry(f"{path} entry {number}", entry)
            n_listed += 1
            if label in known:
                yield Listed(
                    f"{VIDEOS}/{video_id}.webm",
                    "val" if split == "train" and datasets.held_out(video_id) else split,
                    label,
                )
    datasets.check_count("ssv2", "videos", n_listed, N_VIDEOS)


def _entry(where: str, entry: object) -> tuple[str, str]:
    if isinstance(entry, Mapping):
        video_id, template = entry.get("id"), entry.get("template")
        if isinstance(video_id, str) and datasets.NUMBER.fullmatch(video_id) and isinstance(template, str):
            return video_id, template.replace("[", "").replace("]", "")
    raise DatasetError(f"{where}: {str(entry)[:QUOTED]!r} has no `id` of digits and no `template`")


def _load(root: Path, name: str) -> tuple[Path, object]:
    """(the file of that name, its content)."""
    places = [
        root / "labels" / f"{name}.json",
        root / "labels" / f"something-something-v2-{name}.json",
        root / f"something-something-v2-{name}.json",
    ]
    path = next((place for place in places if place.exists()), places[0])
    try:
        return path, json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DatasetError(
            f"{path} cannot be read ({error.strerror}): unpack the labels of Something-Something-V2 to "
            f"{root / 'labels'}"
        ) from error
    except ValueError as error:
        raise DatasetError(f"{path}: not JSON ({error}): take the published file") from error

"""UCF101-C: the 3,783 test videos of UCF101's first split, corrupted in twelve ways at severity 5, as ViTTA's authors
ship them.

From the link in https://github.com/wlin-at/ViTTA (README, data preparation): `list_video_perturbations_ucf` and
ucf_corrupted_videos.zip, which is unpacked where it lies:

    data/videos/ucf101_c/list_video_perturbations_ucf/gauss_shuffled.txt     path n_frames class_id
    data/videos/ucf101_c/level_5_ucf_val_split_1_/gauss/<Class>/v_<Class>_g01_c01.mp4
    data/videos/ucf101_c/UCF-101/<Class>/v_<Class>_g01_c01.avi               optional: the originals, which have sound

All clips are of the split test, and `<Class>/v_<Class>_g01_c01` is a clip whatever its corruption: a run takes the
corrupted files by `--ready_made data/videos/ucf101_c`, in the order of a list by `--order_file`.  A clip's own file is
its original; where that is not there, it is the file of the first list, which has no sound, and there is no clean
stream to run on.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from adapt.errors import DatasetError
from pipeline import datasets
from pipeline.datasets import LeftOut, Listed

VARIANTS = ("",)
N_VIDEOS = 3_783
ORIGINALS = "UCF-101"
HOW = "put list_video_perturbations_ucf/ and level_5_ucf_val_split_1_/ there"
LINE = re.compile(r"(?P<path>.*\S)\s+(?P<n_frames>[0-9]{1,9})\s+(?P<class_id>[0-9]{1,9})")


def labels(dataset: str, root: Path) -> list[str]:
    """The classes of data/labels/<dataset>.txt, else UCF101's 101."""
    return datasets.label_list(dataset, "ucf101")


def rows(root: Path, labels: Sequence[str], variant: str = "") -> Iterator[Listed | LeftOut]:
    """Yield the videos of the first list.

    Raises DatasetError where lists or videos are missing, for a malformed line, and for a class_id that is not the one
    of the video's folder.
    """
    lists = sorted(root.glob("list_video_perturbations*/*.txt"))
    levels = sorted(path for path in root.glob("level_*") if path.is_dir())
    if not lists or not levels:
        raise DatasetError(f"{root} has no {'lists' if not lists else 'corrupted videos'}: {HOW}")
    originals, left_out = datasets.find_videos(root, ORIGINALS)
    yield from left_out
    n_listed = 0
    for where, line in datasets.lines(lists[0], HOW):
        match = LINE.fullmatch(line)
        if not match:
            raise DatasetError(f"{where}: {line[: datasets.QUOTED]!r} is not `path n_frames class_id`")
        video = PurePosixPath(datasets.relative(match["path"], where))
        label = _label(labels, int(match["class_id"]), video.parent.name, where)
        n_listed += 1
        corrupted = f"{levels[0].name}/{video}"
        path = datasets.one_of(originals.get(video.stem, []), corrupted)
        yield Listed(path, "test", label, clip_id=f"{label}/{video.stem}")
    datasets.check_count("ucf101_c", "videos", n_listed, N_VIDEOS)


def _label(labels: Sequence[str], class_id: int, folder: str, where: str) -> str:
    """The class of a line, which its folder is named after.  Raises DatasetError where it is not."""
    if class_id >= len(labels) or labels[class_id].lower() != folder.lower():
        wanted = labels[class_id] if class_id < len(labels) else f"none of the {len(labels)} classes"
        raise DatasetError(
            f"{where}: class_id {class_id} is {wanted}, the folder is {folder[: datasets.QUOTED]!r}: classes count "
            "from 0 in the order of data/labels/ucf101.txt"
        )
    return labels[class_id]

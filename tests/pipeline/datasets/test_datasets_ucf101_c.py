"""The recipe for UCF101-C, on the layout in which ViTTA's authors ship it, with tiny clips."""

from pathlib import Path

import pytest

from adapt.errors import DatasetError
from tests.pipeline.datasets.layouts import clips, film, put, run

LEVEL, LISTS = "level_5_ucf_val_split_1_", "list_video_perturbations_ucf"
VIDEOS = ("Archery/v_Archery_g01_c01.mp4", "HandstandPushups/v_HandStandPushups_g01_c01.mp4")
LINES = f"gauss/{VIDEOS[0]} 8 2\r\ngauss/{VIDEOS[1]} 8 36\r\n"  # classes 2 and 36 of 101, from 0


@pytest.fixture
def shipped(project: Path) -> Path:
    root = project / "ucf101_c"
    put(root, {f"{LEVEL}/{corruption}/{name}": film() for corruption in ("gauss", "rain") for name in VIDEOS})
    put(root, {f"{LISTS}/gauss_shuffled.txt": LINES, f"{LISTS}/rain_shuffled.txt": LINES.replace("gauss", "rain")})
    return root


def test_every_listed_video_is_a_test_clip_once_whatever_its_corruption(shipped: Path) -> None:
    counts = run("ucf101_c")
    assert (counts["n_clips"], counts["n_test"], counts["n_labels"], counts["n_missing"]) == (2, 2, 101, 0)
    found = clips("ucf101_c")
    assert {name: (row["label_id"], row["path"]) for name, row in found.items()} == {
        "Archery/v_Archery_g01_c01": (2, f"{LEVEL}/gauss/{VIDEOS[0]}"),
        "HandstandPushups/v_HandStandPushups_g01_c01": (36, f"{LEVEL}/gauss/{VIDEOS[1]}"),
    }


def test_where_the_originals_are_they_are_the_clips_own_files(shipped: Path) -> None:
    put(shipped, {"UCF-101/Archery/v_Archery_g01_c01.avi": film()})
    run("ucf101_c")
    assert clips("ucf101_c")["Archery/v_Archery_g01_c01"]["path"] == "UCF-101/Archery/v_Archery_g01_c01.avi"


@pytest.mark.parametrize(("line", "said"), [
    (f"gauss/{VIDEOS[0]} 8", "is not `path n_frames class_id`"),
    (f"gauss/{VIDEOS[0]} 8 3", "class_id 3 is BabyCrawling, the folder is 'Archery': classes count from 0"),
    (f"gauss/{VIDEOS[0]} 8 101", "class_id 101 is none of the 101 classes"),
    ("../../etc/Archery/a.mp4 8 2", "leads out of the data set's folder"),
])  # fmt: skip
def test_a_line_that_is_none_of_this_data_set_is_named(shipped: Path, line: str, said: str) -> None:
    (shipped / LISTS / "gauss_shuffled.txt").write_text(f"{line}\n")
    with pytest.raises(DatasetError, match=f"gauss_shuffled.txt line 1: .*{said}"):
        run("ucf101_c")


def test_lists_or_videos_that_are_not_there_are_named(shipped: Path) -> None:
    (shipped / LEVEL).rename(shipped / "elsewhere")
    with pytest.raises(DatasetError, match="has no corrupted videos: put list_video_perturbations_ucf/ and level_5"):
        run("ucf101_c")
    (shipped / LISTS).rename(shipped / "lists")
    with pytest.raises(DatasetError, match="has no lists: put"):
        run("ucf101_c")

"""The recipes for UCF101 and for lists of the user's own, on their true layouts with tiny clips; and what all recipes
keep to.
"""

from pathlib import Path

import pytest

from adapt.errors import DatasetError
from pipeline import datasets
from tests.pipeline.datasets.layouts import clips, film, put, run, splits

UCF = ("Archery/v_Archery_g08_c01.avi", "Archery/v_Archery_g25_c01.avi", "Basketball/v_Basketball_g08_c01.avi")
HANDSTAND = "HandstandPushups/v_HandStandPushups_g01_c01.avi"  # as the release spells it


@pytest.fixture
def ucf(project: Path) -> Path:
    root = project / "ucf101"
    names = Path("data/labels/ucf101.txt").read_text().splitlines()
    put(root, {f"UCF-101/{name}": film() for name in (*UCF, HANDSTAND)})
    put(root, {
        "ucfTrainTestlist/classInd.txt": "".join(f"{i} {name}\r\n" for i, name in enumerate(names, 1)),
        "ucfTrainTestlist/trainlist01.txt": "".join(f"{name} {3 if 'Archery' in name else 8}\r\n" for name in UCF),
        "ucfTrainTestlist/testlist01.txt": f"{HANDSTAND}\r\n",
        "ucfTrainTestlist/trainlist02.txt": f"{HANDSTAND} 37\n",
        "ucfTrainTestlist/testlist02.txt": "".join(f"{name}\n" for name in UCF),
    })  # fmt: skip
    return root


def test_ucf101_takes_labels_in_class_order_and_group_25_to_validate(ucf: Path) -> None:
    assert run("ucf101") == {
        "n_clips": 4,
        "n_missing": 0,
        "n_left_out": 0,
        "n_failed": 0,
        "n_labels": 101,
        "n_train": 2,
        "n_val": 1,
        "n_test": 1,
    }
    found = clips("ucf101")
    assert found["UCF-101/Archery/v_Archery_g08_c01"]["label_id"] == 2  # class 3 of classInd.txt
    assert found["UCF-101/Archery/v_Archery_g25_c01"]["split"] == "val"
    assert found["UCF-101/HandstandPushups/v_HandStandPushups_g01_c01"]["label"] == "HandstandPushups"


def test_ucf101_has_three_splits(ucf: Path) -> None:
    run("ucf101", variant="2")
    assert set(splits("ucf101").values()) == {"train", "test"}
    assert splits("ucf101")["UCF-101/Archery/v_Archery_g25_c01"] == "test"
    with pytest.raises(
        DatasetError,
        match=r"trainlist03\.txt cannot be read \(No such file or directory\): unpack UCF101TrainTestSplits",
    ):
        run("ucf101", variant="3")


def test_ucf101_says_how_many_videos_are_missing_and_names_the_first_five(
    ucf: Path, caplog: pytest.LogCaptureFixture
) -> None:
    more = [f"Archery/v_Archery_g09_c{i:02d}.avi" for i in range(7)]
    with (ucf / "ucfTrainTestlist/trainlist01.txt").open("a") as file:
        file.writelines(f"{name} 3\n" for name in more)
    counts = run("ucf101")
    assert counts["n_clips"] == 4 and counts["n_missing"] == 7
    first = ", ".join(f"UCF-101/{name}" for name in more[:5])
    assert f"ucf101: 4 of 11 videos found; missing: {first} and 2 more" in caplog.text
    assert "ucf101: the lists name 11 videos, the published ones 13,320" in caplog.text


def test_ucf101_with_sound_has_51_classes_and_only_their_videos(ucf: Path) -> None:
    Path("data/videos/ucf101_with_sound").symlink_to(ucf.resolve())
    counts = run("ucf101_with_sound", "ucf101")
    assert counts["n_labels"] == 51
    assert {str(row["label"]) for row in clips("ucf101_with_sound").values()} == {
        "Archery",
        "HandstandPushups",
    }  # no sound for Basketball


def test_ucf101_takes_files_that_were_encoded_again(ucf: Path) -> None:
    (ucf / f"UCF-101/{UCF[0]}").rename(ucf / f"UCF-101/{UCF[0]}".replace(".avi", ".mp4"))
    assert run("ucf101")["n_missing"] == 0
    assert clips("ucf101")["UCF-101/Archery/v_Archery_g08_c01"]["path"] == "UCF-101/Archery/v_Archery_g08_c01.mp4"


@pytest.mark.parametrize(("line", "message"), [
    ("v_Archery_g09_c01.avi 3",
    r"trainlist01\.txt line 4: 'v_Archery_g09_c01\.avi 3' is not `Class/video\.avi class_number`"),
    ("Archery/v_Archery_g09_c01.avi", "line 4: .* is not `Class/video"),
    ("Archery/v_Archery_g09_c01.avi 4", "line 4: class number 4 of Archery, which is 3 in classInd.txt"),
    ("Fishing/v_Fishing_g01_c01.avi 3", "line 4: .* with a class of classInd"),
    ("../v_Archery_g09_c01.avi 3", "line 4: .* is not `Class/video"),
])  # fmt: skip
def test_ucf101_names_the_place_of_a_malformed_line(ucf: Path, line: str, message: str) -> None:
    with (ucf / "ucfTrainTestlist/trainlist01.txt").open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(DatasetError, match=message):
        run("ucf101")


def test_ucf101_refuses_a_class_order_that_is_not_that_of_the_label_list(ucf: Path) -> None:
    path = ucf / "ucfTrainTestlist/classInd.txt"
    good = path.read_text()
    path.write_text(good.replace("3 Archery", "103 Archery"))
    with pytest.raises(DatasetError, match=r"the label list of ucf101 is not in the order of .*classInd\.txt"):
        run("ucf101")
    path.write_text(good.replace("3 Archery", "3 Bowshot"))
    with pytest.raises(DatasetError, match=r"class 'Archery' of the label list is not in"):
        run("ucf101")
    path.write_text(good.replace("3 Archery", "Archery"))
    with pytest.raises(DatasetError, match=r"classInd\.txt line 3: 'Archery' is not `number Class`"):
        run("ucf101")


@pytest.fixture
def listed(project: Path) -> Path:
    root = project / "mine"
    labels = Path("data/labels")
    labels.unlink()  # a link to the project's own
    put(Path(), {"data/labels/mine.txt": "cat\ndog\n"})
    put(
        root,
        {
            "train.txt": "a cat/1 2.mp4 8 0\n",
            "test.txt": "gauss/dog/x.mp4 8 1\n",
            "a cat/1 2.mp4": film(),
            "gauss/dog/x.mp4": film(),
        },
    )
    return root


def test_a_list_names_paths_that_may_hold_spaces_and_classes_by_number(listed: Path) -> None:
    counts = {
        "n_clips": 2,
        "n_missing": 0,
        "n_left_out": 0,
        "n_failed": 0,
        "n_labels": 2,
        "n_train": 1,
        "n_val": 0,
        "n_test": 1,
    }
    assert run("mine", "listfile") == counts
    assert clips("mine")["a cat/1 2"]["label"] == "cat"
    assert clips("mine")["gauss/dog/x"]["label_id"] == 1


@pytest.mark.parametrize(("line", "message"), [
    ("a.mp4 8", r"test\.txt line 2: 'a\.mp4 8' is not `path n_frames class_id`"),
    ("a.mp4 eight 1", "line 2: .* is not `path n_frames class_id`"),
    (f"a.mp4 8 {'9' * 5000}", "line 2: .* is not `path n_frames class_id`"),
    ("a.mp4 8 2", "line 2: class_id 2 of 2 classes, which count from 0"),
    ("../a.mp4 8 1", r"line 2: path '\.\./a\.mp4' leads out of the data set's folder"),
    ("/etc/a.mp4 8 1", "line 2: path '/etc/a.mp4' leads out"),
    ("gauss/dog/x.mp4 8 1", r"gauss/dog/x\.mp4 is listed twice, as test and test"),
    ("gauss/dog/x.avi 8 1", r"gauss/dog/x\.avi and gauss/dog/x\.mp4 would both be clip 'gauss/dog/x'"),
])  # fmt: skip
def test_a_malformed_line_of_a_list_is_one_error_with_its_place(listed: Path, line: str, message: str) -> None:
    with (listed / "test.txt").open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(DatasetError, match=message):
        run("mine", "listfile")


def test_lists_without_any_of_their_videos_or_without_labels_are_one_error(listed: Path) -> None:
    (listed / "a cat/1 2.mp4").unlink()
    (listed / "gauss/dog/x.mp4").unlink()
    with pytest.raises(
        DatasetError,
        match=r"mine: none of the 2 videos that its lists name is under data/videos/mine: a cat/1 2\.mp4, gauss/dog",
    ):
        run("mine", "listfile")
    (listed / "test.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(DatasetError, match=r"test\.txt is not UTF-8 text"):
        run("mine", "listfile")
    Path("data/labels/mine.txt").unlink()
    with pytest.raises(DatasetError, match=r"data/labels/mine\.txt cannot be read"):
        run("mine", "listfile")


def test_a_hash_holds_one_in_twenty_out_whatever_the_others_are() -> None:
    share = sum(datasets.held_out(f"video {i}") for i in range(20_000)) / 20_000
    assert share == pytest.approx(0.05, abs=0.006)


@pytest.mark.parametrize(("name", "n_labels"), [
    ("ucf101", 101), ("ucf101_with_sound", 51), ("kinetics_sounds", 31), ("ave", 28), ("avmit", 16), ("ssv2", 174),
    ("ava60", 60),
])  # fmt: skip
def test_the_label_lists_have_as_many_classes_as_their_data_sets(name: str, n_labels: int) -> None:
    assert len(datasets.read_labels(Path("data/labels") / f"{name}.txt")) == n_labels


@pytest.mark.parametrize("name", ["ava", "ave", "avmit", "kinetics_sounds", "listfile", "ssv2", "ucf101"])
def test_a_recipe_says_where_the_data_comes_from_and_where_it_goes(name: str) -> None:
    text = str(datasets.build(name).__doc__)
    assert "data/videos/" in text
    assert name == "listfile" or "From http" in text or "https://github.com/" in text

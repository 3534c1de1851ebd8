"""The recipe csvfile: one table names paths and labels, and a split where there are several."""

from pathlib import Path

import pytest

from adapt.errors import DatasetError
from tests.pipeline.datasets.layouts import clips, film, put, run

TABLE = "path,label,source\nfilms/one.mp4,dog,mine\nfilms/two.mp4,rain,mine\nfilms/lost.mp4,rain,mine\n"


@pytest.fixture
def root(project: Path) -> Path:
    """A set of two clips, and a third that is not there; `mine` has no list of classes."""
    Path("data/labels").unlink()  # a link to the project's own
    Path("data/labels").mkdir()
    put(project / "mine", {"films/one.mp4": film(), "films/two.mp4": film(), "clips.csv": TABLE})
    return project / "mine"


def test_all_clips_are_for_testing_and_the_classes_are_the_labels_in_order(root: Path) -> None:
    counts = run("mine", "csvfile")
    assert (counts["n_test"], counts["n_missing"], counts["n_labels"]) == (2, 1, 2)
    found = {clip_id: (clip["split"], clip["label"], clip["label_id"]) for clip_id, clip in clips("mine").items()}
    assert found == {"films/one": ("test", "dog", 0), "films/two": ("test", "rain", 1)}


def test_a_column_of_splits_and_a_list_of_classes_count_where_they_are(root: Path) -> None:
    (root / "clips.csv").write_text("label,split,path\nrain,train,films/two.mp4\ndog,test,films/one.mp4\n")
    Path("data/labels/mine.txt").write_text("rain\ncat\ndog\n")
    assert run("mine", "csvfile")["n_train"] == 1
    assert clips("mine")["films/one"]["label_id"] == 2
    Path("data/labels/mine.txt").write_text("rain\ncat\n")
    with pytest.raises(DatasetError, match=r"clips\.csv: label 'dog' is not in data/labels/mine\.txt"):
        run("mine", "csvfile")


@pytest.mark.parametrize(("table", "message"), [
    ("path\nfilms/one.mp4\n", "column 'label' is missing among"),
    ("path,label\n../one.mp4,dog\n", r"clips\.csv line 2: path '\.\./one\.mp4' leads out of the data set's folder"),
    ("path,label,split\nfilms/one.mp4,dog,trial\n", "line 2: split 'trial' is none of train, val, test"),
    ("path,label\nfilms/one.mp4,dog\nfilms/two.mp4\n", "line 3: 1 fields where 2 are expected"),
    ("path,label\nfilms/one.mp4, dog\n", "whose name begins or ends with a blank"),
])  # fmt: skip
def test_a_table_that_cannot_be_used_is_one_error_with_its_place(root: Path, table: str, message: str) -> None:
    (root / "clips.csv").write_text(table)
    with pytest.raises(DatasetError, match=message):
        run("mine", "csvfile")


def test_a_missing_table_is_one_error(root: Path) -> None:
    (root / "clips.csv").unlink()
    with pytest.raises(DatasetError, match=r"clips\.csv cannot be read .* a line names path and label of a clip"):
        run("mine", "csvfile")

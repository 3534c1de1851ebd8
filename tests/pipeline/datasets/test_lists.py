"""The stage `lists`: its files change with a data set's own class list, map and replies, and with nothing else of
data/.
"""

import hashlib
from pathlib import Path

import pytest

from pipeline import lists
from pipeline.lists import Options

OWN = {
    "data/labels/mine.txt": "scan",
    "data/labels/folder.txt": "scan",
    "data/maps/mine.csv": "map_labels",
    "data/replies/mine.jsonl": "map_labels",
    "data/maps/mine.classes.csv": "map_classes",
    "data/replies/mine.classes.jsonl": "map_classes",
}
NOTHING = {"scan": "", "map_labels": "", "map_classes": ""}


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("labels", "maps", "replies"):
        (tmp_path / "data" / name).mkdir(parents=True)
    return tmp_path


def hashes(options: Options) -> dict[str, str]:
    """What the stage wrote, by the stage that reads it."""
    lists.run(options)
    return {file.stem: file.read_text() for file in Path("cache/mine/lists").iterdir()}


def test_a_data_set_without_lists_of_its_own_has_empty_files() -> None:
    assert hashes(Options("mine")) == NOTHING


@pytest.mark.parametrize(("name", "stage"), OWN.items())
def test_a_file_of_the_data_set_stands_in_the_file_of_the_stage_that_reads_it(name: str, stage: str) -> None:
    Path(name).write_text("cat\n")
    expected = f"{hashlib.sha256(b'cat' + bytes([10])).hexdigest()}  {name}\n"
    assert hashes(Options("mine")) == NOTHING | {stage: expected}


def test_files_of_other_data_sets_change_nothing() -> None:
    for name in OWN:
        Path(name).write_text("cat\n")
    before = hashes(Options("mine"))
    for name in (
        "data/labels/other.txt",
        "data/labels/audioset.csv",
        "data/maps/other.csv",
        "data/replies/other.jsonl",
    ):
        Path(name).write_text("dog\n")
    assert hashes(Options("mine")) == before


def test_a_table_that_map_labels_is_told_to_read_takes_the_place_of_the_data_sets() -> None:
    Path("data/maps/mine.csv").write_text("cat\n")
    Path("corrected.csv").write_text("dog\n")
    assert hashes(Options("mine", table="corrected.csv"))["map_labels"].endswith("  corrected.csv\n")
    assert "mine.csv" not in hashes(Options("mine", table="corrected.csv"))["map_labels"]


def test_the_list_that_names_a_models_classes_stands_in_the_file_of_map_classes() -> None:
    Path("data/labels/heads.txt").write_text("poodle\n")
    assert hashes(Options("mine", classes="data/labels/heads.txt"))["map_classes"].endswith("  data/labels/heads.txt\n")

"""The recipes for Something-Something-V2, which has no sound, and AVA, whose clips have several classes, on their true
layouts.
"""

import json
import logging
from pathlib import Path

import pytest

from adapt.errors import DatasetError
from pipeline.datasets import ava
from tests.pipeline.datasets.layouts import clips, film, put, run
from tests.sounds import encode


@pytest.fixture
def ssv2(project: Path) -> Path:
    root = project / "ssv2"
    names = Path("data/labels/ssv2.txt").read_text().splitlines()
    entry = {
        "id": "78687",
        "label": "holding potato next to vicks",
        "template": "Holding [something] next to [something]",
        "placeholders": [],
    }
    put(root, {
        "labels/labels.json": json.dumps({name: str(i) for i, name in enumerate(names)}),
        "labels/train.json": json.dumps([entry]),
        "labels/validation.json": json.dumps([entry | {"id": "74225", "template": "Dropping [something] onto "
                                                                                  "[something]"}]),
        "20bn-something-something-v2/78687.webm": film(), "20bn-something-something-v2/74225.webm": film(),
    })  # fmt: skip
    return root


def test_ssv2_takes_templates_as_classes_and_says_once_that_it_has_no_sound(
    ssv2: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        assert run("ssv2") == {
            "n_clips": 2,
            "n_missing": 0,
            "n_left_out": 0,
            "n_failed": 0,
            "n_labels": 174,
            "n_train": 1,
            "n_val": 0,
            "n_test": 1,
        }
    found = clips("ssv2")
    assert found["20bn-something-something-v2/78687"]["label"] == "Holding something next to something"
    assert found["20bn-something-something-v2/74225"]["split"] == "test"
    assert caplog.text.count("no sound track at all") == 1


def test_ssv2_reads_the_older_names_of_its_files(ssv2: Path) -> None:
    for name in ("labels", "train", "validation"):
        (ssv2 / f"labels/{name}.json").rename(ssv2 / f"something-something-v2-{name}.json")
    assert run("ssv2")["n_clips"] == 2


@pytest.mark.parametrize(("name", "content", "message"), [
    ("train", "[{", r"train\.json: not JSON"),
    ("train", "{}", r"train\.json: not a list of entries"),
    ("train", '[{"id": "1", "template": "x"}, {"id": "../2", "template": "x"}]',
    r"train\.json entry 2: .* has no `id` of digits"),
    ("labels", "[]", r"labels\.json: not an object of class names and numbers"),
    ("labels", '{"Tearing something": "0"}', "has no class"),
])  # fmt: skip
def test_ssv2_names_the_place_of_what_is_malformed(ssv2: Path, name: str, content: str, message: str) -> None:
    (ssv2 / f"labels/{name}.json").write_text(content)
    with pytest.raises(DatasetError, match=message):
        run("ssv2")


def test_ssv2_refuses_numbers_that_are_not_those_of_the_label_list(ssv2: Path) -> None:
    names = Path("data/labels/ssv2.txt").read_text().splitlines()
    (ssv2 / "labels/labels.json").write_text(json.dumps({name: str(174 - i) for i, name in enumerate(names)}))
    with pytest.raises(DatasetError, match=r"the label list of ssv2 is not in the order of .*labels\.json"):
        run("ssv2")


BOX = "0.077,0.151,0.283,0.811"


@pytest.fixture
def films(project: Path) -> Path:
    """AVA's lists, and a folder of two films as long as the first key frames need; one film of the lists is missing."""
    root = project / "ava"
    put(root, {
        "annotations/ava_train_v2.2.csv": f"-5KQ66BBWC4,0002,{BOX},80,1\n-5KQ66BBWC4,0002,{BOX},9,1\n"
    f"-5KQ66BBWC4,0003,{BOX},2,0\n",
        "annotations/ava_val_v2.2.csv": f"1j20qq1JyX4,0001,{BOX},12,0\n1j20qq1JyX4,0002,{BOX},12,0\n"
    f"gone,0902,{BOX},12,0\n",
        "annotations/ava_val_excluded_timestamps_v2.2.csv": "1j20qq1JyX4,0002\n",
    })  # fmt: skip
    source = ["-f", "lavfi", "-i", "testsrc2=size=96x64:rate=8:duration=5", "-f", "lavfi", "-i", "sine=duration=5"]
    for name in ("-5KQ66BBWC4.mkv", "1j20qq1JyX4.mp4"):
        encode(Path("films") / name, *source, "-pix_fmt", "yuv420p")
    return root


def test_ava_cuts_key_frames_out_and_lists_every_evaluated_action_of_each(
    films: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert ava.cut(ava.Options(Path("films"), jobs=1)) == {
        "n_key_frames": 3,
        "n_cut": 2,
        "n_failed": 0,
        "n_films_missing": 1,
    }
    assert "1 films are not under films: gone" in caplog.text
    assert ava.cut(ava.Options(Path("films"), jobs=1))["n_cut"] == 0  # the second time there is nothing to do
    counts = run("ava")
    assert counts["n_clips"] == 2 and counts["n_missing"] == 1 and counts["n_labels"] == 60
    found = clips("ava")
    labels = Path("cache/ava/labels.txt").read_text().splitlines()
    several = found["clips/-5KQ66BBWC4/0002"]
    assert [labels[i] for i in several["label_ids"]] == ["martial art", "watch (a person)"]  # type: ignore[attr-defined]
    assert labels[several["label_id"]] == several["label"] == "martial art"  # type: ignore[call-overload]
    assert several["duration_s"] == pytest.approx(3, abs=0.2)
    assert found["clips/1j20qq1JyX4/0001"]["split"] == "test"
    assert labels[0] == "bend/bow (at the waist)"


@pytest.mark.parametrize(("line", "message"), [
    ("gone,902,0.1,0.1,0.2,0.2,12,0",
    r"ava_val_v2\.2\.csv line 4: 'gone,902,.*' is not `video_id,timestamp,x1,y1,x2,y2,action_id,person_id`"),
    ("../x,0902,0.1,0.1,0.2,0.2,12,0", "line 4: .* is not `video_id"),
    ("gone,0902,0.1,0.1,0.2,0.2,dance,0", "line 4: .* is not `video_id"),
    ("gone,0902", "line 4: .* is not `video_id"),
])  # fmt: skip
def test_ava_names_the_place_of_a_malformed_line(films: Path, line: str, message: str) -> None:
    with (films / "annotations/ava_val_v2.2.csv").open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(DatasetError, match=message):
        run("ava")

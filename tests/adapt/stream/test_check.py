"""`python -m adapt.check` on caches made up so that the answer is known: 16 grey clips that the model tells apart, and
sounds that speak for what is seen, against it, or not at all.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adapt.errors import AdaptError, CacheError, CheckpointError
from adapt.stream import checked
from adapt.tables import cache, classes, parquet
from adapt.tables.files import sha256_file
from tests.greys import LABELS
from tests.tiny_project import pseudo_label

CLIPS, SOUNDS = Path("cache/tiny/clips.parquet"), Path("cache/tiny/pseudo_labels.parquet")
MAP = Path("cache/tiny/label_map.parquet")
Heard = Callable[[str], int | None]  # a clip's true class by its folder's name -> the class of its sound


def belonging(label: str) -> int:
    return LABELS.index(label)


def swapped(label: str) -> int:
    return 1 - LABELS.index(label)


def silent(label: str) -> None:
    return None


def dark_only(label: str) -> int | None:
    return 0 if label == "dark" else None


def make_up(heard: Heard, mapped: tuple[str, ...] = ("dark", "bright")) -> None:
    """Write a label map of a sound for each of `mapped`, and what is heard in every clip."""
    rows = [
        {"audio_id": i, "audio_label": f"sound {i}", "label_id": LABELS.index(label), "label": label, "weight": 0.9,
         "necessary": False, "reason": "made up", "source": "made up"}
        for i, label in enumerate(mapped)
    ]  # fmt: skip
    parquet.write_table(MAP, "label_map", rows)
    clips = parquet.read_table(CLIPS, "clips").to_pylist()
    sounds = [pseudo_label(row["clip_id"], heard(row["clip_id"].split("/")[1])) for row in clips]
    made_of = {"clips_sha256": sha256_file(CLIPS), "label_map_sha256": sha256_file(MAP)}
    known = {"classes_sha256": classes.sha256(LABELS)} | made_of
    parquet.write_table(SOUNDS, "pseudo_labels", sounds, known)


def said(capsys: pytest.CaptureFixture[str], **changes: Any) -> dict[str, Any]:
    """The JSON of a check of the train split."""
    capsys.readouterr()
    options: dict[str, Any] = {"split": "train", "json": True} | changes
    checked.run(checked.Options("tiny", **options))
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_sounds_that_belong_to_their_pictures_recommend_the_full_method(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_up(belonging)
    found = said(capsys)
    assert found["recommendation"] == "full"
    assert found["classes"] == {"n": 2, "with_sound": {"dark": 1, "bright": 1}, "without": []}
    assert found["clips"] == {"n": 16, "n_heard": 16, "status": {"ok": 16}}
    clean = found["clean"]
    assert (clean["n_seen"], clean["n_heard"], clean["n_agree"], clean["agree_by_chance"]) == (16, 16, 16, 0.5)
    assert clean["trust"] > 0.72 and clean["contradicted"] == []  # above the prior, .8 x .9
    assert found["cost"]["full_ms"] > found["cost"]["source_ms"] > 0
    assert "--backbone tanet --frames 4 --resize 32 --size 32 --method audio --split train" in found["command"]


def test_sounds_that_the_pictures_contradict_recommend_none(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_up(swapped)
    found = said(capsys)
    assert (found["clean"]["n_heard"], found["clean"]["n_agree"]) == (16, 0)
    assert found["clean"]["trust"] < 0.5 and found["clean"]["contradicted"] == ["dark", "bright"]
    assert (found["recommendation"], found["command"]) == ("none", "")
    assert "the pictures contradict the sounds" in found["why"]


def test_silence_and_an_empty_map_recommend_none(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_up(silent)
    found = said(capsys)
    assert (found["recommendation"], found["clean"]["n_heard"], found["clean"]["trust"]) == ("none", 0, 0)
    assert "only 0.0 % of the clips are heard" in found["why"] and found["clips"]["status"] == {"silent": 16}
    make_up(silent, mapped=())
    found = said(capsys)
    assert found["why"] == "no class has a sound in the map" and found["classes"]["without"] == ["dark", "bright"]


def test_few_heard_clips_and_a_small_budget_recommend_less(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_up(dark_only)  # 8 of 16
    found = said(capsys)
    assert found["recommendation"] == "trusted" and "8 heard clips are too few" in found["why"]
    make_up(belonging)
    found = said(capsys, budget_ms=0.001)
    assert found["recommendation"] in ("plain", "trusted") and "adapting is not to be had" in found["why"]
    assert found["command"].split("--method ")[1].startswith(f"source+{found['recommendation']} ")


def test_without_statistics_a_network_with_batch_norm_is_adapted_all_the_same(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_up(belonging)
    path = Path("cache/tiny/model/tanet.statistics.pt")
    path.rename(path.with_suffix(".away"))
    try:
        assert said(capsys)["recommendation"] == "full"
    finally:
        path.with_suffix(".away").rename(path)


@pytest.mark.parametrize("heard", [belonging, swapped, dark_only])
def test_other_labels_change_nothing(heard: Heard, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_up(heard)
    before = CLIPS.read_bytes()

    def told() -> dict[str, Any]:
        found = said(capsys)
        return found | {"cost": None}  # milliseconds are never the same twice

    first = told()
    rows = parquet.read_table(CLIPS, "clips").to_pylist()
    for row in rows:
        row["label_id"] = 1 - row["label_id"]
        row["label"], row["label_ids"] = LABELS[row["label_id"]], [row["label_id"]]
    try:
        parquet.write_table(CLIPS, "clips", rows, {"classes_sha256": classes.sha256(LABELS)})
        make_up(heard)  # the same sounds, which say of which clips they are
        assert {clip.label_id for clip in cache.read_clips("tiny", "train")} == {0, 1}
        assert told() == first
    finally:
        CLIPS.write_bytes(before)


def test_the_page_says_what_the_json_says(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_up(dark_only, mapped=("dark",))
    capsys.readouterr()
    checked.run(checked.Options("tiny"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Will sound help on tiny?  Split test, no label was read."
    assert lines[2:6] == [
        "Classes with a sound in the map: 1 of 2", "  without: bright",
        "Clips in which something is heard: 5 of 9 (55.6 %)", "  sound tracks: ok 5, silent 4",
    ]  # fmt: skip
    assert lines[6] == "Clean clips looked at: 8, heard 4, 1 more could not be read"
    assert lines[7] == "  picture and sound agree on 4 of 4 (100.0 %); by chance 50 %"
    assert "Recommendation: trusted" in lines


@pytest.mark.parametrize(("changes", "error", "message"), [
    ({"dataset": "nowhere"}, CacheError, "labels.txt is missing"),
    ({"split": "dev"}, CacheError, "has no clip of split 'dev'"),
    ({"backbone": "swin3d"}, CheckpointError, "swin3d.pt is missing: run `dvc repro train`"),
    ({"device": "tpu"}, AdaptError, "device 'tpu'"),
])  # fmt: skip
def test_what_is_not_there_is_one_line(
    changes: dict[str, Any], error: type[Exception], message: str, here: Path
) -> None:
    make_up(belonging)
    with pytest.raises(error, match=message) as found:
        checked.run(checked.Options(**({"dataset": "tiny"} | changes)))
    assert "\n" not in str(found.value)


def test_several_models_are_named_and_none_is_said(here: Path) -> None:
    make_up(belonging)
    folder = Path("cache/tiny/model")
    (folder / "other.pt").write_bytes(b"")
    try:
        with pytest.raises(CheckpointError, match=r"holds the models \['other', 'tanet'\]: name one by --backbone"):
            checked.run(checked.Options("tiny"))
    finally:
        (folder / "other.pt").unlink()
    folder.rename("cache/tiny/away")
    try:
        with pytest.raises(CheckpointError, match="holds no model: run `dvc repro train`"):
            checked.run(checked.Options("tiny"))
    finally:
        Path("cache/tiny/away").rename(folder)

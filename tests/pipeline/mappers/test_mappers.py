"""The mappers: what the shipped replies say, what a stale or broken recording is told, and the maps that need no
language model.
"""

import shutil
import socket
import sys
from pathlib import Path

import numpy as np
import pytest

from adapt.errors import MapperError
from adapt.tables import cache, parquet
from pipeline import map_labels, mappers
from pipeline.labels import shortlist
from pipeline.labels.lists import LabelLists, label_lists, listed_classes, shown
from pipeline.llm.forms import Cut, block, pick
from pipeline.mappers import LabelMap, Settings
from tests import chat as served
from tests.chat import CLASSES
from tests.places import ROOT

RECORDED = sorted(path.stem for path in (ROOT / "data/replies").glob("*.jsonl"))


@pytest.fixture
def project(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(shortlist, "shortlist", served.three_of_four)
    return project


@pytest.fixture
def recorded(project: Path) -> Path:
    """The project with a finished recording for `pets`."""
    with served.serving() as chat:
        served.record(chat)
    return project


def replay() -> LabelMap:
    return mappers.build("llm")(label_lists("pets", cache.read_labels("pets")))


def test_the_folder_is_the_list_of_mappers_and_an_unknown_one_is_told_the_choice() -> None:
    assert mappers.names() == ["combined", "embedding", "lexical", "llm", "table"]
    with pytest.raises(
        MapperError, match=r"unknown mapper 'lmm': choose one of \['combined', 'embedding', 'lexical', 'llm', 'table'\]"
    ):
        mappers.build("lmm")


def test_recordings_ship_for_six_data_sets() -> None:
    assert {"demo", "photosound", "ave", "kinetics_sounds", "avmit", "ucf101"} <= set(RECORDED)


@pytest.mark.parametrize("dataset", RECORDED)
def test_the_shipped_replies_replay_offline_and_byte_identically(
    dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache" / dataset).mkdir(parents=True)
    (tmp_path / "data").symlink_to(ROOT / "data")
    shutil.copy(ROOT / "cache/schema.sql", tmp_path / "cache")
    shutil.copy(ROOT / f"data/labels/{dataset}.txt", tmp_path / f"cache/{dataset}/labels.txt")
    monkeypatch.chdir(tmp_path)
    for package in ("openai", "transformers"):
        monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("replaying opened a connection"))
    written = []
    for _ in range(2):
        map_labels.run(map_labels.Options(dataset))
        written.append((tmp_path / f"cache/{dataset}/label_map.parquet").read_bytes())
    assert written[0] == written[1]
    rows = parquet.read_table(tmp_path / f"cache/{dataset}/label_map.parquet", "label_map").to_pylist()
    classes = cache.read_labels(dataset)
    assert rows
    assert all(classes[row["label_id"]] == row["label"] and row["source"].startswith("llm:") for row in rows)


SAME_NAME = {
    "demo": {"Trumpet", "Flute", "Organ", "Steelpan", "Timpani", "Glockenspiel", "Drum kit", "Saxophone"},
    "photosound": {"Bird", "Cat", "Dog", "Frog", "Horse", "Ship", "Truck"},
}


@pytest.mark.parametrize("dataset", ["demo", "photosound"])
def test_in_the_shipped_replies_a_sound_with_the_name_of_a_class_maps_to_that_class(
    dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    lists = label_lists(dataset, listed_classes(dataset))
    found = {(lists.sounds[p.audio_id], lists.classes[p.label_id]) for p in mappers.build("llm")(lists).pairs}
    assert {(sound, sound.lower().replace(" ", "_")) for sound in SAME_NAME[dataset]} <= found
    assert not {sound for sound, _ in found} & {"Speech", "Music", "Rain", "Silence"}


def test_a_missing_recording_names_the_command(project: Path) -> None:
    with pytest.raises(
        MapperError, match=r"pets.jsonl is missing: run `python -m pipeline.map_labels ask pets --base_url URL"
    ):
        replay()


@pytest.mark.parametrize(
    ("path", "text", "what"),
    [
        ("data/prompts/pick_system.txt", "Be kind.", "pick_system.txt"),
        ("cache/pets/labels.txt", "cat\ndog\nfire_truck\n", "the class list of pets"),
        ("data/labels/audioset.csv", "index,mid,display_name\n0,/m/0,Dog\n", "audioset.csv"),
    ],
)
def test_a_changed_prompt_or_label_list_makes_the_recording_stale(
    path: str, text: str, what: str, recorded: Path
) -> None:
    Path(path).write_text(text)
    with pytest.raises(
        MapperError,
        match=rf"stale: .*{what}.* has changed .*run `python -m pipeline.map_labels ask pets .*small --form pick`",
    ):
        replay()


def test_the_prompt_of_the_other_form_may_change(recorded: Path) -> None:
    Path("data/prompts/block_system.txt").write_text("Be kind.")
    assert len(replay().pairs) == 3


def test_a_reply_edited_by_hand_into_nonsense_is_refused(recorded: Path) -> None:
    path = Path("data/replies/pets.jsonl")
    path.write_text(path.read_text().replace('\\"weight\\": 1.0', '\\"weight\\": 7', 1))
    with pytest.raises(
        MapperError, match="the recorded reply for the sound 'Dog' is not valid: the weight of 'dog' is 7"
    ):
        replay()


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda text: text[:-40], "line 4: not JSON"),
        (lambda text: text.replace("\n", "\n[1]\n", 1), "line 2: not a JSON object"),
        (lambda text: text.partition("\n")[2], "does not start with the plan of a form"),
        (lambda text: text.replace('"form": "pick"', '"form": "guess"', 1), "does not start with the plan of a form"),
        (lambda text: "\n".join(text.split("\n")[:-2]) + "\n", "has no valid reply for the sound 'Meow': run"),
        (lambda text: text.encode() + b"\xff\n", "not UTF-8"),
    ],
)
def test_a_broken_recording_is_one_line(spoil: object, told: str, recorded: Path) -> None:
    path = Path("data/replies/pets.jsonl")
    spoiled = spoil(path.read_text())  # type: ignore[operator]
    path.write_bytes(spoiled if isinstance(spoiled, bytes) else spoiled.encode())
    with pytest.raises(MapperError, match=told):
        replay()


@pytest.mark.parametrize("classes", [("drum_kit", "drum kit"), ("PlayingDhol", "Playing Dhol"), ("a", "b", "a")])
def test_two_classes_that_read_the_same_are_refused(classes: tuple[str, ...], project: Path) -> None:
    with pytest.raises(MapperError, match="of pets read the same: rename one"):
        label_lists("pets", classes)


def test_a_class_called_none_of_these_is_told_to_use_the_other_form(project: Path) -> None:
    lists = label_lists("pets", (*CLASSES, "none_of_these"))
    with pytest.raises(MapperError, match="use --form block"):
        pick.asked(lists, Cut())
    assert block.asked(lists, Cut())


def test_names_are_shown_as_words() -> None:
    assert [shown(label) for label in ("drum_kit", "PlayingDhol", "YoYo", "Train horn", "fire_truck")] == [
        "drum kit",
        "Playing Dhol",
        "Yo Yo",
        "Train horn",
        "fire truck",
    ]


def any_lists(sounds: tuple[str, ...], classes: tuple[str, ...]) -> LabelLists:
    return LabelLists("any", sounds, classes, "", "")


def test_lexical_weighs_a_class_by_the_share_of_its_words_that_the_sound_says() -> None:
    sounds = ("Drum", "Drum kit", "Speech", "Fire engine, fire truck (siren)", "Cats")
    found = mappers.build("lexical")(any_lists(sounds, ("DrumKit", "truck", "cat")))
    assert {(p.audio_id, p.label_id): p.weight for p in found.pairs} == {
        (0, 0): 0.5,
        (1, 0): 1.0,
        (3, 1): 1.0,
        (4, 2): 1.0,
    }


def test_the_embedding_maps_names_from_the_threshold_on_by_the_cosine() -> None:
    # 0.6660, 0.1046, 0.1411: all-MiniLM-L6-v2 in the quickstart of sentence-transformers
    lists = any_lists(("The weather is lovely today.", "He drove to the stadium."), ("It's so sunny outside!",))
    (pair,) = mappers.build("embedding", Settings(min_cosine=0.6))(lists).pairs
    assert (pair.audio_id, pair.label_id) == (0, 0)
    assert pair.weight == pytest.approx(0.666, abs=2e-3)
    assert [p.audio_id for p in mappers.build("embedding", Settings(min_cosine=0.1))(lists).pairs] == [0, 1]
    assert mappers.build("embedding", Settings(min_cosine=0.7))(lists).pairs == []


@pytest.mark.parametrize("min_cosine", [0.0, -1.0, 1.1, float("nan")])
def test_a_threshold_that_connects_everything_is_refused(min_cosine: float) -> None:
    with pytest.raises(MapperError, match="a cosine threshold lies above 0"):
        mappers.build("embedding", Settings(min_cosine=min_cosine))(any_lists(("a",), ("b",)))


def test_the_embedding_gives_the_published_similarities() -> None:
    texts = ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."]
    rows = shortlist.embed(texts)
    published = [0.6660, 0.1046, 0.1411]  # all-MiniLM-L6-v2 in the quickstart of sentence-transformers
    np.testing.assert_allclose((rows @ rows.T)[[0, 0, 1], [1, 2, 2]], published, atol=1e-3)


def test_a_sound_borrows_the_nearness_of_the_sounds_listed_before_it() -> None:
    similarity = np.array([[1.0, 0.0], [0.1, 0.2], [0.0, 0.3]])
    expected = np.array([[1.0, 0.0], [0.85, 0.2], [0.85, 0.3]])  # by hand, decay 0.85
    np.testing.assert_allclose(shortlist.borrow(similarity), expected)


def test_a_sound_is_asked_with_its_nearest_classes_or_where_none_is_near_not_at_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = {"a": (1.0, 0.0), "b": (0.0, 1.0), "near a": (0.8, 0.6), "far": (-0.6, -0.8)}
    monkeypatch.setattr(shortlist, "embed", lambda texts: np.array([rows[text] for text in texts]))
    assert shortlist.shortlist(["far", "near a"], ["a", "b"], floor=0.7, top_n=2) == [[], [0, 1]]


@pytest.mark.parametrize("mapper", ["lexical", "table"])
def test_the_stage_writes_any_mappers_map_and_says_whose_it_is(mapper: str, project: Path) -> None:
    Path("data/maps").mkdir()
    Path("data/maps/pets.csv").write_text(
        "audio_label,label,weight,necessary,reason\nDog,dog,1,false,the same\nMeow,cat,.5,TRUE,its voice\n"
    )
    counts = map_labels.run(map_labels.Options("pets", mapper))
    source = {"lexical": "lexical", "table": "hand"}[mapper]
    assert counts["source"] == source
    rows = parquet.read_table(Path("cache/pets/label_map.parquet"), "label_map").to_pylist()
    assert {row["source"] for row in rows} == {source}
    assert ("Dog", "dog", 1.0) in {(row["audio_label"], row["label"], row["weight"]) for row in rows}


def test_a_table_for_a_mapper_that_reads_none_is_refused(project: Path) -> None:
    with pytest.raises(MapperError, match="--table x.csv is read by --mapper table, not by 'lexical'"):
        map_labels.run(map_labels.Options("pets", "lexical", table="x.csv"))

"""The stage map_classes: a model's own classes to a data set's, by the mappers that connect sounds with classes."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from adapt.errors import MapperError
from adapt.tables import cache, classes, parquet
from pipeline import map_classes, map_labels
from pipeline.labels import shortlist
from pipeline.labels.lists import head_lists
from pipeline.map_classes import Options, best
from pipeline.mappers import Pair
from tests import chat as served
from tests.chat import CLASSES, Chat, record
from tests.pipeline.mappers.test_mappers_pooled import weigh

HEADS, PATH = Path("data/labels/heads.txt"), Path("cache/pets/class_map.parquet")
NAMES = ["Dog", "Bark", "Meow", "Speech"]  # of things that a camera sees, to a model which knows the same of sounds


@pytest.fixture
def here(project: Path) -> Path:
    """A project whose model has classes of its own."""
    HEADS.write_text("".join(f"{name}\n" for name in NAMES))
    Path("data/maps").mkdir()
    weigh({"heard": 1.0}, {"heard": 1.0, "cosine": 5.0}, {"cosine": 2.0})
    return project


@pytest.fixture
def chat() -> Iterator[Chat]:
    with served.serving() as running:
        running.answer = served.right_scores
        yield running


def run(mapper: str, **changed: object) -> list[tuple[str, str, float]]:
    """What the stage writes: head class, class, weight."""
    map_classes.run(Options("pets", str(HEADS), mapper, **changed))  # type: ignore[arg-type]
    rows = parquet.read_table(PATH, "class_map").to_pylist()
    return [(row["head_label"], row["label"], row["weight"]) for row in rows]


def test_without_classes_of_the_model_the_table_is_empty(here: Path) -> None:
    done = map_classes.run(Options("pets"))
    assert done == {"n_pairs": 0, "n_head_classes": 0, "n_classes": 3}
    assert parquet.read_table(PATH, "class_map").num_rows == 0


def test_a_map_by_words_names_its_lists_and_what_it_does_not_reach(
    here: Path, caplog: pytest.LogCaptureFixture
) -> None:
    HEADS.write_text("fire engine\nwild cat\nteapot\n")
    assert run("lexical") == [("fire engine", "fire_truck", 0.5), ("wild cat", "cat", 1.0)]
    assert "1 classes are led to by none of data/labels/heads.txt, the first dog" in caplog.text
    known = parquet.provenance(PATH)
    head = ["fire engine", "wild cat", "teapot"]
    assert (known["head_sha256"], known["classes_sha256"]) == (classes.sha256(head), classes.sha256(CLASSES))
    assert cache.read_class_map("pets", head, list(CLASSES)) == [(0, 2, 0.5), (1, 1, 1.0)]


def test_a_head_class_keeps_its_best_classes_and_of_equals_the_first() -> None:
    pairs = [
        Pair(0, 1, 0.5, False, ""),
        Pair(0, 0, 0.5, False, ""),
        Pair(1, 0, 0.2, False, ""),
        Pair(1, 2, 0.9, False, ""),
    ]
    assert [(p.audio_id, p.label_id) for p in best(pairs, 1)] == [(0, 0), (1, 2)]
    assert [(p.audio_id, p.label_id) for p in best(pairs, 2)] == [(0, 0), (0, 1), (1, 2), (1, 0)]


def test_the_embedding_leads_to_the_nearest_class_alone(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    near = {"Dog": (0.9, 0.6), "Bark": (0.55, 0.3), "Meow": (0.1, 0.7), "Speech": (0.4, 0.2)}
    rows = {name: np.array([*values, 0.0]) for name, values in near.items()}
    rows |= {"dog": np.eye(3)[0], "cat": np.eye(3)[1], "fire truck": np.eye(3)[2]}
    monkeypatch.setattr("pipeline.mappers.embedding.embed", lambda texts: np.array([rows[text] for text in texts]))
    assert run("embedding") == [("Dog", "dog", 0.9), ("Bark", "dog", 0.55), ("Meow", "cat", 0.7)]
    assert run("embedding", min_cosine=0.6, top_n=2) == [("Dog", "dog", 0.9), ("Dog", "cat", 0.6), ("Meow", "cat", 0.7)]


def test_a_model_asked_about_things_is_replayed_by_llm_and_pooled_by_combined(
    here: Path, chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shortlist, "near_pairs", served.near_all)
    monkeypatch.setattr(shortlist, "cosines", lambda sounds, classes: (np.eye(4, 3), np.zeros((4, 3))))
    with pytest.raises(MapperError, match="ask pets --classes data/labels/heads.txt --base_url URL --model MODEL"):
        run("llm")
    done = record(chat, form="score", classes=str(HEADS))
    assert done["n_answered"] == 12  # three things, each once with all classes and once with each
    assert {request["messages"][-1]["content"].split(":")[0] for request in chat.requests} >= {"Thing"}
    assert Path("data/replies/pets.classes.jsonl").exists() and not served.FINISHED.exists()
    assert run("llm") == [("Dog", "dog", 0.9), ("Bark", "dog", 0.9), ("Meow", "cat", 0.9)]
    assert [pair[:2] for pair in run("combined")] == [("Dog", "dog"), ("Bark", "cat"), ("Meow", "fire_truck")]
    HEADS.write_text("".join(f"{name}\n" for name in NAMES[::-1]))
    with pytest.raises(MapperError, match="pets.classes.jsonl is stale: data/labels/heads.txt has changed"):
        run("llm")


def test_combined_without_replies_looks_at_all_names(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shortlist, "near_pairs", lambda *given: pytest.fail("a shortlist was made"))
    monkeypatch.setattr(shortlist, "cosines", lambda sounds, classes: (np.eye(4, 3), np.zeros((4, 3))))
    assert run("combined") == [("Dog", "dog", 0.881), ("Bark", "cat", 0.881), ("Meow", "fire_truck", 0.881)]


def test_only_the_form_score_asks_about_things(here: Path, chat: Chat) -> None:
    with pytest.raises(MapperError, match="the form 'pick' asks about sounds: .* ask with --form score"):
        record(chat, form="pick", classes=str(HEADS))


def test_a_map_of_classes_is_exported_corrected_and_read_as_a_table(here: Path) -> None:
    HEADS.write_text("wild cat\ntea pot\n")
    table = Path("data/maps/pets.classes.csv")
    with pytest.raises(MapperError, match=f"export pets --classes {HEADS} --out {table}"):
        run("table")
    map_labels.export(map_labels.ExportOptions("pets", table, "lexical", str(HEADS)))
    assert table.read_text().splitlines()[1] == "head_label,label,weight,necessary,reason"
    with table.open("a") as file:
        file.write("tea pot,fire_truck,0.25,false,both are red\n")
    assert run("table") == [("wild cat", "cat", 1.0), ("tea pot", "fire_truck", 0.25)]
    assert parquet.read_table(PATH, "class_map").to_pylist()[0]["source"] == "edited"
    table.write_text("head_label,label,weight,necessary,reason\nkettle,cat,1,false,r\n")
    with pytest.raises(MapperError, match="unknown class 'kettle' of the model: write it as in data/labels/heads.txt"):
        run("table")


def test_names_of_a_head_are_compared_by_name_alone_not_by_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    names = np.array([[0.9, 0.1], [0.0, 0.2], [0.1, 0.8]])
    monkeypatch.setattr(shortlist, "cosines", lambda sounds, classes: (names, -names))
    assert shortlist.near_pairs("abc", "de", [], 1, head=True) == [[0], [2]]


def test_two_names_of_a_head_that_read_the_same_are_one_clear_error(here: Path) -> None:
    HEADS.write_text("tea pot\ntea_pot\n")
    with pytest.raises(MapperError, match="classes 'tea pot' and 'tea_pot' of data/labels/heads.txt read the same"):
        head_lists("pets", str(HEADS), CLASSES)

"""The mappers that give probabilities: what a model's scores and the ontology say, and names beside them."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from adapt.errors import MapperError
from pipeline import mappers
from pipeline.labels import ontology, pool, shortlist
from pipeline.labels.lists import LabelLists, label_lists
from pipeline.llm.forms.score import Scores
from pipeline.mappers import _scores, combined
from tests import chat as served
from tests.chat import CLASSES, Chat, record
from tests.places import ROOT


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(shortlist, "shortlist", served.three_of_four)
    monkeypatch.setattr(shortlist, "near_pairs", served.near_all)
    monkeypatch.setattr(shortlist, "cosines", lambda sounds, classes: (np.eye(4, 3), np.zeros((4, 3))))
    monkeypatch.chdir(served.make_project(tmp_path))
    Path("data/maps").mkdir()
    weigh({"heard": 1.0}, {"heard": 1.0, "cosine": 5.0}, {"cosine": 2.0})
    return tmp_path


@pytest.fixture
def chat() -> Iterator[Chat]:
    with served.serving() as running:
        running.answer = served.right_scores
        yield running


def weigh(score: dict[str, float], with_names: dict[str, float], names: dict[str, float]) -> None:
    """A calibration of these weights, without bias, that keeps what is at least as likely as not."""
    pools = {"score": score, combined.WITH: with_names, combined.WITHOUT: names}
    pool.CALIBRATION.write_text(
        json.dumps(
            {
                name: {pool.OTHERS: {"opinions": opinions, "bias": 0.0, "threshold": 0.5001, "learned_on": ["x"]}}
                for name, opinions in pools.items()
            }
        )
    )


def pets(mapper: str) -> dict[tuple[str, str], float]:
    lists = label_lists("pets", CLASSES)
    found = mappers.build(mapper)(lists)
    return {(lists.sounds[p.audio_id], lists.classes[p.label_id]): p.weight for p in found.pairs}


def test_scores_replay_as_the_pairs_that_are_likely_with_their_probability(project: Path, chat: Chat) -> None:
    record(chat, form="score")
    assert pets("llm") == {("Dog", "dog"): 0.9, ("Bark", "dog"): 0.9, ("Meow", "cat"): 0.9}


def test_combined_multiplies_what_the_model_says_with_what_the_names_say(project: Path, chat: Chat) -> None:
    record(chat, form="score")
    odds = math.exp(5) / 9  # the names of Meow and fire_truck are near in this embedding, the model gives odds of 1/9
    assert pets("combined")[("Meow", "fire_truck")] == pytest.approx(odds / (1 + odds), abs=1e-3)
    lists = label_lists("pets", CLASSES)
    assert mappers.build("combined")(lists).source == "combined:small"


def test_without_replies_combined_asks_the_names_alone_and_llm_is_an_error(
    project: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        found = pets("combined")
    assert found == dict.fromkeys(zip(("Dog", "Bark", "Meow"), CLASSES, strict=True), 0.881)
    assert "no replies are recorded for pets: names alone decide" in caplog.text
    assert mappers.build("combined")(label_lists("pets", CLASSES)).source == "combined_without_llm"
    with pytest.raises(MapperError, match="pets.jsonl is missing: run"):
        pets("llm")


def test_combined_refuses_replies_of_another_form_and_stale_ones(project: Path, chat: Chat) -> None:
    chat.answer = served.right
    record(chat)
    with pytest.raises(MapperError, match="was recorded in the form 'pick': .* ask pets .*or choose the mapper llm"):
        pets("combined")
    chat.answer = served.right_scores
    record(chat, form="score")
    Path("data/prompts/score_heard.txt").write_text("## user\n$sound, video $video:")
    with pytest.raises(MapperError, match="stale: data/prompts/score_which.txt or score_heard.txt has changed"):
        pets("combined")


DOGS = LabelLists("any", ("Dog", "Bark", "Bow-wow", "Cat", "Domestic animals, pets", "Rain"), ("dog", "cat"), "", "")
NAN = math.nan
WHICH = np.array([[-0.1, -4.0], [NAN, NAN], [NAN, NAN], [-4.0, -0.1], [-1.0, -1.0], [-5.0, -5.0]])
HEARD = np.array([[2.0, -2.0], [NAN, NAN], [NAN, NAN], [-2.0, 2.0], [-1.0, -1.0], [-3.0, NAN]])


def test_kinds_are_the_descendants_in_audiosets_ontology(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    kinds = ontology.kinds((*DOGS.sounds, "no sound of AudioSet"))
    below = {(DOGS.sounds[i], DOGS.sounds[j]) for i, j in zip(*np.nonzero(kinds), strict=True)}
    pets_ = "Domestic animals, pets"
    assert below == {
        ("Dog", pets_),
        ("Cat", pets_),
        ("Bark", "Dog"),
        ("Bark", pets_),
        ("Bow-wow", "Dog"),
        ("Bow-wow", pets_),
    }


def test_a_kind_of_an_affirmed_sound_is_judged_though_nobody_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    found = _scores.opinions(DOGS, Scores(WHICH, HEARD))
    assert found.asked.tolist() == [[True] * 2, [True, False], [True, False], [True] * 2, [True] * 2, [True, False]]
    assert found.values["above"][1, 0] == pytest.approx(2.0 - 0.05)  # of "Dog": yes, plus half the letter
    assert (found.values["unasked"][1, 0], found.values["heard"][1, 0]) == (1, 0)
    assert found.values["has_above"][5, 0] == 0


def test_a_sound_whose_kinds_point_to_several_classes_tells_none_from_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    elsewhere = _scores.opinions(DOGS, Scores(WHICH, HEARD)).values["elsewhere"]
    assert elsewhere[4].tolist() == [1, 1]  # pets: dogs beside cats
    assert elsewhere[0].tolist() == [0, 0]  # whatever is a kind of "Dog" points to dogs


@pytest.mark.parametrize(("n_per_class", "chosen"), [(1, [[0], [2]]), (2, [[0, 1], [1, 2]])])
def test_each_class_is_asked_about_its_nearest_sounds(n_per_class: int, chosen: list[list[int]]) -> None:
    nearness = np.array([[3.0, 0.0], [2.0, 1.0], [0.0, 2.0], [-np.inf, -np.inf]])
    assert shortlist._nearest(nearness, n_per_class) == chosen


def test_no_class_goes_without_sounds_to_ask_about_while_the_nearest_pairs_get_more() -> None:
    nearness = np.column_stack([np.linspace(9, 5, 40), np.linspace(1, -3, 40)])
    first, second = shortlist._nearest(nearness, 10)
    assert (len(first), len(second)) == (14, shortlist.LEAST)

"""Evidence from probabilities: against hand-computed cases, and against loops that follow the page literally."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from adapt.errors import OntologyError
from pipeline.labels import evidence as arithmetic
from pipeline.labels import ontology
from pipeline.labels.evidence import Mask, absence, clip_probabilities, evidence, loudest
from tests.places import ROOT

HEARD = np.array([[0.5, 0.8]])  # two sounds
WEIGHTS = np.array([[0.6, 0.0], [0.5, 1.0]])  # sound x class


def literally(
    a: list[float], m: list[list[float]], kin: Mask, combine: str, threshold: float, top_k: int, temperature: float
) -> tuple[list[float], list[float], float, list[tuple[int, float, float]]]:
    """(s, q, m, causes) of one clip in plain loops: METHOD.md section 2, and of related sounds the strongest only."""
    heard = [i for i in sorted(range(len(a)), key=lambda i: (-a[i], i))[:top_k] if a[i] >= threshold]

    def that_count(weight: list[float]) -> list[int]:
        counted: list[int] = []
        for i in sorted((i for i in heard if weight[i] > 0), key=lambda i: -a[i] * weight[i]):
            if not any(kin[i, j] for j in counted):
                counted.append(i)
        return counted

    def noisy_or(weight: list[float]) -> float:
        return 1 - float(np.prod([1 - a[i] * weight[i] for i in that_count(weight)]))

    columns = [[row[c] for row in m] for c in range(len(m[0]))]
    contributions = [[a[i] * w[i] for i in that_count(w)] for w in columns]
    s = {
        "noisy_or": [noisy_or(w) for w in columns],
        "max": [max(x, default=0.0) for x in contributions],
        "sum": [min(sum(x), 1.0) for x in contributions],
    }[combine]
    sharp = [x ** (1 / temperature) for x in s]
    q = [x / sum(sharp) for x in sharp] if sum(sharp) > 0 else [1 / len(s)] * len(s)
    top = columns[s.index(max(s))]
    causes = [(i, a[i], top[i]) for i in that_count(top)][:5] if max(s) > 0 else []
    return s, q, noisy_or([max(row) for row in m]), causes


def family_tree(n: int, random: np.random.Generator) -> Mask:
    """Which of `n` nodes of a random forest are ancestors of one another."""
    parents = [random.integers(0, i) if i and random.random() < 0.8 else None for i in range(n)]
    kin = np.zeros((n, n), bool)
    for i in range(n):
        up = parents[i]
        while up is not None:
            kin[i, up] = kin[up, i] = True
            up = parents[up]
    return kin


@pytest.mark.parametrize("combine", ["noisy_or", "max", "sum"])
@pytest.mark.parametrize(
    ("threshold", "top_k", "temperature"), [(0.1, 10, 1.0), (0.0, 3, 0.5), (0.3, 12, 2.0), (0.95, 1, 1.0)]
)
@pytest.mark.parametrize("related", [False, True])
def test_the_arrays_say_what_plain_loops_say(
    combine: str, threshold: float, top_k: int, temperature: float, related: bool
) -> None:
    random = np.random.default_rng(7)
    n_clips, n_sounds, n_classes = 40, 12, 5
    a = np.round(random.random((n_clips, n_sounds)) ** 2, 2)  # rounded: equal loudness happens
    m = np.where(random.random((n_sounds, n_classes)) < 0.4, np.round(random.random((n_sounds, n_classes)), 1), 0.0)
    kin = family_tree(n_sounds, random) if related else np.zeros((n_sounds, n_sounds), bool)
    found = evidence(
        a, m, combine=combine, threshold=threshold, top_k=top_k, temperature=temperature, kin=kin if related else None
    )
    for n in range(n_clips):
        s, q, mass, causes = literally(a[n].tolist(), m.tolist(), kin, combine, threshold, top_k, temperature)
        np.testing.assert_allclose(found.s[n], s, atol=1e-12)
        np.testing.assert_allclose(found.q[n], q, atol=1e-12)
        np.testing.assert_allclose(found.mass[n], mass, atol=1e-12)
        mine = found.causes.clips == n
        columns = found.causes.sounds[mine], found.causes.probabilities[mine], found.causes.weights[mine]
        assert list(zip(*(column.tolist() for column in columns), strict=True)) == causes


@pytest.mark.parametrize(
    ("combine", "expected"),
    [
        ("noisy_or", [1 - (1 - 0.3) * (1 - 0.4), 0.8]),  # 0.58: either sound may support class 0
        ("max", [0.4, 0.8]),
        ("sum", [0.7, 0.8]),
    ],
)
def test_evidence_is_what_hand_computation_gives(combine: str, expected: list[float]) -> None:
    found = evidence(HEARD, WEIGHTS, combine=combine)
    np.testing.assert_allclose(found.s, [expected])
    np.testing.assert_allclose(found.q, [np.array(expected) / sum(expected)])
    np.testing.assert_allclose(found.mass, [1 - (1 - 0.3) * (1 - 0.8)])  # 0.86: each sound by its best class


def test_a_sum_of_evidence_stays_a_share() -> None:
    found = evidence(np.array([[0.9, 0.9]]), np.array([[1.0], [1.0]]), combine="sum")
    assert found.s.tolist() == [[1.0]]


def test_temperature_sharpens_and_does_not_lose_faint_evidence() -> None:
    cold = evidence(HEARD, WEIGHTS, combine="max", temperature=0.5)
    np.testing.assert_allclose(cold.q, [[0.2, 0.8]])  # 0.4^2 : 0.8^2
    faint = evidence(np.array([[1e-9, 2e-9]]), np.eye(2), threshold=0, temperature=0.01)
    np.testing.assert_allclose(faint.q, [[0.0, 1.0]], atol=1e-12)


def test_only_the_loudest_sounds_above_the_threshold_count() -> None:
    probabilities, weights = np.array([[0.9, 0.8, 0.05]]), np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    np.testing.assert_allclose(evidence(probabilities, weights, threshold=0.1).s, [[0.8, 0.0]])
    np.testing.assert_allclose(evidence(probabilities, weights, threshold=0.01).s, [[0.8, 0.05]])
    assert evidence(probabilities, weights, top_k=1).mass.tolist() == [0.0]


def test_a_sound_of_exactly_the_threshold_is_heard_and_of_equals_the_first_is_louder() -> None:
    heard = loudest(np.array([[0.2, 0.5, 0.1, 0.5]]), threshold=0.2, top_k=3)
    assert heard.sounds.tolist() == [[1, 3, 0]]
    assert heard.probabilities.tolist() == [[0.5, 0.5, 0.2]]


def audioset_kin() -> tuple[dict[str, int], Mask]:
    with (ROOT / "data/labels/audioset.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {row["display_name"]: i for i, row in enumerate(rows)}, ontology.kinship(
        [row["mid"] for row in rows], ROOT / ontology.ONTOLOGY
    )


def bark(*heard: tuple[str, float], classes: int = 1, **weights: float) -> arithmetic.Evidence:
    """Evidence of a clip in which AudioSet's sounds were heard, each mapped to class 0 with weight 1 or as said."""
    index, kin = audioset_kin()
    probabilities, m = np.zeros((1, len(index))), np.zeros((len(index), classes))
    for sound, probability in heard:
        probabilities[0, index[sound]] = probability
        m[index[sound], 0] = weights.get(sound, 1.0)
    return evidence(probabilities, m, kin=kin)


def test_animal_pet_and_dog_are_one_sound() -> None:
    """The ontology: Animal > Domestic animals, pets > Dog."""
    found = bark(("Animal", 0.9), ("Domestic animals, pets", 0.85), ("Dog", 0.8))
    assert found.s[0, 0] == found.mass[0] == pytest.approx(0.9)
    assert found.causes.probabilities.tolist() == [0.9]


def test_the_strongest_of_one_sound_is_by_probability_times_weight() -> None:
    found = bark(("Animal", 0.9), ("Dog", 0.8), Animal=0.2)
    assert found.s[0, 0] == pytest.approx(0.8)
    assert (found.causes.probabilities.tolist(), found.causes.weights.tolist()) == ([0.8], [1.0])


def test_a_dog_and_a_cat_are_two_sounds_even_under_one_parent() -> None:
    found = bark(("Dog", 0.5), ("Cat", 0.8), ("Animal", 0.6))
    assert found.s[0, 0] == pytest.approx(1 - 0.5 * 0.2)  # Animal is the cat, which is louder; the dog is another sound


def test_related_sounds_of_different_classes_count_once_in_the_mass() -> None:
    index, kin = audioset_kin()
    probabilities, m = np.zeros((1, len(index))), np.zeros((len(index), 2))
    probabilities[0, index["Animal"]], probabilities[0, index["Dog"]] = 0.5, 0.8
    m[index["Animal"], 0] = m[index["Dog"], 1] = 1.0
    found = evidence(probabilities, m, kin=kin)
    np.testing.assert_allclose(found.s, [[0.5, 0.8]])
    np.testing.assert_allclose(found.mass, [0.8])


def test_every_sound_of_the_shipped_lists_is_in_the_ontology_and_kinship_is_mutual() -> None:
    for name, n_sounds in (("audioset", 527), ("yamnet", 521)):
        with (ROOT / f"data/labels/{name}.csv").open(encoding="utf-8", newline="") as file:
            kin = ontology.kinship([row["mid"] for row in csv.DictReader(file)], ROOT / ontology.ONTOLOGY)
        assert kin.shape == (n_sounds, n_sounds)
        assert (kin == kin.T).all()
        assert not kin.diagonal().any()


def node(mid: str, *children: str) -> dict[str, object]:
    """A node of AudioSet's ontology, as the published file has it."""
    return {"id": mid, "name": mid, "description": "", "child_ids": list(children)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not AudioSet's ontology"),
        ('[{"name": "Dog"}]', "is not AudioSet's ontology"),
        (json.dumps([node("a", "b"), node("b", "a")]), "a is its own ancestor"),
        (
            json.dumps([node("a")]),
            "lacks 1 of the tagger's sounds, first 'b': set pseudo_label.related to all",
        ),
    ],
)
def test_a_broken_ontology_is_one_clear_error(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "ontology.json"
    path.write_text(text)
    with pytest.raises(OntologyError, match=message):
        ontology.kinship(["a", "b"], path)


def test_a_missing_ontology_says_how_to_restore_it(tmp_path: Path) -> None:
    with pytest.raises(OntologyError, match="nowhere.json is missing: restore it with `git checkout"):
        ontology.kinship([], tmp_path / "nowhere.json")


def sigmoid(logit: float) -> float:
    return float(1 / (1 + np.exp(-logit)))


@pytest.mark.parametrize(
    ("reduce", "expected"), [("max", [0.5, 0.5]), ("mean", [(0.5 + sigmoid(-1)) / 2, (0.5 + sigmoid(-3)) / 2])]
)
def test_windows_are_reduced_on_probabilities(reduce: str, expected: list[float]) -> None:
    logits, starts = np.array([[9.0, 9.0], [0.0, -3.0], [-1.0, 0.0]]), np.array([0, 1])
    np.testing.assert_allclose(clip_probabilities(logits, starts, reduce)[1], expected)


def test_a_logit_that_no_exponential_holds_is_a_probability_of_0_or_1() -> None:
    assert clip_probabilities(np.array([[-1000.0, 1000.0]]), np.array([0]), "max").tolist() == [[0.0, 1.0]]


def test_a_necessary_sound_that_is_not_heard_speaks_against_its_class() -> None:
    probabilities = np.array([[0.9, 0.2, 0.3], [0.0, 1.0, 0.0]])
    necessary = np.array(
        [[False, True, False], [True, False, False], [True, False, False]]
    )  # class 0: sounds 1 and 2; class 1: sound 0
    np.testing.assert_allclose(absence(probabilities, necessary), [[0.7, 0.1, 0.0], [0.0, 1.0, 0.0]], rtol=1e-6)


def test_at_most_five_causes_are_kept_strongest_first() -> None:
    causes = evidence(np.linspace(0.2, 0.9, 8)[None], np.ones((8, 1))).causes
    assert causes.sounds.tolist() == [7, 6, 5, 4, 3]

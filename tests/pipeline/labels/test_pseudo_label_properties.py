"""Pseudo-labels of any sounds and any label map: probabilities, whose order of classes is only a name, and which grow
with what is heard.
"""

from dataclasses import dataclass
from random import Random

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.labels.evidence import COMBINE, Evidence, Floats, Mask, evidence

UNIT = st.one_of(st.sampled_from([0.0, 1.0, 0.5, 1e-300, 5e-324, 1 - 2**-53]), st.floats(0, 1))


@dataclass(frozen=True)
class Case:
    """Two clips, A sounds, K classes, and settings."""

    probabilities: Floats  # (2, A)
    weights: Floats  # (A, K)
    kin: Mask | None  # (A, A)
    combine: str
    threshold: float
    top_k: int
    temperature: float

    def found(self, weights: Floats | None = None, probabilities: Floats | None = None) -> Evidence:
        return evidence(
            self.probabilities if probabilities is None else probabilities,
            self.weights if weights is None else weights,
            combine=self.combine, threshold=self.threshold, top_k=self.top_k, temperature=self.temperature,
            kin=self.kin,
        )  # fmt: skip


@st.composite
def cases(draw: st.DrawFn, *, all_count: bool = False) -> Case:
    """`all_count`: no sound drops out, by its loudness or because one of its kin counts."""
    n_sounds, n_classes = draw(st.integers(1, 5)), draw(st.integers(1, 5))

    def table(rows: int, columns: int) -> Floats:
        values = draw(st.lists(UNIT, min_size=rows * columns, max_size=rows * columns))
        return np.array(values).reshape(rows, columns)

    kin = None
    if not all_count and draw(st.booleans()):
        pairs = np.array(draw(st.lists(st.booleans(), min_size=n_sounds**2, max_size=n_sounds**2)))
        kin = pairs.reshape(n_sounds, n_sounds)
        kin = (kin | kin.T) & ~np.eye(n_sounds, dtype=bool)
    threshold = 0.0 if all_count else draw(UNIT)
    top_k = n_sounds if all_count else draw(st.integers(1, n_sounds))
    combine, temperature = draw(st.sampled_from(sorted(COMBINE))), draw(st.sampled_from([0.05, 0.5, 1.0, 2.0, 20.0]))
    return Case(table(2, n_sounds), table(n_sounds, n_classes), kin, combine, threshold, top_k, temperature)


@given(cases())
def test_pseudo_labels_are_probabilities_that_sum_to_one(case: Case) -> None:
    found = case.found()
    np.testing.assert_allclose(found.q.sum(axis=1), 1, rtol=0, atol=1e-12)
    for values in (found.q, found.s, found.mass):
        assert np.isfinite(values).all()
        assert ((values >= 0) & (values <= 1 + 1e-12)).all()
    assert (found.q[found.mass == 0] == 1 / found.q.shape[1]).all()


@given(cases(), st.randoms(use_true_random=False))
def test_another_order_of_the_classes_changes_their_order_and_no_value(case: Case, random: Random) -> None:
    order = list(range(case.weights.shape[1]))
    random.shuffle(order)
    found, moved = case.found(), case.found(weights=case.weights[:, order])
    np.testing.assert_array_equal(moved.s, found.s[:, order])
    np.testing.assert_allclose(moved.q, found.q[:, order], rtol=1e-12)
    np.testing.assert_array_equal(moved.mass, found.mass)


@given(cases())
def test_a_class_with_more_evidence_never_has_the_lower_probability(case: Case) -> None:
    found = case.found()
    for s, q in zip(found.s, found.q, strict=True):
        assert (np.diff(q[np.argsort(s, kind="stable")]) >= -1e-15).all()


@given(cases(all_count=True), st.integers(0), st.integers(0), UNIT)
def test_a_higher_weight_never_takes_evidence_away(case: Case, sound: int, label_id: int, weight: float) -> None:
    weights = case.weights.copy()
    place = sound % weights.shape[0], label_id % weights.shape[1]
    weights[place] = max(weights[place], weight)
    before, after = case.found(), case.found(weights=weights)
    assert (after.s >= before.s - 1e-12).all()
    assert (after.mass >= before.mass - 1e-12).all()
    others = np.arange(weights.shape[1]) != place[1]
    np.testing.assert_allclose(after.s[:, others], before.s[:, others], atol=1e-12)


@given(cases(all_count=True), st.integers(0), UNIT)
def test_a_louder_sound_never_takes_evidence_away(case: Case, sound: int, probability: float) -> None:
    louder = case.probabilities.copy()
    place = 0, sound % louder.shape[1]
    louder[place] = max(louder[place], probability)
    before, after = case.found(), case.found(probabilities=louder)
    assert (after.s >= before.s - 1e-12).all()
    assert (after.mass >= before.mass - 1e-12).all()
    np.testing.assert_array_equal(after.q[1], before.q[1])  # another clip's is not touched

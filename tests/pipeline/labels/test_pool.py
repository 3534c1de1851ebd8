"""Opinions pooled to a probability: by hand, against another library, and what the shipped weights were learned on."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from adapt.errors import MapperError
from pipeline.labels import pool
from pipeline.labels.pool import Opinions, Weights
from tests.places import ROOT


def opinions(*columns: list[float]) -> Opinions:
    """Pairs of one class; NaN in the first column where nobody asked."""
    values = {name: np.array([column]).T for name, column in zip("ab", columns, strict=False)}
    return Opinions(np.isfinite(values["a"]), values)


def test_a_pool_is_a_product_of_experts_each_to_the_power_of_its_weight() -> None:
    # two judges say 0.8 and 0.6: odds 4 and 1.5; squared and to the power 1, times prior odds of 1/3
    found = Weights({"a": 2.0, "b": 1.0}, math.log(1 / 3), 0.5, []).probabilities(
        opinions([math.log(4), math.nan], [math.log(1.5), 0.0])
    )
    odds = 4**2 * 1.5 / 3
    np.testing.assert_allclose(found[:, 0], [odds / (1 + odds), 0.0])


def test_the_weights_are_those_of_logistic_regression_each_set_counting_the_same() -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    random = np.random.default_rng(0)
    sets, rows, right, counts = {}, [], [], []
    for name, n in (("one", 300), ("two", 60)):
        a, b = random.normal(size=n), random.normal(size=n)
        yes = random.random(n) < 1 / (1 + np.exp(-(2 * a - b - 0.5)))
        sets[name] = opinions(list(a), list(b)), yes[:, None]
        rows.append(np.column_stack([a, b]))
        right.append(yes)
        counts.append(np.full(n, 1 / n))
    found = pool.learn(("a", "b"), sets, precision=0.0, ridge=1e-9)
    weighed = np.concatenate(counts) * 1e6  # so many that its ridge says nothing
    other = linear_model.LogisticRegression(C=1e6, tol=1e-10, max_iter=1000)
    other.fit(np.concatenate(rows), np.concatenate(right), sample_weight=weighed)
    assert found.opinions == pytest.approx({"a": other.coef_[0, 0], "b": other.coef_[0, 1]}, rel=0.02)
    assert found.bias == pytest.approx(other.intercept_[0], abs=0.02)
    assert found.learned_on == ["one", "two"]


def test_the_threshold_is_the_one_with_the_best_f1_of_those_that_are_precise_enough() -> None:
    sets = {"one": (opinions([3.0, 2.0, 1.0, -3.0]), np.array([[True], [False], [True], [False]]))}
    weights = Weights({"a": 1.0}, 0.0, 0.0, [])  # probabilities 0.95, 0.88, 0.73, 0.05
    assert 0.05 <= pool._threshold(weights, sets, precision=0.6) <= 0.73  # all three: precision 2/3, F1 0.8
    assert 0.88 < pool._threshold(weights, sets, precision=0.9) <= 0.95  # the first alone: precision 1


def test_a_data_set_with_a_reference_is_judged_by_weights_that_never_saw_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    references = sorted(path.stem for path in Path("data/maps/reference").glob("*.csv"))
    for name, found in json.loads(pool.CALIBRATION.read_text()).items():
        assert sorted(found) == sorted([*references, pool.OTHERS])
        for dataset in references:
            assert pool.read(name, dataset)[0].learned_on == [other for other in references if other != dataset]
        assert pool.read(name, "a new set")[0].learned_on == references


@pytest.mark.parametrize("text", [None, "{", "{}", '{"score": {"others": {"bias": 0}}}', '{"score": []}'])
def test_a_missing_or_broken_calibration_names_the_command(
    text: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if text is not None:
        pool.CALIBRATION.parent.mkdir(parents=True)
        pool.CALIBRATION.write_text(text)
    with pytest.raises(MapperError, match="run `python -m pipeline.map_labels calibrate`"):
        pool.read("score", "pets")

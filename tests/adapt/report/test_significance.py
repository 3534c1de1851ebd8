"""Intervals and p against closed forms, against scipy, and against how often they should be wrong."""

import dataclasses
import math

import numpy as np
import pytest

from adapt.report import _significance


def stream(*right: int) -> np.ndarray:
    """One order and corruption: (1, 1, n_clips)."""
    return np.array(right, bool)[None, None]


def drawn(rng: np.random.Generator, p: float, n_clips: int, shape: tuple[int, int] = (1, 1)) -> np.ndarray:
    return rng.random((*shape, n_clips)) < p


def test_the_interval_of_a_mean_is_the_binomials_where_each_clip_is_asked_once() -> None:
    """A resample of n clips of which a share p is right has Binomial(n, p) right: 50 of 100 gives 0.5 -+ 1.96 sqrt(0.25
    / 100).
    """
    found = _significance.mean(stream(*[1, 0] * 50))
    assert found.value == 0.5
    assert (found.low, found.high) == pytest.approx((0.402, 0.598), abs=0.011)  # ends are multiples of 1 / 100


def test_a_run_that_is_always_right_has_an_interval_without_width() -> None:
    assert _significance.mean(stream(1, 1, 1)) == _significance.Estimate(1.0, 1.0, 1.0)


def test_the_same_clips_in_other_corruptions_make_no_interval_narrower() -> None:
    once = drawn(np.random.default_rng(0), 0.3, 80)
    twelve_times = np.broadcast_to(once, (3, 4, 80))
    assert dataclasses.astuple(_significance.mean(twelve_times)) == pytest.approx(
        dataclasses.astuple(_significance.mean(once))
    )


def test_asking_other_clips_makes_it_narrower() -> None:
    few, many = (_significance.mean(stream(*[1, 0] * n)) for n in (20, 500))  # the width goes with 1 / sqrt(n): a fifth
    assert (few.high - few.low) / (many.high - many.low) == pytest.approx(5, rel=0.1)


def test_a_difference_is_paired() -> None:
    """98 clips answered alike and 2 gained: the resampled gain is Binomial(100, 0.02) / 100, whose 2.5 and 97.5 %
    quantiles are 0 and 5.
    """
    other = stream(*[1, 0] * 50)
    ours = other.copy()
    ours[0, 0, [1, 3]] = True
    found = _significance.difference(ours, other)
    assert (found.value, found.low, found.high) == pytest.approx((0.02, 0.0, 0.05))


def test_a_difference_and_its_ratio_are_those_of_scipys_paired_bootstrap() -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(1)
    other = drawn(rng, 0.5, 150, (2, 3))
    ours = other | drawn(rng, 0.2, 150, (2, 3))
    a, b = (x.sum(axis=(0, 1)) / 6 for x in (ours, other))
    options = {"paired": True, "method": "percentile", "n_resamples": 10_000, "rng": 3, "vectorized": True}
    theirs = stats.bootstrap((a, b), lambda x, y, axis: x.mean(axis) - y.mean(axis), **options).confidence_interval
    mine = _significance.difference(ours, other)
    assert (mine.low, mine.high) == pytest.approx((theirs.low, theirs.high), abs=0.003)
    assert mine.value == pytest.approx(a.mean() - b.mean())
    theirs = stats.bootstrap((a, b), lambda x, y, axis: x.mean(axis) / y.mean(axis), **options).confidence_interval
    ratio = _significance.ratio(ours, other)
    assert ratio is not None
    assert (ratio.low, ratio.high) == pytest.approx((theirs.low, theirs.high), abs=0.006)
    assert ratio.value == pytest.approx(a.mean() / b.mean())


def test_there_is_no_ratio_to_a_run_that_may_have_nothing_right() -> None:
    assert _significance.ratio(stream(1, 1, 1), stream(1, 0, 0)) is None  # a resample of the two wrong clips


def test_the_interval_misses_the_truth_about_one_time_in_twenty() -> None:
    """200 draws of 120 clips, each asked in 4 corruptions with a difficulty of its own, so that answers of a clip go
    together.
    """
    rng, covered = np.random.default_rng(2), 0
    for _ in range(200):
        difficulty = rng.beta(1, 1, 120)  # the true mean is 1/2
        found = _significance.mean(rng.random((1, 4, 120)) < difficulty)
        covered += found.low <= 0.5 <= found.high
    assert 0.904 <= covered / 200 <= 0.996  # 0.95 within 3 standard errors of 0.0154


def test_the_same_answers_give_the_same_interval_and_no_global_random_state_is_used() -> None:
    right = drawn(np.random.default_rng(3), 0.4, 997, (3, 5))
    before = _significance.mean(right)
    np.random.seed(7)
    assert _significance.mean(right) == before
    assert _significance.mean(right, seed=1) != before


@pytest.mark.parametrize(
    ("only_ours", "only_theirs", "p"),
    [
        (0, 0, 1.0),
        (1, 0, 1.0),
        (1, 1, 1.0),
        (5, 0, 2 / 32),
        (0, 5, 2 / 32),
        (10, 2, 2 * (1 + 12 + 66) / 4096),
        (3, 2, 1.0),
    ],
)
def test_mcnemars_p_is_twice_the_binomial_tail(only_ours: int, only_theirs: int, p: float) -> None:
    """Worked by hand: of n discordant answers, k and fewer on the smaller side, sum of n over i, over 2^n, twice, at
    most 1.
    """
    ours = stream(*[1] * only_ours, *[0] * only_theirs, 1, 0)
    theirs = stream(*[0] * only_ours, *[1] * only_theirs, 1, 0)
    assert _significance.mcnemar(ours, theirs) == pytest.approx(p)


@pytest.mark.parametrize(("only_ours", "only_theirs"), [(7, 19), (300, 341), (2000, 2200), (0, 1200)])
def test_mcnemars_p_is_scipys_binomial_test(only_ours: int, only_theirs: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    ours, theirs = stream(*[1] * only_ours, *[0] * only_theirs), stream(*[0] * only_ours, *[1] * only_theirs)
    expected = stats.binomtest(only_ours, only_ours + only_theirs).pvalue
    assert _significance.mcnemar(ours, theirs) == pytest.approx(expected, rel=1e-9)


def test_equally_good_runs_rarely_differ_for_mcnemar() -> None:
    rng = np.random.default_rng(4)
    p = [_significance.mcnemar(drawn(rng, 0.6, 100), drawn(rng, 0.6, 100)) for _ in range(400)]
    assert np.mean(np.array(p) < 0.05) < 0.06  # exact, so at most 0.05


def test_the_spread_is_the_standard_deviation_from_order_to_order() -> None:
    right = np.array([[[1, 1, 0, 0]], [[1, 1, 1, 0]], [[1, 1, 1, 1]]], bool)  # 0.5, 0.75, 1: sd 0.25 with n - 1
    assert _significance.spread(right) == pytest.approx(0.25)
    assert _significance.spread(right[:1]) is None


def test_answers_that_cannot_be_paired_are_an_error() -> None:
    for compare in (_significance.difference, _significance.ratio, _significance.mcnemar):
        with pytest.raises(ValueError, match="cannot be paired"):
            compare(stream(1, 0), stream(1, 0, 1))
    with pytest.raises(ValueError, match="orders, corruptions, clips"):
        _significance.mean(np.zeros((1, 2, 0), bool))
    assert math.isfinite(_significance.mean(stream(0)).high)


def test_the_macro_mean_weighs_classes_alike_and_resamples_within_each() -> None:
    """A class of 100 that is always right and one of 4 with half right: 1/2 + Binomial(4, 1/2) / 8, whose 2.5 and
    97.5 % quantiles are 1/2 and 1.
    """
    right, label_ids = stream(*[1] * 100, 1, 0, 1, 0), [5] * 100 + [2] * 4
    found = _significance.macro(right, label_ids)
    assert (found.value, found.low, found.high) == pytest.approx((0.75, 0.5, 1.0))
    assert _significance.mean(right).value == pytest.approx(102 / 104)
    never = stream(*[0] * 104)
    assert _significance.macro(right, label_ids, never) == found
    assert _significance.macro(right, label_ids, right) == _significance.Estimate(0.0, 0.0, 0.0)

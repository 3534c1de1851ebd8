"""How sure a difference of two runs is: bootstrap intervals over clips, and McNemar's exact test (adapt/METHOD.md,
protocol).

In: which answers of a run were right, an array of bool (orders, corruptions, clips).  A clip keeps its answers in every
corruption and order together: they are not independent, so taking them apart would make the intervals too narrow.
Nothing here knows files or methods.

What the intervals do not hold: an online method's answer depends on the clips before it, which the resampling leaves as
they were; how much that is worth is what several orders of the stream show.  Neither they nor p are corrected for the
number of comparisons in a table.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

N_RESAMPLES = 10_000
LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean, or a difference of two, with the ends of its interval; shares, not per cent."""

    value: float
    low: float
    high: float


def _resampled(sums: np.ndarray, seed: int) -> np.ndarray:
    """Means of resamples of clips, (N_RESAMPLES, m), for integers `sums` (n_clips, m).

    A resample is drawn as how often each distinct row occurs in it, which is multinomial: the same distribution as
    drawing the clips one by one with replacement, in memory that does not grow with their number.
    """
    values, counts = np.unique(sums, axis=0, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(len(sums), counts / len(sums), size=N_RESAMPLES)
    return drawn @ values / len(sums)


def _estimate(value: float, resampled: np.ndarray) -> Estimate:
    """The percentile interval (Efron 1979) around `value`."""
    low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(float(value), float(low), float(high))


def _sums(right: np.ndarray, other: np.ndarray | None = None) -> tuple[np.ndarray, int]:
    """(right answers of each clip over orders and corruptions (n_clips, 1 or 2), how many there could be).  Raises
    ValueError for odd shapes.
    """
    if right.ndim != 3 or 0 in right.shape:
        raise ValueError(f"answers have shape {right.shape}: need (orders, corruptions, clips), none of them 0")
    if other is not None and other.shape != right.shape:
        raise ValueError(f"answers of shapes {right.shape} and {other.shape} cannot be paired")
    both = [right] if other is None else [right, other]
    return np.stack([answers.sum(axis=(0, 1), dtype=np.int64) for answers in both], axis=1), right.shape[
        0
    ] * right.shape[1]


def mean(right: np.ndarray, seed: int = 0) -> Estimate:
    """Estimate one run's mean top-1 from `right`, bool (orders, corruptions, clips)."""
    sums, n_trials = _sums(right)
    return _estimate(right.mean(), _resampled(sums, seed) / n_trials)


def difference(right: np.ndarray, other: np.ndarray, seed: int = 0) -> Estimate:
    """Estimate how far `right` is above `other`, paired: both bool (orders, corruptions, clips), the same clips in the
    same streams.

    Raises ValueError where the shapes differ.
    """
    sums, n_trials = _sums(right, other)
    return _estimate(right.mean() - other.mean(), _resampled(sums[:, :1] - sums[:, 1:], seed) / n_trials)


def macro(right: np.ndarray, label_ids: Sequence[int], other: np.ndarray | None = None, seed: int = 0) -> Estimate:
    """Estimate the mean over classes of each class's mean top-1, or how far it is above that of `other`, paired.

    `label_ids` has the class of each clip.  Clips are resampled within each class, so that none is ever empty: the
    interval is of these classes.
    """
    sums, n_trials = _sums(right, other)
    gain = sums[:, :1] if other is None else sums[:, :1] - sums[:, 1:]
    of_class = [gain[np.asarray(label_ids) == label_id] for label_id in sorted(set(label_ids))]
    drawn = np.sum([_resampled(one, seed + i) for i, one in enumerate(of_class)], axis=0)
    return _estimate(
        sum(float(one.mean()) for one in of_class) / len(of_class) / n_trials, drawn / len(of_class) / n_trials
    )


def ratio(right: np.ndarray, other: np.ndarray, seed: int = 0) -> Estimate | None:
    """Estimate the mean top-1 of `right` over that of `other`, paired as in `difference`; None where a resample of
    `other` has nothing right.
    """
    resampled = _resampled(_sums(right, other)[0], seed)
    if not resampled[:, 1].all():
        return None
    return _estimate(right.mean() / other.mean(), resampled[:, 0] / resampled[:, 1])


def spread(right: np.ndarray) -> float | None:
    """Standard deviation of the mean top-1 from order to order (n - 1 in the denominator); None for a single order."""
    return float(right.mean(axis=(1, 2)).std(ddof=1)) if len(right) > 1 else None


def mcnemar(right: np.ndarray, other: np.ndarray) -> float:
    """Return McNemar's exact two-sided p for two runs' answers to the same questions, bool arrays of one shape.

    Of the n answers that only one of the two has right, each is as likely either's if the runs are equally good: p is
    twice the binomial tail, at most 1 (McNemar 1947, exact form).  The questions are taken as independent.  Pooled over
    corruptions they are not, since a clip is asked in each: p is then too small, and the bootstrap interval is the one
    to trust.
    """
    if right.shape != other.shape:
        raise ValueError(f"answers of shapes {right.shape} and {other.shape} cannot be paired")
    n_ours, n_theirs = int((right & ~other).sum()), int((~right & other).sum())
    n = n_ours + n_theirs
    terms = (
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2)
        for k in range(min(n_ours, n_theirs) + 1)
    )
    return min(1.0, 2 * math.fsum(map(math.exp, terms)))

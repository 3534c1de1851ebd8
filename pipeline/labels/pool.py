"""Several opinions on which sound points to which class, pooled to one probability: p = sigmoid(b + sum_j w_j x_j).

The opinions are log-odds and the like, so this is a product of experts, each to the power of its weight.  The weights
are learned on reference maps by `python -m pipeline.map_labels calibrate`, and lie in data/maps/calibration.json: for a
data set that has a reference those learned on the *other* sets, for every other set those learned on all of them.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from adapt.errors import MapperError
from adapt.tables.files import sha256_file

CALIBRATION = Path("data/maps/calibration.json")
OTHERS = "others"  # data sets without a reference
Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Opinions:
    """What is known of pairs of sound and class: (A, K) for each opinion, finite wherever `asked`."""

    asked: Mask  # the others point to nothing
    values: Mapping[str, Floats]


@dataclass(frozen=True)
class Weights:
    """Of one pool: what each opinion counts, and the probability from which on a pair is in the map."""

    opinions: dict[str, float]
    bias: float
    threshold: float
    learned_on: list[str]

    def probabilities(self, opinions: Opinions) -> Floats:
        """(A, K) in [0, 1], 0 where nothing was asked."""
        total = self.bias + sum(weight * opinions.values[name] for name, weight in self.opinions.items())
        with np.errstate(over="ignore"):
            return np.where(opinions.asked, 1 / (1 + np.exp(-np.where(opinions.asked, total, 0.0))), 0.0)


def read(pool: str, dataset: str) -> tuple[Weights, str]:
    """The weights of `pool` for a data set, and the hash of the file.  Raises MapperError."""
    if not CALIBRATION.exists():
        raise MapperError(f"{CALIBRATION} is missing: run `python -m pipeline.map_labels calibrate`")
    try:
        found = json.loads(CALIBRATION.read_text(encoding="utf-8"))[pool]
        weights = Weights(**found.get(dataset, found[OTHERS]))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise MapperError(
            f"{CALIBRATION} has no weights of {pool!r} ({error!r}): run `python -m pipeline.map_labels calibrate`"
        ) from error
    return weights, sha256_file(CALIBRATION)


def to_json(pools: Mapping[str, Mapping[str, Weights]]) -> str:
    """The text of the file: pool -> data set -> weights."""
    plain = {pool: {name: asdict(weights) for name, weights in found.items()} for pool, found in pools.items()}
    return json.dumps(plain, indent=1) + "\n"


def learn(
    names: Sequence[str], sets: Mapping[str, tuple[Opinions, Mask]], precision: float, ridge: float = 1e-4
) -> Weights:
    """Learn on reference maps, each set counting the same: logistic regression by Newton's method with a weak ridge.

    `sets`: opinions and the reference (A, K) of each.  The threshold is the one with the best mean F1 over these sets
    of those at which their mean precision is at least `precision`.
    """
    rows, right, counts = [], [], []
    for opinions, reference in sets.values():
        columns = [opinions.values[name][opinions.asked] for name in names]
        rows.append(np.column_stack([*columns, np.ones(len(columns[0]))]))
        right.append(reference[opinions.asked].astype(float))
        counts.append(np.full(len(rows[-1]), 1 / len(rows[-1])))
    found = _fit(np.concatenate(rows), np.concatenate(right), np.concatenate(counts) / len(sets), ridge)
    coefficients = [round(float(value), 4) for value in found]
    weights = Weights(dict(zip(names, coefficients, strict=False)), coefficients[-1], 0.0, sorted(sets))
    return Weights(weights.opinions, weights.bias, _threshold(weights, sets, precision), weights.learned_on)


def _fit(rows: Floats, right: Floats, counts: Floats, ridge: float) -> Floats:
    scale = np.maximum(np.abs(rows).max(axis=0), 1e-9)
    scaled, found = rows / scale, np.zeros(rows.shape[1])
    penalty = np.full(len(found), ridge)
    penalty[-1] = 0.0
    for _ in range(100):
        p = 1 / (1 + np.exp(-(scaled @ found).clip(-50, 50)))
        gradient = scaled.T @ (counts * (p - right)) + penalty * found
        curvature = (scaled.T * (counts * p * (1 - p) + 1e-12)) @ scaled + np.diag(penalty + 1e-12)
        step = np.linalg.solve(curvature, gradient)
        found = found - step
        if np.abs(step).max() < 1e-9:
            break
    return found / scale


def _threshold(weights: Weights, sets: Mapping[str, tuple[Opinions, Mask]], precision: float) -> float:
    best, best_f1 = 0.5, -1.0
    found = [(weights.probabilities(opinions), reference) for opinions, reference in sets.values()]
    for threshold in np.arange(0.05, 0.96, 0.01):
        shares = []
        for p, reference in found:
            chosen = p >= threshold
            n_right = int((chosen & reference).sum())
            shares.append((n_right / max(int(chosen.sum()), 1), 2 * n_right / int(chosen.sum() + reference.sum())))
        mean_precision, mean_f1 = np.mean(shares, axis=0)
        if mean_precision >= precision and mean_f1 > best_f1:
            best, best_f1 = round(float(threshold), 2), float(mean_f1)
    return best

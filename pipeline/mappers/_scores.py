"""From what a model said in the form `score`, and what AudioSet's ontology says of the sounds, to pairs with weights.

A class is supported by a sound where the model picks its letter and says yes to the pair. The ontology adds two
things. A kind of a sound that the class makes is likely made by it too ("Bow-wow" below "Dog"), whatever the model
makes of its name; so pairs below one that was asked about are judged as well. And a sound is generic *in this set*
where the kinds below it point to several classes ("Brass instrument" beside a trumpet and a trombone): it tells none
of them from the others.
"""

import numpy as np

from pipeline.labels import ontology
from pipeline.labels.lists import LabelLists
from pipeline.labels.pool import Floats, Mask, Opinions, Weights
from pipeline.llm.forms.score import Scores
from pipeline.mappers import Pair

OPINIONS = (
    "which",
    "heard",
    "above",
    "has_above",
    "unasked",
    "elsewhere",
    "below",
    "has_below",
    "best_of_class",
    "best_of_sound",
)
LOW, HIGH = -5.0, 3.0  # of what kin say: beyond, more says the same
NEVER = -1e9


def opinions(lists: LabelLists, scores: Scores) -> Opinions:
    """What speaks for and against each pair that was asked about, or lies below one that the model affirms.

    which, heard: the model's.  above: the best pair of this class with a sound that this one is a kind of; below: with
    one that is a kind of it; 0 beside a `has_` of 0 where there is none.  elsewhere: to how many other classes the
    kinds of this sound point.  best_of_class, best_of_sound: whether the model puts this pair before all others of its
    class, of its sound.
    """
    asked = np.isfinite(scores.which) & np.isfinite(scores.heard)
    which, heard = np.where(asked, scores.which, 0.0), np.where(asked, scores.heard, 0.0)
    both = np.where(asked, 0.5 * which + heard, NEVER)
    n = len(lists.sounds)
    kinds = np.zeros((n, n), np.bool_) if lists.head else ontology.kinds(lists.sounds)  # AudioSet's are of sounds
    above, below = _best(kinds, both), _best(kinds.T, both)
    point = below > 0
    elsewhere = np.minimum(point.sum(axis=1, keepdims=True) - point, 4)
    values = {
        "which": which,
        "heard": heard,
        "above": _known(above),
        "has_above": above > NEVER,
        "unasked": ~asked,
        "elsewhere": elsewhere,
        "below": _known(below),
        "has_below": below > NEVER,
        "best_of_class": asked & (both >= both.max(axis=0, initial=NEVER)),
        "best_of_sound": asked & (both >= both.max(axis=1, keepdims=True, initial=NEVER)),
    }
    judged = asked | (above > -0.5)
    return Opinions(judged, {name: np.asarray(value, np.float64) for name, value in values.items()})


def _best(kin: Mask, both: Floats) -> Floats:
    """(A, K): for each sound the best value among its kin, NEVER where it has none."""
    return np.stack([both[row].max(axis=0, initial=NEVER) for row in kin])


def _known(values: Floats) -> Floats:
    return np.where(values > NEVER, values.clip(LOW, HIGH), 0.0)


def pairs(lists: LabelLists, found: Opinions, weights: Weights) -> list[Pair]:
    """The pairs that are at least as likely as the threshold; weight: how likely, to three digits."""
    probabilities = weights.probabilities(found)
    kept = []
    for i, j in zip(*np.nonzero(probabilities >= weights.threshold), strict=True):
        weight = float(f"{probabilities[i, j]:.3f}")
        kept.append(Pair(int(i), int(j), weight, False, _reason(found, int(i), int(j))))
    return kept


def _reason(found: Opinions, i: int, j: int) -> str:
    """What spoke for a pair, in words and numbers."""
    said = {name: values[i, j] for name, values in found.values.items()}
    told = []
    if said.get("unasked"):
        told.append("a kind of a sound that the class makes")
    elif "heard" in said:
        yes = 1 / (1 + np.exp(-said["heard"]))
        told.append(f"yes {yes:.2f}, picked {np.exp(said['which']):.2f} among the classes")
    if "cosine" in said:
        told.append(f"cosine {said['cosine']:.2f}")
    if said.get("words"):
        told.append(f"{said['words']:.2f} of its words")
    return ", ".join(told)

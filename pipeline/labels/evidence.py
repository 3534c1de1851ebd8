"""The arithmetic of pseudo-labels: probabilities of sounds x label map -> what a clip's sound says about the classes.

Arrays only, no files.  Few sounds are heard in a clip and few classes hang on a sound, so everything between the
probabilities and the result is a list of (clip, class, sound) triples: the cost follows what is heard, not sounds x
classes.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

N_CAUSES = 5
Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
COMBINE: dict[
    str, Callable[[Floats, Indices], Floats]
] = {  # what the contributions of each group (they start at) say together
    "noisy_or": lambda contributions, starts: (
        1 - np.multiply.reduceat(1 - contributions, starts)
    ),  # at least one supporting sound
    "max": lambda contributions, starts: np.maximum.reduceat(contributions, starts),
    "sum": lambda contributions, starts: np.minimum(np.add.reduceat(contributions, starts), 1.0),
}


@dataclass(frozen=True)
class Heard:
    """The loudest sounds of N clips; row n is clip n."""

    sounds: npt.NDArray[np.int32]  # (N, k), loudest first
    probabilities: Floats  # (N, k), 0 where fewer than k sounds were heard


@dataclass(frozen=True)
class Causes:
    """The sounds that speak for each clip's top class, at most N_CAUSES a clip: sorted by clip, then strongest
    first.
    """

    clips: Indices  # (M,)
    sounds: Indices  # (M,)
    probabilities: Floats  # (M,)
    weights: Floats  # (M,) of the label map, for the top class


@dataclass(frozen=True)
class Evidence:
    """What N clips' sounds say about K classes; row n is clip n."""

    s: Floats  # (N, K) in [0, 1]
    q: Floats  # (N, K), rows sum to 1
    mass: Floats  # (N,) in [0, 1]
    top: Indices  # (N,) argmax of s; says nothing where mass is 0
    causes: Causes


@dataclass(frozen=True)
class _Triples:
    """Sound x of clip n supports class c, grouped by (n, c), strongest first within a group; class K stands for any
    class.
    """

    clips: Indices
    classes: Indices
    sounds: Indices
    probabilities: Floats
    weights: Floats
    starts: Indices  # of the groups

    @property
    def contributions(self) -> Floats:
        return self.probabilities * self.weights


@dataclass(frozen=True)
class Chain:
    """Each heard sound with each class that it supports: sorted by clip, then class, then strongest first."""

    clips: Indices  # (M,)
    classes: Indices  # (M,)
    sounds: Indices  # (M,)
    probabilities: Floats  # (M,)
    weights: Floats  # (M,) of the label map
    counts: Mask  # (M,) False where a stronger one of the sound's kin counts for that class in its place


def evidence(
    probabilities: Floats,
    weights: Floats,
    *,
    combine: str = "noisy_or",
    threshold: float = 0.1,
    top_k: int = 10,
    temperature: float = 1.0,
    kin: Mask | None = None,
) -> Evidence:
    """Combine sound probabilities (N, A) with a label map's weights (A, K), both in [0, 1]: `loudest`, then `weigh`."""
    return weigh(loudest(probabilities, threshold, top_k), weights, combine=combine, temperature=temperature, kin=kin)


def clip_probabilities(logits: npt.NDArray[np.floating], starts: Indices, reduce: str) -> Floats:
    """Sigmoid of window logits (W, A), then `reduce` (max or mean) over each clip's windows, which begin at `starts`
    (N,): (N, A).
    """
    if len(starts) == 0:
        return np.zeros((0, logits.shape[1]))
    with np.errstate(over="ignore"):  # exp(1000) is inf, and 1 / (1 + inf) is the 0 that is meant
        probabilities = 1 / (1 + np.exp(-logits.astype(np.float64)))
    if len(starts) == len(logits):
        return np.asarray(probabilities)
    if reduce == "max":
        return np.asarray(np.maximum.reduceat(probabilities, starts, axis=0))
    n_windows = np.diff(starts, append=len(logits))
    return np.asarray(np.add.reduceat(probabilities, starts, axis=0) / n_windows[:, None])


def loudest(probabilities: Floats, threshold: float, top_k: int) -> Heard:
    """Keep each clip's `top_k` most probable sounds of at least `threshold`; of equals the one that comes first."""
    k = min(top_k, probabilities.shape[1])
    clips, sounds = np.nonzero((probabilities >= threshold) & (probabilities > 0))
    found = probabilities[clips, sounds]
    order = np.lexsort((-found, clips))
    clips, sounds, found = clips[order], sounds[order], found[order]
    ranks = np.arange(len(clips)) - np.searchsorted(clips, clips)
    kept = ranks < k
    heard = Heard(np.zeros((len(probabilities), k), np.int32), np.zeros((len(probabilities), k)))
    heard.sounds[clips[kept], ranks[kept]] = sounds[kept]
    heard.probabilities[clips[kept], ranks[kept]] = found[kept]
    return heard


def weigh(
    heard: Heard, weights: Floats, *, combine: str = "noisy_or", temperature: float = 1.0, kin: Mask | None = None
) -> Evidence:
    """Say what `heard` means under a label map's weights (A, K).  `kin` (A, A) says which sounds are one sound
    (ontology.kinship).

    s_c = 1 - prod_i (1 - a_i M_ic) for `noisy_or`; `max` and `sum` (cut at 1) of a_i M_ic otherwise.  m = 1 - prod_i (1
    - a_i max_c M_ic) whatever `combine` is.  q = s^(1/tau) / sum, uniform where no sound supports any class.  Of kin
    that support the same class only the strongest counts, in s, in m and as a cause: strongest first, a sound is
    dropped where one of its kin already counts. Ours (METHOD.md, section 2).
    """
    n_clips, n_classes = len(heard.sounds), weights.shape[1]
    triples = _triples(heard, weights)
    counts = _counts(triples, kin)
    s, mass = np.zeros((n_clips, n_classes)), np.zeros(n_clips)
    if len(triples.starts):
        contributions = np.where(counts, triples.contributions, 0.0)
        clips, classes = triples.clips[triples.starts], triples.classes[triples.starts]
        of_class, of_any = classes < n_classes, classes == n_classes
        s[clips[of_class], classes[of_class]] = COMBINE[combine](contributions, triples.starts)[of_class]
        mass[clips[of_any]] = COMBINE["noisy_or"](contributions, triples.starts)[of_any]
        s[mass == 0] = 0.0  # sounds fainter than a double tells from none
    highest = s.max(axis=1, keepdims=True, initial=0.0)
    sharpened = np.where(highest > 0, s / np.where(highest > 0, highest, 1), 1.0) ** (
        1 / temperature
    )  # scaled first: tiny s must not underflow
    top = s.argmax(axis=1)
    speaks = counts & (triples.classes == top[triples.clips]) & (mass[triples.clips] > 0)
    return Evidence(s, sharpened / sharpened.sum(axis=1, keepdims=True), mass, top, _causes(triples, speaks))


def chain(heard: Heard, weights: Floats, kin: Mask | None = None) -> Chain:
    """How `weigh`, given the same, comes from sounds to classes."""
    triples = _triples(heard, weights)
    counts, of_class = _counts(triples, kin), triples.classes < weights.shape[1]
    return Chain(
        triples.clips[of_class], triples.classes[of_class], triples.sounds[of_class], triples.probabilities[of_class],
        triples.weights[of_class], counts[of_class],
    )  # fmt: skip


def absence(probabilities: Floats, necessary: Mask) -> npt.NDArray[np.float32]:
    """(N, K): 1 - the probability (N, A) of the loudest sound that is `necessary` (A, K) for the class; 0 for a class
    without one.
    """
    absent = np.zeros((len(probabilities), necessary.shape[1]), np.float32)
    for label_id in np.flatnonzero(necessary.any(axis=0)):
        absent[:, label_id] = 1 - probabilities[:, necessary[:, label_id]].max(axis=1)
    return absent


def _triples(heard: Heard, weights: Floats) -> _Triples:
    """Join what was heard with the label map and one more class, any: the weight of a sound's best class."""
    with_any = np.hstack([weights, weights.max(axis=1, keepdims=True, initial=0.0)])
    mapped, classes_of = np.nonzero(with_any)
    n_of = np.bincount(mapped, minlength=len(weights))
    clips, ranks = np.nonzero(heard.probabilities)
    sounds = heard.sounds[clips, ranks].astype(np.int64)
    repeats = n_of[sounds]
    entry = np.repeat(np.arange(len(clips)), repeats)
    within = np.arange(len(entry)) - np.repeat(np.cumsum(repeats) - repeats, repeats)
    classes = classes_of[(np.cumsum(n_of) - n_of)[sounds[entry]] + within]
    clips, sounds, probabilities = clips[entry], sounds[entry], heard.probabilities[clips, ranks][entry]
    found = with_any[sounds, classes]
    groups = clips * with_any.shape[1] + classes
    order = np.lexsort((-probabilities * found, groups))  # stable: of equal contributions the louder sound first
    starts = np.flatnonzero(np.diff(groups[order], prepend=-1))
    return _Triples(clips[order], classes[order], sounds[order], probabilities[order], found[order], starts)


def _counts(triples: _Triples, kin: Mask | None) -> Mask:
    """Which triples count: all, but of kin in a group only the strongest."""
    counts = np.ones(len(triples.clips), dtype=np.bool_)
    if kin is None or not len(counts):
        return counts
    sizes = np.diff(triples.starts, append=len(counts))
    for position in range(1, int(sizes.max())):
        here = triples.starts[sizes > position] + position
        dropped = np.zeros(len(here), dtype=np.bool_)
        for back in range(1, position + 1):
            dropped |= counts[here - back] & kin[triples.sounds[here], triples.sounds[here - back]]
        counts[here] = ~dropped
    return counts


def _causes(triples: _Triples, speaks: Mask) -> Causes:
    """The first N_CAUSES of each clip among the triples that `speaks` marks."""
    which = np.flatnonzero(speaks)
    clips = triples.clips[which]
    which = which[np.arange(len(clips)) - np.searchsorted(clips, clips) < N_CAUSES]
    return Causes(triples.clips[which], triples.sounds[which], triples.probabilities[which], triples.weights[which])

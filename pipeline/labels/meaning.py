"""From a tagger's logits to what they say of the classes, as the stage pseudo_label and the listener both have it:
settings, the label map in a tagger's order of sounds, and the way through evidence.py.  No files but the ontology.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from adapt import command
from adapt.errors import OptionsError
from pipeline.labels import ontology
from pipeline.labels.evidence import COMBINE, Evidence, Floats, Heard, Mask, absence, clip_probabilities, loudest, weigh

Support = tuple[str, int, float, bool]  # sound, label_id, weight, necessary: a pair of a label map


@dataclass(frozen=True)
class Rules:
    """How tags and a label map become evidence."""

    combine: Literal["noisy_or", "max", "sum"] = "noisy_or"  # how a class's sounds add up
    related: Literal["strongest", "all"] = "strongest"
    """of a sound and its parents in the ontology: which count for a class"""
    reduce: Literal["max", "mean"] = "max"  # over a clip's windows, on probabilities
    threshold: float = command.number(0.1, low=0, high=1)  # sounds below this probability are not heard
    top_k: int = command.number(10, low=1)  # the loudest sounds that count
    temperature: float = command.number(1.0, low=0, above=True)  # tau of q = s^(1/tau) / sum

    def check(self) -> None:
        """Raise OptionsError for a value that cannot be."""
        for name, choices in (("combine", COMBINE), ("related", ("strongest", "all")), ("reduce", ("max", "mean"))):
            if (value := getattr(self, name)) not in choices:
                raise OptionsError(f"pseudo_label.{name} is {value!r}: choose one of {list(choices)}")
        command.check_numbers(self)


@dataclass(frozen=True)
class Sounds:
    """What the tagger's A sounds mean for the K classes."""

    names: list[str]  # in the order of the logits
    weights: Floats  # (A, K) of the label map
    necessary: Mask  # (A, K)
    kin: Mask | None  # (A, A); None: every sound counts by itself

    @property
    def mentioned(self) -> npt.NDArray[np.int64]:
        """The classes that have a necessary sound."""
        return np.flatnonzero(self.necessary.any(axis=0))


def matrices(pairs: Iterable[Support], sounds: Sequence[str], n_classes: int) -> tuple[Floats, Mask]:
    """A label map's (weights, necessary), both (A, K), in the order of a tagger's `sounds`.

    Pairs of other sounds are left out: a tagger may lack a few of AudioSet's, as YAMNet lacks six.
    """
    index = {sound: i for i, sound in enumerate(sounds)}
    weights, necessary = np.zeros((len(index), n_classes)), np.zeros((len(index), n_classes), np.bool_)
    for sound, label_id, weight, is_necessary in pairs:
        if sound in index:
            weights[index[sound], label_id], necessary[index[sound], label_id] = weight, is_necessary
    return weights, necessary


def kin(rules: Rules, mids: Sequence[str]) -> Mask | None:
    """Which of the tagger's sounds, by their machine ids, are one sound: (A, A); None where each counts by itself."""
    return ontology.kinship(mids) if rules.related == "strongest" else None


def hear(
    logits: npt.NDArray[np.floating], starts: npt.NDArray[np.int64], sounds: Sounds, rules: Rules
) -> tuple[Heard, npt.NDArray[np.float32]]:
    """Window logits (W, A), each clip's from `starts` (N,) on -> (what is heard in the N clips, by how much each of the
    classes that are `mentioned` lacks a necessary sound).
    """
    probabilities = clip_probabilities(logits, starts, rules.reduce)
    absent = absence(probabilities, sounds.necessary[:, sounds.mentioned])
    return loudest(probabilities, rules.threshold, min(rules.top_k, len(sounds.names))), absent


def judge(heard: Heard, sounds: Sounds, rules: Rules) -> Evidence:
    """What is heard in N clips says of the classes."""
    return weigh(heard, sounds.weights, combine=rules.combine, temperature=rules.temperature, kin=sounds.kin)


def spread(absent: npt.NDArray[np.float32], sounds: Sounds) -> npt.NDArray[np.float32]:
    """Absences of the classes that are `mentioned` -> of all: (N, K), 0 for the others."""
    found = np.zeros((len(absent), sounds.weights.shape[1]), np.float32)
    found[:, sounds.mentioned] = absent
    return found

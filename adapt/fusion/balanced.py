"""Balanced late fusion: argmax p (e + s) / prior^b (ours).

The prior is the running mean of this fusion's own answers, so a class that takes too much of the stream is held back.
"""

from dataclasses import dataclass

from torch import Tensor

from adapt.contract import Answer, Batch
from adapt.core.settings import setting
from adapt.core.state import ClassPrior, Stateful
from adapt.fusion import plain


@dataclass(frozen=True)
class Settings(plain.Settings):
    """Of balanced fusion."""

    prior_balance: float = setting(0.5, unit="exponent")
    """b: exponent of the running class prior that the answer is divided by"""


class Balanced(Stateful):
    """p (e + s) / prior^b."""

    needs_source = False

    def __init__(self, n_classes: int, settings: Settings) -> None:
        self.floor = settings.fusion_floor
        self.answers = ClassPrior(n_classes, settings.prior_balance)

    def fuse(self, answer: Answer, batch: Batch) -> Tensor:
        """Scores (B, K); the prior takes in the answer after it is given, unless that is not a number."""
        picture = answer.after if answer.unheard is None else answer.unheard
        scores = self.answers.balanced(plain.fuse(picture, batch.s, self.floor))
        if not bool(scores.isnan().any()):
            self.answers.add(scores)
        return scores


def build(n_classes: int, settings: Settings) -> Balanced:
    """Balanced fusion."""
    return Balanced(n_classes, settings)

"""Late fusion whose scores are divided by a running class prior: argmax p (e + s) / prior^b (ours); no gradients.

The prior is the running mean of this method's own answers, so a class that takes too much of the stream is held back.  b is `prior_balance`.
"""
import dataclasses

from torch import nn

from adapt.alignment import Moments
from adapt.fusion import ClassPrior
from adapt.methods import Answer, Batch, Settings
from adapt.methods.late_fusion import LateFusion


class LateFusionPrior(LateFusion):
    """The source model's centre view, fused and balanced."""

    def __init__(self, model: nn.Module, n_classes: int, settings: Settings) -> None:
        super().__init__(model, settings.fusion_floor)
        self.answers = ClassPrior(n_classes, settings.prior_balance)

    def adapt(self, batch: Batch) -> Answer:
        """Predict `batch` by eye and ear; the prior takes in the answer after it is given."""
        answer = super().adapt(batch)
        scores = self.answers.balanced(answer.after)
        self.answers.add(scores)
        return dataclasses.replace(answer, after=scores)


def build(model: nn.Module, statistics: Moments | None, n_classes: int, settings: Settings) -> LateFusionPrior:
    """The frozen model, fused and balanced."""
    return LateFusionPrior(model, n_classes, settings)

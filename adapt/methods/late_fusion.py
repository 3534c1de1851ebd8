"""Late fusion of the frozen source model with the sound: argmax p (e + s); no gradients."""
import dataclasses

from torch import nn

from adapt.alignment import Moments
from adapt.fusion import fuse
from adapt.methods import Answer, Batch, Settings
from adapt.methods.source import Source


class LateFusion(Source):
    """The source model's centre view, fused."""

    def __init__(self, model: nn.Module, floor: float) -> None:
        super().__init__(model)
        self.floor = floor

    def adapt(self, batch: Batch) -> Answer:
        """Predict `batch` by eye and ear."""
        answer = super().adapt(batch)
        return dataclasses.replace(answer, after=fuse(answer.after, batch.s, self.floor))


def build(model: nn.Module, statistics: Moments | None, n_classes: int, settings: Settings) -> LateFusion:
    """The frozen model, fused."""
    return LateFusion(model, settings.fusion_floor)

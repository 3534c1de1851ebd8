"""Adapt by vision alone, hear only when predicting: ViTTA, then argmax p (e + s).  The baseline to beat."""
import dataclasses

from torch import nn

from adapt.alignment import Moments
from adapt.fusion import fuse
from adapt.methods import Answer, Batch, Settings
from adapt.methods.vitta import Vitta


class VittaFusion(Vitta):
    """ViTTA whose answer is fused with the sound."""

    def adapt(self, batch: Batch) -> Answer:
        """One visual step on the batch, then predict it by eye and ear."""
        answer = super().adapt(batch)
        return dataclasses.replace(answer, after=fuse(answer.after, batch.s, self.settings.fusion_floor))


def build(model: nn.Module, statistics: Moments | None, n_classes: int, settings: Settings) -> VittaFusion:
    """ViTTA around `model`, fused."""
    return VittaFusion(model, statistics, settings)

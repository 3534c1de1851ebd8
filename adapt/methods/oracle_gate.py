"""An upper bound: `audio` whose audio term is active only where the sound's top class is the true class.

It sees labels, through an `Oracle` that no other method is given; its rows are marked.  Everything else, the fused answer included, is audio's.
It bounds what a better gate could give, not every clip: a sound whose top class is wrong may still help, by ranking the true class second.
"""
import torch
from torch import Tensor, nn

from adapt.alignment import Moments
from adapt.learner import Views
from adapt.methods import Batch, Settings
from adapt.methods.audio import Audio
from adapt.oracle import Oracle

NEEDS_LABELS = True


class OracleGate(Audio):
    """ViTTA with ears, told when to listen."""

    def __init__(self, model: nn.Module, statistics: Moments | None, n_classes: int, settings: Settings, oracle: Oracle) -> None:
        super().__init__(model, statistics, n_classes, settings)
        self.oracle = oracle

    def gate(self, views: Views, batch: Batch) -> Tensor:
        """audio's gate where argmax q is the true class, 0 elsewhere: (B,) in [0, 1]."""
        heard = batch.q.argmax(1)
        return super().gate(views, batch) * torch.tensor(self.oracle.true(batch.clip_ids, heard.tolist()), device=heard.device)


def build(model: nn.Module, statistics: Moments | None, n_classes: int, settings: Settings, oracle: Oracle) -> OracleGate:
    """The upper bound around `model`."""
    return OracleGate(model, statistics, n_classes, settings, oracle)

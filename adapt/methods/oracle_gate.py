"""An upper bound: `audio` that is told whether to trust a clip's sound: fully where its top class is the true class,
not at all elsewhere.

It sees labels, through an `Oracle` that no other method is given; its rows are marked.  Everything else is audio's.  It
bounds what better trust could give, not every clip: a sound whose top class is wrong may still help, by ranking the
true class second.
"""

import torch
from torch import Tensor, nn

from adapt.contract import Batch, SourceStatistics
from adapt.core.oracle import Oracle
from adapt.fusion.trusted import Trusted
from adapt.methods.audio import Audio, Settings

NEEDS_LABELS = True


class ToldWhenToTrust(Trusted):
    """Trusted fusion that is told which sounds to believe."""

    def __init__(self, n_classes: int, settings: Settings, oracle: Oracle) -> None:
        super().__init__(n_classes, settings)
        self.oracle = oracle

    def believed(self, batch: Batch, weight: float) -> Tensor:
        """1 where argmax q is the true class, else 0: (B,)."""
        heard = batch.q.argmax(1)
        return torch.tensor(self.oracle.true(batch.clip_ids, heard.tolist())).to(batch.q)


class OracleGate(Audio):
    """ViTTA with ears, told when to listen."""

    def __init__(
        self, model: nn.Module, statistics: SourceStatistics | None, n_classes: int, settings: Settings, oracle: Oracle
    ) -> None:
        super().__init__(model, statistics, n_classes, settings)
        self.fusion = ToldWhenToTrust(n_classes, settings, oracle)


def build(
    model: nn.Module, statistics: SourceStatistics | None, n_classes: int, settings: Settings, oracle: Oracle
) -> OracleGate:
    """The upper bound around `model`."""
    return OracleGate(model, statistics, n_classes, settings, oracle)

"""The source model as it is: the baseline of every table."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from adapt.contract import Answer, Batch, SourceStatistics
from adapt.core.state import Stateful


@dataclass(frozen=True)
class Settings:
    """There are none."""


class Source(Stateful):
    """Predict from the centre view; nothing adapts."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model.eval()

    def adapt(self, batch: Batch) -> Answer:
        """Predict `batch`."""
        log_p = self.source_answer(batch)
        return Answer(before=log_p, after=log_p, source=log_p)

    @torch.inference_mode()
    def source_answer(self, batch: Batch) -> Tensor:
        """Log-probabilities of the centre view: (B, K)."""
        log_p: Tensor = self.model(batch.centre[:, 0]).log_softmax(1)
        return log_p


def build(model: nn.Module, statistics: SourceStatistics | None, n_classes: int, settings: Settings) -> Source:
    """The unadapted model."""
    return Source(model)

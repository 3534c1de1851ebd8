"""The source model as it is: the baseline of every table."""
import torch
from torch import nn

from adapt.contract import Answer, Batch, Moments
from adapt.core.state import Stateful
from adapt.methods import Settings


class Source(Stateful):
    """Predict from the centre view; nothing adapts."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model.eval()

    @torch.inference_mode()
    def adapt(self, batch: Batch) -> Answer:
        """Predict `batch`."""
        log_p = self.model(batch.centre[:, 0]).log_softmax(1)
        return Answer(before=log_p, after=log_p)


def build(model: nn.Module, statistics: Moments | None, n_classes: int, settings: Settings) -> Source:
    """The unadapted model."""
    return Source(model)

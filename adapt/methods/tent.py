"""Tent (Wang et al., ICLR 2021, arXiv 2006.10726): minimise the entropy of the prediction over the scale and shift of
norm layers.

H(p) = -sum_k p_k log p_k, one SGD step a batch, batch norm with the batch's own statistics (section 3).  A batch here
is one clip: statistics are taken over its views, time and space and, since that is little, mixed with the source's
(`bn_prior`; 1 is Tent's own). A clip's p is the mean over its views.  The clip is predicted after the step, by its
centre view with that view's statistics.

As published: --preset tent_published.  What stays different from the authors' code: it answers with the forward that
the gradient came from (column before_id, with one view), and adapts 2D batch norms alone.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from adapt.contract import Answer, Batch, SourceStatistics, Step
from adapt.core import learner
from adapt.core.batch_norm import MixingSettings, own_share, own_statistics
from adapt.core.learner import Learner, Views, adapted_parameters, milliseconds_since
from adapt.core.settings import setting
from adapt.losses import entropy


@dataclass(frozen=True)
class Settings(MixingSettings, learner.Settings):
    """Of Tent, and of the methods that begin with it."""

    lr: float = setting(2.5e-4, unit="per step", source="Tent, EATA: experiments (ImageNet, batches of 64)")
    """SGD's learning rate"""


class Tent(Learner):
    """Entropy minimisation."""

    def __init__(self, model: nn.Module, settings: Settings, parameters: Sequence[nn.Parameter] | None = None) -> None:
        chosen = adapted_parameters(model, settings.scope) if parameters is None else parameters
        super().__init__(model, settings, chosen, settings.lr, settings.weight_decay, settings.dropout)
        self.settings = settings

    def look(self, batch: Batch) -> Views:
        """Forward the views with their own statistics."""
        with own_statistics(self.model, own_share(self.settings, len(batch.frames))):
            return Views(self.forward_views(batch))

    @torch.inference_mode()
    def predict(self, batch: Batch) -> Tensor:
        """Log-probabilities of the centre view with its own statistics: (B, K)."""
        with own_statistics(self.model, own_share(self.settings, len(batch.centre))):
            return super().predict(batch)

    def learn(self, batch: Batch) -> Answer:
        """One step on the batch, then predict it."""
        started = time.perf_counter()
        views = self.look(batch)
        loss = entropy(views.log_mean).mean()
        taken = self.optimiser.step(loss)
        return self.answer(batch, views, "max_iterations", started, loss if taken else None)

    def answer(self, batch: Batch, views: Views, reason: str, started: float, loss: Tensor | None = None) -> Answer:
        """Predict the batch after a step on `loss`, or after none."""
        trace = [] if loss is None else [Step(loss.item(), bool(views.agree), milliseconds_since(started))]
        return Answer(views.log_mean.detach(), self.predict(batch), steps=len(trace), stop_reason=reason, trace=trace)


def build(model: nn.Module, statistics: SourceStatistics | None, n_classes: int, settings: Settings) -> Tent:
    """Tent around `model`; it needs no source statistics but those in the batch norm buffers."""
    return Tent(model, settings)

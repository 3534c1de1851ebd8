"""DUA (Mirza et al., CVPR 2022, arXiv 2112.00463): batch norm's running statistics follow the stream; no gradients.

For the n-th batch (n = 1, 2, ...) the norm layers alone are in training mode, and their buffers take the batch's
statistics in with momentum delta omega^n + zeta (the authors' code): large at first, never below zeta.
The clip is predicted afterwards, in eval mode.

What differs: the authors make a batch of 64 random crops, flips and turns of one image, adapt on 80 images and report
the best of the 80 models on the whole test set; here a batch is the views of the clip that is then predicted, in one
pass, and zeta is larger by default, since a stream is short.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from adapt.contract import Answer, Batch, SourceStatistics
from adapt.core.batch_norm import Buffers, batch_norms, following
from adapt.core.learner import NOT_FINITE, Views
from adapt.core.settings import setting
from adapt.core.state import Stateful
from adapt.errors import MethodError


@dataclass(frozen=True)
class Following:
    """Of methods whose batch norm statistics follow the stream."""

    dua_momentum: float = setting(0.1, unit="share", high=1, source="DUA's code: mom_pre")
    """delta: what the momentum decays from"""
    dua_decay: float = setting(0.94, unit="a batch", high=1, source="DUA's code: decay_factor")
    """omega: the momentum above its floor is multiplied by this from batch to batch"""
    dua_floor: float = setting(0.02, unit="share", high=1, source="DUA's code: min_mom, 0.005; default ours")
    """zeta: the momentum's lower bound, added to what decays"""


@dataclass(frozen=True)
class Settings(Following):
    """Of DUA."""


class Follower(Stateful):
    """The buffers of a model's batch norms, and how far their momentum has decayed."""

    running = ("n_batches",)

    def __init__(self, model: nn.Module, settings: Following, method: str) -> None:
        if not batch_norms(model):
            raise MethodError(
                f"{method}: {model._get_name()} has no batch norm layer whose statistics could follow: choose neo, "
                "which needs none"
            )
        self.model, self.settings, self.buffers = model, settings, Buffers(model)
        self.n_batches = 0

    def reset(self) -> None:
        """The source's statistics; the momentum is large again."""
        super().reset()
        self.n_batches = 0

    def momentum(self) -> float:
        """Of the next batch: delta omega^n + zeta, at most 1."""
        s = self.settings
        return min(1.0, s.dua_momentum * s.dua_decay ** (self.n_batches + 1) + s.dua_floor)

    @torch.no_grad()
    def follow(self, batch: Batch) -> bool:
        """Take the views' statistics in; False where something was not finite, and nothing has changed."""
        before = self.buffers.copy()
        fine = False
        try:
            with following(self.model, self.momentum()):
                logits: Tensor = self.model(batch.frames.flatten(0, 1))
            fine = self.buffers.finite() and not bool(logits.log_softmax(1).isnan().any())
        finally:
            if not fine:
                self.buffers.put(before)
        self.n_batches += fine
        return fine


class Dua(Stateful):
    """A network whose batch norm statistics follow the stream."""

    def __init__(self, model: nn.Module, settings: Settings) -> None:
        self.model = model.eval()
        self.follower = Follower(model, settings, "dua")

    @torch.no_grad()
    def adapt(self, batch: Batch) -> Answer:
        """Take the batch's statistics in, then predict its views and its centre view, in one forward."""
        if not self.follower.follow(batch):
            log_p = self.source_answer(batch)
            return Answer(before=log_p, after=log_p, stop_reason=NOT_FINITE, source=log_p)
        b, v = batch.frames.shape[:2]
        log_p = self.model(torch.cat([batch.frames.flatten(0, 1), batch.centre[:, 0]])).log_softmax(1)
        return Answer(before=Views(log_p[: b * v].view(b, v, -1)).log_mean, after=log_p[b * v :])

    @torch.no_grad()
    def source_answer(self, batch: Batch) -> Tensor:
        """Log-probabilities of the centre view with the source's statistics: (B, K)."""
        with self.follower.buffers.at(self.follower.buffers.source):
            log_p: Tensor = self.model(batch.centre[:, 0]).log_softmax(1)
        return log_p


def build(model: nn.Module, statistics: SourceStatistics | None, n_classes: int, settings: Settings) -> Dua:
    """DUA around `model`, which needs batch norm; it needs no source statistics but those in the buffers."""
    return Dua(model, settings)

"""CMF (Lee and Chang, ICLR 2024, Continual Momentum Filtering on Parameter Space): ROID's loss, its weights kept by a
Kalman filter.

The hidden weights h are a random walk back to the source, the weights theta after a step its noisy observation:
h <- alpha h + (1 - alpha) theta_source, v <- alpha^2 v + q, beta = (1 - q) / (v + 1 - q), h <- beta h + (1 - beta)
theta, v <- beta v, and what the next clip meets is theta <- gamma theta + (1 - gamma) h.  beta is kept in [0.89, 1],
and is 1 from 0.9999 on.

What differs from the authors' code (as in github.com/mariodoebler/test-time-adaptation): what differs in ROID
(roid.py), and that a clip of weight 0, which gives no step, is not filtered.  q is `cmf_q` times the number of weights
that adapt over 38400, as there.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from adapt.contract import SourceStatistics
from adapt.core.settings import setting
from adapt.core.state import Stateful, Weights
from adapt.methods.roid import Roid, Weighing

N_WEIGHTS = 38400  # norm weights of a ViT-B: q is for so many
LEAST, WHOLE = 0.89, 0.9999  # beta is at least the one, and 1 from the other on


@dataclass(frozen=True)
class Settings(Weighing):
    """Of CMF."""

    cmf_alpha: float = setting(0.99, high=1, source="CMF's code: alpha")
    """how much of the hidden weights stays, against the source's"""
    cmf_gamma: float = setting(0.99, high=1, source="CMF's code: gamma")
    """how much of the stepped weights stays, against the hidden ones"""
    cmf_q: float = setting(0.005, source="CMF's code: q")
    """variance of the hidden weights' walk, for 38400 weights that adapt"""


class Filter(Stateful):
    """The hidden weights and their variance."""

    running = ("hidden", "variance")

    def __init__(self, source: Sequence[Tensor], settings: Settings) -> None:
        self.source, self.settings = list(source), settings
        self.q = settings.cmf_q * sum(weight.numel() for weight in source) / N_WEIGHTS
        self.reset()

    def reset(self) -> None:
        """The source's weights, surely."""
        self.hidden, self.variance = [weight.clone() for weight in self.source], 0.0

    def beta(self) -> float:
        """Predict the variance, and update it; how much of the prediction stays."""
        self.variance = self.settings.cmf_alpha**2 * self.variance + self.q
        beta = max(LEAST, (1 - self.q) / (self.variance + 1 - self.q))
        beta = beta if beta < WHOLE else 1.0
        self.variance = beta * self.variance
        return beta

    @torch.no_grad()
    def update(self, weights: Weights) -> None:
        """Take the weights after a step in, and mix the hidden ones into them."""
        beta, alpha = self.beta(), self.settings.cmf_alpha
        predicted = [torch.lerp(source, h, alpha) for source, h in zip(self.source, self.hidden, strict=True)]
        self.hidden = [torch.lerp(w, h, beta) for w, h in zip(weights.copy(), predicted, strict=True)]
        weights.keep(self.hidden, self.settings.cmf_gamma)


class Cmf(Roid):
    """ROID's self-training under a filter."""

    def __init__(self, model: nn.Module, n_classes: int, settings: Settings) -> None:
        super().__init__(model, n_classes, settings)
        self.hidden = Filter(self.weights.source, settings)

    def filter(self) -> None:
        """Filter the weights after a step."""
        self.hidden.update(self.weights)


def build(model: nn.Module, statistics: SourceStatistics | None, n_classes: int, settings: Settings) -> Cmf:
    """CMF around `model`; it needs no source statistics but those in the batch norm buffers."""
    return Cmf(model, n_classes, settings)

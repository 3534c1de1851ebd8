"""Losses that need no label: functions of what a network answers, and the alignment of its features.

A head may mask a class: its logit and log-probability are then -inf, and 0 x -inf is 0 in every loss and every
gradient.
"""

import math

import torch
from torch import Tensor

from adapt.contract import Moments
from adapt.core.state import Stateful
from adapt.errors import MethodError


def entropy(log_p: Tensor) -> Tensor:
    """-sum_k p_k log p_k; 0 log 0 is 0: (B, K) -> (B,)."""
    return -(log_p.exp() * log_p.masked_fill(log_p == -math.inf, 0)).sum(1)


def consistency(log_p: Tensor, over: str = "mean") -> Tensor:
    """mean over views of ||p_v - p||_1, p not detached: (B, V, K) -> scalar (ViTTA, equation 9).

    Over clips the `mean`, or the `sum`, as ViTTA's code has it.
    """
    p = log_p.exp()
    away = (p - p.mean(1, keepdim=True)).abs().sum(2)
    return away.mean(1).sum() if over == "sum" else away.mean()


def divergence(log_p: Tensor, t: Tensor) -> Tensor:
    """KL(t || p_v), mean over views; 0 where t is 0: log p (B, V, K), t (B, K) summing to 1, held fixed -> (B,)."""
    terms = t[:, None] * (t.clamp_min(1e-12).log()[:, None] - log_p)
    return torch.where(t[:, None] > 0, terms, 0).sum(2).mean(1)


class Alignment(Stateful):
    """Feature alignment (ViTTA, Lin et al., CVPR 2023, section 3.1): pull the moments of norm layers' outputs towards
    the source's.

    The online estimate is an exponential moving average that the gradient reaches through the newest clip only, and
    that is committed once a clip.
    """

    running = ("online",)

    def __init__(self, source: Moments, *, ema: float, start: str = "source") -> None:
        """`ema` is the weight of the newest clip; `start` is "source", or "zero" as ViTTA has it (without bias
        correction).
        """
        if start not in ("source", "zero"):
            raise MethodError(f"alignment start {start!r}: choose 'source' or 'zero'")
        self.source, self.ema, self.start = source, ema, start
        self.reset()

    def reset(self) -> None:
        """Forget the online estimate."""
        keep = 1.0 if self.start == "source" else 0.0
        self.online = {name: (mean * keep, variance * keep) for name, (mean, variance) in self.source.items()}

    def loss(self, seen: Moments) -> Tensor:
        """sum over layers of mean|mu - mu_src| + mean|var - var_src|, a scalar; equation 6 of ViTTA."""
        terms = []
        for name, (mean, variance) in self._blend(seen).items():
            source_mean, source_variance = self.source[name]
            terms.append((mean - source_mean).abs().mean() + (variance - source_variance).abs().mean())
        return torch.stack(terms).sum()

    def commit(self, seen: Moments) -> None:
        """Take the newest clip's moments into the online estimate."""
        self.online = {name: (mean.detach(), variance.detach()) for name, (mean, variance) in self._blend(seen).items()}

    def _blend(self, seen: Moments) -> Moments:
        new, old = self.ema, 1 - self.ema
        return {
            name: (new * mean + old * self.online[name][0], new * variance + old * self.online[name][1])
            for name, (mean, variance) in seen.items()
        }


def three_terms(alignment: Alignment, seen: Moments, log_p: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(alignment, consistency, divergence from t (B,)) of one forward of the views.

    `seen` are its moments, `log_p` is (B, V, K), the target `t` (B, K).
    """
    return alignment.loss(seen), consistency(log_p), divergence(log_p, t)

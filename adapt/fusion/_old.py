"""Late fusion of picture and sound, in logarithms (ours).

The baselines have p (e + s): a class without evidence keeps the share e of its probability (`fusion_floor`), and where nothing is heard the
picture decides alone.  `audio` has p^omega (r a + (1 - r) / K), a = (e + s) (1 - n absent) scaled to sum 1: the same where the sound is
trusted fully (r = 1) and the picture is informative (omega = 1), the picture alone where the sound is not trusted (r = 0).
"""
import torch
from torch import Tensor

from adapt.core.state import Stateful


def fuse(log_p: Tensor, s: Tensor, floor: float) -> Tensor:
    """log p + log(e + s): log_p (B, K), evidence s (B, K) in [0, 1] -> scores (B, K)."""
    return log_p + (floor + s).log()


def trusted(s: Tensor, trust: Tensor, floor: float, absent: Tensor | None = None, negative: float = 0.0) -> Tensor:
    """log(r a + (1 - r) / K): evidence s (B, K), trust r (B,), both in [0, 1] -> (B, K).

    `absent` (B, K) in [0, 1] says which classes lack a sound that they cannot go without; `negative` in [0, 1] is its weight n.
    """
    a = floor + s
    if absent is not None:
        a = a * (1 - negative * absent)
    a = a / a.sum(1, keepdim=True)
    r = trust.to(a)[:, None]
    return (r * a + (1 - r) / s.shape[1]).clamp_min(torch.finfo(a.dtype).tiny).log()


class ClassPrior(Stateful):
    """The running mean of predicted distributions, from uniform: what to divide by so that no class takes everything."""

    running = ("total",)

    def __init__(self, n_classes: int, weight: float = 0.0) -> None:
        """`weight` is the exponent; the uniform start counts as K clips."""
        self.n_classes, self.weight = n_classes, weight
        self.reset()

    def reset(self) -> None:
        """Back to uniform."""
        self.total = torch.ones(self.n_classes, dtype=torch.float64)

    def mean(self) -> Tensor:
        """The prior: (K,), sums to 1."""
        return self.total / self.total.sum()

    def balanced(self, scores: Tensor) -> Tensor:
        """Scores (B, K) divided, in logarithms, by prior^weight."""
        log_prior = self.mean().log()
        return scores - self.weight * log_prior.to(scores)

    def add(self, scores: Tensor) -> None:
        """Take in the softmax of `scores` (B, K)."""
        self.total = self.total + scores.detach().double().softmax(1).sum(0).cpu()

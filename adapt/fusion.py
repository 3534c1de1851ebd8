"""Late fusion of picture and sound: score = p (e + s), in logarithms (ours; e is `fusion_floor`).

A class without evidence keeps the share e of its probability; where nothing is heard the picture decides alone.
"""
import torch
from torch import Tensor

from adapt.state import Stateful


def fuse(log_p: Tensor, s: Tensor, floor: float) -> Tensor:
    """log p + log(e + s): log_p (B, K), evidence s (B, K) in [0, 1] -> scores (B, K)."""
    return log_p + (floor + s).log()


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
        self.total += scores.detach().double().softmax(1).sum(0).cpu()

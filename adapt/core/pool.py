"""Several models' answers to one: a logarithmic opinion pool, weighted by the information in each (ours).

p ~ prod_m p_m^w_m (Genest and Zidek 1986), w_m in proportion to n I_m + START `information`.  I_m = (H(mean p_m) - mean
H(p_m)) / log K is the mutual information of clip and answer (Bridle et al. 1991): a model that the corruption has made
answer the same to every clip is not listened to, and before the first clip all count alike.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adapt.core.settings import setting
from adapt.core.state import Stateful

START = 5.0  # clips that a full count from the start is worth, in information


@dataclass(frozen=True)
class Pooling:
    """How much several models' answers count."""

    information: float = setting(0.2, unit="share of log K", high=1, source="ours, after Bridle et al. 1991")
    """mutual information of clip and answer from which the picture counts fully; 0: always"""
    source_mix: float = setting(1.0, unit="share", high=1)
    """how much of the weight that its information gives the source model's answer beside the adapted one's; 0: none"""


class Information(Stateful):
    """The running mean of p and of its entropy."""

    running, moves = ("total", "entropy", "n_clips"), False

    def __init__(self, n_classes: int, enough: float) -> None:
        """`enough` is the share of log K from which the picture counts fully."""
        self.n_classes, self.enough = n_classes, enough
        self.reset()

    def reset(self) -> None:
        """A uniform mean that counts as one clip."""
        self.total = torch.full((self.n_classes,), 1 / self.n_classes, dtype=torch.float64)
        self.entropy, self.n_clips = 0.0, 0

    def add(self, p: Tensor) -> None:
        """Take in predictions p (B, K)."""
        p = p.detach().double().cpu()
        self.total = self.total + p.sum(0)
        self.entropy -= torch.special.xlogy(p, p).sum().item()
        self.n_clips += len(p)

    def mean(self) -> Tensor:
        """pi, the mean of p: (K,), sums to 1."""
        return self.total / self.total.sum()

    def weight(self) -> float:
        """omega in [0, 1]; 1 before the first clip, and always where `enough` is 0."""
        if self.enough <= 0 or self.n_clips == 0:
            return 1.0
        return (self.n_clips * min(1.0, self.mutual() / self.enough) + START) / (self.n_clips + START)

    def mutual(self) -> float:
        """I, as a share of log K: at least 0, and 0 before the first clip."""
        if self.n_clips == 0:
            return 0.0
        pi = self.mean()
        spread = -torch.special.xlogy(pi, pi).sum().item() - self.entropy / self.n_clips
        return max(0.0, spread / math.log(self.n_classes))


class Pool(Stateful):
    """A logarithmic opinion pool of `n` models."""

    def __init__(self, n_classes: int, n: int, information: float, last: float = 1.0) -> None:
        """`information` is a share of log K, of which START clips are counted for each model before the first clip;
        `last` is the share that the last model keeps of its weight, the others take the rest; one alone has all.
        """
        self.prior, self.last = START * information, last if n > 1 else 1.0
        self.found = {str(i): Information(n_classes, information) for i in range(n)}

    def _parts(self) -> dict[str, Stateful]:
        return dict(self.found)

    def reset(self) -> None:
        """All models count alike again."""
        for found in self.found.values():
            found.reset()

    def weights(self) -> list[float]:
        """w_m, of sum 1."""
        says = [found.n_clips * found.mutual() + self.prior for found in self.found.values()]
        total = sum(says)
        weights = [one / total if total > 0 else 1 / len(says) for one in says]
        last = self.last * weights[-1]
        others = sum(weights[:-1])
        return [(one / others if others > 0 else 1 / (len(weights) - 1)) * (1 - last) for one in weights[:-1]] + [last]

    def mix(self, answers: Sequence[Tensor]) -> Tensor:
        """sum_m w_m log p_m, scaled: log-probabilities (B, K) of every model -> (B, K).

        A class that one model rules out, by log p = -inf, is ruled out, unless that model has no weight.  A model that
        answers NaN is left out; NaN where all do.  One alone is passed on.
        """
        if len(answers) == 1:
            return answers[0]
        total, mixed, ruled_out = 0.0, torch.zeros_like(answers[0]), torch.zeros_like(answers[0], dtype=torch.bool)
        for answer, weight in zip(answers, self.weights(), strict=True):
            if weight > 0 and not bool(answer.isnan().any()):
                total, never = total + weight, answer == -math.inf
                mixed = torch.lerp(mixed, answer.masked_fill(never, 0).to(mixed), weight / total)
                ruled_out = ruled_out | never
        if total == 0:
            return torch.full_like(answers[0], math.nan)
        return mixed.masked_fill(ruled_out, -math.inf).log_softmax(1)

    def add(self, answers: Sequence[Tensor]) -> None:
        """Take in what every model said of a batch, log-probabilities (B, K) each; nothing where one said NaN."""
        if any(bool(answer.isnan().any()) for answer in answers):
            return
        for found, answer in zip(self.found.values(), answers, strict=True):
            found.add(answer.exp())

"""Guards of methods that take gradients (adapt/METHOD.md, section 8), each off by default and shared by all of them.

Weight ensembling, after each clip w <- alpha w + (1 - alpha) w_source (ROID, Marsden et al., WACV 2024, arXiv
2306.00650).  Collapse guard (ours): a model that has collapsed answers few classes and contradicts what the source was
sure of; then the last good weights come back.
"""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from adapt.contract import Answer
from adapt.core.settings import setting
from adapt.core.state import Sgd, Stateful, Weights

SURE = 0.8  # probability from which the source is sure of a class


@dataclass(frozen=True)
class GuardSettings:
    """What is watched beside a method's own work; all off by default."""

    budget_ms: float = setting(0.0, unit="ms a clip")
    """milliseconds that a clip may take without decoding; steps that would not fit are left out; 0: no budget"""
    ensemble: float = setting(1.0, high=1, source="ROID: weight ensembling; default ours")
    """alpha in w <- alpha w + (1 - alpha) w_source after each clip (ROID: 0.99); 1 is off"""
    collapse_entropy: float = setting(0.0, unit="share of log K", high=1)
    """below this the running class marginal is suspiciously narrow; 0 turns this guard off"""
    collapse_agreement: float = setting(0.5, unit="share of sure clips")
    """agreement with a sure source below which a narrow marginal is a collapse; above 1 narrowness suffices"""
    collapse_memory: float = setting(0.95, high=1, below=True)
    """weight of the past in both running values, per clip"""
    collapse_every: int = setting(20, unit="clips", low=1)
    """clips between snapshots of good weights"""

    def guarded(self) -> bool:
        """Whether a guard is on."""
        return self.ensemble < 1 or self.collapse_entropy > 0


class Guards(Stateful):
    """What is watched between two clips."""

    running = ("marginal", "agreement", "good", "n_clips")

    def __init__(self, settings: GuardSettings) -> None:
        self.settings = settings
        self.reset()

    def reset(self) -> None:
        """Nothing seen; the source weights are the good ones."""
        self.marginal: Tensor | None = None  # (K,) running mean of answers, from uniform
        self.agreement = 1.0  # with the source where that was sure, from 1
        self.good: list[Tensor] | None = None  # the last good weights; None for the source's
        self.n_clips = 0

    def after(self, answer: Answer, weights: Weights, optimiser: Sgd, predict: Callable[[], Tensor]) -> Answer:
        """Look at the answer to a batch before the next one comes; `predict` gives log p (B, K) of the batch with
        today's weights.

        Returns the answer, with stop reason `collapsed` where the weights were put back.
        """
        s = self.settings
        if s.ensemble < 1:
            weights.keep(weights.source, s.ensemble)
        if s.collapse_entropy <= 0:
            return answer
        with weights.at(weights.source):
            self._take_in(answer.after, predict())
        if self.narrow() and self.agreement < s.collapse_agreement:
            self._restore(weights, optimiser)
            return dataclasses.replace(answer, stop_reason="collapsed")
        self.n_clips += len(answer.after)
        if self.n_clips >= s.collapse_every and not self.narrow():
            self.good, self.n_clips = weights.copy(), 0
        return answer

    def narrow(self) -> bool:
        """Whether the running class marginal's entropy is below its threshold."""
        if self.marginal is None:
            return False
        entropy = -torch.special.xlogy(self.marginal, self.marginal).sum().item()
        return entropy < self.settings.collapse_entropy * math.log(len(self.marginal))

    def _take_in(self, log_p: Tensor, source_log_p: Tensor) -> None:
        fresh = 1 - self.settings.collapse_memory
        k = log_p.shape[1]
        for p, source in zip(log_p.detach().exp(), source_log_p.detach().exp(), strict=True):
            old = p.new_full((k,), 1 / k) if self.marginal is None else self.marginal
            self.marginal = torch.lerp(old, p, fresh)
            if source.max() > SURE:
                self.agreement += fresh * (float(p.argmax() == source.argmax()) - self.agreement)

    def _restore(self, weights: Weights, optimiser: Sgd) -> None:
        """Put the last good weights back and watch from scratch; a collapse right after that goes back to the
        source.
        """
        weights.put(weights.source if self.good is None else self.good)
        optimiser.reset()
        self.reset()

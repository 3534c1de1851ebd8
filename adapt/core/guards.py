"""Guards of methods that take gradients (adapt/METHOD.md, section 9), each off by default and shared by all of them.

Weight ensembling, after each clip w <- alpha w + (1 - alpha) w_source (ROID, Marsden et al., WACV 2024, arXiv 2306.00650).  Collapse guard
(ours): a model that has collapsed answers few classes and contradicts what the source was sure of; then the last good weights come back.
"""
import dataclasses
import math
from collections.abc import Callable

import torch
from torch import Tensor

from adapt.contract import Answer
from adapt.core.state import Sgd, Stateful, Weights
from adapt.methods import Settings


class Guards(Stateful):
    """What is watched between two clips."""

    running = ("marginal", "agreement", "good", "n_clips")

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.reset()

    def reset(self) -> None:
        """Nothing seen; the source weights are the good ones."""
        self.marginal: Tensor | None = None  # (K,) running mean of answers, from uniform
        self.agreement = 1.0  # with the source where that was sure, from 1
        self.good: list[Tensor] | None = None  # the last good weights; None for the source's
        self.n_clips = 0

    def after(self, answer: Answer, weights: Weights, optimiser: Sgd, predict: Callable[[], Tensor]) -> Answer:
        """Look at the answer to a batch before the next one comes; `predict` gives log-probabilities (B, K) of the batch with today's weights.

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
            if source.max() > self.settings.confident:
                self.agreement += fresh * (float(p.argmax() == source.argmax()) - self.agreement)

    def _restore(self, weights: Weights, optimiser: Sgd) -> None:
        """Put the last good weights back and watch from scratch; a collapse right after that goes back to the source."""
        weights.put(weights.source if self.good is None else self.good)
        optimiser.reset()
        self.reset()

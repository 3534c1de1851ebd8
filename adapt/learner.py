"""A method that takes gradients: the model, the weights that adapt, their optimiser, and the guards between two clips.

A method proper (adapt/methods) says in `learn` what it does with a batch; everything else that such methods share lives here.
"""
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from adapt.alignment import NORMS, Moments
from adapt.budget import Budget
from adapt.errors import MethodError
from adapt.guards import Guards
from adapt.methods import Answer, Batch, Settings
from adapt.state import Sgd, Stateful, Weights


@dataclass(frozen=True)
class Views:
    """What one forward of the views gives."""

    log_p: Tensor  # (B, V, K)
    seen: Moments = field(default_factory=dict)  # of the aligned layers, for methods that align

    def mean(self) -> Tensor:
        """p, the mean over views: (B, K)."""
        return self.log_p.exp().mean(1)

    def log_mean(self) -> Tensor:
        """log p without underflow: (B, K)."""
        return self.log_p.logsumexp(1) - math.log(self.log_p.shape[1])

    def agree(self) -> bool:
        """Whether all views of every clip have the same class on top."""
        top = self.log_p.argmax(2)
        return bool((top == top[:, :1]).all())


def adapted_parameters(model: nn.Module, scope: str) -> list[nn.Parameter]:
    """The parameters that adapt: `norm` is scale and shift of every norm layer, `all` is everything.  Raises MethodError for none."""
    if scope == "all":
        return list(model.parameters())
    if scope != "norm":
        raise MethodError(f"scope {scope!r}: choose 'norm' or 'all'")
    found = [p for module in model.modules() if isinstance(module, NORMS) for p in module.parameters(recurse=False)]
    if not found:
        raise MethodError(f"{model._get_name()} has no norm layer with weights: set scope to 'all'")
    return found


def milliseconds_since(started: float) -> float:
    """Since a value of time.perf_counter()."""
    return 1000 * (time.perf_counter() - started)


class Learner(Stateful, ABC):
    """Adapts some weights of a model in place; all others stop needing gradients."""

    def __init__(self, model: nn.Module, settings: Settings, parameters: Sequence[nn.Parameter], lr: float) -> None:
        self.model, self.settings = model.eval(), settings
        model.requires_grad_(False)
        self.parameters = list(parameters)
        if not self.parameters:
            raise MethodError(f"no weight of {model._get_name()} is left to adapt: set scope to 'all' or freeze less")
        for parameter in self.parameters:
            parameter.requires_grad_(True)
        self.weights = Weights(model, self.parameters)
        self.optimiser = Sgd(self.parameters, lr, settings.momentum, settings.weight_decay)
        self.guards = Guards(settings)
        self.budget = Budget(settings.budget_ms)

    @abstractmethod
    def learn(self, batch: Batch) -> Answer:
        """Adapt on `batch`, then predict it."""

    def adapt(self, batch: Batch) -> Answer:
        """Adapt on `batch`, then predict it; the guards act between this batch and the next."""
        self.budget.begin(lambda: self.predict(batch))
        answer = self.learn(batch) if self.budget.allows_step() else self._predict_only(batch)
        self.budget.end([step.ms for step in answer.trace])
        return self.guards.after(answer, self.weights, self.optimiser, lambda: self.predict(batch))

    def _predict_only(self, batch: Batch) -> Answer:
        """The answer to a batch that there is no time to adapt on."""
        log_p = self.predict(batch)
        return Answer(before=log_p, after=log_p, stop_reason="budget")

    @contextmanager
    def _dropout(self) -> Iterator[None]:
        """Within the block dropout is as set; everything else is in eval mode."""
        if self.settings.dropout:
            for module in self.model.modules():
                if isinstance(module, nn.Dropout):
                    module.train()
        try:
            yield
        finally:
            self.model.eval()

    def forward_views(self, batch: Batch) -> Tensor:
        """Log-probabilities of every view: (B, V, K)."""
        b, v = batch.frames.shape[:2]
        with self._dropout():
            log_p: Tensor = self.model(batch.frames.flatten(0, 1)).log_softmax(1).view(b, v, -1)
        return log_p

    @torch.inference_mode()
    def predict(self, batch: Batch) -> Tensor:
        """Log-probabilities of the centre view: (B, K)."""
        log_p: Tensor = self.model(batch.centre[:, 0]).log_softmax(1)
        return log_p

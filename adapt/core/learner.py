"""A method that takes gradients: the model, the weights that adapt, their optimiser, and the guards between two clips.

A method proper (adapt/methods) says in `learn` what it does with a batch; everything else that such methods share lives
here.
"""

import dataclasses
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from adapt.contract import Answer, Batch, Moments, blocks_of
from adapt.core._budget import Budget
from adapt.core._guards import Guards, GuardSettings
from adapt.core._prefix import Prefix
from adapt.core.moments import NORMS, norm_layers, record
from adapt.core.settings import setting
from adapt.core.state import Sgd, Stateful, Weights
from adapt.errors import MethodError

NOT_FINITE = "not_finite"  # stop reason: a loss, a gradient or an answer was not finite, and the step was not taken
SCOPES = ("norm", "last_norm", "last", "all")


@dataclass(frozen=True)
class SgdSettings(GuardSettings):
    """Of every method that takes gradients."""

    scope: str = setting("norm", choices=SCOPES, source="norm: Tent, section 3; all: ViTTA; the others ours")
    """which weights adapt: norm (scale and shift of norm layers), all, last (those of the last blocks), last_norm"""
    momentum: float = setting(0.9, high=1, below=True, source="ViTTA, Tent, EATA, SAR: experiments")
    """of SGD on the stream"""


@dataclass(frozen=True)
class Settings(SgdSettings):
    """Of the methods that are others' work."""

    weight_decay: float = setting(0.0, unit="per step", source="ViTTA: experiments (5e-4); default ours")
    """SGD's, on the stream; times the learning rate"""
    dropout: bool = setting(False, source="ViTTA's code; default ours")
    """left on while adapting"""
    dropout_rate: float = setting(
        0.0, unit="share", high=1, below=True, source="ViTTA's code: 0.8 before TANet's head; default ours"
    )
    """of the last dropout layer, the one before the head, where dropout is on; 0: as the network was built"""


@dataclass
class Views:
    """What one forward of the views gives."""

    log_p: Tensor  # (B, V, K); -inf for a class that the head masks
    seen: Moments = field(default_factory=dict)  # of the aligned layers, for methods that align
    log_mean: Tensor = field(init=False)  # (B, K) log of p, the mean over views, without underflow
    agree: Tensor = field(init=False)  # () bool: whether all views of every clip have the same class on top

    def __post_init__(self) -> None:
        """Work out what follows from log p; logsumexp has no gradient where all it sums is 0."""
        masked, top = (self.log_p == -math.inf).all(1, keepdim=True), self.log_p.argmax(2)
        log_sum = self.log_p.masked_fill(masked, 0).logsumexp(1)
        self.log_mean = (log_sum - math.log(self.log_p.shape[1])).masked_fill(masked[:, 0], -math.inf)
        self.agree = (top == top[:, :1]).all()

    def mean(self) -> Tensor:
        """p, the mean over views: (B, K)."""
        return self.log_p.exp().mean(1)


def adapted_parameters(model: nn.Module, scope: str) -> list[nn.Parameter]:
    """The parameters that adapt, in order of registration.

    `norm` is scale and shift of every norm layer, `all` is everything; `last_norm` and `last` are the same in the last
    blocks only, from the block on that holds the first aligned layer (for a model without blocks: from that layer on).
    Raises MethodError for none.
    """
    if scope not in SCOPES:
        raise MethodError(f"scope {scope!r}: choose one of {list(SCOPES)}")
    modules = _last_modules(model) if scope.startswith("last") else list(model.modules())
    if scope in ("last", "all"):
        return _own_parameters(modules)
    found = _own_parameters([module for module in modules if isinstance(module, NORMS)])
    if not found:
        instead = "last" if scope == "last_norm" else "all"
        raise MethodError(f"{model._get_name()} has no norm layer with weights: set scope to '{instead}'")
    return found


def _own_parameters(modules: Sequence[nn.Module]) -> list[nn.Parameter]:
    """The modules' parameters without those of their submodules, shared ones once."""
    return list(
        {id(parameter): parameter for module in modules for parameter in module.parameters(recurse=False)}.values()
    )


def _last_modules(model: nn.Module) -> list[nn.Module]:
    """Every module of the last blocks, in order of registration."""
    aligned = {model.get_submodule(name) for name in norm_layers(model)}
    blocks = [
        {module for name in block.modules for module in model.get_submodule(name).modules()}
        for block in blocks_of(model)
    ]
    if not blocks:
        modules = list(model.modules())
        return modules[min(modules.index(module) for module in aligned) :]
    first = next((i for i, block in enumerate(blocks) if block & aligned), 0)
    last: set[nn.Module] = set().union(*blocks[first:])
    return [module for module in model.modules() if module in last]


def milliseconds_since(started: float) -> float:
    """Since a value of time.perf_counter()."""
    return 1000 * (time.perf_counter() - started)


class Learner(Stateful, ABC):
    """Adapts some weights of a model in place; all others stop needing gradients."""

    layers: Sequence[str] = ()  # norm layers whose moments `look` records
    running = ("n_not_finite",)

    def __init__(
        self, model: nn.Module, settings: SgdSettings, parameters: Sequence[nn.Parameter], lr: float,
        weight_decay: float = 0.0,
        dropout: bool = False,
    ) -> None:  # fmt: skip
        self.model, self.dropout = model.eval(), dropout
        self.dropout_rate = settings.dropout_rate if isinstance(settings, Settings) else 0.0
        self.network: Prefix | None = Prefix(model) if blocks_of(model) else None
        model.requires_grad_(False)
        self.parameters = list(parameters)
        if not self.parameters:
            raise MethodError(f"no weight of {model._get_name()} is left to adapt: set scope to 'all' or freeze less")
        for parameter in self.parameters:
            parameter.requires_grad_(True)
        self.weights = Weights(model, self.parameters)
        self.optimiser = Sgd(self.parameters, lr, settings.momentum, weight_decay)
        self.guards = Guards(settings) if settings.guarded() else None
        self.budget = Budget(settings.budget_ms) if settings.budget_ms > 0 else None
        self.n_not_finite = 0  # batches that gave no step because something was not finite

    @abstractmethod
    def learn(self, batch: Batch) -> Answer:
        """Adapt on `batch`, then predict it."""

    def adapt(self, batch: Batch) -> Answer:
        """Adapt on `batch`, then predict it; the guards act between this batch and the next.

        Where a step was not taken because something was not finite, the stop reason says so, whatever the method's own.
        """
        n_refused = self.optimiser.n_refused
        if self.budget is None:
            answer = self.learn(batch)
        else:
            self.budget.begin(lambda: self.predict(batch))
            answer = self.learn(batch) if self.budget.allows_step() else self._predict_only(batch)
            self.budget.end([step.ms for step in answer.trace])
        refused = self.optimiser.n_refused > n_refused or answer.stop_reason == NOT_FINITE
        if refused or bool(answer.before.isnan().any()):
            self.n_not_finite += 1
            return dataclasses.replace(answer, stop_reason=NOT_FINITE)
        if self.guards is None:
            return answer
        return self.guards.after(answer, self.weights, self.optimiser, lambda: self.predict(batch))

    def reset(self) -> None:
        """Give back the source weights; forget the momentum, what the guards know and every estimate."""
        super().reset()
        self.n_not_finite = 0

    def move(self, fn: Callable[[Tensor], Tensor]) -> None:
        """Apply `fn` to every tensor beside the network, which has moved before; what is kept of the last clip goes."""
        super().move(fn)
        self.network = Prefix(self.model) if blocks_of(self.model) else None

    def _predict_only(self, batch: Batch) -> Answer:
        """The answer to a batch that there is no time to adapt on."""
        log_p = self.predict(batch)
        return Answer(before=log_p, after=log_p, stop_reason="budget")

    @contextmanager
    def _dropout(self) -> Iterator[None]:
        """Within the block dropout is as set; everything else is in eval mode."""
        dropouts = [module for module in self.model.modules() if isinstance(module, nn.Dropout)] if self.dropout else []
        built = [module.p for module in dropouts]
        for module in dropouts:
            module.train()
        if dropouts and self.dropout_rate > 0:
            dropouts[-1].p = self.dropout_rate
        try:
            yield
        finally:
            for module, rate in zip(dropouts, built, strict=True):
                module.p = rate
                module.eval()

    def look(self, batch: Batch) -> Views:
        """Forward the views, batch norm in eval mode and dropout as set; the moments of `layers` are recorded on the
        way.
        """
        seen: Moments = {}
        handles = [
            self.model.get_submodule(name).register_forward_hook(partial(record, seen, name)) for name in self.layers
        ]
        try:
            return Views(self.forward_views(batch), seen)
        finally:
            for handle in handles:
                handle.remove()

    def forward_views(self, batch: Batch) -> Tensor:
        """Log-probabilities of every view: (B, V, K)."""
        b, v = batch.frames.shape[:2]
        for parameter in self.parameters:
            # of the step before: no use any more, and in memory beside this forward's activations
            parameter.grad = None
        with self._dropout():
            logits = self.model(batch.frames.flatten(0, 1)) if self.network is None else self.network.views(batch)
        log_p: Tensor = logits.log_softmax(1)
        return log_p.view(b, v, -1)

    def centre_logits(self, batch: Batch) -> Tensor:
        """Logits of the centre view: (B, K)."""
        logits: Tensor = self.model(batch.centre[:, 0]) if self.network is None else self.network.centre(batch)
        return logits

    @torch.inference_mode()
    def predict(self, batch: Batch) -> Tensor:
        """Log-probabilities of the centre view: (B, K)."""
        return self.centre_logits(batch).log_softmax(1)

    def source_answer(self, batch: Batch) -> Tensor:
        """Log-probabilities (B, K) of the centre view by the source weights, batch norm as the source has it."""
        with self.weights.at(self.weights.source):
            return Learner.predict(self, batch)

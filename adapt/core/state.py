"""What a method carries from clip to clip, and the one way to reset, save and restore it.

Anything that changes is an attribute named in `running` or a `Stateful` of its own: a method is made of such parts and
needs no code of its own to be saved or moved.  A state holds dicts, lists, tuples, tensors, numbers and None, so
`torch.load(weights_only=True)` reads it back. Noise (dropout) comes from torch's global generator, which is not part of
it.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from adapt.errors import MethodError


def _like(value: Any, old: Any) -> Any:
    """A copy of `value`, each tensor on the device of its counterpart in `old`."""
    if isinstance(value, Tensor):
        return value.detach().clone().to(old.device if isinstance(old, Tensor) else value.device)
    if isinstance(value, Mapping):
        known = old if isinstance(old, Mapping) else {}
        return {key: _like(item, known.get(key)) for key, item in value.items()}
    if isinstance(value, list | tuple):
        paired = old if isinstance(old, list | tuple) and len(old) == len(value) else [None] * len(value)
        return type(value)(_like(item, counterpart) for item, counterpart in zip(value, paired, strict=True))
    return value


def _moved(value: Any, fn: Callable[[Tensor], Tensor]) -> Any:
    """`value` with `fn` applied to its tensors; parameters are the network's, which moves them itself."""
    if isinstance(value, Tensor):
        return value if isinstance(value, nn.Parameter) else fn(value)
    if type(value) is dict:
        return {key: _moved(item, fn) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_moved(item, fn) for item in value)
    return value


class Stateful:
    """Resets, saves and restores the attributes named in `running`, and moves all its tensors.

    Every attribute that is Stateful itself does the same.
    """

    running: ClassVar[tuple[str, ...]] = ()
    moves: ClassVar[bool] = True  # False: counts in float64 on the CPU, whatever the network's type and device

    def _parts(self) -> dict[str, "Stateful"]:
        return {name: value for name, value in vars(self).items() if isinstance(value, Stateful)}

    def reset(self) -> None:
        """Give back every parameter and running estimate bit for bit; a class with `running` attributes says how."""
        for part in self._parts().values():
            part.reset()

    def state(self) -> dict[str, Any]:
        """A copy of everything that changes from clip to clip."""
        own = {name: _like(getattr(self, name), None) for name in self.running}
        return own | {name: part.state() for name, part in self._parts().items()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`.  Raises MethodError where it is of another method or model; reset() before going on after
        that.
        """
        parts = self._parts()
        needed = {*self.running, *parts}
        if state.keys() != needed:
            raise MethodError(
                f"the state holds {sorted(state)}, {type(self).__name__} needs {sorted(needed)}: it is another method's"
            )
        for name in self.running:
            setattr(self, name, _like(state[name], getattr(self, name)))
        for name, part in parts.items():
            part.load_state(state[name])

    @torch.no_grad()
    def move(self, fn: Callable[[Tensor], Tensor]) -> None:
        """Apply `fn`, a change of device or type, to every tensor; the network's parameters have moved before."""
        if not self.moves:
            return
        for name, value in vars(self).items():
            if isinstance(value, Stateful):
                value.move(fn)
            elif isinstance(value, Tensor | dict | list | tuple):
                setattr(self, name, _moved(value, fn))


class Weights(Stateful):
    """The parameters of a model that adapt, and their source values."""

    def __init__(self, model: nn.Module, parameters: Sequence[nn.Parameter]) -> None:
        self.names = _names(model, parameters)
        self.parameters = list(parameters)
        self.source = self.copy()

    def copy(self) -> list[Tensor]:
        """Today's values."""
        return [parameter.detach().clone() for parameter in self.parameters]

    @torch.no_grad()
    def put(self, values: Sequence[Tensor]) -> None:
        """Set every parameter."""
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.copy_(value)

    @torch.no_grad()
    def keep(self, values: Sequence[Tensor], share: float) -> None:
        """w <- values + share (w - values): keep the share of what changed since `values`."""
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.copy_(torch.lerp(value, parameter, share))

    @contextmanager
    def at(self, values: Sequence[Tensor]) -> Iterator[None]:
        """Within the block the parameters have these values; afterwards, bit for bit, those of before."""
        before = self.copy()
        self.put(values)
        try:
            yield
        finally:
            self.put(before)

    def reset(self) -> None:
        """Back to the source."""
        self.put(self.source)

    def state(self) -> dict[str, Any]:
        """Name -> value."""
        return dict(zip(self.names, self.copy(), strict=True))

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Set every parameter by name.  Raises MethodError, before any is changed, where names or shapes differ."""
        expected = {name: parameter.shape for name, parameter in zip(self.names, self.parameters, strict=True)}
        if {name: value.shape for name, value in state.items()} != expected:
            raise MethodError(
                f"the state's {len(state)} weights are not the {len(expected)} that adapt here: load it into the same "
                "model and scope"
            )
        self.put([state[name] for name in self.names])


def _names(model: nn.Module, parameters: Sequence[nn.Parameter]) -> list[str]:
    known = {id(parameter): name for name, parameter in model.named_parameters()}
    return [known[id(parameter)] for parameter in parameters]


class Sgd(Stateful):
    """Stochastic gradient descent on some parameters; a step whose loss or gradient is not finite is not taken."""

    def __init__(
        self, parameters: Sequence[nn.Parameter], lr: float, momentum: float = 0.0, weight_decay: float = 0.0
    ) -> None:
        self.parameters = list(parameters)
        self.lr, self.momentum, self.weight_decay = lr, momentum, weight_decay
        self.n_refused = 0  # steps that were not taken
        self.reset()

    def reset(self) -> None:
        """Forget the momentum."""
        self.inner = torch.optim.SGD(
            self.parameters, lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay
        )

    def step(self, loss: Tensor) -> bool:
        """One step down the gradient of `loss`; False where it was not taken, and weights and momentum stay."""
        self.inner.zero_grad(set_to_none=True)
        loss.backward()
        return self._take(loss)

    def apply(self, gradients: Sequence[Tensor | None], loss: Tensor) -> bool:
        """`step` along gradients of `loss` that are given, one a parameter; None leaves a parameter alone."""
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        return self._take(loss)

    def coast(self) -> None:
        """A step whose gradient is 0: the momentum, and the weight decay, go on."""
        for parameter in self.parameters:
            parameter.grad = torch.zeros_like(parameter)
        self.inner.step()

    def _take(self, loss: Tensor) -> bool:
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        if not bool(loss.isfinite() & norm.isfinite()):
            self.inner.zero_grad(set_to_none=True)
            self.n_refused += 1
            return False
        self.inner.step()
        return True

    def move(self, fn: Callable[[Tensor], Tensor]) -> None:
        """Apply `fn` to the momentum."""
        for values in self.inner.state.values():
            values.update({name: _moved(value, fn) for name, value in values.items()})

    def state(self) -> dict[str, Any]:
        """What torch's optimiser saves."""
        saved: dict[str, Any] = copy.deepcopy(self.inner.state_dict())
        return saved

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on with the momentum of `state`.  Raises MethodError where it is of other parameters."""
        self.reset()
        try:
            self.inner.load_state_dict(copy.deepcopy(dict(state)))
        except (ValueError, KeyError) as error:
            raise MethodError(
                f"the state's optimiser is not of {len(self.parameters)} parameters: load it into the same model and "
                "scope"
            ) from error


class MovingAverage(Stateful):
    """value <- (1 - weight) value + weight new, from the first value taken in; None before that."""

    running = ("value",)

    def __init__(self, weight: float) -> None:
        self.weight = weight
        self.value: Tensor | None = None

    def reset(self) -> None:
        """Nothing taken in."""
        self.value = None

    def add(self, new: Tensor) -> None:
        """Take in a value."""
        new = new.detach()
        self.value = new.clone() if self.value is None else (1 - self.weight) * self.value + self.weight * new


class ClassPrior(Stateful):
    """The running mean of predicted distributions, from uniform: what to divide by so that no class takes
    everything.
    """

    running, moves = ("total",), False

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

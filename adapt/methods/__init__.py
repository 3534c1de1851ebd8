"""Ways to adapt at test time.  The folder is the registry: `adapt/methods/tent.py` is the method named `tent`.

A method's module has a frozen dataclass `Settings`, whose fields are made by `adapt.core.settings.setting`, and
`build(model, statistics, n_classes, settings) -> Method`.  A method knows the model that it was given and a `Batch`; it
never sees a label, a path or a data set's name.  The one exception is an upper bound: a module that declares
NEEDS_LABELS takes an `Oracle` as a fifth argument. How its answers are fused with the sound is not a method's to say
(adapt/fusion).
"""

import dataclasses
import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any

from torch import nn

from adapt import fusion as fusions
from adapt.contract import Method, SourceStatistics
from adapt.core import settings as settings_
from adapt.core.oracle import Oracle
from adapt.errors import MethodError

FUSIONS_NOW = {"late_fusion": "source+plain", "late_fusion_prior": "source+balanced", "vitta_fusion": "vitta+plain"}


def names() -> list[str]:
    """The methods in this folder."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def _module(name: str) -> Any:
    if name in FUSIONS_NOW:
        raise MethodError(f"method {name!r} is {FUSIONS_NOW[name]!r} now: a fusion goes with any method")
    if name not in names():
        raise MethodError(f"unknown method {name!r}: choose one of {names()}")
    return importlib.import_module(f"{__name__}.{name}")


def needs_labels(name: str) -> bool:
    """Whether the method called `name` is an upper bound that sees labels.  Raises MethodError for an unknown name."""
    return bool(getattr(_module(name), "NEEDS_LABELS", False))


def parts_of(name: str) -> tuple[str, str | None]:
    """(method, fusion) of a name such as vitta+plain; fusion is None where the name has none."""
    method, plus, fusion = name.partition("+")
    return method, fusion if plus else None


def settings_of(method: str, fusion: str = fusions.NONE) -> dict[str, "dataclasses.Field[Any]"]:
    """Name -> field of every setting that the method and the fusion read.  Raises MethodError for an unknown method or
    fusion.
    """
    kinds = [fusions.settings_of(fusion), _module(method).Settings]
    return {field.name: field for kind in kinds if kind is not None for field in dataclasses.fields(kind)}


def docs_of(method: str, fusion: str = fusions.NONE) -> dict[str, str]:
    """Name -> what it is, of the same settings."""
    kinds = [fusions.settings_of(fusion), _module(method).Settings]
    return {name: text for kind in kinds if kind is not None for name, text in settings_.docs(kind).items()}


def choose(method: str, fusion: str, given: Mapping[str, Any]) -> tuple[Any, Any]:
    """(settings of the method, of the fusion or None) with the `given` ones by name; one that both read is the same for
    both.

    Raises MethodError for a name that neither has, or a value out of its range.
    """
    known = settings_of(method, fusion)
    if unknown := [name for name in given if name not in known]:
        raise MethodError(f"{method} + {fusion}: {settings_.explain(unknown[0], sorted(known))}")
    chosen, kind = settings_.choose(_module(method).Settings, given), fusions.settings_of(fusion)
    shared = {name: getattr(chosen, name) for name in settings_.names(type(chosen))}
    return chosen, None if kind is None else settings_.choose(kind, shared | dict(given))


def build_alone(
    name: str,
    model: nn.Module,
    statistics: SourceStatistics | None,
    n_classes: int,
    settings: Any = None,
    oracle: Oracle | None = None,
) -> Method:
    """Build the method called `name` around `model`, which it changes in place; without a fusion.

    `statistics` are the source's; None takes them from the batch norm buffers (source-free).  `oracle` reaches only a
    method that declares NEEDS_LABELS.  Raises MethodError for an unknown name, settings out of range, or such a method
    without an oracle.
    """
    module = _module(name)
    chosen = module.Settings() if settings is None else settings
    settings_.check(chosen)
    if not needs_labels(name):
        method: Method = module.build(model, statistics, n_classes, chosen)
        return method
    if oracle is None:
        raise MethodError(f"{name} is an upper bound that sees labels: it runs where they are, in `python -m adapt`")
    bound: Method = module.build(model, statistics, n_classes, chosen, oracle)
    return bound


def build(
    name: str, fusion: str, model: nn.Module, statistics: SourceStatistics | None, n_classes: int, given: Mapping[str,
    Any],
    oracle: Oracle | None = None,
) -> fusions.Fused:  # fmt: skip
    """Build the method called `name` around `model`, its answers fused by `fusion`, with the settings `given` by name.

    Raises MethodError as `choose` and `build_alone` do.
    """
    of_method, of_fusion = choose(name, fusion, given)
    method = build_alone(name, model, statistics, n_classes, of_method, oracle)
    made = fusions.build(fusion, n_classes, of_fusion)
    own = getattr(method, "fusion", None)  # of a method that learns towards a fused answer
    return fusions.Fused(method, fusions.Own() if own is not None and type(own) is type(made) else made)

"""Methods built for tests, by the names of their settings."""

from typing import Any

from torch import nn

from adapt import methods
from adapt.contract import Method, SourceStatistics
from adapt.core.oracle import Oracle
from adapt.fusion import Fused


def fitting(name: str, fusion: str = "none", **settings: Any) -> dict[str, Any]:
    """Those of `settings` that the method and the fusion read: for tests of all methods."""
    known = methods.settings_of(name, fusion)
    return {key: value for key, value in settings.items() if key in known}


def alone(
    name: str,
    model: nn.Module,
    statistics: SourceStatistics | None,
    n_classes: int,
    oracle: Oracle | None = None,
    **settings: Any,
) -> Method:
    """The method without a fusion."""
    chosen, _ = methods.choose(name, "none", settings)
    return methods.build_alone(name, model, statistics, n_classes, chosen, oracle)


def fused(
    name: str,
    fusion: str,
    model: nn.Module,
    statistics: SourceStatistics | None,
    n_classes: int,
    oracle: Oracle | None = None,
    **settings: Any,
) -> Fused:
    """The method with a fusion."""
    return methods.build(name, fusion, model, statistics, n_classes, settings, oracle)

"""Pairs to try: those that stand for all in `make test`, all others in `make test-slow`."""

from collections.abc import Callable, Iterable

import pytest
from _pytest.mark import ParameterSet


def pairs(first: Iterable[str], second: Iterable[str], quick: Callable[[str, str], bool]) -> list[ParameterSet]:
    """Every pair of one of `first` and one of `second`; slow where it is not `quick`."""
    second = list(second)
    return [pytest.param(a, b, marks=[] if quick(a, b) else pytest.mark.slow) for a in first for b in second]


def singles(names: Iterable[str], quick: Iterable[str]) -> list[ParameterSet]:
    """Every one of `names`; slow where it is none of `quick`.  Each of `quick` is a name."""
    names, quick = list(names), set(quick)
    assert quick <= set(names), quick - set(names)
    return [pytest.param(name, marks=[] if name in quick else pytest.mark.slow) for name in names]


def runs(methods: Iterable[str], fusions: Iterable[str]) -> list[ParameterSet]:
    """Every method with every fusion; quick are every method with `trusted`, and every fusion on `vitta`."""
    return pairs(methods, fusions, lambda method, fusion: fusion == "trusted" or method == "vitta")

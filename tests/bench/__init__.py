"""Benchmarks: `python -m tests.bench [ROOM] [--json]`.  A room is a module here with `rows()`; timings are never tests.

Machines are shared and noisy: a row's value is the median of several runs, in CPU seconds of this process where it says
so, and a speed target is a ratio against a baseline in the same run.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One measured figure."""

    name: str
    value: float
    unit: str
    target: str = ""  # such as ">= 1.45"; empty where none is set
    ok: bool | None = None  # None without a target


def median_ms(work: Callable[[], object], runs: int = 5) -> float:
    """Median wall milliseconds of `work`, after one run that is not counted."""
    work()
    taken = []
    for _ in range(runs):
        started = time.perf_counter()
        work()
        taken.append(1000 * (time.perf_counter() - started))
    return statistics.median(taken)

"""How far a stage is, on stderr: a bar in a terminal, a line now and then in a file or a pipe."""

import sys
from typing import Any

from tqdm import tqdm

QUIET_S = 3.0  # a run that ends sooner shows no progress
LOG_EVERY_S = 20.0  # into a file or a pipe


def progress(name: str, total: int, unit: str = "clip") -> "tqdm[Any]":
    """A bar on stderr with `unit`s a second and the time left; `update(n)` after n of them, a context manager."""
    seen = sys.stderr.isatty()
    every_s = 0.5 if seen else LOG_EVERY_S
    return tqdm(
        total=total,
        desc=name,
        unit=f" {unit}",
        file=sys.stderr,
        delay=QUIET_S,
        mininterval=every_s,
        maxinterval=every_s,
        ascii=not seen,
    )

"""How every stage is a command: flags into a frozen dataclass, one JSON line of counts out, exit 0, 1 or 2.

DVC unpacks a section of params.yaml into flags (`--sample_rate 16000 --no-keep_audio`); the stage's dataclass names,
types and documents them, and no code reads params.yaml.
"""
import json
import logging
import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import tyro
from tqdm import tqdm

from pipeline.errors import EarshotError

Options = TypeVar("Options")
QUIET_S = 3.0  # a run that ends sooner shows no progress
LOG_EVERY_S = 20.0  # into a file or a pipe


def main(options: type[Options], run: Callable[[Options], Mapping[str, object]], *, prog: str, args: list[str] | None = None) -> None:
    """Parse `args` (default: the command line) into `options`, call `run`, and print its counts as one JSON line.

    Exits with 0 when `run` returns, 1 with a one-line reason for an `EarshotError`, 2 for wrong flags (tyro).
    """
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s", stream=sys.stderr)
    parsed = tyro.cli(options, prog=f"python -m {prog}", args=args)
    try:
        counts = run(parsed)
    except EarshotError as error:
        print(f"{prog}: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(1) from None
    print(json.dumps(dict(counts), sort_keys=True))


def progress(name: str, total: int, unit: str = "clip") -> "tqdm[Any]":
    """A bar on stderr with `unit`s a second and the time left; `update(n)` after n of them, a context manager."""
    seen = sys.stderr.isatty()
    every_s = 0.5 if seen else LOG_EVERY_S
    return tqdm(total=total, desc=name, unit=f" {unit}", file=sys.stderr, delay=QUIET_S, mininterval=every_s, maxinterval=every_s, ascii=not seen)

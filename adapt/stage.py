"""How every stage of the adapter is a command: flags into a frozen dataclass, one JSON line out, exit 0, 1 or 2."""
import json
import logging
import sys
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
import tyro

from adapt.errors import AdaptError, MethodError

Options = TypeVar("Options")
INTERRUPTED = 130  # what a shell says of a program ended by Ctrl-C


def main(options: type[Options], run: Callable[[Options], Mapping[str, object]], *, prog: str) -> None:
    """Parse the command line into `options`, call `run`, and print its counts as one JSON line on stdout."""
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s", stream=sys.stderr)
    parsed = tyro.cli(options, prog=f"python -m {prog}", config=(tyro.conf.OmitArgPrefixes,))
    try:
        counts = run(parsed)
    except AdaptError as error:
        print(f"{prog}: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        print(f"{prog}: interrupted", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
    print(json.dumps(dict(counts), sort_keys=True))


def device_of(name: str) -> torch.device:
    """The device of that name; asking for CUDA where there is none is an error, never a fallback."""
    try:
        device = torch.device(name)
    except RuntimeError:
        raise MethodError(f"device {name!r} is unknown: set device to cpu, cuda or cuda:1") from None
    if device.type not in ("cpu", "cuda"):
        raise MethodError(f"device {name!r} is none that is tested here: set device to cpu, cuda or cuda:1")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise MethodError(f"device {name!r} was asked for but torch finds no CUDA: set device to cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise MethodError(f"device {name!r} was asked for but there are {torch.cuda.device_count()}, counted from 0: choose another")
    return device

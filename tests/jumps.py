"""How far one must read to follow a method: `python -m tests.jumps` adapts on one clip and counts.

*Files* are those of the package whose functions ran, *jumps* the calls from a function in one of them to a function in
another. What is counted depends on the method, the number of its steps and the settings below, not on the machine.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import torch
from torch import nn

import adapt

PACKAGE = str(Path(adapt.__file__).parent)
METHODS: dict[str, dict[str, Any]] = {
    "tent": {},
    "vitta": {},
    "audio": {"cycle": "fixed", "max_iterations": 5},
}  # name -> settings


class Counts(NamedTuple):
    """What was counted in one call."""

    files: int
    jumps: int


def count(call: Callable[[], object]) -> Counts:
    """Files of the package entered and jumps between them while `call` runs."""
    stack: list[str] = []  # the file of every function that runs, those of other packages left out
    files: set[str] = set()
    jumps = 0

    def watch(frame: FrameType, event: str, _: Any) -> None:
        nonlocal jumps
        file = frame.f_code.co_filename
        if not file.startswith(PACKAGE):
            return
        if event == "call":
            jumps += bool(stack) and stack[-1] != file
            stack.append(file)
            files.add(file)
        elif event == "return" and stack:
            stack.pop()

    sys.setprofile(watch)
    try:
        call()
    finally:
        sys.setprofile(None)
    return Counts(len(files), jumps)


def network() -> nn.Module:
    """Frames (N, 3, T, H, W) -> logits (N, 3), with a batch norm to align."""
    return nn.Sequential(
        nn.Conv3d(3, 4, 3), nn.BatchNorm3d(4), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 3)
    )


def counts(method: str) -> Counts:
    """Of the second clip: the first one makes what is made once."""
    torch.manual_seed(0)
    model = adapt.wrap(network(), method, classes=["dog", "cat", "car"], views=2, **METHODS[method])
    frames, sound = torch.rand(2, 1, 3, 4, 16, 16), {"dog": 0.9}
    model(frames[0], sound)
    return count(lambda: model(frames[1], sound))


if __name__ == "__main__":
    for name in METHODS:
        print(f"{name}: {counts(name).files} files, {counts(name).jumps} jumps")

"""List the backbones (`python -m adapt.backbones`): size, cost of a clip, and what adapts by default.

Networks are built without memory (torch's meta device) and with random weights, so that the large ones cost nothing.
GFLOPs are of one clip (one view) forward, matrix multiplications and convolutions only, a multiply-add counted as two;
papers and torchvision often count it as one.
"""

import importlib
import os
from collections.abc import Sequence
from dataclasses import dataclass

from adapt import command

if __name__ == "__main__":
    command.begin("adapt.backbones")  # before what takes time to import

import torch
import tyro
from torch.utils.flop_counter import FlopCounterMode

from adapt import backbones
from adapt.contract import blocks_of
from adapt.core import moments
from adapt.errors import MethodError

INPUT = (16, 224, 224)  # frames, height, width for a backbone that states none
COLUMNS = (
    "backbone",
    "variant",
    "input",
    "parameters/M",
    "GFLOPs",
    "aligned layers",
    "first .. last",
    "once a clip",
    "adapting blocks",
)


@dataclass(frozen=True)
class Options:
    """What is listed."""

    names: tyro.conf.Positional[tuple[str, ...]] = ()  # backbones; all by default
    classes: int = command.number(400, low=1, high=10_000_000)  # of the head, which counts as parameters


def inputs(name: str) -> dict[str, tuple[int, int, int]]:
    """Variant -> frames, height and width that it is meant for, the default first; as the backbone's module states them
    in INPUTS.

    Raises MethodError for an unknown backbone.
    """
    if name not in backbones.names():
        raise MethodError(f"unknown backbone {name!r}: choose one of {backbones.names()}")
    stated: dict[str, tuple[int, int, int]] = getattr(
        importlib.import_module(f"adapt.backbones.{name}"), "INPUTS", {"": INPUT}
    )
    return stated


def _span(first: str, last: str) -> str:
    """Two dotted names as one, what they share written once: `layers.{0.norm1 .. 5.norm2}`."""
    if first == last:
        return first
    shared = os.path.commonprefix([first.split("."), last.split(".")])
    span = " .. ".join(".".join(name.split(".")[len(shared) :]) for name in (first, last))
    return f"{'.'.join(shared)}.{{{span}}}" if shared else span


def _short(count: float) -> str:
    return f"{count:.1f}" if count >= 1 else f"{count:.2g}"


def row(name: str, variant: str, size: tuple[int, int, int], n_classes: int) -> list[str]:
    """One line of the table, in the order of COLUMNS."""
    with torch.device("meta"):
        model = backbones.build(name, n_classes, size[0], "", variant).eval()
        with torch.no_grad(), FlopCounterMode(display=False) as flops:
            model(torch.empty(1, 3, *size))
    layers = moments.norm_layers(model)
    parts = [list(part.modules) for part in blocks_of(model)] or [["all"]]
    covers = [any(layer == m or layer.startswith(f"{m}.") for m in part for layer in layers) for part in parts]
    first = covers.index(True) if True in covers else 0
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    costs = [" x ".join(map(str, size)), _short(n_parameters / 1e6), _short(flops.get_total_flops() / 1e9)]
    before = _span(parts[0][0], parts[first - 1][-1]) if first else "-"
    adapting = f"{len(parts) - first} of {len(parts)}: {_span(parts[first][0], parts[-1][-1])}"
    return [name, variant or "-", *costs, str(len(layers)), _span(layers[0], layers[-1]), before, adapting]


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as a Markdown table under COLUMNS, columns padded to one width."""
    lines = [COLUMNS, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(COLUMNS))]
    padded = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([padded[0], rule, *padded[1:]])


def listing(options: Options) -> str:
    """The table of what is asked for.  Raises MethodError for an unknown backbone."""
    lines = (
        (name, variant, size) for name in options.names or backbones.names() for variant, size in inputs(name).items()
    )
    return table([row(*line, options.classes) for line in lines])


def run(options: Options) -> None:
    """Print the table.  Raises MethodError for an unknown backbone."""
    print(listing(options))


def main() -> None:
    """Run as a command."""
    command.main(Options, run, prog="adapt.backbones")


if __name__ == "__main__":
    main()

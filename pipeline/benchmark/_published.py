"""The published benchmarks and their figures: data/benchmarks.json, each row with where it was read."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapt.errors import DatasetError

PATH = Path("data/benchmarks.json")
# Of the -C benchmarks, in the order of ViTTA's tables.
TWELVE = (
    "gauss", "pepper", "salt", "shot", "zoom", "impulse", "defocus", "motion", "jpeg", "contrast", "rain", "h265_abr",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A published method's top-1 in per cent."""

    method: str
    source: str  # a name of Benchmark.sources
    top1: Mapping[str, float]  # by corruption
    mean: float  # as stated there


@dataclass(frozen=True)
class Source:
    """Where rows were read, and in what their runs are known to differ from ours."""

    where: str
    differs: tuple[str, ...]


@dataclass(frozen=True)
class Benchmark:
    """A benchmark, and what is published of it."""

    name: str
    title: str
    about: str
    where: str  # it is to be had
    dataset: str  # names cache/<dataset> and data/videos/<dataset>
    recipe: str  # of pipeline/datasets
    n_clips: int | None  # of the test split, as published
    sources: Mapping[str, Source]
    rows: tuple[Row, ...]


def benchmark(name: str) -> Benchmark:
    """The benchmark of that name.  Raises DatasetError for an unknown one, or where the file cannot be read."""
    try:
        known = json.loads(PATH.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DatasetError(f"{PATH} cannot be read ({error}): run this in the project's root") from error
    if name not in known:
        raise DatasetError(f"unknown benchmark {name!r}: choose one of [{', '.join(known)}]")
    try:
        return _benchmark(name, known[name])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DatasetError(f"{PATH}: {name} is not complete ({type(error).__name__}: {error})") from error


def _benchmark(name: str, said: Mapping[str, Any]) -> Benchmark:
    sources = {key: Source(one["where"], tuple(one["differs"])) for key, one in said["sources"].items()}
    rows = tuple(Row(one["method"], one["source"], dict(one["top1"]), float(one["mean"])) for one in said["rows"])
    for row in rows:
        if row.source not in sources:
            raise ValueError(f"row {row.method!r} has a source {row.source!r} that is not among the sources")
        if strangers := [corruption for corruption in row.top1 if corruption not in TWELVE]:
            raise ValueError(f"row {row.method!r} has an unknown corruption {strangers[0]!r}")
        if not all(math.isfinite(value) and 0 <= value <= 100 for value in row.top1.values()):
            raise ValueError(f"row {row.method!r} has a figure that is no per cent")
    return Benchmark(
        name, said["title"], said["about"], said["from"], said["dataset"], said["recipe"], said.get("n_clips"), sources,
        rows,
    )  # fmt: skip

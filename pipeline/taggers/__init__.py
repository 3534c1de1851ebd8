"""What every tagger is, and the folder as the registry: pipeline/taggers/<name>.py is the tagger `<name>`.

A tagger's module has SAMPLE_RATES (Hz by variant: its published models, the first is the default), PRECISIONS and
`build(checkpoint, device, variant, precision) -> Tagger`, which is given a variant and a precision that are there.  One
that can also be run by the package that published it has `build_package` of the same arguments, which knows fewer
variants and precisions.
"""

import csv
import importlib
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from adapt.errors import TaggerError
from adapt.tables.files import sha256_file

Implementation = Literal["ours", "package"]  # whose network runs


class Tagger(Protocol):
    """A neural audio model with AudioSet's classes, or most of them."""

    name: str
    sample_rate: int  # Hz
    concurrent: bool  # logits() uses one core and may be called from several threads at once
    labels: list[str]  # display names in the order of the logits
    labels_file: Path  # where they stand: index, mid, display_name

    def provenance(self) -> dict[str, str]:
        """What decides the logits: tagger, implementation, variant, precision, checkpoint_sha256, labels_file,
        labels_sha256, code_version.
        """

    def logits(self, waveforms: npt.NDArray[np.float32], n_samples: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Map waveforms (B, S) in [-1, 1] to logits (B, A), before the sigmoid.

        Row b holds n_samples[b] >= 1 samples of sound, then zeros.  A row's logits do not depend on the other rows.
        """


def names() -> list[str]:
    """The taggers there are: the modules of this folder."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if not path.stem.startswith("_"))


def build(
    name: str,
    checkpoint: str = "",
    device: str = "cpu",
    variant: str = "",
    precision: str = "fp32",
    implementation: Implementation = "ours",
) -> Tagger:
    """Load the tagger `name`; `checkpoint` is a path, for those whose weights are not packaged.

    `variant` is one of its published models ("": the first), `precision` fp32, bf16 or fp16; `implementation` is ours,
    or that of the package that published the model.  Raises TaggerError where there is no such tagger, variant,
    precision or implementation, or its checkpoint or `device` cannot be used: none is replaced by another.
    """
    module = _module(name)
    builders = {"ours": module.build} | ({"package": module.build_package} if hasattr(module, "build_package") else {})
    choose(name, "implementation", implementation, builders)
    variant = choose(name, "variant", variant or next(iter(module.SAMPLE_RATES)), module.SAMPLE_RATES)
    precision = choose(name, "precision", precision, module.PRECISIONS)
    tagger: Tagger = builders[implementation](checkpoint, device, variant, precision)
    return tagger


def sample_rate(name: str, variant: str = "") -> int:
    """The rate in Hz at which the tagger `name` hears, without loading it.  Raises TaggerError where there is no such
    variant.
    """
    rates: dict[str, int] = _module(name).SAMPLE_RATES
    return rates[choose(name, "variant", variant or next(iter(rates)), rates)]


def provenance(
    tagger: Tagger,
    variant: str,
    precision: str,
    checkpoint_sha256: str,
    version: str,
    implementation: Implementation = "ours",
) -> dict[str, str]:
    """What every tagger states of itself: whatever decides its logits, and nothing else (device and batch do not)."""
    return {
        "tagger": tagger.name,
        "implementation": implementation,
        "variant": variant,
        "precision": precision,
        "checkpoint_sha256": checkpoint_sha256,
        "labels_file": tagger.labels_file.as_posix(),
        "labels_sha256": sha256_file(tagger.labels_file),
        "code_version": version,
    }


def read_labels(path: Path) -> list[str]:
    """The display names of a label list (index, mid, display_name) in its order.  Raises TaggerError where it is not
    one.
    """
    return [row["display_name"] for row in _read_list(path)]


def read_mids(path: Path) -> list[str]:
    """The machine ids, the ontology's, of a label list in its order.  Raises TaggerError as `read_labels` does."""
    return [row["mid"] for row in _read_list(path)]


def _read_list(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        raise TaggerError(f"{path} is missing: run from the project's root")
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise TaggerError(f"{path}: not a list of index, mid, display_name ({error}): restore the file") from error
    if (
        not rows
        or [row.get("index") for row in rows] != [str(i) for i in range(len(rows))]
        or not {"mid", "display_name"} <= rows[0].keys()
    ):
        raise TaggerError(f"{path}: not a list of index, mid, display_name with the index counting from 0")
    return rows


def choose(tagger: str, what: str, value: str, choices: Iterable[str]) -> str:
    """Return `value`, the setting `what` of `tagger`.  Raises TaggerError where it is not one of `choices`."""
    if value not in choices:
        raise TaggerError(f"{tagger} has no {what} {value!r}: set tag.args.{what} to one of {list(choices)}")
    return value


def _module(name: str) -> ModuleType:
    if name not in names():
        raise TaggerError(f"unknown tagger {name!r}: choose one of {names()}")
    return importlib.import_module(f"pipeline.taggers.{name}")

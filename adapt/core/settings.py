"""Settings of methods and fusions: frozen dataclasses that stand beside what reads them.

A field is made by `setting`, which keeps its unit, its range and its source in the field's metadata; what stands below
it says what it is, for `--help` and for the page of all settings (`python -m adapt.settings`).
"""

import ast
import dataclasses
import difflib
import inspect
import itertools
import math
import textwrap
from collections.abc import Mapping
from typing import Any, TypeVar

from adapt.errors import MethodError

Chosen = TypeVar("Chosen")
OURS = "ours"

RENAMED = {"recall": "source_mix", "balance": "logit_adjustment", "entropy_lr": "lr"}
GONE = (  # no measurement supported them (docs/experiments.md)
    "stream_audio", "target", "target_sound", "candidate_threshold", "gate", "negative", "commit", "cycle_stages",
    "trust_class",
    "trust_share", "trust_doubt", "information_start", "confident", "tolerance", "slack",
)  # fmt: skip


def setting(
    default: Any, *, unit: str = "", low: float = 0.0, high: float = math.inf, above: bool = False, below: bool = False,
    choices: tuple[str, ...] = (), several: bool = False, source: str = OURS,
) -> Any:  # fmt: skip
    """A field of settings: a number from `low` to `high`, without these themselves where `above` or `below`; or one of
    `choices`, or `several` of them, each once, with commas between.

    `source` says who says so: a paper and its section, or "ours" for a choice of this project.
    """
    about = {
        "unit": unit,
        "low": low,
        "high": high,
        "above": above,
        "below": below,
        "choices": choices,
        "several": several,
        "source": source,
    }
    return dataclasses.field(default=default, metadata=about)


def values(field: "dataclasses.Field[Any]") -> str:
    """What a field made by `setting` may be, in words."""
    about = field.metadata
    if about["choices"]:
        return ", ".join(about["choices"]) + ("; several with commas between" if about["several"] else "")
    if isinstance(field.default, bool):
        return "yes, no"
    start = f"above {about['low']:g}" if about["above"] else f"{about['low']:g}"
    if math.isinf(about["high"]):
        return start if about["above"] else f"{start} or more"
    return f"{start} to {'below ' if about['below'] else ''}{about['high']:g}"


def check(settings: Any) -> None:
    """Raise MethodError, which names field and range, for a value outside its range, or that is no number."""
    for field in dataclasses.fields(settings):
        value, about = getattr(settings, field.name), field.metadata
        if about["several"]:
            parts = value.split(",") if isinstance(value, str) else [""]
            fine = {*parts} <= {*about["choices"]} and len({*parts}) == len(parts)
        elif about["choices"]:
            fine = value in about["choices"]
        elif isinstance(field.default, bool):
            fine = isinstance(value, bool)
        else:
            number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            fine = number and about["low"] <= value <= about["high"]
            fine = (
                fine
                and not (about["above"] and value == about["low"])
                and not (about["below"] and value == about["high"])
            )
            fine = fine and not (isinstance(field.default, int) and not isinstance(value, int))
        if not fine:
            many = "some, with commas between," if about["several"] else "one"
            wanted = f"{many} of {list(about['choices'])}" if about["choices"] else values(field)
            raise MethodError(f"{field.name} is {value!r}: give {wanted}")


def docs(kind: type) -> dict[str, str]:
    """Name -> what stands below each field of a settings class, in its own source or that of the classes that it is
    made of.
    """
    found: dict[str, str] = {}
    for one in reversed(kind.__mro__):
        if not dataclasses.is_dataclass(one):
            continue
        tree = ast.parse(textwrap.dedent(inspect.getsource(one)))
        body = next(node for node in tree.body if isinstance(node, ast.ClassDef)).body
        for field, below in itertools.pairwise(body):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(below, ast.Expr):
                found[field.target.id] = str(ast.literal_eval(below.value))
    return found


def names(kind: type) -> list[str]:
    """The fields of a settings class, in order."""
    return [field.name for field in dataclasses.fields(kind)]


def explain(unknown: str, known: list[str]) -> str:
    """One line on a setting that is not there: its new name, that it is gone, or what there is."""
    if unknown in RENAMED and RENAMED[unknown] in known:
        return f"setting {unknown!r} is called {RENAMED[unknown]!r} now"
    if unknown in GONE:
        return f"setting {unknown!r} is gone: no measurement supported it"
    near = difflib.get_close_matches(unknown, known, 1)
    meant = f", did you mean {near[0]!r}?" if near else ":"
    return f"unknown setting {unknown!r}{meant} choose among {known}"


def choose(kind: type[Chosen], given: Mapping[str, Any]) -> Chosen:
    """The settings of class `kind`, `given` where they are among its fields, else the defaults; checked.  Raises
    MethodError.
    """
    made = kind(**{name: value for name, value in given.items() if name in names(kind)})
    check(made)
    return made

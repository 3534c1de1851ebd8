"""Settings by run (`python -m adapt.choose`): of the settings given for all runs, each run's file holds those that its
method and fusion read.

Out: cache/<dataset>/settings/<run>.json.  The stage `adapt` depends on its own run's file alone, so a setting that
changes runs the methods that read it again, and no others.  A run may be a preset's name (adapt/presets.py): what the
preset says of its method stays, since what is given here is given for all runs.
"""

import dataclasses
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from adapt import fusion as fusions
from adapt import methods, presets
from adapt.core import settings
from adapt.errors import MethodError
from adapt.stream.options import FUSION
from adapt.tables import cache, lock
from adapt.tables.files import write_text


@dataclass(frozen=True)
class Options:
    """Which runs there are."""

    dataset: str
    methods: tuple[str, ...]  # a method or a preset, or either with a fusion as in method+fusion, a run each
    fusion: str = FUSION  # of those that name none
    against: tuple[str, ...] = ()  # comes with the same section of params.yaml; the report reads it, not this
    settings: Any = field(default_factory=dict)  # by name; each of some run's method or fusion


def options_for(words: Sequence[str]) -> type[Options]:
    """The options, with every setting of every method and fusion as a flag."""
    fields: dict[str, Any] = {}
    for method in methods.names():
        for fusion in fusions.names():
            fields |= methods.settings_of(method, fusion)
    named = {
        word.removeprefix("--").split("=")[0].replace("-", "_").removeprefix("no_")
        for word in words
        if word.startswith("--")
    }
    for name in sorted(named - fields.keys()):
        if name in settings.GONE or name in settings.RENAMED:
            raise MethodError(settings.explain(name, sorted(fields)))
    made = [
        (name, one.type, field(default=one.default)) if name in named else (name, one.type | None, field(default=None))
        for name, one in sorted(fields.items())
    ]  # a flag of yes or no takes no value, but one that may be None would
    flags = dataclasses.make_dataclass("Settings", made, frozen=True)
    kind: type[Options] = dataclasses.make_dataclass(
        "Options", [("settings", flags, field(default_factory=flags))], bases=(Options,), frozen=True
    )
    return kind


@lock.alone("choose", makes_folder=True)
def run(options: Options) -> dict[str, object]:
    """Write a file a run; return how many settings each has.  Raises MethodError for a setting that no run reads."""
    given = dict(options.settings) if isinstance(options.settings, dict) else dataclasses.asdict(options.settings)
    given = {name: value for name, value in given.items() if value is not None}
    folder, read = cache.ROOT / options.dataset / "settings", set[str]()
    chosen: dict[str, dict[str, object]] = {}
    for name in options.methods:
        named, fusion = methods.parts_of(name)
        method, fusion = presets.method_of(named), options.fusion if fusion is None else fusion
        known = methods.settings_of(method, fusion)
        stays = presets.PRESETS[named].settings if named in presets.PRESETS else {}
        read |= known.keys() & given.keys()
        chosen[name] = {key: value for key, value in sorted(given.items()) if key in known and key not in stays}
        methods.choose(method, fusion, chosen[name])  # raises for a value out of range
    if unread := sorted(given.keys() - read):
        raise MethodError(f"{unread[0]} is a setting of none of {' '.join(options.methods)}: take it out of adapt.args")
    shutil.rmtree(folder, ignore_errors=True)
    for name, values in chosen.items():
        write_text(folder / f"{name}.json", json.dumps(values, sort_keys=True) + "\n")
    return {name: len(values) for name, values in chosen.items()}

"""What `python -m adapt` is told: its options, and the settings of the method and fusion that it names, each a flag of
its own.
"""

import argparse
import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from adapt import command, methods, presets
from adapt.core import settings
from adapt.errors import AdaptError, MethodError
from adapt.source.options import ModelOptions
from adapt.stream._streams import SETTINGS
from adapt.video import corruptions

FUSION = "trusted"  # where none is named
WORD = "[A-Za-z0-9][A-Za-z0-9_.+=-]*"  # of a run's name: a file's name anywhere


@dataclass(frozen=True)
class Options(ModelOptions):
    """Which model adapts how, on which streams."""

    method: str
    """a file of adapt/methods, or a preset; vitta+plain is vitta with --fusion plain"""
    corruptions: tuple[str, ...]  # each its own stream; "clean" for none
    fusion: str = FUSION  # how its answers are put together with the sound, a file of adapt/fusion; none: they are not
    settings: Any = field(default_factory=dict)  # of the method and the fusion, by name
    settings_file: str = ""  # a JSON file of such settings by name; flags win
    preset: str = ""
    """a baseline as published: defaults of its method's settings and of how clips are read; flags win"""
    name: str = ""
    """of this run: its folder, its metrics, its rows in tables; group/name puts several in one; "" for the method's,
    or method+fusion"""
    severity: int = command.number(5, low=1, high=5)  # 1 to 5
    order_seeds: tuple[int, ...] = command.number((0,), low=0)  # a stream per corruption and seed
    order_file: str = ""
    """a line a clip in a fixed order, instead of a seed's: clip_id, or path n_frames class_id; {} is the corruption"""
    setting: str = "online"
    """source weights return before each stream (online, sorted by class), batch (episodic) or order seed (continual)"""
    batch_size: int = command.number(1, low=1, high=4096)  # clips that are adapted on and predicted together
    split: str = "test"
    max_clips: int = command.number(0, low=0)  # of every order, the first so many, for trials; 0 for all
    source_free: bool = False  # take the source statistics from batch norm buffers
    statistics_files: tuple[str, ...] = ()
    """ViTTA's list_spatiotemp_mean_*.npy and list_spatiotemp_var_*.npy, in place of the statistics stage's file"""
    jobs: int = command.number(0, low=0, high=1024)
    """streams side by side, each in a process of one thread; 0 for as many as cores, 1 on a GPU"""
    workers: int = command.number(1, low=1, high=1024)  # decoding threads beside each stream's model
    max_failed_share: float = command.number(0.5, low=0, high=1)
    """0 to 1; the stage fails when more than this share of a stream's clips cannot be read"""
    save_every: int = command.number(50, low=1)
    """clips after which all is saved, so that a killed run goes on from there; each minute too"""
    force: bool = False  # run again even if a finished run of the same options, data and code is there
    profile: bool = False  # print where the time of ten clips went


WITHOUT_EFFECT = (  # options that change no row; the device is told apart
    "device", "jobs", "workers", "max_failed_share", "save_every", "force", "profile",
)  # fmt: skip


def method_and_fusion(options: Options) -> tuple[str, str]:
    """Their names; a preset's method where a preset's name stands for it."""
    method, fusion = methods.parts_of(options.method)
    return presets.method_of(method), options.fusion if fusion is None else fusion


def run_name(options: Options) -> str:
    """What a run is called: by its preset, where it has one."""
    method, fusion = method_and_fusion(options)
    made_by = options.preset or method
    return options.name or (made_by if fusion == FUSION else f"{made_by}+{fusion}")


def given_settings(options: Options) -> dict[str, Any]:
    """The settings that differ from the defaults, or are all given, by name: those of the file, then those of
    `settings`.
    """
    return _settings_of_file(options.settings_file) | (
        dict(options.settings) if isinstance(options.settings, Mapping) else dataclasses.asdict(options.settings)
    )


def _settings_of_file(path: str) -> dict[str, Any]:
    """Name -> value.  Raises AdaptError for a file that cannot be read, or holds something else."""
    if not path:
        return {}
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AdaptError(
            f"settings_file {path} cannot be read ({error}): give a JSON object of settings by name"
        ) from error
    if not isinstance(content, dict):
        raise AdaptError(
            f"settings_file {path} holds a {type(content).__name__}: give a JSON object of settings by name"
        )
    return content


def options_for(words: Sequence[str]) -> type[Options]:
    """The options with the settings that the method and fusion named on a command line read, each a flag of its own;
    their defaults are those of the preset that is named.

    Raises MethodError for an unknown method, fusion or preset, and for a flag that has another name now or is gone.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in ("method", "fusion", "settings_file", "preset"):
        parser.add_argument(f"--{name}", f"--{name.replace('_', '-')}", dest=name, default="")
    named, _ = parser.parse_known_args(list(words))
    method, fusion = methods.parts_of(named.method or named.preset or "audio")
    preset, method = _preset_of(method, named.preset)
    if fusion is not None and named.fusion not in ("", fusion):
        raise MethodError(
            f"--method {named.method} names the fusion {fusion}, --fusion {named.fusion} another: give one"
        )
    fusion = (named.fusion or FUSION) if fusion is None else fusion
    known = methods.settings_of(method, fusion)
    for word in words:
        flag = (
            word.removeprefix("--").split("=")[0].replace("-", "_").removeprefix("no_") if word.startswith("--") else ""
        )
        if flag not in known and (flag in settings.GONE or settings.RENAMED.get(flag) in known):
            raise MethodError(settings.explain(flag, sorted(known)))
    given = dict(presets.PRESETS[preset].settings if preset else {}) | _settings_of_file(named.settings_file)
    methods.choose(method, fusion, given)  # raises
    help_of = methods.docs_of(method, fusion)
    made = [
        (name, Annotated[one.type, tyro.conf.arg(help=help_of[name])], field(default=given.get(name, one.default)))
        for name, one in sorted(known.items())
    ]
    flags = dataclasses.make_dataclass("Settings", made, frozen=True)
    fields: list[Any] = [("settings", flags, field(default_factory=flags))]
    if preset:
        values = {"method": preset, "batch_size": presets.get(preset).batch_size}
        return presets.applied(Options, preset, values, more=fields)
    kind: type[Options] = dataclasses.make_dataclass(
        "Options", fields, bases=(Options,), frozen=True, namespace={"__doc__": Options.__doc__}
    )
    return kind


def _preset_of(method: str, preset: str) -> tuple[str, str]:
    """(the preset that a command line names by --preset, or in place of a method, or ""; the method).

    Raises MethodError where the two do not go together.
    """
    name = preset or (method if method in presets.PRESETS else "")
    if not name:
        return "", method
    found = presets.get(name)
    if method not in (name, found.method):
        raise MethodError(f"preset {name} is of {found.method}, and --method names {method}: give one of them")
    return name, found.method


def check(options: Options) -> None:
    """Raise AdaptError for an option that cannot be, OptionsError for a number outside its range."""

    def ask(fine: bool, name: str, value: object, wanted: str) -> None:
        if not fine:
            raise AdaptError(f"{name} is {value!r}: give {wanted}")

    presets.check_applied(options)
    methods.choose(*method_and_fusion(options), given_settings(options))  # raises
    command.check_numbers(options)
    ask(
        re.fullmatch(f"({WORD}/)*{WORD}", run_name(options)) is not None,
        "name",
        options.name,
        "letters, digits and _ . + = -, or such group/name",
    )
    ask(options.setting in SETTINGS, "setting", options.setting, f"one of {list(SETTINGS)}")
    for corruption in options.corruptions:
        corruptions.check(corruption, options.severity)
    for name in ("corruptions", "order_seeds"):
        values = getattr(options, name)
        ask(0 < len(set(values)) == len(values), name, values, "at least one, each once")
    if options.order_file:
        ask(len(options.order_seeds) == 1, "order_seeds", options.order_seeds, "one: order_file is one order")
        ask(options.setting != "sorted", "setting", options.setting, "another, or no order_file")
    if options.statistics_files:
        ask(len(options.statistics_files) == 2, "statistics_files", options.statistics_files, "two: means, variances")
        ask(not options.source_free, "source_free", options.source_free, "no, or no statistics_files")

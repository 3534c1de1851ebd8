"""The page of all settings, `python -m adapt.settings`: each flag of the adapter, its default, unit, values and source.

Everything is read from the code: settings of methods and fusions with their metadata (adapt/core/settings.py), options
of the commands with the comment behind each field.
"""

import ast
import dataclasses
import inspect
import io
import sys
import textwrap
import tokenize
from collections.abc import Mapping
from dataclasses import MISSING, dataclass

from adapt import command

if __name__ == "__main__":
    command.begin("adapt.settings")  # before what takes time to import

from adapt import export, fusion, methods, presets
from adapt.core import settings
from adapt.errors import MethodError
from adapt.report import archive, table
from adapt.source import statistics, train
from adapt.stream.options import Options
from adapt.video.clips import VideoOptions

COMMANDS = {
    "adapt": Options,
    "adapt.train": train.Options,
    "adapt.statistics": statistics.Options,
    "adapt.export": export.Options,
    "adapt.report": table.Options,
    "adapt.archive": archive.Options,
}
MEANINGS: Mapping[str, str] = {  # of flags that explain themselves to who reads the code
    "dataset": "names cache/<dataset> and data/videos/<dataset>",
    "backbone": "the video network: a file of adapt/backbones",
    "views": "of a clip, to adapt on",
    "split": "which clips are the stream: train, val or test",
    "seed": "of the order of clips, their crops and changes, and new weights",
    "epochs": "passes over the train split",
    "batch_size": "clips a training step",
    "weight_decay": "AdamW's, of weights of two dimensions or more",
    "label_smoothing": "share of the target spread over all classes, 0 to 1",
}
PAPERS = (
    "Zeng et al. 2025, arXiv 2506.12481; ViTTA: Lin et al., CVPR 2023, arXiv 2211.15393; Tent: Wang et al., ICLR 2021, "
    "arXiv 2006.10726; Schneider et al., NeurIPS 2020, arXiv 2006.16971; DUA: Mirza et al., CVPR 2022, arXiv "
    "2112.00463; SHOT: Liang et al., ICML 2020, arXiv 2002.08546; T3A: Iwasawa and Matsuo, NeurIPS 2021; NEO: Murphy "
    "et al., ICLR 2026, arXiv 2510.05635; FIRM: github.com/zeroomi/FIRM-MM-TTA; EATA: Niu et al., ICML 2022, arXiv "
    "2204.02610; SAR: Niu et al., ICLR 2023, arXiv 2302.12400; DeYO: Lee et al., ICLR 2024, arXiv 2403.07366; ROID: "
    "Marsden et al., WACV 2024, arXiv 2306.00650; CMF: Lee and Chang, ICLR 2024; Menon et al., ICLR 2021, arXiv "
    "2007.07314.  *ours*: a choice of this project; adapt/METHOD.md says why."
)


@dataclass(frozen=True)
class Flag:
    """A field of a command's options as its source has it."""

    name: str
    default: str  # as typed on the command line; "required" where there is none
    comment: str  # behind it or below it, "" without


def _typed(value: object) -> str:
    """A default as one types it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return " ".join(map(_typed, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value) or '""'


def _comments(options: type) -> dict[str, str]:
    """Field -> the comment behind it, "" without, in the source of the class itself or of one that it is made of."""
    found: dict[str, str] = {}
    for kind in filter(dataclasses.is_dataclass, reversed(options.__mro__)):
        source = textwrap.dedent(inspect.getsource(kind))
        tokens = tokenize.generate_tokens(io.StringIO(source).readline)
        comments = {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}
        body = next(node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)).body
        for node in body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                found[node.target.id] = comments.get(node.lineno, "")
    return found


def flags_of(options: type) -> list[Flag]:
    """The fields of a command's options in order, but for those that are dataclasses themselves."""
    comments, below = _comments(options), settings.docs(options)
    return [
        Flag(
            field.name,
            "required" if field.default is MISSING else _typed(field.default),
            comments[field.name] or " ".join(below.get(field.name, "").split()),
        )
        for field in dataclasses.fields(options)
        if field.default_factory is MISSING
    ]


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    lines = [f"| {' | '.join(row)} |" for row in cells]
    return ["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *lines, ""]


def _settings(known: Mapping[str, "dataclasses.Field[object]"], docs: Mapping[str, str]) -> list[str]:
    """The table of a method's settings, or a fusion's.  Raises MethodError for one that is not explained."""
    if bare := [name for name in known if name not in docs]:
        raise MethodError(f"setting {bare[0]} is not explained: say below the field what it is")
    rows = [
        [
            f"`--{name}`",
            _typed(field.default),
            field.metadata["unit"],
            settings.values(field),
            docs[name],
            field.metadata["source"],
        ]
        for name, field in sorted(known.items())
    ]
    return (
        _table(["flag", "default", "unit", "values", "what", "source"], rows)
        if rows
        else ["No settings of its own.", ""]
    )


def _presets() -> list[str]:
    """The table of the baselines as published."""
    rows = []
    for name, preset in presets.PRESETS.items():
        of_stream = {**preset.settings, **preset.video, "batch_size": preset.batch_size}
        of_statistics = [f"{one} {_typed(value)}" for one, value in preset.statistics.items()]
        said = ", ".join(f"{one} {_typed(value)}" for one, value in of_stream.items())
        rows.append([f"`{name}`", preset.method, preset.about, said, ", ".join(of_statistics)])
    return _table(["preset", "method", "after", "defaults", "of `adapt.statistics`"], rows)


def _command(options: type) -> list[str]:
    rows = []
    for flag in flags_of(options):
        what = flag.comment or MEANINGS.get(flag.name)
        if what is None:
            raise MethodError(f"flag {flag.name} of {options.__module__} is not explained: put a comment behind it")
        rows.append([f"`--{flag.name}`", flag.default, what])
    return _table(["flag", "default", "what"], rows)


def page() -> str:
    """The whole page.  Raises MethodError for a setting or a flag that is not explained."""
    lines = [
        "# Every flag of the adapter",
        "",
        "Made from the code by `python -m adapt.settings`.  Yes or no is typed `--flag` or `--no-flag`.",
        "",
    ]
    lines += [
        "## Settings of the methods (`python -m adapt --method NAME`, `adapt.wrap`)",
        "",
        "K is the number of classes.",
        "",
    ]
    for name in methods.names():
        lines += [f"### {name}", "", *_settings(methods.settings_of(name), methods.docs_of(name))]
    lines += ["## Presets (`--preset NAME`, or NAME in place of a method)", "", *_presets()]
    lines += ["## Settings of the fusions (`--fusion NAME`)", ""]
    for name in fusion.names():
        kind = fusion.settings_of(name)
        known = {} if kind is None else {field.name: field for field in dataclasses.fields(kind)}
        lines += [f"### {name}", "", *_settings(known, {} if kind is None else settings.docs(kind))]
    lines += [
        PAPERS,
        "",
        "## How clips become frames (`python -m adapt`, `adapt.train`, `adapt.statistics`)",
        "",
        *_command(VideoOptions),
    ]
    for name, options in COMMANDS.items():
        lines += [f"## `python -m {name}`", "", f"{inspect.getdoc(options)}", "", *_command(options)]
    return "\n".join(lines).rstrip("\n") + "\n"


@dataclass(frozen=True)
class PageOptions:
    """Print the page of all settings."""


def run(options: PageOptions) -> None:
    """Print the page.  Raises MethodError for a setting or a flag that is not explained."""
    sys.stdout.write(page())


if __name__ == "__main__":
    command.main(PageOptions, run, prog="adapt.settings")

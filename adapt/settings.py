"""The page of all settings, `python -m adapt.settings > adapt/SETTINGS.md`: each flag of the adapter, its default, unit, values and source.

Names, defaults and meanings are read from the dataclasses that are the commands' flags: the comment after a field, and the comment above a group of
fields.  What a comment has no room for, a setting's unit, its values and who says so, is the table here.  A test keeps page and code alike.
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

from adapt import __main__ as adapt_stage
from adapt.errors import MethodError
from adapt.methods import Settings
from adapt.report import table
from adapt.source import statistics, train
from adapt.video.clips import VideoOptions

COMMANDS = {"adapt": adapt_stage.Options, "adapt.train": train.Options, "adapt.statistics": statistics.Options, "adapt.report": table.Options}
OURS = "ours"


@dataclass(frozen=True)
class Fact:
    """What the comment of a setting has no room for."""

    unit: str  # "" for a plain number or a name
    values: str
    source: str  # of the setting itself; where its default is from, if not there, stands behind a semicolon
    what: str = ""  # where there is no comment


FACTS: Mapping[str, Fact] = {
    "scope": Fact("", "norm, last_norm, last, all", "norm: Tent, section 3; all: ViTTA; the others ours"),
    "momentum": Fact("", "0 to below 1", "ViTTA, Tent, EATA, SAR: experiments"),
    "weight_decay": Fact("per step", "0 or more", "ViTTA: experiments (5e-4); default ours", "SGD's, on the stream; times the learning rate"),
    "budget_ms": Fact("ms a clip", "0 or more", OURS),
    "dropout": Fact("", "yes, no", "ViTTA's code; default ours"),
    "lr": Fact("per step", "0 or more", "ViTTA: experiments (TANet 5e-5, Swin 1e-5, all weights); default ours, for norm layers"),
    "ema": Fact("share", "0 to 1", "ViTTA, section 3.1 and experiments (TANet 0.1, Swin 0.05)"),
    "ema_start": Fact("", "source, zero", "zero: ViTTA's code; source: ours"),
    "consistency": Fact("", "0 or more", "ViTTA, section 3.3"),
    "fusion_floor": Fact("evidence", "above 0", OURS),
    "prior_balance": Fact("exponent", "0 or more", OURS),
    "trust": Fact("probability", "above 0 to 1", OURS),
    "trust_class": Fact("probability", "above 0 to 1", OURS),
    "trust_share": Fact("share of clips", "above 0 to 1", OURS),
    "trust_doubt": Fact("share", "0 to 1", OURS),
    "information": Fact("share of log K", "0 to 1", "ours, after Bridle et al. 1991"),
    "information_start": Fact("clips", "0 or more", OURS),
    "recall": Fact("share", "0 to 1", OURS),
    "balance": Fact("exponent", "0 or more", OURS),
    "fusion_views": Fact("share", "0 to 1", OURS),
    "negative": Fact("share", "0 to 1", OURS),
    "target": Fact("", "fused, soft, hard, candidate", OURS),
    "target_sound": Fact("share", "0 to 1", OURS),
    "candidate_threshold": Fact("evidence", "0 to 1", OURS),
    "audio_weight": Fact("", "0 or more", "audio-assisted adaptation: Zeng et al.; the term and its weight ours"),
    "gate": Fact("", "any of mass, sharpness, agreement, trust; or none", OURS),
    "cycle": Fact("", "flexible, fixed", "flexible cycle: Zeng et al.; its rules ours"),
    "cycle_stages": Fact("", "last, all", OURS),
    "audio_lr": Fact("per step", "0 or more", OURS),
    "stream_audio": Fact("share", "0 to 1", OURS),
    "commit": Fact("share", "0 to 1", OURS),
    "max_iterations": Fact("steps a clip", "1 or more", "flexible cycle: Zeng et al.; its rules and numbers ours", "the most that a clip takes"),
    "confident": Fact("share", "0 to 1", OURS),
    "tolerance": Fact("share of the loss", "0 or more", OURS),
    "slack": Fact("share of the loss", "0 or more", OURS),
    "bn_prior": Fact("share", "0 to 1", "Schneider et al.; default ours"),
    "bn_samples": Fact("clips", "0 or more", "Schneider et al.: pseudo sample size"),
    "entropy_lr": Fact("per step", "0 or more", "Tent, EATA: experiments (ImageNet)"),
    "entropy_margin": Fact("share of log K", "0 to 1", "EATA, equation 3; SAR, equation 2"),
    "eata_similarity": Fact("cosine", "-1 to 1", "EATA, equation 5"),
    "eata_fisher": Fact("", "0 or more", "EATA, equation 8"),
    "sar_radius": Fact("norm of the weights' change", "0 or more", "SAR, equation 4"),
    "sar_reset": Fact("share of log K", "0 to 1", "SAR: model recovery"),
    "sar_frozen": Fact("share of the layers", "0 to 1", "SAR: experiments"),
    "shot_labels": Fact("", "0 or more", "SHOT, section 3"),
    "t3a_supports": Fact("features a class", "1 or more", "T3A: experiments"),
    "ensemble": Fact("share", "0 to 1", "ROID: weight ensembling; default ours"),
    "collapse_entropy": Fact("share of log K", "0 to 1", OURS),
    "collapse_agreement": Fact("share of sure clips", "0 or more", OURS),
    "collapse_memory": Fact("share", "0 to below 1", OURS),
    "collapse_every": Fact("clips", "1 or more", OURS),
}

MEANINGS: Mapping[str, str] = {  # of flags that explain themselves to who reads the code
    "dataset": "names cache/<dataset> and data/videos/<dataset>",
    "backbone": "the video network: a file of adapt/backbones",
    "method": "a file of adapt/methods",
    "views": "of a clip, to adapt on",
    "split": "which clips are the stream: train, val or test",
    "device": "cpu, cuda, or a numbered one such as cuda:1",
    "seed": "of the order of clips, their crops and changes, and new weights",
    "epochs": "passes over the train split",
    "batch_size": "clips a training step",
    "weight_decay": "AdamW's, of weights of two dimensions or more",
    "label_smoothing": "share of the target spread over all classes, 0 to 1",
}

PAPERS = (
    "Zeng et al. 2025, arXiv 2506.12481; ViTTA: Lin et al., CVPR 2023, arXiv 2211.15393; Tent: Wang et al., ICLR 2021, arXiv 2006.10726; "
    "Schneider et al., NeurIPS 2020, arXiv 2006.16971; SHOT: Liang et al., ICML 2020, arXiv 2002.08546; T3A: Iwasawa and Matsuo, NeurIPS 2021; "
    "EATA: Niu et al., ICML 2022, arXiv 2204.02610; SAR: Niu et al., ICLR 2023, arXiv 2302.12400; ROID: Marsden et al., WACV 2024, "
    "arXiv 2306.00650.  *ours*: a choice of this project; [METHOD.md](METHOD.md) says why."
)


@dataclass(frozen=True)
class Setting:
    """A field of a dataclass as its source has it."""

    name: str
    default: str  # as typed on the command line; "required" where there is none
    group: str  # the comment above its group, "" without
    comment: str  # behind it, "" without


def _typed(value: object) -> str:
    """A default as one types it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return " ".join(map(_typed, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value) or '""'


def settings_of(cls: type) -> list[Setting]:
    """The fields of a dataclass in order, but for those that are dataclasses themselves."""
    source = textwrap.dedent(inspect.getsource(cls))
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    notes = [token for token in tokens if token.type == tokenize.COMMENT]
    comments = {note.start[0]: (note.string.lstrip("# "), note.line.lstrip().startswith("#")) for note in notes}
    body = next(node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)).body
    lines = {node.target.id: node.lineno for node in body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)}
    found = []
    for field in dataclasses.fields(cls):
        if field.default_factory is not MISSING:
            continue
        above = [text for line, (text, alone) in sorted(comments.items()) if alone and line < lines[field.name]]
        behind, alone = comments.get(lines[field.name], ("", False))
        default = "required" if field.default is MISSING else _typed(field.default)
        found.append(Setting(field.name, default, above[-1] if above else "", "" if alone else behind))
    return found


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return ["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *(f"| {' | '.join(row)} |" for row in cells), ""]


def _methods() -> list[str]:
    """The tables of the methods' settings, one a group."""
    groups: dict[str, list[list[str]]] = {}
    for setting in settings_of(Settings):
        fact = FACTS.get(setting.name)
        if fact is None:
            raise MethodError(f"setting {setting.name} is new: give its unit, values and source in FACTS of adapt/settings.py")
        if not (what := setting.comment or fact.what):
            raise MethodError(f"setting {setting.name} is not explained: put a comment behind it in adapt/methods/__init__.py")
        row = [f"`--{setting.name}`", setting.default, fact.unit, fact.values, what, fact.source]
        groups.setdefault(setting.group, []).append(row)
    lines = []
    for group, rows in groups.items():
        lines += [f"### {group}", ""]
        lines += _table(["flag", "default", "unit", "values", "what", "source"], rows)
    return lines


def _command(cls: type) -> list[str]:
    rows = []
    for setting in settings_of(cls):
        what = setting.comment or MEANINGS.get(setting.name)
        if what is None:
            raise MethodError(f"flag {setting.name} of {cls.__module__} is not explained: put a comment behind it")
        rows.append([f"`--{setting.name}`", setting.default, what])
    return _table(["flag", "default", "what"], rows)


def page() -> str:
    """The whole page.  Raises MethodError for a setting that FACTS does not know, or a flag that neither its comment nor MEANINGS explains."""
    lines = [
        "# Every flag of the adapter",
        "",
        "Made from the code by `python -m adapt.settings > adapt/SETTINGS.md`: do not edit.  What is yes or no is typed `--flag` or `--no-flag`.",
        "",
        "## Settings of the methods (`python -m adapt`, `adapt.wrap`)",
        "",
        "A heading names the methods that read its settings; `oracle_gate` reads what `audio` does.  K is the number of classes.",
        "",
        *_methods(),
        PAPERS,
        "",
        "## How clips become frames (`python -m adapt`, `adapt.train`, `adapt.statistics`)",
        "",
        *_command(VideoOptions),
    ]
    for name, options in COMMANDS.items():
        lines += [f"## `python -m {name}`", "", f"{inspect.getdoc(options)}", "", *_command(options)]
    return "\n".join(lines).rstrip("\n") + "\n"


if __name__ == "__main__":
    sys.stdout.write(page())

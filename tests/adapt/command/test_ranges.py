"""Numbers that no command can use are one line, which names the option and its range."""

import dataclasses
import json
import math
from dataclasses import dataclass, field

import pytest

from adapt import command
from adapt.backbones import __main__ as backbones
from adapt.command import _ranges
from adapt.errors import OptionsError
from adapt.report import table
from adapt.source import statistics, train
from adapt.stream import options as stream
from adapt.video.clips import VideoOptions
from adapt.video.corruptions import sheet
from pipeline import decode, evaluate, listen, map_labels, pseudo_label, scan, tag
from pipeline.llm import ask

OPTIONS = (
    backbones.Options, table.Options, statistics.Options, train.Options, stream.Options, VideoOptions, sheet.Options,
    decode.Options, evaluate.Options, listen.Options, map_labels.Options, map_labels.ExportOptions,
    pseudo_label.Options, scan.Options, tag.Options, ask.Options,
)  # fmt: skip


@dataclass(frozen=True)
class Inner:
    """As VideoOptions."""

    size: int = command.number(8, low=1)


@dataclass(frozen=True)
class Options:
    """Of every kind."""

    jobs: int = command.number(1, low=1, high=8)
    window_s: float = command.number(1.0, low=0, high=600, above=True)
    free: float = 1.0
    seeds: tuple[int, ...] = command.number((0,), low=0)
    limit: int | None = command.number(None, low=1)
    inner: Inner = field(default_factory=Inner)
    flag: bool = False


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--jobs", "0"], "jobs is 0: give 1 to 8"),
        (["--jobs", "-1"], "jobs is -1: give 1 to 8"),
        (["--window-s", "1e9"], "window_s is 1000000000.0: give more than 0, up to 600"),
        (["--window-s", "0"], "window_s is 0.0: give more than 0, up to 600"),
        (["--window-s", "nan"], "window_s is nan: give more than 0, up to 600"),
        (["--free", "inf"], "free is inf: give a number"),
        (["--free", "nan"], "free is nan: give a number"),
        (["--seeds", "3", "-1"], "seeds is -1: give 0 or more"),
        (["--limit", "0"], "limit is 0: give 1 or more"),
        (["--size", "0"], "size is 0: give 1 or more"),
    ],
)
def test_a_number_out_of_its_range_is_one_line_before_anything_runs(
    words: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(options: Options) -> None:
        raise AssertionError

    with pytest.raises(SystemExit) as ended:
        command.main(Options, run, prog="demo", args=words)
    assert (ended.value.code, capsys.readouterr().err) == (1, f"demo: {line}\n")


def test_numbers_at_the_ends_of_their_ranges_and_none_are_fine(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--jobs", "8", "--window-s", "600"], ["--jobs", "1", "--limit", "1", "--flag"]):
        command.main(Options, lambda options: {"jobs": options.jobs}, prog="demo", args=words)
        assert json.loads(capsys.readouterr().out) == {"jobs": int(words[1])}


@pytest.mark.parametrize("options", OPTIONS, ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_every_number_of_every_command_says_its_range_and_its_default_lies_within(options: type) -> None:
    for one in dataclasses.fields(options):
        if one.type in (int, float, "int", "float", int | None, tuple[int, ...]):
            allowed = one.metadata.get(_ranges.KEY)
            assert allowed is not None, f"{one.name} says no range: use command.number"
            for value in one.default if isinstance(one.default, tuple) else (one.default,):
                assert value is None or allowed.holds(value)
            assert not allowed.holds(math.nan)


def test_what_is_no_dataclass_has_no_numbers_to_check() -> None:
    command.check_numbers({"jobs": math.nan})
    with pytest.raises(OptionsError):
        command.check_numbers(Options(jobs=0))

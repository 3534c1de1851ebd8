"""The page of all flags says what the code does, and every setting is read by what it stands beside."""

import dataclasses
import importlib
import re
import shlex
from typing import Any

import pytest
import tyro

from adapt import command, fusion, methods, settings
from adapt.contract import SourceStatistics
from adapt.core.oracle import Oracle
from adapt.core.settings import names, setting
from adapt.errors import MethodError
from adapt.fusion import Fused
from adapt.methods import eata
from adapt.settings import COMMANDS, MEANINGS, flags_of
from adapt.stream.options import options_for
from adapt.video.clips import VideoOptions
from tests import built, tiny
from tests.pairs import pairs

WORDS = ["--dataset", "a", "--backbone", "b", "--corruptions", "d"]
QUICK = [("audio", "trusted"), ("eata", "trusted"), ("source", "none")]
RUNS = pairs(  # method and fusion; of those that have most settings, and fewest
    methods.names(), fusion.names(), lambda method, fused: method == "vitta" or (method, fused) in QUICK
)


@pytest.fixture(scope="module")
def page() -> str:
    return settings.page()


def section(page: str, title: str) -> str:
    """The text below a heading, up to the next one of its kind."""
    marks = title.split()[0]
    return page.split(f"\n{title}\n")[1].split(f"\n{marks} ")[0].split("\n## ")[0]


def described(text: str) -> dict[str, str]:
    """Flag -> default, of the tables in a text."""
    rows = [re.split(r"(?<!\\)\|", line) for line in text.splitlines() if line.startswith("| `--")]
    return {row[1].strip()[3:-1]: row[2].strip() for row in rows}


def listed(command: type, capsys: pytest.CaptureFixture[str]) -> set[str]:
    """The flags in a command's help, which writes - for _ and takes either."""
    with pytest.raises(SystemExit):
        tyro.cli(command, args=["--help"], prog="a", config=(tyro.conf.OmitArgPrefixes,))
    words = re.findall(r"(?<!\S)--([a-z][a-z0-9-]*)", capsys.readouterr().out)
    return {word.replace("-", "_") for word in words if not word.startswith("no-")} - {"help"}


def test_the_command_that_makes_the_page_prints_it(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    command.main(settings.PageOptions, settings.run, prog="adapt.settings", args=[])
    assert capsys.readouterr().out == page


def test_the_page_has_every_method_and_fusion_with_the_settings_that_each_reads(page: str) -> None:
    for name in methods.names():
        assert described(section(page, f"### {name}")).keys() == methods.settings_of(name).keys()
    for name in fusion.names():
        kind = fusion.settings_of(name)
        assert set(described(section(page, f"### {name}"))) == set(names(kind) if kind else ())


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "adapt"])
def test_every_flag_that_help_lists_is_on_the_page_and_no_other(
    command: str, page: str, capsys: pytest.CaptureFixture[str]
) -> None:
    own, found = set(described(section(page, f"## `python -m {command}`"))), listed(COMMANDS[command], capsys)
    assert found == own | ({flag.name for flag in flags_of(VideoOptions)} & found)


@pytest.mark.parametrize(("method", "fused"), RUNS)
def test_so_it_is_for_every_method_with_every_fusion(
    method: str, fused: str, page: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shared, own = {flag.name for flag in flags_of(VideoOptions)}, set(described(section(page, "## `python -m adapt`")))
    found = listed(options_for(["--method", method, "--fusion", fused]), capsys)
    assert found == own | shared | set(methods.settings_of(method, fused))


@pytest.mark.parametrize(("method", "fused"), RUNS)
def test_a_default_on_the_page_typed_as_a_flag_is_the_default(method: str, fused: str, page: str) -> None:
    words = [*WORDS, "--method", method, "--fusion", fused]
    typed: list[str] = []
    for name, default in (described(section(page, f"### {method}")) | described(section(page, f"### {fused}"))).items():
        typed += {"yes": [f"--{name}"], "no": [f"--no-{name}"]}.get(default, [f"--{name}", *shlex.split(default)])
    kind = options_for(words)
    plain: object = tyro.cli(kind, args=words, config=(tyro.conf.OmitArgPrefixes,))
    assert tyro.cli(kind, args=words + typed, config=(tyro.conf.OmitArgPrefixes,)) == plain


def test_what_the_page_adds_is_about_flags_that_exist() -> None:
    assert MEANINGS.keys() <= {
        flag.name for options in (VideoOptions, *COMMANDS.values()) for flag in flags_of(options)
    }


@dataclasses.dataclass(frozen=True)
class Barking:
    """A comment of each kind."""

    plain: int
    # dogs, cats
    bark: float = 2.5e-4  # how loud; "#" is no comment: see below
    hash: str = "# none"
    moo: tuple[int, ...] = ()  # when
    loud: bool = True


def test_defaults_and_comments_are_read_from_the_source() -> None:
    assert [(flag.name, flag.default, flag.comment) for flag in flags_of(Barking)] == [
        ("plain", "required", ""),
        ("bark", "0.00025", 'how loud; "#" is no comment: see below'),
        ("hash", "# none", ""),
        ("moo", "none", "when"),
        ("loud", "yes", ""),
    ]


@dataclasses.dataclass(frozen=True)
class Unexplained:
    """A setting with nothing below it."""

    bare: float = setting(1.0)


def test_a_setting_or_a_flag_that_nobody_explained_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from adapt.fusion import plain

    with monkeypatch.context() as patch:
        patch.setattr(plain, "Settings", Unexplained)
        with pytest.raises(MethodError, match="setting bare is not explained: say below the field what it is"):
            settings.page()
    monkeypatch.setattr(settings, "MEANINGS", {})
    with pytest.raises(MethodError, match="flag views of adapt.video.clips is not explained"):
        settings.page()


ALL_ON: dict[str, Any] = {
    "budget_ms": 1e9,
    "ensemble": 0.9,
    "collapse_entropy": 1.0,
    "entropy_margin": 1.1,
    "deyo_drop": -1.0,
}  # guards, and steps on every clip


@pytest.mark.parametrize("method", methods.names())
def test_a_method_reads_every_setting_that_stands_beside_it(method: str) -> None:
    """While it is built and adapts on clips, some heard, on a model that is made here."""
    chosen, _ = methods.choose(method, "none", built.fitting(method, **ALL_ON))
    read: set[str] = set()

    class Watched(type(chosen)):  # type: ignore[misc]
        def __getattribute__(self, name: str) -> object:
            read.add(name)
            return super().__getattribute__(name)

    known = names(type(chosen))
    watched = Watched(**dataclasses.asdict(chosen))
    read.clear()
    module = importlib.import_module(f"adapt.methods.{method}")
    clips = [tiny.batch(seed=i, heard=heard) for i, heard in enumerate((0, None, 1))]
    oracle = [Oracle({clip.clip_ids[0]: (0,) for clip in clips})] if methods.needs_labels(method) else []
    model, statistics = tiny.trained(), None
    if method == "eata":
        statistics = SourceStatistics(
            {}, eata.importance(model, [clip.centre[:, 0] for clip in clips], eata.Settings())
        )
    made = module.build(model, statistics, tiny.K, watched, *oracle)
    for clip in clips:
        made.adapt(clip)
    assert set(known) <= read, f"{sorted(set(known) - read)} of {method} are read by nothing"


@pytest.mark.parametrize("name", [name for name in fusion.names() if name != "none"])
def test_a_fusion_reads_every_setting_that_stands_beside_it(name: str) -> None:
    kind = fusion.settings_of(name)
    assert kind is not None
    read: set[str] = set()

    class Watched(kind):  # type: ignore[misc,valid-type]
        def __getattribute__(self, name: str) -> object:
            read.add(name)
            return super().__getattribute__(name)

    made = fusion.build(name, tiny.K, Watched())
    Fused(methods.build_alone("source", tiny.trained(), None, tiny.K), made).adapt(tiny.batch(heard=1))
    assert set(names(kind)) <= read

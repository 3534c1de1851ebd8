"""The page of all flags says what the code does."""
import dataclasses
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import tyro

from adapt import methods, settings
from adapt.core.oracle import Oracle
from adapt.errors import MethodError
from adapt.methods import Settings
from adapt.settings import COMMANDS, FACTS, MEANINGS, settings_of
from adapt.video.clips import VideoOptions
from tests import tiny

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "adapt/SETTINGS.md"
NAMES = [field.name for field in dataclasses.fields(Settings)]


def test_the_page_is_what_the_code_says() -> None:
    assert PAGE.read_text(encoding="utf-8") == settings.page(), "make it again: python -m adapt.settings > adapt/SETTINGS.md"


def test_the_command_that_makes_the_page_prints_it() -> None:
    done = subprocess.run([sys.executable, "-m", "adapt.settings"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, PAGE.read_text(encoding="utf-8"))


def test_every_flag_that_help_lists_is_on_the_page_and_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    text = PAGE.read_text(encoding="utf-8")
    shared = {setting.name for setting in settings_of(VideoOptions)}
    for name, options in COMMANDS.items():
        with pytest.raises(SystemExit):
            tyro.cli(options, args=["--help"], prog=name, config=(tyro.conf.OmitArgPrefixes,))
        words = re.findall(r"(?<!\S)--([a-z][a-z0-9-]*)", capsys.readouterr().out)  # which writes - for _ and takes either
        listed = {word.replace("-", "_") for word in words if not word.startswith("no-")} - {"help"}
        section = text.split(f"## `python -m {name}`\n")[1].split("\n## ")[0]
        described = {line.split("`")[1][2:] for line in section.splitlines() if line.startswith("| `--")}
        described |= shared & listed | (set(NAMES) if name == "adapt" else set())
        assert listed == described, name


def test_a_default_on_the_page_typed_as_a_flag_is_the_default() -> None:
    words = ["--dataset", "a", "--backbone", "b", "--method", "c", "--corruptions", "d"]
    typed: list[str] = []
    for setting in settings_of(Settings):
        flag, values = f"--{setting.name}", shlex.split(setting.default)
        typed += {"yes": [flag], "no": [f"--no-{setting.name}"]}.get(setting.default, [flag, *values])
    plain: object = tyro.cli(COMMANDS["adapt"], args=words, config=(tyro.conf.OmitArgPrefixes,))
    assert tyro.cli(COMMANDS["adapt"], args=words + typed, config=(tyro.conf.OmitArgPrefixes,)) == plain


def test_what_the_page_adds_is_about_settings_that_exist() -> None:
    flags = {setting.name for cls in (VideoOptions, *COMMANDS.values()) for setting in settings_of(cls)}
    assert FACTS.keys() == set(NAMES)
    assert MEANINGS.keys() <= flags
    assert all(fact.values and fact.source for fact in FACTS.values())


@dataclasses.dataclass(frozen=True)
class Grouped:
    """Two groups, and a comment of each kind."""

    plain: int
    # dogs, cats
    bark: float = 2.5e-4  # how loud; "#" is no comment: see below
    hash: str = "# none"
    # cows
    moo: tuple[int, ...] = ()  # when
    loud: bool = True


def test_defaults_groups_and_comments_are_read_from_the_source() -> None:
    found = [(s.name, s.default, s.group, s.comment) for s in settings_of(Grouped)]
    assert found == [
        ("plain", "required", "", ""),
        ("bark", "0.00025", "dogs, cats", 'how loud; "#" is no comment: see below'),
        ("hash", "# none", "dogs, cats", ""),
        ("moo", "none", "cows", "when"),
        ("loud", "yes", "cows", ""),
    ]


def test_a_setting_that_nobody_explained_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "FACTS", {name: fact for name, fact in FACTS.items() if name != "ensemble"})
    with pytest.raises(MethodError, match="setting ensemble is new: give its unit, values and source"):
        settings.page()
    monkeypatch.setattr(settings, "FACTS", FACTS)
    monkeypatch.setattr(settings, "MEANINGS", {})
    with pytest.raises(MethodError, match="flag views of adapt.video is not explained"):
        settings.page()


@contextmanager
def reading(method: str) -> Iterator[set[str]]:
    """The settings that a method reads while it is built and adapts on three clips, two of them heard."""
    seen: set[str] = set()

    class Watched(Settings):
        def __getattribute__(self, name: str) -> object:
            if name in NAMES:
                seen.add(name)
            return super().__getattribute__(name)

    clips = [tiny.batch(seed=i, heard=heard) for i, heard in enumerate((0, None, 1))]
    oracle = Oracle({clip.clip_ids[0]: (0,) for clip in clips})
    watched = Watched()
    seen.clear()
    adapting = methods.build(method, tiny.trained(), None, tiny.K, watched, oracle)
    for clip in clips:
        adapting.adapt(clip)
    yield seen


def test_a_method_reads_no_setting_of_a_group_that_does_not_name_it() -> None:
    """Measured on a model that is made here; a group that names no method is of all that take gradients, which are those that read `scope`."""
    read: dict[str, set[str]] = {}
    for method in methods.names():
        with reading(method) as seen:
            read[method] = set(seen)
    gradients = {method for method, seen in read.items() if "scope" in seen}
    assert gradients == {"tent", "shot", "eata", "sar", "vitta", "vitta_fusion", "audio", "oracle_gate"}
    for setting in settings_of(Settings):
        named = {word for word in setting.group.replace(",", " ").split() if word in methods.names()} or gradients
        named |= {"oracle_gate"} if "audio" in named else set()
        users = {method for method, seen in read.items() if setting.name in seen}
        assert users <= named, f"{setting.name} stands under {setting.group!r}, but {sorted(users - named)} read it"

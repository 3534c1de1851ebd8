"""The code's part of a fingerprint: what a result depends on, and nothing that only people read."""

import shutil
from pathlib import Path

import pytest

from adapt.tables import code

SOURCE = '''"""A module."""
import math


class Loud:
    """How loud."""

    level: float = 1.0
    """of the sound"""

    def root(self, x: float) -> float:
        """The square root."""
        if x > 0:
            "why not"
            return math.sqrt(x)  # of x
        return 0.0
'''


@pytest.mark.parametrize(("old", "new"), [
    ('"""A module."""', '"""Another text,\n\nof two paragraphs."""'),
    ('"""A module."""\n', ""),
    ('    """How loud."""\n', '    """Not how soft."""\n'),
    ('    """of the sound"""\n', ""),
    ('        """The square root."""\n', "        # no docstring\n"),
    ('            "why not"\n', ""),
    ("  # of x", "  # of the argument"),
    ("\n\n\nclass", "\n\n\n# a class\n\n\n\nclass"),
    ("math.sqrt(x)", "math.sqrt(\n                x\n            )"),
    ("def root(self, x: float) -> float:", "def root(\n        self, x: float\n    ) -> float:"),
])  # fmt: skip
def test_comments_docstrings_and_line_breaks_mean_nothing(old: str, new: str) -> None:
    assert old in SOURCE
    assert code.meaning(SOURCE.replace(old, new, 1)) == code.meaning(SOURCE)


@pytest.mark.parametrize(("old", "new"), [
    ("math.sqrt(x)", "math.sqrt(2 * x)"),
    ("level: float = 1.0", "level: float = 2.0"),
    ("level: float", "level: int"),
    ("x > 0", "x >= 0"),
    ("import math", "import cmath as math"),
    ("return 0.0", "return '0.0'"),
    ("def root", "def square"),
    ("        return 0.0\n", "        return 0.0\n\n    def more(self) -> None:\n        print(1)\n"),
    ("self, x: float", "self, x: float = 0"),
])  # fmt: skip
def test_code_means_something(old: str, new: str) -> None:
    assert old in SOURCE
    assert code.meaning(SOURCE.replace(old, new, 1)) != code.meaning(SOURCE)


def test_a_text_that_is_used_is_no_docstring() -> None:
    assert code.meaning('def f():\n    return "a"\n') != code.meaning('def f():\n    return "b"\n')
    assert code.meaning('NAME = "a"\n') != code.meaning('NAME = "b"\n')


def test_a_function_of_a_docstring_alone_is_one_that_does_nothing() -> None:
    assert code.meaning('def f():\n    """Nothing."""\n') == code.meaning('def f():\n    """Nothing at all."""\n')


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the package that is hashed in place of ours."""
    shutil.copytree(code.PACKAGE, tmp_path / "adapt", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(code, "PACKAGE", tmp_path / "adapt")
    return tmp_path / "adapt"


@pytest.fixture(scope="module")
def unchanged() -> str:
    """The hash of a run by the package as it is."""
    return sha256()


def sha256(method: str = "vitta") -> str:
    """Of a run of that method, as the stage takes it."""
    modules = ["adapt.stream.streaming", f"adapt.methods.{method}", "adapt.backbones.tanet", "adapt.fusion.plain"]
    return code.code_sha256(modules, without=("adapt.report.metrics", "adapt.stream._pace", "adapt.stream._profile"))


def change(path: Path, text: str) -> None:
    path.write_text(path.read_text(encoding="utf-8") + text, encoding="utf-8")


def test_the_same_code_in_another_place_is_the_same(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copied = sha256()
    monkeypatch.undo()
    assert package != code.PACKAGE
    assert sha256() == copied


@pytest.mark.parametrize("name", [
    "methods/vitta.py", "losses.py", "core/learner.py", "core/state.py", "video/clips.py",
    "video/decoding/_worker.py", "backbones/tanet.py",
    "fusion/plain.py", "stream/_batches.py", "tables/cache.py", "contract.py",
])  # fmt: skip
def test_a_run_depends_on_what_it_imports(name: str, package: Path, unchanged: str) -> None:
    change(package / name, "\n\nMORE = 1\n")
    assert sha256() != unchanged


def test_a_remark_in_any_file_changes_no_run(package: Path, unchanged: str) -> None:
    for file in package.rglob("*.py"):
        change(file, "\n\n# a remark\n")
    assert sha256() == unchanged


NOT_READ = (
    "methods/audio.py", "methods/sar.py", "fusion/balanced.py", "backbones/swin3d.py", "report/table.py",
    "report/metrics.py", "stream/_pace.py",
    "stream/_profile.py", "source/train.py", "wrapper.py", "settings.py",
)  # fmt: skip


def test_a_run_does_not_depend_on_other_methods_and_what_makes_no_row(package: Path, unchanged: str) -> None:
    for name in NOT_READ:
        change(package / name, "\n\nMORE = 1\n")
    assert sha256() == unchanged


def test_another_method_is_another_hash() -> None:
    assert len({sha256(name) for name in ("vitta", "audio", "source", "tent")}) == 4

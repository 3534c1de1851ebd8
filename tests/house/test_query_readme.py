"""The README's SQL examples print what the README shows: of the sound side the same rows, of trained models the same
shape.

The sound side's figures may differ in the last digit from processor to processor, and so may the order of rows that
nearly tie. Training ends with other weights on another processor: what a query says about a model is a share in per
cent, whichever.
"""

import re
import shlex
import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.places import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```bash\n(python -m pipeline\.query [^\n]*)\n```\n```text\n(.*?)```", README, re.DOTALL)
TRAINED = re.compile(r"\b(outcomes|predictions|traces)\b")  # what holds answers of a model that was trained here
OF_MODELS = [(command, shown) for command, shown in EXAMPLES if TRAINED.search(command)]
OF_SOUND = [(command, shown) for command, shown in EXAMPLES if not TRAINED.search(command)]
TOLERANCE = 0.06  # of a share, or of a number's size: one clip more or less
needs_the_demo = pytest.mark.skipif(
    not (ROOT / "cache/demo/pseudo_labels.parquet").exists(), reason="make demo has not run"
)
Row = list[str]


def cells(drawn: str) -> list[Row]:
    """The texts between the lines of a drawn table, row by row: names, types, values."""
    return [
        [cell.strip() for cell in line.strip("│ ").split("│")] for line in drawn.splitlines() if line.startswith("│")
    ]


def printed(command: str) -> list[Row]:
    done = subprocess.run(
        [sys.executable, *shlex.split(command)[1:]], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return cells(done.stdout)


def number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def nearly(shown: Row, found: Row) -> bool:
    """Whether two rows hold the same texts and nearly the same numbers."""

    def same(shown: str, found: str) -> bool:
        a, b = number(shown), number(found)
        return shown == found if a is None or b is None else abs(a - b) <= TOLERANCE * max(1.0, abs(a))

    return len(shown) == len(found) and all(map(same, shown, found))


def matches(shown: list[Row], found: list[Row], alike: Callable[[Row, Row], bool]) -> bool:
    """Whether each row has one of its own that is alike, in any order."""
    left = list(found)
    for row in shown:
        other = next((other for other in left if alike(row, other)), None)
        if other is None:
            return False
        left.remove(other)
    return not left


def shares_aside(types: Row) -> Callable[[Row, Row], bool]:
    """Compare two rows but for their columns of type double: those hold shares in per cent."""

    def alike(shown: Row, found: Row) -> bool:
        per_cent = [number(cell) for cell, kind in zip(found, types, strict=True) if kind == "double"]
        others = [(a, b) for a, b, kind in zip(shown, found, types, strict=True) if kind != "double"]
        return all(share is not None and 0 <= share <= 100 for share in per_cent) and all(a == b for a, b in others)

    return alike


def test_the_readme_has_examples_of_sound_and_one_of_models_with_their_output() -> None:
    assert (len(OF_SOUND), len(OF_MODELS)) == (5, 1)


def test_rows_are_alike_when_texts_are_the_same_and_numbers_nearly() -> None:
    assert nearly(["trumpet", "0.80", "75.0"], ["trumpet", "0.82", "71.0"])
    assert not nearly(["12"], ["13"])
    assert not nearly(["0.80"], ["0.87"])
    assert not nearly(["trumpet"], ["flute"])
    assert not nearly(["0.80"], ["NULL"])
    assert not nearly(["trumpet"], ["trumpet", "0.80"])


def test_rows_may_come_in_another_order_but_none_may_be_missing_or_stand_twice() -> None:
    assert matches([["a", "0.77"], ["b", "0.77"]], [["b", "0.78"], ["a", "0.77"]], nearly)
    assert not matches([["a", "0.77"], ["b", "0.77"]], [["a", "0.77"]], nearly)
    assert not matches([["a", "0.77"]], [["a", "0.77"], ["a", "0.77"]], nearly)


def test_of_a_models_row_any_share_will_do_but_nothing_else_may_change() -> None:
    alike = shares_aside(["varchar", "int64", "double"])
    assert alike(["audio", "24", "71.0"], ["audio", "24", "12.0"])
    assert not alike(["audio", "24", "71.0"], ["audio", "23", "71.0"])
    assert not alike(["audio", "24", "71.0"], ["audio", "24", "NULL"])
    assert not alike(["audio", "24", "71.0"], ["audio", "24", "101.0"])


@needs_the_demo
@pytest.mark.parametrize(("command", "shown"), OF_SOUND)
def test_an_example_about_sound_prints_what_the_readme_shows(command: str, shown: str) -> None:
    expected, found = cells(shown), printed(command)
    assert found[:2] == expected[:2]
    assert matches(expected[2:], found[2:], nearly), f"the README's example prints now: {found}"


@needs_the_demo
@pytest.mark.parametrize(("command", "shown"), OF_MODELS)
def test_an_example_about_models_prints_rows_of_the_shape_that_the_readme_shows(command: str, shown: str) -> None:
    expected, found = cells(shown), printed(command)
    assert found[:2] == expected[:2]
    assert matches(expected[2:], found[2:], shares_aside(expected[1])), f"the README's example prints now: {found}"

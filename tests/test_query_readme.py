"""The README's SQL examples print what the README shows; figures may differ in the last digit from machine to machine."""
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```bash\n(python -m pipeline\.query [^\n]*)\n```\n```text\n(.*?)```", README, re.DOTALL)
TOLERANCE = 0.06  # of a share, or of a number's size: one clip more or less
needs_the_demo = pytest.mark.skipif(not (ROOT / "cache/demo/pseudo_labels.parquet").exists(), reason="make demo has not run")


def cells(drawn: str) -> list[list[str]]:
    """The texts between the lines of a drawn table, row by row."""
    return [[cell.strip() for cell in line.strip("│ ").split("│")] for line in drawn.splitlines() if line.startswith("│")]


def same(shown: str, found: str) -> bool:
    """Whether two cells hold the same text, or nearly the same number."""
    try:
        a, b = float(shown), float(found)
    except ValueError:
        return shown == found
    return abs(a - b) <= TOLERANCE * max(1.0, abs(a))


def test_the_readme_has_six_examples_with_their_output() -> None:
    assert len(EXAMPLES) == 6


def test_a_cell_is_the_same_when_its_text_is_or_its_number_nearly() -> None:
    assert same("trumpet", "trumpet")
    assert same("0.80", "0.82")
    assert same("75.0", "71.0")
    assert not same("12", "13")
    assert not same("0.80", "0.87")
    assert not same("trumpet", "flute")


@needs_the_demo
@pytest.mark.parametrize(("command", "shown"), EXAMPLES)
def test_an_example_of_the_readme_prints_what_the_readme_shows(command: str, shown: str) -> None:
    done = subprocess.run([sys.executable, *shlex.split(command)[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows, found = cells(shown), cells(done.stdout)
    agree = [len(a) == len(b) and all(map(same, a, b)) for a, b in zip(rows, found, strict=False)]
    assert len(rows) == len(found) and all(agree), f"the README's example prints now:\n{done.stdout}"

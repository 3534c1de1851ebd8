"""docs/listener.md: its program runs as it stands, and every call that it shows is one that there is."""

import ast
import dataclasses
import inspect
import re
import subprocess
import sys

from pipeline import Listener
from pipeline.labels.meaning import Rules
from tests.places import ROOT

PROGRAM, CALLS = re.findall(r"```python\n(.*?)```", (ROOT / "docs/listener.md").read_text(encoding="utf-8"), re.DOTALL)


def test_the_program_runs_as_it_stands_and_says_what_it_heard() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1] == "0.0 ok True"  # three seconds are one short window
    heard = [line for line in lines if re.fullmatch(r"\d\.\d\d  .+", line)]
    why = [
        line for line in lines if re.fullmatch(r".+ \(\d\.\d\d\) x \d\.\d\d -> (telephone|dog|engine): \d\.\d\d", line)
    ]
    assert heard and why and len(heard) + len(why) == len(lines) - 1
    assert any(line.endswith("Telephone") for line in heard) and why[0].startswith("Telephone (")


def test_every_call_that_is_shown_names_options_that_there_are() -> None:
    calls = [node for node in ast.walk(ast.parse(CALLS)) if isinstance(node, ast.Call)]
    known = set(inspect.signature(Listener).parameters) | {field.name for field in dataclasses.fields(Rules)}
    assert len(calls) == 5
    assert {word.arg for call in calls for word in call.keywords} - known == set()

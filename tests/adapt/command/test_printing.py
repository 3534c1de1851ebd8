"""Strangers' text, such as names of files, steers no terminal and forges no line."""

import json
import logging
import os
import subprocess
import sys

import pytest

from adapt.command import _printing, printable, printable_json
from tests.places import ROOT

# Clear the screen; one-byte CSI; end an OSC; move the cursor; write from right to left; a line of its own.
HOSTILE = "a\x1b[2Jb\x9b31mc\x07d\re\u202ef\ng\u2028h\udce9"
SHOWN = r"a\x1b[2Jb\x9b31mc\x07d\re\u202ef\ng\u2028h\xe9"
HARMLESS = "caf\u00e9 \u65e5\u672c \u0645\u0631\u062d\u0628\u0627 \U0001f468\u200d\U0001f469\u200d\U0001f467 a\u00a0b"


def test_what_could_steer_a_terminal_is_shown_and_all_else_stays() -> None:
    assert printable(HOSTILE) == SHOWN
    assert printable(HARMLESS) == HARMLESS
    assert printable("a\nb\tc\x1b", lines=True) == "a\nb\tc\\x1b"


def test_json_says_the_same_and_sends_no_control_character() -> None:
    text = printable_json(json.dumps([HOSTILE[:-1], HARMLESS], ensure_ascii=False))
    assert json.loads(text) == [HOSTILE[:-1], HARMLESS]
    assert not _printing.UNPRINTABLE.search(text)


def test_a_log_record_is_one_line_and_a_traceback_keeps_its_lines() -> None:
    formatter = _printing.Formatter("%(name)s: %(message)s")
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        record = logging.LogRecord("scan", logging.WARNING, "", 0, "%s failed", (HOSTILE,), sys.exc_info())
    first, *rest = formatter.format(record).split("\n")
    assert first == f"scan: {SHOWN} failed"
    assert rest[0] == "Traceback (most recent call last):"
    assert not any(_printing.UNPRINTABLE.search(line) for line in rest)


@pytest.mark.parametrize("raised", ["EarshotError", "OSError(28, 'No space left on device', hostile)", "ValueError"])
def test_whatever_ends_a_command_sends_no_control_character(raised: str) -> None:
    error = raised if "(" in raised else f"{raised}(hostile)"
    code = (
        "from dataclasses import dataclass\nfrom adapt import command\nfrom adapt.errors import EarshotError\n"
        f"command.begin('demo')\nhostile = {HOSTILE!r}\n@dataclass(frozen=True)\nclass Options:\n    '''None.'''\n"
        f"def run(options): raise {error}\ncommand.main(Options, run, prog='demo', args=[])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, check=False
    )
    assert done.returncode == 1
    assert rb"\x1b[2J" in done.stderr
    assert not _printing.UNPRINTABLE.search(done.stderr.decode().replace("\n", ""))

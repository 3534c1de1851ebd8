"""Ctrl-C and SIGTERM: whatever a command does, one line, exit 130 or 143, and no process of it is left."""

import ast
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.places import ROOT

LONG_S = 50.0  # what the commands below would take; a test fails after half of it
HEAD = """
import hashlib, os, signal, subprocess, sys, threading, time
from dataclasses import dataclass
from adapt import command
command.begin("demo.long")

@dataclass(frozen=True)
class Options:
    \"\"\"None.\"\"\"

def ready(): print("ready", file=sys.stdout, flush=True)
def busy(): hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)  # minutes in C, without a look at signals
"""
RUN = '\ncommand.main(Options, run, prog="demo.long", args=[])'
WAYS = {
    "in C": "def run(options): ready(); busy()",
    "in Python": "def run(options):\n    ready()\n    while True: pass",
    "waiting for a thread": (
        "def run(options):\n    thread = threading.Thread(target=busy); thread.start(); ready(); thread.join()"
    ),
    "cleaning up for long": (
        "def run(options):\n    try: ready(); time.sleep(99)\n    finally: busy()"
    ),
    "in code that takes no KeyboardInterrupt": (
        "def run(options):\n    ready()\n"
        "    while True:\n        try: time.sleep(99)\n        except BaseException: pass"
    ),
    "failing in the attempt to clean up": (
        "def run(options):\n    try: ready(); time.sleep(99)\n    finally: 1 / 0"
    ),
}  # fmt: skip


def started(code: str, cwd: Path = ROOT) -> "subprocess.Popen[str]":
    """A program in a process group of its own, which does not inherit that somebody ignores Ctrl-C."""
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(
            [sys.executable, "-c", code], cwd=cwd, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            start_new_session=True,
        )  # fmt: skip
    finally:
        signal.signal(signal.SIGINT, before)


def ended(process: "subprocess.Popen[str]", sent: Sequence[signal.Signals]) -> tuple[int, str, float]:
    """(exit code, stderr, seconds) of a program that has said "ready" and is then sent signals."""
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            since = time.monotonic()
            for one in sent:
                process.send_signal(one)
            _, said = process.communicate(timeout=LONG_S / 2)
            return process.returncode, said, time.monotonic() - since
        finally:
            process.kill()


@pytest.mark.parametrize("way", WAYS)
def test_ctrl_c_is_one_line_and_130_whatever_the_main_thread_does(way: str) -> None:
    assert ended(started(HEAD + WAYS[way] + RUN), [signal.SIGINT])[:2] == (130, "demo.long: interrupted\n")


@pytest.mark.parametrize("way", ["in C", "in code that takes no KeyboardInterrupt"])
def test_sigterm_is_one_line_and_143(way: str) -> None:
    assert ended(started(HEAD + WAYS[way] + RUN), [signal.SIGTERM])[:2] == (143, "demo.long: terminated\n")


def test_both_signals_at_once_are_one_line() -> None:
    code, said, _ = ended(started(HEAD + WAYS["in C"] + RUN), [signal.SIGINT, signal.SIGTERM, signal.SIGINT])
    assert (code, said) in ((130, "demo.long: interrupted\n"), (143, "demo.long: terminated\n"))


def test_ctrl_c_while_modules_are_imported_is_the_same_line() -> None:
    imports = HEAD + "try:\n    ready(); time.sleep(99)\nexcept BaseException: time.sleep(99)\n"  # as numpy's do
    assert ended(started(imports), [signal.SIGINT])[:2] == (130, "demo.long: interrupted\n")


def test_children_and_theirs_end_with_the_command() -> None:
    """A shell that ignores what it may ignore, and its sleep."""
    run = (
        "def run(options):\n"
        "    words = ['sh', '-c', \"trap '' INT TERM HUP; sleep 99 & wait\"]\n"
        "    child = subprocess.Popen(words, start_new_session=True)\n"
        "    tasks = f'/proc/{child.pid}/task'\n"
        "    while len(os.listdir(tasks)) and not open(f'{tasks}/{child.pid}/children').read():\n"
        "        time.sleep(0.01)\n"
        "    print(child.pid, file=sys.stderr, flush=True)\n"
        "    ready(); busy()"
    )
    process = started(HEAD + run + RUN)
    code, said, _ = ended(process, [signal.SIGINT])
    shell, line = said.splitlines()
    assert (code, line) == (130, "demo.long: interrupted")
    until = time.monotonic() + 10
    while (left := groups(int(shell))) and time.monotonic() < until:
        time.sleep(0.05)
    assert not left


def groups(session: int) -> list[int]:
    """The processes of a session that have not ended."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, of = path.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        found += [int(path.parent.name)] if int(of) == session and state not in "ZX" else []
    return found


def test_where_ctrl_c_was_ignored_at_the_start_it_stays_so() -> None:
    """As a shell's `&` and nohup leave it."""
    run = "def run(options): ready(); time.sleep(0.5)"
    process = started("import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n" + HEAD + run + RUN)
    assert ended(process, [signal.SIGINT])[:2] == (0, "")


def test_a_patient_command_handles_ctrl_c_itself_and_says_130() -> None:
    run = (
        "from adapt.errors import StoppedError\n"
        "def run(options):\n    try: ready(); time.sleep(99)\n"
        "    except KeyboardInterrupt: time.sleep(1.5); raise StoppedError('stopped: 2 are left')"
    )
    process = started(HEAD + run + RUN.replace(")", ", patient=True)"))
    assert ended(process, [signal.SIGINT])[:2] == (130, "demo.long: stopped: 2 are left\n")


def test_at_a_prompt_ctrl_c_is_left_to_who_asks() -> None:
    run = (
        "def run(options):\n    with command.prompting():\n"
        "        try: ready(); time.sleep(99)\n        except KeyboardInterrupt: time.sleep(1.5)"
    )
    assert ended(started(HEAD + run + RUN), [signal.SIGINT])[:2] == (0, "")


def test_a_hook_interrupts_a_library_that_does_not_return() -> None:
    run = (
        "import duckdb\n"
        "def run(options):\n    connection = duckdb.connect()\n"
        "    with command.hook(connection.interrupt), command.prompting():\n"
        "        ready()\n"
        "        sql = 'SELECT count(*) FROM range(10000000000) a, range(1000) b WHERE hash(a.range) % 7 = 3'\n"
        "        try: connection.sql(sql).fetchall()\n"
        "        except (duckdb.InterruptException, KeyboardInterrupt, RuntimeError): return {'n': 1}"
    )
    process = started(HEAD + run + RUN)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    out, said = process.communicate(timeout=LONG_S / 2)
    assert (process.returncode, out, said) == (0, '{"n": 1}\n', "")


def test_a_forked_child_ends_alone_by_its_own_sigterm() -> None:
    run = (
        "def run(options):\n    pid = os.fork()\n    if not pid:\n        time.sleep(99)\n"
        "    time.sleep(0.2); os.kill(pid, signal.SIGTERM); code = os.waitpid(pid, 0)[1]; ready(); time.sleep(1.2)\n"
        "    return {'code': code}"
    )
    process = started(HEAD + run + RUN)
    out, said = process.communicate(timeout=LONG_S / 2)
    assert (process.returncode, out, said) == (0, f'ready\n{{"code": {signal.SIGTERM.value}}}\n', "")


COMMANDS = sorted(
    path.relative_to(ROOT)
    for package in ("adapt", "pipeline")
    for path in (ROOT / package).rglob("*.py")
    if '\nif __name__ == "__main__"' in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("path", COMMANDS, ids=str)
def test_every_command_takes_over_signals_before_it_imports_what_takes_time(path: Path) -> None:
    """`command.begin` stands before any import that is not Python's own."""
    body = ast.parse((ROOT / path).read_text(encoding="utf-8")).body
    begins = next(i for i, node in enumerate(body) if "command.begin" in ast.unparse(node))
    before = [node for node in body[:begins] if isinstance(node, (ast.Import, ast.ImportFrom))]
    rooms = {name.split(".")[0] for node in before for name in names_of(node)}
    assert rooms - sys.stdlib_module_names == {"adapt"}
    assert ast.unparse(body[begins]).startswith("if __name__ == '__main__':\n    command.begin(")
    assert "from adapt import command" in map(ast.unparse, before)


def names_of(node: ast.Import | ast.ImportFrom) -> list[str]:
    return [alias.name for alias in node.names] if isinstance(node, ast.Import) else [str(node.module)]

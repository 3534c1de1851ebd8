"""Runs stages as processes that something happens to: `python -m tests.faults.stages` imports the stages once and forks
a process for each run, which then begins as the stage's own command does.

A fault is told by what it counts.  `kill` and `full` count calls, as Python's audit events say them: a file of the
project that is opened for writing (os.open and open), renamed, deleted or cut, a folder made or deleted, a lock taken.
The process is killed (SIGKILL) before the n-th of them; or from the n-th on, whatever makes a file or a folder fails
with ENOSPC.  What libraries write behind Python's back is reached by a limit on the size of files, in bytes:
`kill_at_size` (SIGXFSZ ends the process within the write) and `full_at_size` (the write fails with EFBIG).
"""

import errno
import importlib
import itertools
import json
import mmap
import os
import resource
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

from adapt import command
from tests.places import ROOT

STAGES = ("lists", "scan", "decode", "tag", "map_labels", "pseudo_label", "query")
PATH_EVENTS = ("os.remove", "os.mkdir", "os.rmdir", "os.truncate", "fcntl.flock")  # and open, os.rename
MAKING = ("open", "os.mkdir")
SAID_BYTES = 256


@dataclass(frozen=True)
class Run:
    """A stage, its command line, and what happens to it."""

    stage: str
    args: tuple[str, ...]
    fault: str = ""  # kill, full, kill_at_size, full_at_size, or none
    n: int = 0

    def __str__(self) -> str:
        return f"{self.stage} {' '.join(self.args)}{f' [{self.fault} {self.n}]' if self.fault else ''}"


@dataclass(frozen=True)
class Ended:
    """How it ended."""

    code: int  # negative: minus the signal's number
    out: str
    err: str
    n_calls: int  # that count for its fault; for no fault, those that count for `kill`
    at: str  # the last of them

    @property
    def is_one_line(self) -> bool:
        """Whether it failed as a command should: exit 1, the last line says why, and nothing else is an error."""
        lines = self.err.splitlines()
        return self.code == 1 and "Traceback" not in self.err and bool(lines) and lines[-1].startswith("pipeline.")


class Forks:
    """The program of this file, as its users see it.  A context manager."""

    def __init__(self) -> None:
        env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "tests.faults.stages"], env=env, text=True, start_new_session=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def __enter__(self) -> "Forks":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()  # runs have ended, or a test has timed out
        self._process.communicate()

    def run(self, root: Path, *runs: Run) -> list[Ended]:
        """Run all of them at once in the project `root`; how each ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = {"root": str(root), "runs": [asdict(run) for run in runs]}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return [Ended(**ended) for ended in json.loads(self._process.stdout.readline())]


def serve() -> None:
    """Answer requests from stdin until it is closed."""
    for stage in STAGES:
        importlib.import_module(f"pipeline.{stage}")
    import onnxruntime  # noqa: F401 - what tag would import; it takes a second
    import tyro  # noqa: F401

    answers = os.fdopen(os.dup(1), "w")
    while request := sys.stdin.readline():
        asked = json.loads(request)
        started = [_start(Path(asked["root"]), Run(**run)) for run in asked["runs"]]
        answers.write(json.dumps([_end(*one) for one in started]) + "\n")
        answers.flush()


def _start(root: Path, run: Run) -> tuple[int, int, int, mmap.mmap]:
    """(its process, the ends of stdout and stderr to read from, where it says its calls)."""
    said = mmap.mmap(-1, SAID_BYTES)
    (out, out_end), (err, err_end) = os.pipe(), os.pipe()
    pid = os.fork()
    if not pid:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(out_end, 1)
        os.dup2(err_end, 2)
        os.closerange(3, max(out_end, err_end) + 1)
        os.chdir(root)
        _be(run, root, said)
    os.close(out_end)
    os.close(err_end)
    return pid, out, err, said


def _be(run: Run, root: Path, said: mmap.mmap) -> NoReturn:
    """Be the stage's command."""
    module, name = sys.modules[f"pipeline.{run.stage}"], f"pipeline.{run.stage}"
    sys.argv = sys.orig_argv = [name, *run.args]
    command.begin(name)
    _meet(run, str(root), said)
    code = 0
    try:
        command.main(module.Options, module.run, prog=name, args=run.args)
    except SystemExit as how:
        code = how.code if isinstance(how.code, int) else 1
    except BaseException:
        traceback.print_exc()
        code = 1
    # As Python ends, but for C++: libraries would wait there for threads that a forked process does not have.
    threading._shutdown()  # type: ignore[attr-defined]
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _meet(run: Run, root: str, said: mmap.mmap) -> None:
    """Have the fault happen to this process."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if run.fault.endswith("_at_size"):
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL if run.fault == "kill_at_size" else signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (run.n, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        return
    numbers = itertools.count(1)  # threads share it

    def hook(event: str, args: Sequence[object]) -> None:
        if event == "open":
            place, flags = args[0], args[2]
            if not (isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)):
                return
        elif event == "os.rename" or event in PATH_EVENTS:
            place = args[0]
        else:
            return
        if isinstance(place, (str, bytes, os.PathLike)):
            path = os.path.abspath(os.fsdecode(place))  # noqa: PTH100
            if not path.startswith(root):
                return
        elif event == "open":
            return  # a descriptor that was opened before
        else:
            path = ""
        if run.fault == "full" and event not in MAKING:
            return
        number = next(numbers)
        words = f"{number} {event} {path.removeprefix(root)}".encode("ascii", "replace")[: SAID_BYTES - 1]
        said[:] = words.ljust(SAID_BYTES, b"\0")
        if run.fault == "kill" and number == run.n:
            os.kill(os.getpid(), signal.SIGKILL)
        if run.fault == "full" and number >= run.n:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    sys.addaudithook(hook)


def _end(pid: int, out: int, err: int, said: mmap.mmap) -> Mapping[str, object]:
    """Wait for a run.  Its pipes are read while it works: it may say more than they hold."""
    texts = [_read_all(out), _read_all(err)]
    _, status = os.waitpid(pid, 0)
    number, _, at = bytes(said).rstrip(b"\0").decode("ascii").partition(" ")
    return {
        "code": os.waitstatus_to_exitcode(status), "out": texts[0], "err": texts[1], "n_calls": int(number or 0),
        "at": at,
    }  # fmt: skip


def _read_all(end: int) -> str:
    with os.fdopen(end, "rb") as file:
        return file.read().decode("utf-8", "replace")


if __name__ == "__main__":
    serve()

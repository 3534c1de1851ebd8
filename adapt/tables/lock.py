"""One process at a time for each data set and stage: a lock beside the stage's output, which says who holds it.

The lock is flock's on cache/<dataset>/.<stage>.lock, so the kernel lets go of it when its holder ends, however that
ends.  The file stays: its text is for people and for the message of the process that comes second.  It lies beside the
stage's outputs, not in them, so what DVC deletes before a stage never holds a lock.
"""

import contextlib
import fcntl
import functools
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import quote

from adapt.errors import BusyError
from adapt.tables import cache

WAIT_S = 3.0  # children of a process that was just killed may hold its lock for a moment longer
LOOK_S = 0.1
COMMAND_CHARS = 300

Result = TypeVar("Result")


class OfDataset(Protocol):
    """The options of a stage."""

    @property
    def dataset(self) -> str:
        """Names cache/<dataset>."""


Options = TypeVar("Options", bound=OfDataset)


def path_of(dataset: str, stage: str) -> Path:
    """The lock of a stage; what of `stage` would be another folder is escaped."""
    return cache.folder(dataset) / f".{quote(stage, safe='+')}.lock"


class alone:  # noqa: N801 - a decorator
    """Decorate a stage's `run(options)`: it holds the stage's lock while it works.

    A stage without its data set's folder has nothing to read, and says so itself; one that `makes_folder` makes it, and
    takes it away where it fails before anything is in it.  Raises BusyError where another process is at it.
    """

    def __init__(self, stage: str | Callable[[Any], str], *, makes_folder: bool = False) -> None:
        """`stage` is a name, or gives one for the options, where some of them write other files than others."""
        self._stage, self._makes_folder = stage, makes_folder

    def __call__(self, run: Callable[[Options], Result]) -> Callable[[Options], Result]:
        """The stage, run by one process at a time."""

        @functools.wraps(run)
        def locked(options: Options) -> Result:
            name = self._stage if isinstance(self._stage, str) else self._stage(options)
            folder, path = cache.folder(options.dataset), path_of(options.dataset, name)
            what = f"{name} of {options.dataset}"
            if folder.is_dir():
                with holding(path, what):
                    return run(options)
            if not self._makes_folder:
                return run(options)
            with _fresh(folder), holding(path, what):
                try:
                    return run(options)
                except BaseException:
                    if [*folder.iterdir()] == [path]:
                        path.unlink()  # whoever waits for it sees that it is gone, and makes another
                    raise

        return locked


@contextmanager
def _fresh(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # it is not empty, as it should be
            folder.rmdir()


@contextmanager
def holding(path: Path, what: str) -> Iterator[None]:
    """Hold the lock at `path` while the block runs; `what` names in the message what is being made.

    Raises BusyError, in one line that says who holds it since when, where another process does.
    """
    descriptor = _take(path, what)
    try:
        said = {
            "pid": os.getpid(),
            "host": platform.node(),
            "since": time.strftime("%Y-%m-%d %H:%M:%S %z"),
            "command": shlex.join(sys.orig_argv)[:COMMAND_CHARS],
        }
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, (json.dumps(said) + "\n").encode(), 0)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from error  # a descriptor's error names no file
        yield
    finally:
        os.close(descriptor)


def _take(path: Path, what: str) -> int:
    """Open and lock the file at `path`; a link there is not followed."""
    until = time.monotonic() + WAIT_S
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            said = os.pread(descriptor, 1 << 12, 0)
            os.close(descriptor)
            if time.monotonic() > until or _is_alive(said):
                raise BusyError(f"{what} is being made by {_holder(said)}: wait for it (lock: {path})") from None
            time.sleep(LOOK_S)
            continue
        except BaseException:
            os.close(descriptor)
            raise
        if _is_at(path, descriptor):
            return descriptor
        os.close(descriptor)  # it was deleted meanwhile


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _stated(said: bytes) -> dict[str, object]:
    """What a holder wrote; nothing where it has not yet, or somebody else wrote there."""
    try:
        found = json.loads(said)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _is_alive(said: bytes) -> bool:
    """Whether the holder runs on this machine, so that waiting would not help."""
    stated = _stated(said)
    pid = stated.get("pid")
    if stated.get("host") != platform.node() or not isinstance(pid, int) or pid < 1:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _holder(said: bytes) -> str:
    stated = {name: ascii(value)[1:-1] if isinstance(value, str) else value for name, value in _stated(said).items()}
    if not {"pid", "host", "since", "command"} <= stated.keys():
        return "another process"
    return f"process {stated['pid']} on {stated['host']} since {stated['since']} ({stated['command']})"

"""Ctrl-C and SIGTERM: one line on stderr, exit code 130 or 143, within a second, no child left.

Python runs a signal's handler between two instructions of the main thread, which may be in a matrix product or a query
for seconds.  So two things happen.  The handler raises KeyboardInterrupt in the main thread, whose `with` and `finally`
clean up.  And a thread, which the system's handler wakes through a pipe, calls what interrupts a library (`hook`),
waits for GRACE_S and then ends the process and its children, wherever they are: files are written whole or not at all,
so what a kill leaves is what it always leaves.

While modules are imported nothing is open yet: the handler ends the process at once.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType, TracebackType

from adapt.command import _printing

GRACE_S = 0.6  # to clean up in
WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}


class Terminated(KeyboardInterrupt):  # noqa: N818 - what happened, as KeyboardInterrupt is
    """SIGTERM came: what handles Ctrl-C handles it."""


class Ending:
    """How this process ends by a signal."""

    def __init__(self, prog: str) -> None:
        self.prog, self.is_running, self.is_patient, self.n_prompts = prog, False, False, 0
        self.hooks: list[Callable[[], object]] = []
        self.received: signal.Signals | None = None  # what ends it
        self._lock, self._is_said, self._woken = threading.Lock(), False, -1

    def install(self) -> None:
        """Take over both signals, unless they are ignored, as `nohup` and a shell's `&` have it."""
        woken, wake = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(wake, False)
        self._woken = woken
        for number in WORDS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._handle)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        sys.excepthook, threading.excepthook, sys.unraisablehook = self._show, self._of_thread, self._unraisable
        threading.Thread(target=self._watch, daemon=True, name="signals").start()
        os.register_at_fork(after_in_child=self._forget)

    def exit(self) -> None:
        """Say so, once, and end this process and its children."""
        number = self.received or signal.SIGINT
        with self._lock:
            if not self._is_said:
                os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, f"{self.prog}: {WORDS[number]}\n".encode())
            self._is_said = True
            end_children()
            os._exit(128 + number)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        """In the main thread."""
        if not (number == signal.SIGINT and self.n_prompts):
            self.received = self.received or signal.Signals(number)
        if not self.is_running:
            self.exit()
        raise KeyboardInterrupt if number == signal.SIGINT else Terminated

    def _watch(self) -> None:
        """In a thread of its own."""
        while True:
            for number in os.read(self._woken, 64):
                if number in WORDS:
                    self._hear(signal.Signals(number))

    def _hear(self, number: signal.Signals) -> None:
        asked_to_forget = number == signal.SIGINT and self.n_prompts
        if not asked_to_forget and self.received is None:
            self.received = number
        for hook in [*self.hooks]:
            with suppress(Exception):  # of a library that is closed by now
                hook()
        if not asked_to_forget and not (number == signal.SIGINT and self.is_patient):
            time.sleep(GRACE_S)
            self.exit()

    def _forget(self) -> None:
        """In a child made by fork: signals are its parent's affair."""
        signal.set_wakeup_fd(-1)
        for number in WORDS:
            if signal.getsignal(number) == self._handle:
                signal.signal(number, signal.SIG_DFL)
        self.hooks.clear()

    def _show(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if self.received is not None or issubclass(kind, KeyboardInterrupt):
            self.exit()
        _printing.show_exception(kind, error, trace)

    def _of_thread(self, args: "threading.ExceptHookArgs") -> None:
        if self.received is None and args.exc_value is not None:
            _printing.show_exception(args.exc_type, args.exc_value, args.exc_traceback)

    def _unraisable(self, unraisable: "sys.UnraisableHookArgs") -> None:
        if self.received is None:
            sys.__unraisablehook__(unraisable)


_ending: Ending | None = None


def ending() -> Ending | None:
    """How this process ends by a signal; None where `begin` was not called."""
    return _ending


def begin(prog: str) -> None:
    """Take over Ctrl-C and SIGTERM for the command `prog`: for a program's first lines, before what takes time to
    import.

    Does nothing in a thread, which can take over no signals.
    """
    global _ending  # noqa: PLW0603 - as signals are the process's
    if threading.current_thread() is threading.main_thread() and _ending is None:
        _ending = Ending(prog)
        _ending.install()


@contextmanager
def hook(interrupt: Callable[[], object]) -> Iterator[None]:
    """Have `interrupt` called, from another thread, when Ctrl-C or SIGTERM comes inside the block: for a library whose
    calls do not return meanwhile, such as `connection.interrupt` of DuckDB.
    """
    hooks = _ending.hooks if _ending else []
    hooks.append(interrupt)
    try:
        yield
    finally:
        hooks.remove(interrupt)


@contextmanager
def prompting() -> Iterator[None]:
    """Inside the block, Ctrl-C is KeyboardInterrupt and no more: whoever asks at a prompt handles it."""
    if _ending is not None:
        _ending.n_prompts += 1
    try:
        yield
    finally:
        if _ending is not None:
            _ending.n_prompts -= 1


def end_children() -> None:
    """Kill the children of this process, and theirs: ffmpeg, workers, lanes.  Where the system lists none, those that
    notice the end of their parent are left to do so.
    """
    todo, found = [os.getpid()], list[int]()
    while todo:
        for task in Path(f"/proc/{todo.pop()}/task").glob("*/children"):
            with suppress(OSError):
                children = [int(word) for word in task.read_text().split()]
                todo += children
                found += children
    for pid in found:
        with suppress(OSError):
            os.kill(pid, signal.SIGKILL)

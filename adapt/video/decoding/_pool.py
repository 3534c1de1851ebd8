"""Workers at work: lent to one file at a time, given back when it is closed, replaced when a file has cost one."""

import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any

import numpy as np

from adapt.errors import AdaptError
from adapt.video.decoding._limits import FRAMES_AT_ONCE, TIMEOUT_S, Facts
from adapt.video.decoding._process import EndedError, Process, SlowError

MOST_IDLE = 16  # workers that are kept for the next Decoders


class DecodeError(AdaptError):
    """A file cannot be read; the message is the reason, without the file's name."""


class WorkerEndedError(DecodeError):
    """The worker that read the file is gone: by the file's fault, or because the machine's memory ran out."""


class FactsChangedError(AdaptError):
    """Decord failed on the way and PyAV finds other frames: plan again by the video's new facts."""


class ClosedError(AdaptError):
    """The Decoders were closed while a file was being read, or before."""


class _Shelf:
    """The workers of this process: idle ones for all its Decoders, and a list of those that are lent."""

    def __init__(self) -> None:
        self._lock, self._idle, self._lent, self._pid = Lock(), list[Process](), set[Process](), os.getpid()
        self.is_open, self._is_used = True, False

    def _own(self) -> None:
        """Forget the parent's workers after a fork."""
        if self._pid != os.getpid():
            theirs = [*self._idle, *self._lent]
            self.__init__()  # type: ignore[misc]
            for process in theirs:
                process.disown()

    def take(self) -> Process:
        """Lend an idle worker, or a new one, which may not be ready."""
        self._own()
        process = self._pop()
        while (
            process is not None and not process.is_alive()
        ):  # it was killed while it was idle: that is no file's fault
            process.end()
            process = self._pop()
        process = process or Process()
        with self._lock:
            self._lent.add(process)
            first, self._is_used = not self._is_used, True
        if first:  # not atexit, which comes after Python has waited for its threads, and those may wait for a file
            threading._register_atexit(self.end)  # type: ignore[attr-defined]
        return process

    def _pop(self) -> Process | None:
        with self._lock:
            return self._idle.pop() if self._idle else None

    def give(self, process: Process, *, is_fine: bool) -> None:
        """Take a worker back: keep it where it is fine and there are not enough, else end it."""
        self._own()
        with self._lock:
            self._lent.discard(process)
            if is_fine and self.is_open and len(self._idle) < MOST_IDLE:
                self._idle.append(process)
                return
        process.end()

    def end(self) -> None:
        """Lend no more, kill those that are lent, and end the idle ones."""
        self._own()
        with self._lock:
            self.is_open, idle, self._idle = False, self._idle, []
            for process in self._lent:
                process.kill()
        for process in idle:
            process.end()


_SHELF = _Shelf()


class Video:
    """A file that is open in a worker."""

    def __init__(self, decoders: "Decoders", path: Path) -> None:
        self._decoders, self.path, self._left_s = decoders, path, decoders.timeout_s
        self._process: Process | None = None
        self._is_tried_again = False
        self.facts: Facts

    def _ask(self, request: dict[str, object]) -> dict[str, Any]:
        """Raises DecodeError where the file cannot be read, ClosedError where the Decoders were closed meanwhile."""
        if self._process is None:
            raise DecodeError("the process that read it has ended")
        started = time.monotonic()
        try:
            answer = self._process.ask(request, self._left_s)
        except SlowError:
            self._lose()
            raise DecodeError(
                f"took longer than {self._decoders.timeout_s:g} s: killed (raise --decode_timeout_s)"
            ) from None
        except EndedError as how:
            self._lose()
            raise WorkerEndedError(
                f"the process that read it ended by {how}{' (out of memory?)' if str(how) == 'SIGKILL' else ''}"
            ) from None
        except BaseException:  # Ctrl-C while it is at work: it would answer the next question with this one's answer
            self._lose()
            raise
        self._left_s -= time.monotonic() - started
        if "error" in answer:
            raise DecodeError(str(answer["error"]))
        if "changed" in answer:
            self.facts = Facts(**answer["changed"])
            raise FactsChangedError(f"decord failed, and PyAV finds {self.facts.n_frames} frames")
        return answer

    def _lose(self) -> None:
        """Let the process go.  Raises ClosedError where it was ended by `close`."""
        lost, self._process = self._process, None
        if lost is not None:
            self._decoders.give_back(lost, is_fine=False)
            self._decoders.check()

    def open(self, *, check: bool) -> None:
        """Borrow a worker and have it open the file; `check`: decode the first frame.  Where the worker ends, another
        is tried, once for a file.  Raises as `_ask` does.
        """
        try:
            self._begin(check=check)
        except WorkerEndedError:
            self._is_tried_again = True
            self._begin(check=check)

    def _begin(self, *, check: bool) -> None:
        self._process = self._decoders.borrow()
        path = os.path.abspath(self.path)  # noqa: PTH100 - resolves no link
        self.facts = Facts(**self._ask({"do": "open", "path": path, "check": check})["ok"])

    def _begin_again(self, error: WorkerEndedError) -> None:
        """Go on in another worker.  Raises `error` where that has been done already, or finds other frames."""
        if self._is_tried_again:
            raise error
        self._is_tried_again, facts = True, self.facts
        self._begin(check=False)
        if self.facts != facts:
            raise error

    def close(self) -> None:
        """Give the worker back."""
        if self._process is not None:
            self._decoders.give_back(self._process, is_fine=self._process.tell({"do": "close"}))
            self._process = None

    def frames(self, indices: Sequence[int] | np.ndarray) -> Iterator[np.ndarray]:
        """Yield the frames at `indices`, which do not decrease, as uint8 (n, H, W, 3) of at most FRAMES_AT_ONCE and
        some 128 MB.

        A chunk lies in memory that the next one overwrites.  Raises DecodeError, FactsChangedError before the first
        chunk or a later one, IndexError.
        """
        wanted = np.asarray(indices, dtype=np.int64)
        if len(wanted) and (wanted[0] < 0 or wanted[-1] >= self.facts.n_frames or (np.diff(wanted) < 0).any()):
            raise IndexError(f"{self.path}: {wanted.tolist()} are no indices in order of {self.facts.n_frames} frames")
        done = 0
        while done < len(wanted):
            part = wanted[done : done + FRAMES_AT_ONCE].tolist()
            try:
                n, height, width, colours = self._ask({"do": "read", "indices": part})["ok"]
            except WorkerEndedError as error:
                self._begin_again(error)
                continue
            assert self._process is not None
            yield self._process.frames((n, height, width, colours))
            done += n


class Decoders:
    """Who reads videos, from any number of threads: a worker process for each file that is open at a time.

    A context manager.  Leaving it ends the work in hand at once (whoever waits for it gets ClosedError) and leaves idle
    workers to the next Decoders.
    """

    def __init__(self, timeout_s: float = TIMEOUT_S) -> None:
        """`timeout_s`: what a worker may spend on one file, from opening to closing it, before it is killed and the
        file fails.

        Raises AdaptError for one that is not above 0.
        """
        if not timeout_s > 0:
            raise AdaptError(f"decode_timeout_s is {timeout_s}: give seconds, more than 0")
        self.timeout_s = timeout_s
        self._lock, self._busy, self._closed = Lock(), set[Process](), False

    def __enter__(self) -> "Decoders":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Kill the workers that are reading; nothing can be opened any more."""
        with self._lock:
            self._closed = True
            for process in self._busy:
                process.kill()

    @contextmanager
    def open(self, path: Path, *, check: bool = False) -> Iterator[Video]:
        """The video at `path`, open in a worker; `check`: its first frame is decoded too.

        Raises DecodeError with the reason where it cannot be read, AdaptError where no worker can be started.
        """
        video = Video(self, path)
        try:
            video.open(check=check)
            yield video
        finally:
            video.close()

    def probe(self, path: Path) -> Facts:
        """What reading `path` would find, its first frame decoded to be sure.  Raises as `open` does."""
        with self.open(path, check=True) as video:
            return video.facts

    def borrow(self) -> Process:
        """A worker for one file.  Raises ClosedError, or AdaptError where it does not start."""
        self.check()
        process = _SHELF.take()
        with self._lock:
            self._busy.add(process)
        try:
            self.check()
            process.wait_until_ready()
        except BaseException:
            self.give_back(process, is_fine=False)
            self.check()
            raise
        return process

    def give_back(self, process: Process, *, is_fine: bool) -> None:
        """It is idle, or gone."""
        with self._lock:
            self._busy.discard(process)
            is_fine &= not self._closed
        _SHELF.give(process, is_fine=is_fine)

    def check(self) -> None:
        """Raise ClosedError where nothing can be read any more."""
        if self._closed or not _SHELF.is_open:
            raise ClosedError("the decoders are closed")

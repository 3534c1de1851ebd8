"""A worker process as its parent sees it: started once, asked file after file, killed when it takes too long."""

import contextlib
import json
import math
import mmap
import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping
from multiprocessing.connection import Pipe
from typing import TYPE_CHECKING, Any

import numpy as np

from adapt.errors import AdaptError
from adapt.video.decoding._limits import SHARED_BYTES

if TYPE_CHECKING:
    from adapt.video.decoding import _worker  # noqa: F401 - started by name: what looks for imports (fingerprints, DVC's deps) finds it here

START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from adapt.video.decoding import _worker; "
    "_worker.main(*map(int, sys.argv[2:]))"
)
START_TIMEOUT_S = 120.0  # a start takes 0.3 s where the machine is free
GRACE_S = 1.0  # to end, once it has let go of the connection


class EndedError(Exception):
    """The process ended by itself; says how."""


class SlowError(Exception):
    """The process did not answer in time, and was killed."""


class Process:
    """A worker.  It ends when this process does, however that ends: it notices that the pipe `_lifeline` has no writer
    any more.
    """

    def __init__(self) -> None:
        """Start it.  Raises AdaptError where it does not start."""
        self._is_ready = False
        self._connection, theirs = Pipe()
        self._answers = select.poll()  # Connection.poll makes one each time
        self._answers.register(self._connection.fileno(), select.POLLIN)
        watched, self._lifeline = os.pipe()
        memory = os.memfd_create("frames", os.MFD_CLOEXEC)
        os.ftruncate(memory, SHARED_BYTES)  # taken page by page, when written to
        self._memory = mmap.mmap(memory, SHARED_BYTES)
        fds = (theirs.fileno(), memory, watched)
        path = json.dumps([os.path.abspath(p) for p in sys.path])  # noqa: PTH100 - "" too, and what is no path
        command = [sys.executable, "-c", START, path, *map(str, fds)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=fds, start_new_session=True
        )
        theirs.close()
        os.close(memory)
        os.close(watched)

    def wait_until_ready(self) -> None:
        """Raises AdaptError where it does not start."""
        if self._is_ready:
            return
        try:
            self._receive(START_TIMEOUT_S)
            self._is_ready = True
        except (EndedError, SlowError) as error:
            raise AdaptError(
                f"the process that reads videos does not start ({error}): what it says stands above; is PyAV (av) "
                "installed?"
            ) from None

    def tell(self, request: Mapping[str, object]) -> bool:
        """Send a request; whether the process is there to take it."""
        try:
            self._connection.send_bytes(json.dumps(request).encode())
        except OSError:
            return False
        return True

    def ask(self, request: Mapping[str, object], timeout_s: float) -> dict[str, Any]:
        """The answer to a request.  Raises EndedError or SlowError, and the process is gone then; RuntimeError for a
        fault of the worker's.
        """
        if not self.tell(request):
            raise EndedError(self.end())
        answer = self._receive(timeout_s)
        if "fault" in answer:
            raise RuntimeError(f"the worker failed at {request}:\n{answer['fault']}")
        return answer

    def _receive(self, timeout_s: float) -> dict[str, Any]:
        if not self._answers.poll(max(0.0, 1000 * timeout_s)):
            self.end()
            raise SlowError(f"took longer than {timeout_s:g} s")
        try:
            answer: dict[str, Any] = json.loads(self._connection.recv_bytes())
        except (EOFError, OSError):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(GRACE_S)  # so that it says itself what it died of
            raise EndedError(self.end()) from None
        return answer

    def frames(self, shape: tuple[int, int, int, int]) -> np.ndarray:
        """The shared memory as frames; what is in it changes with the next request."""
        return np.frombuffer(self._memory, np.uint8, math.prod(shape)).reshape(shape)

    def is_alive(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def kill(self) -> None:
        """End it at once; whoever waits for its answer gets EndedError.  From any thread."""
        if self._process.returncode is None:
            self._process.kill()

    def end(self) -> str:
        """Kill it if it has not ended, and say how it ended."""
        self.kill()
        code = self._process.wait()
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1
        self._connection.close()
        if code >= 0:
            return f"exit status {code}"
        return signal.Signals(-code).name

    def disown(self) -> None:
        """In a child made by fork: let go of what is the parent's."""
        os.close(self._lifeline)
        self._connection.close()
        self._process.returncode = 0  # not ours to wait for

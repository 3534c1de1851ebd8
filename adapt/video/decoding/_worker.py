"""The worker: one process, one file at a time, frames into memory that it shares with its parent (`_process.py` starts
it).

Requests come as JSON on a connection, one after the other, and each but `close` has one answer: `ok` with what was
asked for, `error` with the reason why the file cannot be read, `changed` with new facts where decord failed on the way
and PyAV finds others, `fault` with a traceback.
"""

import dataclasses
import fcntl
import json
import mmap
import os
import resource
import select
import signal
import traceback
from multiprocessing.connection import Connection

import numpy as np

from adapt.video.decoding import _container, _log
from adapt.video.decoding._limits import SHARED_BYTES, WORKER_BYTES, Facts, UnreadableError
from adapt.video.decoding._readers import Decord, DistrustError, Reader, Sequential

Answer = dict[str, object]


def end_with(lifeline: int) -> None:
    """End this process as soon as the other end of the pipe `lifeline` is closed, whatever it is doing, stopped
    included: the kernel kills it.
    """
    fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)  # instead of SIGIO
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    watch = select.poll()
    watch.register(lifeline, select.POLLHUP)
    if watch.poll(0):  # closed before the kernel was told
        os._exit(0)


class Worker:
    """Reads one file at a time."""

    def __init__(self, memory: mmap.mmap, stderr: _log.Stderr) -> None:
        self.memory, self.stderr, self.path = memory, stderr, ""
        self.reader: Reader | None = None

    def open(self, path: str, check: bool) -> Answer:
        """Choose the reader of `path`; `check`: decode its first frame.  Raises UnreadableError."""
        self.close()
        self.stderr.read()  # of files before
        self.path = path
        self.reader = self._decord(check) or Sequential(path, self.stderr)
        return {"ok": dataclasses.asdict(self.reader.facts)}

    def _decord(self, check: bool) -> Reader | None:
        """Decord on the file, or None where it would not find the frames.  Raises UnreadableError where nothing
        would.
        """
        with _container.open_container(self.path, self.stderr, decode=False) as container:
            stream = _container.video_stream(container)
            if not _container.may_seek(container, stream):
                return None
            found = _container.survey(container, stream)
            if _container.why_not_decord(found) is not None:
                return None
            length_s = _container.duration_s([(packet.pts or 0, packet.duration) for packet in found], stream.time_base)
            facts = Facts(len(found), length_s, stream.codec_context.width, stream.codec_context.height, "decord")
        try:
            return Decord(self.path, facts, check=check)
        except DistrustError:
            return None

    def read(self, indices: list[int]) -> Answer:
        """Write the frames at `indices` into the shared memory, as many as fit into it, and say how many."""
        if self.reader is None:
            raise UnreadableError("no file is open")
        size = 3 * self.reader.facts.width * self.reader.facts.height
        try:
            frames = self.reader.read(indices[: SHARED_BYTES // size])
        except DistrustError:
            before = self.reader.facts
            self.reader = Sequential(self.path, self.stderr)
            if self.reader.facts.n_frames != before.n_frames:
                return {"changed": dataclasses.asdict(self.reader.facts)}
            return self.read(indices)
        np.frombuffer(self.memory, np.uint8, frames.size).reshape(frames.shape)[:] = frames
        return {"ok": frames.shape}

    def close(self) -> None:
        """Let go of the file."""
        if self.reader is not None:
            self.reader.close()
        self.reader = None

    def answer(self, request: dict[str, object]) -> Answer:
        """What to say to a request that is not `close`."""
        try:
            if request["do"] == "open":
                return self.open(str(request["path"]), bool(request["check"]))
            return self.read(list(request["indices"]))  # type: ignore[call-overload]
        except UnreadableError as error:
            return {"error": str(error)}
        except MemoryError:
            return {"error": f"its frames need more than {WORKER_BYTES >> 30} GB of memory"}
        except Exception:  # noqa: BLE001 - a fault of ours: the parent raises it
            return {"fault": traceback.format_exc()}


def main(connection: int, memory: int, lifeline: int) -> None:
    """Serve requests until the parent closes its end."""
    end_with(lifeline)
    resource.setrlimit(resource.RLIMIT_DATA, (WORKER_BYTES, WORKER_BYTES))
    worker, parent = Worker(mmap.mmap(memory, SHARED_BYTES), _log.Stderr()), Connection(connection)
    parent.send_bytes(b"{}")  # ready
    while True:
        try:
            request = json.loads(parent.recv_bytes())
        except EOFError:
            return
        if request["do"] == "close":
            worker.close()
        else:
            parent.send_bytes(json.dumps(worker.answer(request)).encode())

"""The two readers.  Both hand over RGB in a player's order, turned as the file says; where both can read a file, they
give the same pixels.
"""

import errno
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import chain
from typing import Protocol

import numpy as np
from av import VideoFrame
from av.error import FFmpegError
from av.video.reformatter import VideoReformatter

from adapt.video.decoding import _container, _log
from adapt.video.decoding._limits import KEPT_BYTES, WORKER_BYTES, Facts, UnreadableError, check_shape

QUARTER = 90  # degrees


class DistrustError(Exception):
    """Decord does not read the file as it should: PyAV will."""


class Reader(Protocol):
    """What reads one file."""

    facts: Facts

    def read(self, indices: Sequence[int]) -> np.ndarray:
        """The frames at `indices`, which do not decrease -> uint8 (n, H, W, 3).  Raises UnreadableError, or
        DistrustError.
        """

    def close(self) -> None:
        """Let go of the file."""


class Decord:
    """Seeks to the frames asked for; of files whose packets allow it."""

    def __init__(self, path: str, facts: Facts, *, check: bool) -> None:
        """Open `path`, of which `facts` are expected; `check` decodes the first frame.  Raises DistrustError."""
        try:
            import decord  # here: there is no package of it for processors other than x86-64
        except ImportError as error:
            raise DistrustError from error
        decord.logging.set_level(decord.logging.ERROR)
        self._errors = (decord.DECORDError, RuntimeError, IndexError, AssertionError, UnicodeEncodeError)
        self.facts = facts
        try:
            self._reader = decord.VideoReader(path, num_threads=1)
        except self._errors as error:
            raise DistrustError from error
        if len(self._reader) != facts.n_frames:
            raise DistrustError
        if check:
            self.read([0])

    def read(self, indices: Sequence[int]) -> np.ndarray:
        """As Reader says."""
        try:
            frames: np.ndarray = self._reader.get_batch(list(indices)).asnumpy()
        except self._errors as error:
            raise DistrustError from error
        if sorted(frames.shape[1:3]) != sorted((self.facts.height, self.facts.width)):
            raise DistrustError
        return frames

    def close(self) -> None:
        """As Reader says."""
        del self._reader


class Sequential:
    """PyAV, from the first frame to the last: one pass counts, and keeps the frames where they are few; else another
    one reads.
    """

    def __init__(self, path: str, stderr: _log.Stderr) -> None:
        """Decode all of `path` once.  Raises UnreadableError where there is no frame, or they are too large."""
        self._path, self._stderr, self._at = path, stderr, -1
        self._last: VideoFrame | None = None
        self._frames: Iterator[tuple[VideoFrame, Fraction | None]] = iter(())
        self._kept: list[VideoFrame] | None = []
        self._scaler = VideoReformatter()  # one for all: a frame's own has threads of its own
        spans: list[tuple[int, int]] = []
        time_base: Fraction | None = None
        self._size, self._turns, n_bytes, n_frames = (0, 0), 0, 0, 0
        for frame, unit in _shown(path, stderr):
            if n_frames == 0:
                self._size, self._turns, time_base = (
                    (frame.width, frame.height),
                    round(frame.rotation / QUARTER) % 4,
                    unit,
                )
            n_frames += 1
            n_bytes += sum(plane.buffer_size for plane in frame.planes)
            if frame.pts is not None:
                spans.append((frame.pts, frame.duration or 0))
            if self._kept is not None:
                self._kept.append(frame)
                self._kept = self._kept if n_bytes <= KEPT_BYTES else None
        if not n_frames:
            raise UnreadableError(f"no picture can be decoded{_because(stderr)}")
        self.facts = Facts(n_frames, _container.duration_s(spans, time_base), *self._size, "pyav")

    def read(self, indices: Sequence[int]) -> np.ndarray:
        """As Reader says."""
        return np.stack([self._rgb(self._frame(index)) for index in indices])

    def _frame(self, index: int) -> VideoFrame:
        if self._kept is not None:
            return self._kept[index]
        if index < self._at or self._last is None:
            self._frames, self._at = _shown(self._path, self._stderr), -1
        while self._at < index:
            self._last, _ = next(self._frames, (None, None))
            if self._last is None:
                raise UnreadableError(f"it has {self._at + 1} frames the second time it is read: is it being written?")
            self._at += 1
        assert self._last is not None
        return self._last

    def _rgb(self, frame: VideoFrame) -> np.ndarray:
        width, height = self._size  # of the first frame: ffmpeg, too, makes all others so
        return np.rot90(self._scaler.reformat(frame, width, height, "rgb24", threads=1).to_ndarray(), self._turns)

    def close(self) -> None:
        """As Reader says."""
        self._kept, self._last, self._frames = [], None, iter(())


def _because(stderr: _log.Stderr) -> str:
    reason = _log.one_line(stderr.read())
    return f" ({reason})" if reason else ""


def _shown(path: str, stderr: _log.Stderr) -> Iterator[tuple[VideoFrame, Fraction | None]]:
    """The frames of `path` that a player shows, in its order, and the unit of their times: all that the decoder does
    not hide.

    A damaged packet costs what it costs ffmpeg, which goes on with the next.
    """
    with _container.open_container(path, stderr, decode=True) as container:
        stream = _container.video_stream(container)
        for packet in chain(_container.packets(container, stream), (None,)):  # None: what the decoder still holds
            try:
                frames = stream.codec_context.decode(packet)
            except FFmpegError as error:
                if error.errno == errno.ENOMEM:
                    raise UnreadableError(f"its frames need more than {WORKER_BYTES >> 30} GB of memory") from error
                continue
            for frame in frames:
                check_shape(frame.width, frame.height)
                yield frame, stream.time_base

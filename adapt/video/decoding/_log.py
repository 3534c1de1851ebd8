"""What the decoding libraries write to stderr: kept off the terminal, and asked for the reason when a file cannot be
read.

They write to a pipe that nobody empties while they work: it holds the first 64 kB and then takes no more, so a file
that makes them complain without end costs nothing.
"""

import contextlib
import os
import re

import av

LENGTH = 200  # characters of a reason
PREFIX = re.compile(
    r"^(\[[^\]]*\] ?)+(\S+:\d+: )?"
)  # a library's part and address, or a clock and a source line: other ones each time
STDERR = 2


class Stderr:
    """This process's stderr as a pipe: what is written can be read, what is not read is bounded."""

    def __init__(self) -> None:
        self._out, into = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        os.dup2(into, STDERR)
        os.close(into)
        # PyAV's own takes Python's lock in FFmpeg's threads, and may wait for ever
        av.logging.restore_default_callback()
        av.logging.set_libav_level(av.logging.ERROR)

    def read(self) -> str:
        """What was written since the last time."""
        with contextlib.suppress(BlockingIOError):  # nothing was
            return os.read(self._out, 1 << 16).decode(errors="replace")
        return ""


def one_line(text: str) -> str:
    """The last line of `text` that says anything, without what is another one each time."""
    lines = [line for line in (PREFIX.sub("", line).strip() for line in text.splitlines()) if line]
    return lines[-1][:LENGTH] if lines else ""

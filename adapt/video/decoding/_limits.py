"""What is known of a video before its frames are asked for, and how much of anything a file may cost."""

from dataclasses import dataclass

TIMEOUT_S = 60.0  # that a worker may spend on one file
FRAMES_AT_ONCE = 32  # handed over together: the most that lies in memory at a file's own size
SHARED_BYTES = 128 << 20  # the memory in which they are handed over; fewer than FRAMES_AT_ONCE where they are larger
MAX_PIXELS = 8192 * 4320  # of a frame: 8K, 106 MB as uint8
# long side over short side: what resizes the short side makes no more than this times as much of the long one
MAX_ASPECT = 32
WORKER_BYTES = 4 << 30  # of memory that a worker may have for itself: a decoder that wants more fails on that file
KEPT_BYTES = 64 << 20  # of decoded frames that PyAV's reader keeps, so that a short clip is decoded once


@dataclass(frozen=True)
class Facts:
    """What a probe finds: nothing that has to be believed, all of it seen by the reader that will read."""

    n_frames: int  # that a player shows
    duration_s: float  # from the first frame's start to the last one's end
    width: int  # pixels, as shown: turned where the file says so
    height: int
    reader: str  # decord or pyav


class UnreadableError(Exception):
    """Why a file cannot be read, in one line without the file's name.  Of the worker's side."""


def check_shape(width: int, height: int) -> None:
    """Raise UnreadableError for frames that would cost too much memory, at their own size or resized by their short
    side.
    """
    if min(width, height) < 1:
        raise UnreadableError(f"its pictures are {width} x {height} pixels")
    if width * height > MAX_PIXELS:
        raise UnreadableError(f"{width} x {height} pixels are more than {MAX_PIXELS:,}: make the video smaller")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise UnreadableError(
            f"{width} x {height} pixels: one side is more than {MAX_ASPECT} times the other: crop the video"
        )

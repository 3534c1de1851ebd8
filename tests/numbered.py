"""Videos whose frames show their own number, so that a test reads from the pixels which frame it was handed.

A frame is 6 x 2 blocks of black or white, large enough to outlive any codec: ten bits of its number, and two that check
them.
"""

import subprocess
from collections.abc import Sequence
from pathlib import Path

import imageio_ffmpeg
import numpy as np

BITS, COLUMNS = 10, 6  # of the number; blocks in a row
UNREAD = -1  # of a frame that shows no number: grey where codecs hide what is lost


def picture(number: int, height: int = 64, width: int = 192) -> np.ndarray:
    """The frame that shows `number` (0 to 1023) -> uint8 (height, width)."""
    bits = [number >> i & 1 for i in range(BITS)]
    bits += [sum(bits) & 1, sum(bits) >> 1 & 1]
    blocks = np.array(bits, np.uint8).reshape(2, COLUMNS) * 219 + 16
    rows, columns = (np.arange(n) * parts // n for n, parts in ((height, 2), (width, COLUMNS)))
    return np.ascontiguousarray(blocks[rows][:, columns])


def number(frame: np.ndarray) -> int:
    """The number that a frame (H, W, 3) shows, or UNREAD."""
    grey = frame.astype(np.float32).mean(2)
    blocks = [part for half in np.array_split(grey, 2) for part in np.array_split(half, COLUMNS, axis=1)]
    levels = [
        float(
            block[len(block) // 4 : -len(block) // 4 or None, block.shape[1] // 4 : -block.shape[1] // 4 or None].mean()
        )
        for block in blocks
    ]
    if any(90 < level < 165 for level in levels):
        return UNREAD
    bits = [int(level > 128) for level in levels]
    found, ones = sum(bit << i for i, bit in enumerate(bits[:BITS])), sum(bits[:BITS])
    return found if bits[BITS:] == [ones & 1, ones >> 1 & 1] else UNREAD


def numbers(frames: np.ndarray) -> list[int]:
    """The numbers that frames (T, H, W, 3) show."""
    return [number(frame) for frame in frames]


def ffmpeg(*arguments: str | float | Path, stdin: bytes | None = None) -> bytes:
    """What the packaged ffmpeg writes to stdout.  Raises CalledProcessError where it fails."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-y", "-loglevel", "error", *map(str, arguments)]
    return subprocess.run(command, input=stdin, check=True, stdout=subprocess.PIPE).stdout


def write(path: Path, shown: Sequence[int], *arguments: str, size: tuple[int, int] = (64, 192), fps: int = 25) -> Path:
    """Write a video whose frame i shows `shown[i]`, `size` (height, width), with ffmpeg's output `arguments`."""
    frames = b"".join(picture(n, *size).tobytes() for n in shown)
    path.parent.mkdir(parents=True, exist_ok=True)
    ffmpeg("-f", "rawvideo", "-pix_fmt", "gray", "-s", f"{size[1]}x{size[0]}", "-r", str(fps), "-i", "pipe:",
           "-pix_fmt", "yuv420p", *arguments, path, stdin=frames)  # fmt: skip
    return path


def played(path: Path, size: tuple[int, int] = (64, 192)) -> list[int]:
    """The numbers of the frames that ffmpeg itself shows of `path`, in its order: none repeated, none left out; `size`
    (height, width).
    """
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-loglevel", "quiet", "-i", f"file:{path}", "-map", "0:v:0"]
    command += ["-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    raw = subprocess.run(command, check=False, stdout=subprocess.PIPE).stdout
    return numbers(np.frombuffer(raw, np.uint8).reshape(-1, *size, 3))

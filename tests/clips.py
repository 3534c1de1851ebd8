"""Videos that tests make and know: every frame a flat grey of a stated level, written losslessly."""

import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np


def write_video(path: Path, levels: list[int], size: tuple[int, int] = (64, 96), fps: int = 8) -> Path:
    """Write a video whose frame i is grey `levels[i]` (0 to 255), `size` (height, width), near lossless H.264."""
    return write_frames(path, np.repeat(np.array(levels, np.uint8), size[0] * size[1] * 3).reshape(-1, *size, 3), fps)


def write_frames(path: Path, frames: np.ndarray, fps: int = 8) -> Path:
    """Write uint8 frames (T, H, W, 3), near lossless H.264."""
    height, width = frames.shape[1:3]
    command = [
        imageio_ffmpeg.get_ffmpeg_exe(),
        "-nostdin",
        "-y",
        "-loglevel",
        "error",
        "-f",
        "rawvideo",
        "-pix_fmt",
        "rgb24",
    ]
    command += [
        "-s",
        f"{width}x{height}",
        "-r",
        str(fps),
        "-i",
        "pipe:",
        "-c:v",
        "libx264",
        "-crf",
        "1",
        "-pix_fmt",
        "yuv444p",
        str(path),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run([c for c in command if c != "-nostdin"], input=frames.tobytes(), check=True)
    return path

"""The corruptions of the -C benchmarks, severities 1 to 5; severity 0 or `clean` changes nothing.

`apply` changes the pixels of uint8 frames (T, H, W, 3); `h265_abr` encodes a whole file instead (`file`), and
ready-made corrupted files are found by `ready_made.find`.  Each function's line says whose parameters it has.
Randomness comes from (seed, clip_id, corruption), so neither order nor batch size changes a clip.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from adapt.errors import AdaptError
from adapt.video.corruptions import _codec
from adapt.video.corruptions._blur import defocus, motion, motion_temporal, zoom
from adapt.video.corruptions._digital import contrast, contrast_mini, jpeg
from adapt.video.corruptions._noise import gauss, impulse, pepper, salt, shot
from adapt.video.corruptions._weather import rain
from adapt.video.decoding import Decoders

Corruption = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]

_PIXELS: tuple[Corruption, ...] = (
    gauss,
    pepper,
    salt,
    shot,
    zoom,
    impulse,
    defocus,
    motion,
    jpeg,
    contrast,
    rain,
    motion_temporal,
    contrast_mini,
)
CORRUPTIONS: dict[str, Corruption] = {f.__name__: f for f in _PIXELS}
FILE_CORRUPTIONS = ("h265_abr",)  # of a whole file, not of frames
BENCHMARK = (
    "gauss",
    "pepper",
    "salt",
    "shot",
    "zoom",
    "impulse",
    "defocus",
    "motion",
    "jpeg",
    "contrast",
    "rain",
    "h265_abr",
)  # ViTTA's twelve
OTHERS = ("motion_temporal", "contrast_mini")  # Mini-Kinetics-C's, where they differ from ImageNet-C's


def generator(seed: int, clip_id: str, corruption: str) -> np.random.Generator:
    """The random generator of one clip under one corruption."""
    digest = hashlib.sha256(f"{seed}/{corruption}/{clip_id}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "little"))


def check(corruption: str, severity: int) -> bool:
    """Whether there is anything to corrupt: False for `clean` or severity 0.

    Raises AdaptError for an unknown corruption or a severity outside 0 to 5.
    """
    if corruption == "clean" or severity == 0:
        return False
    if corruption not in CORRUPTIONS and corruption not in FILE_CORRUPTIONS:
        raise AdaptError(
            f"unknown corruption {corruption!r}: choose one of {['clean', *CORRUPTIONS, *FILE_CORRUPTIONS]}"
        )
    if severity not in range(1, 6):
        raise AdaptError(f"severity {severity} of {corruption}: choose 0 (clean) to 5")
    return True


def apply(frames: np.ndarray, corruption: str, severity: int, *, seed: int, clip_id: str) -> np.ndarray:
    """Corrupt uint8 `frames` (T, H, W, 3) -> the same shape and type; the argument is not changed.

    Raises AdaptError for an unknown corruption, one of files, or a severity outside 0 to 5 (0 and `clean` return the
    frames).
    """
    if not check(corruption, severity):
        return frames
    if corruption in FILE_CORRUPTIONS:
        raise AdaptError(f"{corruption} corrupts a file, not frames: read the clip with adapt.video.clips.read_clip")
    return CORRUPTIONS[corruption](frames, severity, generator(seed, clip_id, corruption))


def file(path: Path, corruption: str, severity: int, decoders: Decoders | None = None) -> Path:
    """The file to read for `path` under one of FILE_CORRUPTIONS; made where it is not cached.  Raises VideoError where
    it cannot be.
    """
    if not check(corruption, severity) or corruption not in FILE_CORRUPTIONS:
        raise AdaptError(
            f"{corruption} at severity {severity} corrupts no file: choose one of {list(FILE_CORRUPTIONS)}, severity 1 "
            "to 5"
        )
    return _codec.h265_abr(path, severity, decoders)

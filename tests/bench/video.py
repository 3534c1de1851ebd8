"""Reading and corrupting frames: a 3 s 128 x 128 clip as the demo has it, and every corruption on 16 frames of 224 x 224.

Corruptions are CPU milliseconds on one core, at the severity that takes longest, of noise, which is the worst case for table look-ups.
"""
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from adapt import corruptions
from adapt.cache import Clip
from adapt.corruptions import codec
from adapt.video import VideoOptions, read_clip
from tests.bench import Row, median_ms
from tests.clips import write_video
from tests.sounds import encode

TARGET_MS = 60  # of a corruption that changes pixels


def rows() -> Iterator[Row]:
    """Decode, then one row a corruption."""
    with tempfile.TemporaryDirectory() as folder:
        path = write_video(Path(folder) / "clip.mp4", [5 * i for i in range(48)], (128, 128), 16)
        clip = Clip("clip", path, "test", 0, "ok")
        taken = median_ms(lambda: read_clip(clip, VideoOptions(), "clean", 0))
        yield Row("read 2 views and the centre of a 48-frame clip, one pass", taken, "ms/clip")
        taken = median_ms(lambda: read_clip(clip, VideoOptions(), "motion_temporal", 5))
        yield Row("the same with motion_temporal: 22 neighbours a frame", taken, "ms/clip")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    frames = np.random.default_rng(0).integers(0, 256, (16, 224, 224, 3), np.uint8)
    for name in corruptions.CORRUPTIONS:
        slowest = max(_cpu_ms(lambda name=name, s=s: corruptions.apply(frames, name, s, seed=0, clip_id="a")) for s in range(1, 6))  # type: ignore[misc]
        yield Row(f"{name}, 16 x 224 x 224", slowest, "CPU ms/clip", f"<= {TARGET_MS}", slowest <= TARGET_MS)
    torch.set_num_threads(threads)
    yield from _h265()


def _cpu_ms(work: Callable[[], object], runs: int = 5) -> float:
    """Median CPU milliseconds of `work`, after one run that is not counted."""
    work()
    taken = []
    for _ in range(runs):
        started = time.process_time()
        work()
        taken.append(1000 * (time.process_time() - started))
    return statistics.median(taken)


def _h265() -> Iterator[Row]:
    """Encoding a moving test picture of the size of UCF101's films, 7 s at 25 frames a second; then finding it in the cache."""
    place = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # the cache lies in the working directory
        path = encode(Path(folder) / "film.mp4", "-f", "lavfi", "-i", "testsrc2=size=320x240:rate=25:duration=7", "-pix_fmt", "yuv420p")
        before = os.times()
        corruptions.file(path, "h265_abr", 5)
        after = os.times()
        yield Row("h265_abr, 175 frames of 320 x 240, encoded once", after.children_user - before.children_user, "CPU s/clip")
        yield Row("h265_abr, found in the cache", _cpu_ms(lambda: codec.h265_abr(path, 5)), "CPU ms/clip")
        os.chdir(place)

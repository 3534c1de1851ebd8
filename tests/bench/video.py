"""Reading and corrupting frames: a 3 s 128 x 128 clip as the demo has it, and every corruption on 16 frames of 224 x
224.

Corruptions are CPU milliseconds on one core, at the severity that takes longest, of noise, which is the worst case for
table look-ups.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import decord
import numpy as np
import torch
from torchvision.transforms.v2 import functional as tv

from adapt.tables.cache import Clip
from adapt.video import corruptions
from adapt.video.clips import VideoOptions, read_clip, view_indices
from adapt.video.corruptions import _codec
from adapt.video.decoding import Decoders
from tests.bench import Row, median_ms
from tests.clips import write_video
from tests.sounds import encode

TARGET_MS = 60  # of a corruption that changes pixels
# of reading MP4 in a worker over reading it by decord in this process, as it was before there were workers
TARGET_RATIO = 1.1
ROUNDS = 60  # of either way, turn by turn


def rows() -> Iterator[Row]:
    """Decode, then one row a corruption."""
    with tempfile.TemporaryDirectory() as folder:
        path = write_video(Path(folder) / "clip.mp4", [5 * i for i in range(48)], (128, 128), 16)
        clip = Clip("clip", path, "test", 0, "ok")
        taken = median_ms(lambda: read_clip(clip, VideoOptions(), "clean", 0))
        yield Row("read 2 views and the centre of a 48-frame clip, one pass", taken, "ms/clip")
        taken = median_ms(lambda: read_clip(clip, VideoOptions(), "motion_temporal", 5))
        yield Row("the same with motion_temporal: 22 neighbours a frame", taken, "ms/clip")
    yield from _workers()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    frames = np.random.default_rng(0).integers(0, 256, (16, 224, 224, 3), np.uint8)
    for name in corruptions.CORRUPTIONS:
        slowest = max(
            _cpu_ms(partial(corruptions.apply, frames, name, severity, seed=0, clip_id="a")) for severity in range(1, 6)
        )
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


def _in_process(path: Path, options: VideoOptions) -> torch.Tensor:
    """Two views and the centre as they were read before there were workers: decord opens the file twice, once to count
    and once to read.
    """
    n_frames = len(decord.VideoReader(str(path), num_threads=1))
    wanted = np.stack([view_indices(n_frames, options.frames, offset) for offset in (0.25, 0.75, 0.5)])
    unique, places = np.unique(wanted, return_inverse=True)
    reader = decord.VideoReader(str(path), num_threads=1)
    frames = torch.from_numpy(reader.get_batch(unique.tolist()).asnumpy()).permute(0, 3, 1, 2)
    if min(frames.shape[-2:]) != options.resize:
        frames = tv.resize(frames, [options.resize], antialias=True)
    frames = tv.center_crop(frames, [options.size, options.size]).permute(0, 2, 3, 1).contiguous()
    return frames[torch.from_numpy(places.reshape(3, -1))].permute(0, 4, 1, 2, 3)


def _seconds() -> float:
    """CPU seconds of this process and of its children, dead threads included."""
    tasks = Path("/proc/self/task").glob("*/children")
    pids = [os.getpid(), *(int(pid) for path in tasks for pid in path.read_text().split())]
    ticks = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13] for pid in pids]
    return sum(int(user) + int(system) for user, system in ticks) / os.sysconf("SC_CLK_TCK")


def _workers() -> Iterator[Row]:
    """What a worker costs over decord in this process, for clips of the demo's and of UCF101's size."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for size, seconds, rate, n_clips in (("128x128", 3, 16, 8), ("320x240", 7, 25, 2)):
        with tempfile.TemporaryDirectory() as folder, Decoders() as decoders:
            sources = (
                "-f",
                "lavfi",
                "-i",
                f"testsrc2=size={size}:rate={rate}:duration={seconds}",
                "-f",
                "lavfi",
                "-t",
                str(seconds),
                "-i",
                "sine",
            )
            path = encode(Path(folder) / "film.mp4", *sources, "-pix_fmt", "yuv420p")
            before, now = _turn_by_turn(path, decoders, n_clips)
        yield Row(f"read a clip of {seconds} s, {size}, by decord in this process", 1000 * before, "CPU ms/clip")
        yield Row(
            "the same in a worker, to that", now / before, "x", f"<= {TARGET_RATIO}", now / before <= TARGET_RATIO
        )
    torch.set_num_threads(threads)


def _turn_by_turn(path: Path, decoders: Decoders, n_clips: int) -> tuple[float, float]:
    """CPU seconds a clip in this process and in a worker, `n_clips` at a time in turn, since a shared machine is not as
    fast all the time.
    """
    options, clip, seconds = VideoOptions(), Clip("film", path, "test", 0, "ok"), [0.0, 0.0]
    ways: tuple[Callable[[], object], ...] = (
        lambda: _in_process(path, options), lambda: read_clip(clip, options, "clean", 0, decoders=decoders),
    )  # fmt: skip
    for turn in range(ROUNDS + 1):
        for i, way in enumerate(ways):
            started = _seconds()
            for _ in range(n_clips):
                way()
            seconds[i] += (_seconds() - started) * (turn > 0)  # the first is not counted
    return seconds[0] / (ROUNDS * n_clips), seconds[1] / (ROUNDS * n_clips)


def _h265() -> Iterator[Row]:
    """Encoding a moving test picture of the size of UCF101's films, 7 s at 25 frames a second; then finding it in the
    cache.
    """
    place = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # the cache lies in the working directory
        path = encode(
            Path(folder) / "film.mp4",
            "-f",
            "lavfi",
            "-i",
            "testsrc2=size=320x240:rate=25:duration=7",
            "-pix_fmt",
            "yuv420p",
        )
        before = os.times()
        corruptions.file(path, "h265_abr", 5)
        after = os.times()
        yield Row(
            "h265_abr, 175 frames of 320 x 240, encoded once", after.children_user - before.children_user, "CPU s/clip"
        )
        yield Row("h265_abr, found in the cache", _cpu_ms(lambda: _codec.h265_abr(path, 5)), "CPU ms/clip")
        os.chdir(place)

"""Clips of a data set in batches, read ahead by worker processes (adapt/decoding); memory does not grow with the data
set.
"""

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from adapt.errors import VideoError
from adapt.tables.cache import Clip
from adapt.video.clips import VideoOptions, check_readable, read_video, sample, view_indices
from adapt.video.decoding import Decoders, Video

log = logging.getLogger(__name__)


class Loaded(NamedTuple):
    """A batch of those clips that could be read."""

    frames: Tensor  # (B, C, T, H, W) uint8, on the device
    clips: list[Clip]
    n_behind: int  # clips of the order that are behind with this batch, read or not


def batches(
    clips: Sequence[Clip],
    offsets: Sequence[float],
    video: VideoOptions,
    *,
    batch_size: int,
    workers: int,
    device: torch.device,
) -> Iterator[Loaded]:
    """Yield `clips` in the given order, a view each: `offsets` in [0, 1) say where in its segments a clip's frames lie.

    Clips without a readable picture are left out, and named in the log.
    """
    with ThreadPoolExecutor(max(1, workers)) as pool, Decoders(video.decode_timeout_s) as decoders:

        def start(first: int) -> list[Future[Tensor | None]]:
            return [
                pool.submit(_read, clips[i], video, offsets[i], decoders)
                for i in range(first, min(first + batch_size, len(clips)))
            ]

        waiting = start(0)
        for first in range(0, len(clips), batch_size):
            ahead = start(first + batch_size)
            views = [future.result() for future in waiting]
            frames = [view for view in views if view is not None]
            if frames:
                kept = [
                    clip
                    for clip, view in zip(clips[first : first + batch_size], views, strict=True)
                    if view is not None
                ]
                yield Loaded(to_device(torch.stack(frames), device), kept, first + len(views))
            waiting = ahead


def _read(clip: Clip, options: VideoOptions, offset: float, decoders: Decoders) -> Tensor | None:
    def work(video: Video) -> np.ndarray:
        return sample(video, view_indices(video.facts.n_frames, options.frames, offset), options)

    try:
        check_readable(clip)
        return torch.from_numpy(read_video(clip.path, work, decoders)).permute(3, 0, 1, 2)
    except VideoError as error:
        log.warning("left out: %s", error)
        return None


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """`tensor` on `device`; to a GPU without waiting, from memory that it reads by itself."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)

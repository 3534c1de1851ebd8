"""Frames of a clip: decord reads each file once, for all views and the centre view together.

A *view* samples T frames, one from each of T equal segments; views start at equidistant offsets inside a segment (ViTTA, section
3.3), the centre view in its middle.  Frames stay uint8 until they reach the device.  Corruptions come from three places: pixels are changed
after the crop, `h265_abr` encodes the file first, and `ready_made` files are read instead of the clip's own.
"""
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import decord
import numpy as np
import torch
from torchvision.transforms.v2 import functional as tv

from adapt import corruptions
from adapt.cache import Clip
from adapt.corruptions import blur, ready_made
from adapt.errors import AdaptError, VideoError

LOOKAHEAD = 4  # clips held at once: the one with the model, and those decoded ahead of it
CROP_SCALES = (1, 0.875, 0.75, 0.66)
CROP_PLACES = ((0, 0), (0, 4), (4, 0), (4, 4), (2, 2), (2, 0), (2, 4), (4, 2), (0, 2), (1, 1), (1, 3), (3, 1), (3, 3))  # quarters of the room
FRAMES_AT_ONCE = 32  # decoded before they are made small: the most that lies in memory at a file's own size


@dataclass(frozen=True)
class VideoOptions:
    """How clips become frames (section `video` of params.yaml)."""

    frames: int = 8  # a view
    views: int = 2
    resize: int = 96  # the short side, in pixels
    size: int = 96  # the centre crop, in pixels
    crop: str = "centre"  # of the views that are adapted on: centre, or multi_scale, as ViTTA has it; prediction is by the centre crop
    ready_made: str = ""  # a folder of corrupted files (adapt/corruptions/ready_made.py); "" to corrupt the clips here


@dataclass(frozen=True)
class ClipFrames:
    """One clip's frames, uint8."""

    views: torch.Tensor  # (V, C, T, H, W)
    centre: torch.Tensor  # (1, C, T, H, W)


def view_indices(n_frames: int, frames: int, offset: float) -> np.ndarray:
    """The `frames` indices of a view in a clip of `n_frames`; `offset` in [0, 1) is the place inside each segment."""
    places = (np.arange(frames) + offset) * n_frames / frames
    return np.minimum(places.astype(int), n_frames - 1)


def read_frames(path: Path, indices: np.ndarray, options: VideoOptions) -> np.ndarray:
    """Read the frames at sorted `indices` -> uint8 (len(indices), size, size, 3).  Raises VideoError for a file that has no picture."""
    try:
        reader = decord.VideoReader(str(path), num_threads=1)
        parts = [indices[first : first + FRAMES_AT_ONCE].tolist() for first in range(0, len(indices), FRAMES_AT_ONCE)]
        return np.concatenate([_resize_and_crop(torch.from_numpy(reader.get_batch(part).asnumpy()), options) for part in parts])
    except (decord.DECORDError, RuntimeError, IndexError) as error:
        raise VideoError(f"{path}: no frames can be read ({str(error).splitlines()[0][:200]})") from error


def _resize_and_crop(batch: torch.Tensor, options: VideoOptions) -> np.ndarray:
    frames = batch.permute(0, 3, 1, 2)
    if min(frames.shape[-2:]) != options.resize:
        frames = tv.resize(frames, [options.resize], antialias=True)
    return tv.center_crop(frames, [options.size, options.size]).permute(0, 2, 3, 1).contiguous().numpy()


def count_frames(path: Path) -> int:
    """How many frames decord finds.  Raises VideoError for a file that has no picture."""
    try:
        n_frames = len(decord.VideoReader(str(path), num_threads=1))
    except (decord.DECORDError, RuntimeError) as error:
        raise VideoError(f"{path}: not a readable video ({str(error).splitlines()[0][:200]})") from error
    if n_frames == 0:
        raise VideoError(f"{path}: the video has no frames")
    return n_frames


def check_readable(clip: Clip) -> None:
    """Raise VideoError for a clip whose file `scan` could not open: its path may be escaped, and be that of another file."""
    if clip.unread:
        raise VideoError(f"{clip.path}: {clip.unread}")


def read_clip(clip: Clip, options: VideoOptions, corruption: str, severity: int, seed: int = 0) -> ClipFrames:
    """Read all frames that adapting and predicting `clip` need in one pass, and corrupt each once.

    Raises VideoError for a file that has no picture, AdaptError for an unknown corruption or one whose files or encoder are missing.
    """
    check_readable(clip)
    path = corrupted_path(clip, options, corruption, severity)
    n_frames = count_frames(path)
    offsets = [(v + 0.5) / options.views for v in range(options.views)] + [0.5]
    wanted = np.stack([view_indices(n_frames, options.frames, offset) for offset in offsets])  # (V + 1, T)
    unique, places = np.unique(wanted, return_inverse=True)
    if path != clip.path:
        frames = read_frames(path, unique, options)
    elif corruption == "motion_temporal" and severity:
        frames = _read_averaged(path, unique, n_frames, options, severity)
    else:
        frames = corruptions.apply(read_frames(path, unique, options), corruption, severity, seed=seed, clip_id=clip.clip_id)
    views = torch.from_numpy(frames)[torch.from_numpy(places.reshape(wanted.shape))].permute(0, 4, 1, 2, 3)  # (V + 1, C, T, H, W)
    return ClipFrames(_cropped(views[:-1], options.crop, seed, clip.clip_id), views[-1:])


def _cropped(views: torch.Tensor, crop: str, seed: int, clip_id: str) -> torch.Tensor:
    """The views (V, C, T, H, W) as they are, or each cropped anew.  Raises AdaptError for an unknown crop."""
    if crop == "centre":
        return views
    if crop != "multi_scale":
        raise AdaptError(f"crop {crop!r}: choose 'centre' or 'multi_scale'")
    random = corruptions.generator(seed, clip_id, "multi_scale")
    return torch.stack([multi_scale_crop(view, random) for view in views])


def multi_scale_crop(view: torch.Tensor, random: np.random.Generator) -> torch.Tensor:
    """Crop a view (C, T, H, W) to one of TSN's scales at one of its 13 places, the same for all frames, and resize it to H x W.

    Height and width are shares 1, .875, .75 or .66 of the short side, at most one scale apart (TSN, Wang et al., ECCV 2016, section 3.2; ViTTA).
    """
    height, width = view.shape[2:]
    sides = [int(min(height, width) * scale) for scale in CROP_SCALES]
    i = int(random.integers(len(sides)))
    j = int(random.integers(max(0, i - 1), min(len(sides), i + 2)))
    down, right = random.choice(CROP_PLACES).tolist()
    top, left = down * (height - sides[i]) // 4, right * (width - sides[j]) // 4
    frames = tv.resized_crop(view.transpose(0, 1), top, left, sides[i], sides[j], [height, width], antialias=True)
    return frames.transpose(0, 1)


def corrupted_path(clip: Clip, options: VideoOptions, corruption: str, severity: int) -> Path:
    """The file to read: the clip's own, unless the corruption is one of whole files or `options` names a folder of ready-made ones."""
    if not corruptions.check(corruption, severity):
        return clip.path
    if options.ready_made:
        return ready_made.find(Path(options.ready_made), corruption, severity, clip.path)
    return corruptions.file(clip.path, corruption, severity) if corruption in corruptions.FILE_CORRUPTIONS else clip.path


def _read_averaged(path: Path, indices: np.ndarray, n_frames: int, options: VideoOptions, severity: int) -> np.ndarray:
    """motion_temporal of the frames at sorted `indices`: their neighbours in the file, not those in the view, are averaged."""
    spans = blur.neighbours(indices, n_frames, severity)
    needed = np.unique(np.concatenate([np.arange(first, last) for first, last in spans]))
    return blur.average(read_frames(path, needed, options), np.searchsorted(needed, spans))


def stream(
    clips: Sequence[Clip], options: VideoOptions, corruption: str, severity: int, workers: int, seed: int = 0, ahead: int = LOOKAHEAD
) -> Generator[tuple[Clip, ClipFrames | VideoError], None, None]:
    """Yield clips in the given order with their frames, decoding in `workers` threads.

    At most `ahead` clips are held, the one that was yielded last included, however many there are.  A clip that cannot be read comes with its
    VideoError instead of frames.
    """
    def read(clip: Clip) -> ClipFrames | VideoError:
        try:
            return read_clip(clip, options, corruption, severity, seed)
        except VideoError as error:
            return error

    rest = iter(clips)
    pool = ThreadPoolExecutor(max(1, workers))
    try:
        waiting = deque((clip, pool.submit(read, clip)) for clip in islice(rest, max(1, ahead)))
        while waiting:
            clip, future = waiting.popleft()
            frames = future.result()
            del future  # it holds the frames too
            yield clip, frames
            del frames  # before the next clip is read
            waiting.extend((clip, pool.submit(read, clip)) for clip in islice(rest, 1))
    finally:
        pool.shutdown(cancel_futures=True)

"""Frames of a clip: each file is read once, for all views and the centre view together, in a worker process
(adapt/decoding).

A *view* samples T frames, one from each of T equal segments; views start at equidistant offsets inside a segment
(ViTTA, section 3.3), the centre view in its middle.  Frames stay uint8 until they reach the device.  Corruptions come
from three places: pixels are changed after the crop, `h265_abr` encodes the file first, and `ready_made` files are read
instead of the clip's own.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torchvision.transforms.v2 import functional as tv

from adapt import command
from adapt.errors import AdaptError, VideoError
from adapt.tables.cache import Clip
from adapt.video import corruptions
from adapt.video.corruptions import _blur, _ready_made
from adapt.video.decoding import TIMEOUT_S, DecodeError, Decoders, FactsChangedError, Video
from adapt.video.views import view_indices as view_indices

LOOKAHEAD = 4  # clips held at once: the one with the model, and those decoded ahead of it
CROP_SCALES = (1, 0.875, 0.75, 0.66)
CROP_PLACES = (
    (0, 0),
    (0, 4),
    (4, 0),
    (4, 4),
    (2, 2),
    (2, 0),
    (2, 4),
    (4, 2),
    (0, 2),
    (1, 1),
    (1, 3),
    (3, 1),
    (3, 3),
)  # quarters of the room
Result = TypeVar("Result")


@dataclass(frozen=True)
class VideoOptions:
    """How clips become frames (section `video` of params.yaml)."""

    frames: int = command.number(8, low=1, high=1024)  # a view
    views: int = command.number(2, low=1, high=1024)
    resize: int = command.number(96, low=1, high=8192)  # the short side, in pixels
    size: int = command.number(96, low=1, high=8192)  # the centre crop, in pixels
    crop: str = "centre"
    """of the views that are adapted on: centre, or multi_scale, as ViTTA has it; prediction is by the centre crop"""
    ready_made: str = ""  # a folder of corrupted files (adapt/corruptions/ready_made.py); "" to corrupt the clips here
    decode_timeout_s: float = command.number(TIMEOUT_S, low=0, high=86400, above=True)
    """a file that takes longer to read is given up: its clip fails, the run goes on"""


@dataclass(frozen=True)
class ClipFrames:
    """One clip's frames, uint8."""

    views: torch.Tensor  # (V, C, T, H, W)
    centre: torch.Tensor  # (1, C, T, H, W)


def read_video(path: Path, work: Callable[[Video], Result], decoders: Decoders | None = None) -> Result:
    """What `work` makes of the video at `path`, read by `decoders` or by some of its own; called again where reading
    finds another number of frames.

    Raises VideoError for a file that cannot be read.
    """
    with nullcontext(decoders) if decoders else Decoders() as readers, _naming(path), readers.open(path) as video:
        try:
            return work(video)
        except FactsChangedError:  # at most once: the other reader's facts are final
            return work(video)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turn a file's fault into that of its clip."""
    try:
        yield
    except DecodeError as error:
        raise VideoError(f"{path}: {error}") from error


def sample(video: Video, indices: np.ndarray, options: VideoOptions) -> np.ndarray:
    """The frames at sorted `indices` -> uint8 (len(indices), size, size, 3), a chunk of them in memory at their own
    size.  Raises DecodeError.
    """
    parts = []
    for chunk in video.frames(indices):
        small = _resize_and_crop(torch.from_numpy(chunk), options)
        parts.append(small.copy() if np.may_share_memory(small, chunk) else small)  # the next chunk overwrites this one
    return np.concatenate(parts) if len(parts) > 1 else parts[0]


def read_frames(path: Path, indices: np.ndarray, options: VideoOptions) -> np.ndarray:
    """`sample` of the file at `path`.  Raises VideoError where it cannot be read."""
    with Decoders(options.decode_timeout_s) as decoders:
        return read_video(path, lambda video: sample(video, indices, options), decoders)


def _resize_and_crop(batch: torch.Tensor, options: VideoOptions) -> np.ndarray:
    frames = batch.permute(0, 3, 1, 2)
    if min(frames.shape[-2:]) != options.resize:
        frames = tv.resize(frames, [options.resize], antialias=True)
    return tv.center_crop(frames, [options.size, options.size]).permute(0, 2, 3, 1).contiguous().numpy()


def count_frames(path: Path) -> int:
    """How many frames a player shows of a file.  Raises VideoError where it cannot be read."""
    return read_video(path, lambda video: video.facts.n_frames)


def check_readable(clip: Clip) -> None:
    """Raise VideoError for a clip whose file `scan` could not open: its path may be escaped, and be that of another
    file.
    """
    if clip.unread:
        raise VideoError(f"{clip.path}: {clip.unread}")


def read_clip(
    clip: Clip, options: VideoOptions, corruption: str, severity: int, seed: int = 0, decoders: Decoders | None = None
) -> ClipFrames:
    """Read all frames that adapting and predicting `clip` need in one pass, by `decoders` or some of its own, and
    corrupt each once.

    Raises VideoError for a file that cannot be read, AdaptError for an unknown corruption or one whose files or encoder
    are missing.
    """
    check_readable(clip)
    if decoders is None:
        with Decoders(options.decode_timeout_s) as own:
            return read_clip(clip, options, corruption, severity, seed, own)
    path = corrupted_path(clip, options, corruption, severity, decoders)
    offsets = [(v + 0.5) / options.views for v in range(options.views)] + [0.5]

    def work(video: Video) -> tuple[np.ndarray, np.ndarray]:
        """Frames, and which of them each view takes (V + 1, T)."""
        n_frames = video.facts.n_frames
        wanted = np.stack([view_indices(n_frames, options.frames, offset) for offset in offsets])
        unique, places = np.unique(wanted, return_inverse=True)
        if path == clip.path and corruption == "motion_temporal" and severity:
            return _sample_averaged(video, unique, options, severity), places.reshape(wanted.shape)
        return sample(video, unique, options), places.reshape(wanted.shape)

    frames, places = read_video(path, work, decoders)
    if path == clip.path and corruption != "motion_temporal":
        frames = corruptions.apply(frames, corruption, severity, seed=seed, clip_id=clip.clip_id)
    views = torch.from_numpy(frames)[torch.from_numpy(places)].permute(0, 4, 1, 2, 3)  # (V + 1, C, T, H, W)
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
    """Crop a view (C, T, H, W) to one of TSN's scales at one of its 13 places, the same for all frames, and resize it
    to H x W.

    Height and width are shares 1, .875, .75 or .66 of the short side, at most one scale apart (TSN, Wang et al., ECCV
    2016, section 3.2; ViTTA).
    """
    height, width = view.shape[2:]
    sides = [int(min(height, width) * scale) for scale in CROP_SCALES]
    i = int(random.integers(len(sides)))
    j = int(random.integers(max(0, i - 1), min(len(sides), i + 2)))
    down, right = random.choice(CROP_PLACES).tolist()
    top, left = down * (height - sides[i]) // 4, right * (width - sides[j]) // 4
    frames = tv.resized_crop(view.transpose(0, 1), top, left, sides[i], sides[j], [height, width], antialias=True)
    return frames.transpose(0, 1)


def corrupted_path(clip: Clip, options: VideoOptions, corruption: str, severity: int, decoders: Decoders) -> Path:
    """The file to read: the clip's own, unless the corruption is one of whole files or `options` names a folder of
    ready-made ones.
    """
    if not corruptions.check(corruption, severity):
        return clip.path
    if options.ready_made:
        return _ready_made.find(Path(options.ready_made), corruption, severity, clip.path)
    return (
        corruptions.file(clip.path, corruption, severity, decoders)
        if corruption in corruptions.FILE_CORRUPTIONS
        else clip.path
    )


def _sample_averaged(video: Video, indices: np.ndarray, options: VideoOptions, severity: int) -> np.ndarray:
    """motion_temporal of the frames at sorted `indices`: their neighbours in the file, not those in the view, are
    averaged.
    """
    spans = _blur.neighbours(indices, video.facts.n_frames, severity)
    needed = np.unique(np.concatenate([np.arange(first, last) for first, last in spans]))
    return _blur.average(sample(video, needed, options), np.searchsorted(needed, spans))


def stream(
    clips: Sequence[Clip],
    options: VideoOptions,
    corruption: str,
    severity: int,
    workers: int,
    seed: int = 0,
    ahead: int = LOOKAHEAD,
) -> Generator[tuple[Clip, ClipFrames | VideoError], None, None]:
    """Yield clips in the given order with their frames, read by `workers` processes, each with a thread here that waits
    for it.

    At most `ahead` clips are held, the one that was yielded last included, however many there are.  A clip that cannot
    be read comes with its VideoError instead of frames.  Closing the generator ends the reading in hand.
    """
    decoders = Decoders(options.decode_timeout_s)

    def read(clip: Clip) -> ClipFrames | VideoError:
        try:
            return read_clip(clip, options, corruption, severity, seed, decoders)
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
        decoders.close()
        pool.shutdown(cancel_futures=True)

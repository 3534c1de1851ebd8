"""Frames of a clip: each file is read once, for all views and the centre view together, in a worker process
(adapt/decoding).

A *view* samples T frames, one from each of T equal segments; views start at equidistant offsets inside a segment
(ViTTA, section 3.3), the centre view in its middle (adapt/video/views.py).  Frames stay uint8 until they reach the
device.  Corruptions come from three places: pixels are changed after the crop, `h265_abr` encodes the file first, and
`ready_made` files are read instead of the clip's own.
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

from adapt import command
from adapt.errors import AdaptError, VideoError
from adapt.tables.cache import Clip
from adapt.video import corruptions
from adapt.video._crops import CROPS, Box, centre_crop, cut, whole_box
from adapt.video._crops import multi_scale_crop as multi_scale_crop
from adapt.video.corruptions import _blur, _ready_made
from adapt.video.decoding import TIMEOUT_S, DecodeError, Decoders, FactsChangedError, Video
from adapt.video.views import indices_of_views
from adapt.video.views import view_indices as view_indices

LOOKAHEAD = 4  # clips held at once: the one with the model, and those decoded ahead of it
Result = TypeVar("Result")


@dataclass(frozen=True)
class VideoOptions:
    """How clips become frames (section `video` of params.yaml)."""

    frames: int = command.number(8, low=1, high=1024)  # a view
    views: int = command.number(2, low=1, high=1024)
    resize: int = command.number(96, low=1, high=8192)  # the short side, in pixels
    size: int = command.number(96, low=1, high=8192)  # the centre crop, in pixels
    crop: str = "centre"
    """of the views that are adapted on: centre, multi_scale of the centre crop (scales and places: ViTTA), or
    multi_scale_whole of the whole decoded frame, as ViTTA's code; prediction is by the centre crop"""
    ready_made: str = ""  # a folder of corrupted files (adapt/corruptions/ready_made.py); "" to corrupt the clips here
    decode_timeout_s: float = command.number(TIMEOUT_S, low=0, high=86400, above=True)
    """a file that takes longer to read is given up: its clip fails, the run goes on"""
    sampling: str = "even"
    """which frames the views take: even, or vitta, whose code starts them at both ends of the first segment and takes
    all a frame later (adapt/video/views.py)"""


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
        small = centre_crop(chunk, options.resize, options.size)
        parts.append(small.copy() if np.may_share_memory(small, chunk) else small)  # the next chunk overwrites this one
    return np.concatenate(parts) if len(parts) > 1 else parts[0]


def read_frames(path: Path, indices: np.ndarray, options: VideoOptions) -> np.ndarray:
    """`sample` of the file at `path`.  Raises VideoError where it cannot be read."""
    with Decoders(options.decode_timeout_s) as decoders:
        return read_video(path, lambda video: sample(video, indices, options), decoders)


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
    if options.crop not in CROPS:
        raise AdaptError(f"crop {options.crop!r}: choose 'centre' or 'multi_scale', or 'multi_scale_whole'")
    path = corrupted_path(clip, options, corruption, severity, decoders)
    # of a set that is shipped corrupted, a clip's own file may be the ready-made one
    is_to_change = path == clip.path and not options.ready_made
    averages = severity if is_to_change and corruption == "motion_temporal" else 0

    def work(video: Video) -> tuple[np.ndarray, np.ndarray]:
        """Frames, and which of them each view takes (V + 1, T)."""
        wanted = indices_of_views(video.facts.n_frames, options.frames, options.views, options.sampling)
        if options.crop == "multi_scale_whole":
            frames = _sample_whole(video, wanted, options, averages, seed, clip.clip_id)
            return frames, np.arange(wanted.size).reshape(wanted.shape)
        unique, places = np.unique(wanted, return_inverse=True)
        frames = _sample_averaged(video, unique, options, averages) if averages else sample(video, unique, options)
        return frames, places.reshape(wanted.shape)

    frames, places = read_video(path, work, decoders)
    if is_to_change and not averages:
        frames = corruptions.apply(frames, corruption, severity, seed=seed, clip_id=clip.clip_id)
    views = torch.from_numpy(frames)[torch.from_numpy(places)].permute(0, 4, 1, 2, 3)  # (V + 1, C, T, H, W)
    if options.crop == "multi_scale":
        random = corruptions.generator(seed, clip.clip_id, "multi_scale")
        return ClipFrames(torch.stack([multi_scale_crop(view, random) for view in views[:-1]]), views[-1:])
    return ClipFrames(views[:-1], views[-1:])


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
    needed, places = _with_neighbours(indices, video.facts.n_frames, severity)
    return _blur.average(sample(video, needed, options), places)


def _with_neighbours(indices: np.ndarray, n_frames: int, severity: int) -> tuple[np.ndarray, np.ndarray]:
    """(the frames to read, which of them, from first to last, make each of the sorted `indices`)."""
    spans = _blur.neighbours(indices, n_frames, severity)
    needed = np.unique(np.concatenate([np.arange(first, last) for first, last in spans]))
    return needed, np.searchsorted(needed, spans)


def _sample_whole(
    video: Video, wanted: np.ndarray, options: VideoOptions, averages: int, seed: int, clip_id: str
) -> np.ndarray:
    """The frames at `wanted` (V + 1, T), each view cut out of the whole decoded frames by a box of its own, the last
    one by the centre crop -> uint8 ((V + 1) T, size, size, 3), in one pass over the video.

    `averages` is the severity of motion_temporal, 0 for none.
    """
    per_view = [np.unique(row, return_inverse=True) for row in wanted]
    if averages:
        reads = [_with_neighbours(unique, video.facts.n_frames, averages) for unique, _ in per_view]
        seen = _cut_each(video, [needed for needed, _ in reads], options, seed, clip_id)
        seen = [_blur.average(frames, spans) for frames, (_, spans) in zip(seen, reads, strict=True)]
    else:
        seen = _cut_each(video, [unique for unique, _ in per_view], options, seed, clip_id)
    return np.concatenate([frames[places] for frames, (_, places) in zip(seen, per_view, strict=True)])


def _cut_each(
    video: Video, wanted: Sequence[np.ndarray], options: VideoOptions, seed: int, clip_id: str
) -> list[np.ndarray]:
    """Of every view its frames, at sorted indices, cut by the view's box; of the last one, by the centre crop."""
    indices = np.unique(np.concatenate(wanted))
    seen = [np.empty((len(one), options.size, options.size, 3), np.uint8) for one in wanted]
    boxes: list[Box] = []
    behind = 0
    for chunk in video.frames(indices):
        if not boxes:
            random = corruptions.generator(seed, clip_id, "multi_scale_whole")
            height, width = chunk.shape[1:3]
            boxes = [whole_box(height, width, options.size, random) for _ in wanted[:-1]]
        here = indices[behind : behind + len(chunk)]
        for frames, one, box in zip(seen, wanted, [*boxes, None], strict=True):
            rows = np.flatnonzero((one >= here[0]) & (one <= here[-1]))
            taken = chunk[np.searchsorted(here, one[rows])]
            frames[rows] = cut(taken, box, options.size) if box else centre_crop(taken, options.resize, options.size)
        behind += len(chunk)
    return seen


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

"""Streams of clips: which there are, in which order their clips come, and what a method makes of them, batch by batch.

Four settings.  `online` goes back to the source weights before every stream, `episodic` before every batch; `continual`
lets the corruptions of an order follow one another without that; `sorted` is online on a stream in which one class
follows the other.  Labels put a sorted stream in order, here; no method is told them.
"""

import logging
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch

from adapt.contract import Method
from adapt.errors import VideoError
from adapt.stream._batches import NO_ANSWER, Placed, Row, make_batch, prediction_rows, trace_rows
from adapt.tables.cache import Clip, Sound
from adapt.video.clips import LOOKAHEAD, ClipFrames, VideoOptions, stream

log = logging.getLogger("adapt")
SETTINGS = ("online", "episodic", "continual", "sorted")
Rows = tuple[list[Row], list[Row]]  # of predictions, of traces


@dataclass(frozen=True)
class Stream:
    """The clips under one corruption in one order."""

    dataset: str
    backbone: str
    run: str  # its name
    corruption: str
    severity: int  # 0 for clean
    order_seed: int
    method: str
    fusion: str

    def key(self) -> Row:
        """The columns that say so in every row of `traces`, and that the rows of both tables are told apart by."""
        return {name: value for name, value in vars(self).items() if name not in ("method", "fusion")}

    def __str__(self) -> str:
        return f"{self.run}, {self.corruption}, order {self.order_seed}"


@dataclass(frozen=True)
class Reading:
    """How a stream's clips become batches."""

    video: VideoOptions
    batch_size: int
    workers: int  # decoding threads
    device: torch.device
    episodic: bool = False


class Watch:
    """What may look on while a stream is adapted; this one does not look (adapt/stream/_profile.py does)."""

    def batch(self, n_clips: int) -> AbstractContextManager[None]:
        """Around all that is done about a batch of clips."""
        return nullcontext()

    def part(self, name: str) -> AbstractContextManager[None]:
        """Around a part of it: "decode wait" or "transfer"."""
        return nullcontext()

    def adapting(self, method: Method) -> AbstractContextManager[None]:
        """Around the method's work."""
        return nullcontext()


def order(clips: Sequence[Clip], seed: int, setting: str, max_clips: int = 0) -> list[Clip]:
    """The clips in the order of `seed`, the first `max_clips` of them (0: all); `sorted` puts the same clips class
    after class.

    Classes then follow one another in an order of the seed's own, and clips of a class as they do unsorted.
    """
    random = np.random.default_rng(seed)
    chosen = [clips[i] for i in random.permutation(len(clips))[: max_clips or None]]
    if setting == "sorted":
        ranks = random.permutation(1 + max(clip.label_id for clip in clips))
        chosen.sort(key=lambda clip: int(ranks[clip.label_id]))
    return chosen


def starts_anew(streams: Sequence[Stream], number: int, setting: str) -> bool:
    """Whether the source weights come back before stream `number`: always, but within an order of the continual
    setting.
    """
    return setting != "continual" or number == 0 or streams[number].order_seed != streams[number - 1].order_seed


def start(method: Method, order_seed: int) -> None:
    """Give the source weights back and seed torch's generator, from which dropout comes."""
    method.reset()
    torch.manual_seed(order_seed)


def adapt_batches(
    method: Method,
    clips: Sequence[Clip],
    sounds: Mapping[str, Sound],
    which: Stream,
    reading: Reading,
    first: int = 0,
    watch: Watch | None = None,
) -> Generator[Rows, None, None]:
    """Adapt on the clips of a stream, given in its order, from position `first` on; yield the rows of each batch.

    A clip that cannot be read leaves its batch and becomes a row without an answer.
    """
    watch, key = watch or Watch(), which.key()
    ahead = max(LOOKAHEAD, reading.batch_size + reading.workers)
    n_nan = 0
    with closing(
        stream(clips[first:], reading.video, which.corruption, which.severity, reading.workers, ahead=ahead)
    ) as reader:
        for position in range(first, len(clips), reading.batch_size):
            with watch.batch(min(reading.batch_size, len(clips) - position)):
                with watch.part("decode wait"):
                    read = list(islice(reader, reading.batch_size))
                predictions, traces, is_nan = _adapt(method, position, read, sounds, reading, watch)
                del read  # before the next clips are
                n_nan += is_nan
                yield [vars(which) | row for row in predictions], [key | row for row in traces]
    if n_nan:
        log.warning("%s: %d answers were NaN: lower the learning rate", which, n_nan)


def _adapt(
    method: Method,
    position: int,
    read: Sequence[tuple[Clip, ClipFrames | VideoError]],
    sounds: Mapping[str, Sound],
    reading: Reading,
    watch: Watch,
) -> tuple[list[Row], list[Row], bool]:
    """(rows of predictions, of traces, whether an answer is NaN) of the clips from `position` on."""
    failed, placed, seen = [], [], []
    for one, frames in ((Placed(position + i, clip), frames) for i, (clip, frames) in enumerate(read)):
        if isinstance(frames, VideoError):
            log.warning("%s", frames)
            failed.append(one.row() | NO_ANSWER)
        else:
            placed.append(one)
            seen.append(frames)
    if not placed:
        return failed, [], False
    with watch.part("transfer"):
        batch = make_batch([one.clip for one in placed], seen, sounds, reading.device)
    if reading.episodic:
        method.reset()
    with watch.adapting(method):
        started = time.perf_counter()
        answer = method.adapt(batch)
        if reading.device.type == "cuda":
            torch.cuda.synchronize(reading.device)  # else the clock is read before the work is done
        ms = 1000 * (time.perf_counter() - started)
    return failed + prediction_rows(placed, answer, ms), trace_rows(placed, answer), bool(answer.after.isnan().any())

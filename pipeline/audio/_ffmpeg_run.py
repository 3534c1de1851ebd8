"""One ffmpeg at work on one sound track: blocks of mono int16 as they come, each sample in its place in time, and how
it ended.

Beside the mono sound, ffmpeg writes all channels on a second pipe, where a thread measures them (_channels.py).
"""

import os
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import ffmpeg
import numpy as np
import numpy.typing as npt

from adapt.errors import DecodeError
from adapt.video.decoding import ONE_FILE
from pipeline.audio._channels import FULL_SCALE, Channels, Choice, Floats, Form
from pipeline.audio._ffmpeg_log import LEVEL, TELL_TIMES, Clock, Log, Promise, read_promise

BLOCK_S = 30.0
FLAGS = ("-nostdin", "-hide_banner", "-nostats", "-loglevel", LEVEL)
# frames of this size on the channels' pipe take half of the time that those of 4096 do
CHANNELS_AT_ONCE = "asetnsamples=n=32768:p=0"
WEIGHT_SAMPLES = 64  # of the sound by which a channel's weight is found
Block = npt.NDArray[np.int16]
Track = Literal["default"] | int


@dataclass(frozen=True)
class Decoder:
    """What is the same for every file."""

    binary: str  # ffmpeg's path
    sample_rate: int  # of the samples, in Hz
    silent_below_dbfs: float  # a track with a lower RMS level in every channel is silent (0 = full scale)
    track: Track = "default"
    """which of a file's sound tracks, from 0; default: the first that is marked so, else the first"""


class KilledError(Exception):
    """ffmpeg was ended by a signal, by out of memory or a fault of its own: what it wrote is not all of the sound."""


@dataclass(frozen=True)
class Ending:
    """How a decoding went."""

    track: int
    promise: Promise
    n_channels: int | None
    choice: Choice
    code: int  # with which ffmpeg ended
    error: str | None


def arguments(
    decoder: Decoder, path: str, track: int, channel: int | None = None, channels_to: int | None = None
) -> list[str]:
    """The command that writes a sound track of `path` to stdout as mono int16: one channel of it, from 0, or ffmpeg's
    mix.

    All channels go to the file descriptor `channels_to` as WAV.  `file:` keeps a name that starts with '-' or holds ':'
    from being read as an option or a protocol, and a file that names others is not followed.
    """
    source = ffmpeg.input(f"file:{path}", threads=1, **ONE_FILE)
    graph = f"[0:a:{track}]{TELL_TIMES}" + ("" if channel is None else f",pan=mono|c0=c{channel}")
    graph += "[mono]" if channels_to is None else f",asplit[mono][split];[split]{CHANNELS_AT_ONCE}[channels]"
    mono = {
        "format": "s16le",
        "acodec": "pcm_s16le",
        "ac": 1,
        "ar": decoder.sample_rate,
        "map": "[mono]",
        "map_metadata": -1,
    }
    command = source.output("pipe:1", filter_complex=graph, **mono)
    if channels_to is not None:
        all_channels = source.output(
            f"pipe:{channels_to}", format="wav", acodec="pcm_s16le", map="[channels]", map_metadata=-1
        )
        command = ffmpeg.merge_outputs(command, all_channels)
    arguments: list[str] = command.global_args(*FLAGS).compile(cmd=decoder.binary)
    return arguments


@cache
def weights(binary: str, form: Form) -> Floats:
    """By how much each channel of `form` counts in ffmpeg's mix: it is asked to mix a sound in which each plays alone
    in turn.

    Zeros where ffmpeg cannot mix such channels; it then says so of the track as well.  Raises KilledError.
    """
    n, of_each = form.n_channels, WEIGHT_SAMPLES
    turns = "|".join(f"eq(floor(n/{of_each})\\,{i})/2" for i in range(n))
    source = ffmpeg.input(f"aevalsrc={turns}:c={form.layout}:s=8000:d={of_each * n / 8000}", format="lavfi")
    command = source.output("pipe:1", format="s16le", acodec="pcm_s16le", ac=1).global_args(*FLAGS).compile(cmd=binary)
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode < 0:
        raise KilledError(signal.Signals(-done.returncode).name)
    answer = done.stdout if done.returncode == 0 else b""
    mixed = np.frombuffer(answer, "<i2", len(answer) // 2)
    return mixed[of_each // 2 :: of_each] / (FULL_SCALE / 2) if mixed.size == of_each * n else np.zeros(n)


@dataclass(frozen=True)
class Run:
    """ffmpeg at work on one sound track of a file."""

    track: int
    sample_rate: int
    process: "subprocess.Popen[bytes]"
    log: Log  # of what `process` says
    followed: "Future[None]"  # done when `log` has all of it
    channels: Channels
    measured: "Future[None] | None"  # done when `channels` are measured; None where they are not

    @property
    def n_channels(self) -> int | None:
        """Of the track; None where it is not known yet."""
        return self.channels.n_channels

    def promise(self) -> Promise:
        """What the container says of itself, as soon as there is sound or ffmpeg has ended."""
        self.process.stdout.peek(1)  # type: ignore[union-attr]
        self.log.read()
        return read_promise(self.log.header, self.track)

    def blocks(self) -> Iterator[Block]:
        """The sound, each sample in its place in time."""
        n_block = round(BLOCK_S * self.sample_rate)
        return _recut(_in_time(_chunks(self.process, n_block), self.log, Clock(self.sample_rate), n_block), n_block)

    def end(self) -> Ending:
        """Wait for ffmpeg, whose sound was read, and say how it went.

        Raises KilledError where a signal ended it, DecodeError where it was told to stop or did not say all: then
        nobody knows whether the sound is whole, and in its place in time.
        """
        code = self.process.wait()
        self.followed.result()
        if code < 0:
            raise KilledError(signal.Signals(-code).name)
        if self.measured is not None:
            self.measured.result()
        if self.log.told_to_stop:
            raise DecodeError(f"ffmpeg was told to stop by signal {self.log.told_to_stop}: run it again")
        if not self.log.is_whole():
            raise DecodeError(
                f"ffmpeg ended with {code}, but its log is incomplete, so nobody knows whether the sound is: "
                "set decode.ffmpeg to packaged"
            )
        promise = self.promise()
        n_channels = self.n_channels or promise.n_channels
        return Ending(self.track, promise, n_channels, self.channels.choose(), code, self.log.error())


@contextmanager
def opened(decoder: Decoder, path: Path) -> Iterator[Run]:
    """ffmpeg at work on the track that the decoder asks for.  Which one is marked default is known once ffmpeg has
    opened the first.
    """
    track = 0 if decoder.track == "default" else decoder.track
    with running(decoder, path, track) as run:
        marked = run.promise().default_track if decoder.track == "default" else track
        if marked == track:
            yield run
            return
    with running(decoder, path, marked) as run:
        yield run


@contextmanager
def running(
    decoder: Decoder, path: Path, track: int, channel: int | None = None, *, measure: bool = True
) -> Iterator[Run]:
    """ffmpeg at work on its mix, or on one `channel`; ended and reaped when the block is left.  `measure` the channels
    beside.
    """
    with ExitStack() as stack:
        name, handed = stack.enter_context(_harmless(path))
        said, stderr = os.pipe()
        stack.callback(os.close, said)
        log = Log(said)
        reader = stack.enter_context(ThreadPoolExecutor(2))  # left after ffmpeg, whose end is the end of its work
        channels = Channels(decoder.silent_below_dbfs, lambda form: weights(decoder.binary, form))
        measured, write_to = None, None
        try:
            if measure:
                read_from, write_to = os.pipe()
                measured = reader.submit(channels.read, os.fdopen(read_from, "rb"))
            process = subprocess.Popen(
                arguments(decoder, name, track, channel, write_to), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=stderr, pass_fds=handed if write_to is None else (*handed, write_to),
            )  # fmt: skip
        finally:
            os.close(stderr)
            if write_to is not None:
                os.close(write_to)
        try:
            followed = reader.submit(log.follow)
            yield Run(track, decoder.sample_rate, process, log, followed, channels, measured)
        finally:
            process.kill()  # nothing where it has ended
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


@contextmanager
def _harmless(path: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    """(a name of `path`, open files that ffmpeg must be handed): a name with a line break could forge lines of the log,
    so such a file gets its number among the open ones for a name.
    """
    if str(path).isprintable():
        yield str(path), ()
        return
    with path.open("rb") as file:
        yield f"/dev/fd/{file.fileno()}", (file.fileno(),)


def _chunks(process: "subprocess.Popen[bytes]", n_samples: int) -> Iterator[Block]:
    """What ffmpeg decodes, as it comes."""
    if process.stdout is None:
        raise DecodeError("ffmpeg was started without a pipe")
    while data := process.stdout.read(2 * n_samples):
        yield np.frombuffer(data, "<i2", len(data) // 2)


def _in_time(chunks: Iterator[Block], log: Log, clock: Clock, n_most: int) -> Iterator[Block]:
    """Fill in silence, at most `n_most` samples at once, where the log tells of a jump.  It does so before the sample
    after it comes.
    """
    n_decoded = 0
    due: tuple[int, int] | None = None
    for chunk in chunks:
        log.read()
        while due or log.jumps:
            due = due or clock.place(log.jumps.popleft())
            if due[0] >= n_decoded + chunk.size:
                break
            head = chunk[: max(0, due[0] - n_decoded)]
            yield head
            for done in range(0, due[1], n_most):
                yield np.zeros(min(n_most, due[1] - done), np.int16)
            n_decoded, chunk, due = n_decoded + head.size, chunk[head.size :], None
        yield chunk
        n_decoded += chunk.size


def _recut(chunks: Iterator[Block], n_samples: int) -> Iterator[Block]:
    """Blocks of `n_samples`, the last one shorter, none empty."""
    held: list[Block] = []
    n_held = 0
    for chunk in chunks:
        while n_held + chunk.size >= n_samples:
            head, chunk = chunk[: n_samples - n_held], chunk[n_samples - n_held :]
            yield np.concatenate([*held, head]) if held else head
            held, n_held = [], 0
        if chunk.size:
            held.append(chunk)
            n_held += chunk.size
    if held:
        yield np.concatenate(held)

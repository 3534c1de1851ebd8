"""The room that starts ffmpeg for sound: any media file in, blocks of mono int16 and a verdict out, in constant memory.

ffmpeg writes samples on a pipe and what it has to say into a file (pipeline/ffmpeg_log.py).  Sound keeps its place in time: a track
that starts late, or has a gap, is filled with silence here, since ffmpeg itself holds the silence that it fills in whole (an hour of
it took 3 GB).  A track of several channels is mixed by ffmpeg; its blocks wait in a temporary file until the channels are measured to
the end (pipeline/channels.py), and where the mix loses them, one channel is decoded instead.  Blocks are stored as FLAC.
"""
import io
import math
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal

import ffmpeg
import imageio_ffmpeg
import numpy as np
import numpy.typing as npt
import soundfile

from pipeline.channels import FULL_SCALE, Channels, Choice, Floats, Form
from pipeline.errors import CacheError, DecodeError
from pipeline.ffmpeg_log import LEVEL, TELL_TIMES, Clock, Log, Promise, read_promise

BLOCK_S = 30.0
HELD_BYTES = 4_000_000  # of blocks that wait in memory; more of them wait on the disk
CHANNELS_AT_ONCE = "asetnsamples=n=32768:p=0"  # frames of this size on the channels' pipe take half of the time that those of 4096 do
WEIGHT_SAMPLES = 64  # of the sound by which a channel's weight is found
STATUSES = ("ok", "no_track", "silent", "truncated", "failed")
TRUNCATED_S = 0.5  # sound may end this much before the container's duration, which is that of its longest stream...
TRUNCATED_SHARE = 0.05  # ...or this share of it, whichever is more (priming and the last frame of AAC are below 0.1 s)
FLAGS = ("-nostdin", "-hide_banner", "-nostats", "-loglevel", LEVEL)
COMPRESSION = 0.5  # of FLAC, 0 to 1; on 40 recordings 57 % of raw at 16 kHz, 40 % at 32 kHz; 0.25 gives 60 and 51 % in 5 % less time
Block = npt.NDArray[np.int16]
Track = Literal["default"] | int
Change = Callable[[Iterator[Block]], Iterator[Block]]


@dataclass(frozen=True)
class Decoder:
    """What is the same for every file."""

    binary: str  # ffmpeg's path
    sample_rate: int  # of the samples, in Hz
    silent_below_dbfs: float  # a track with a lower RMS level in every channel is silent (0 = full scale)
    track: Track = "default"  # which of a file's sound tracks, from 0; default: the first that is marked so, else the first


@dataclass(frozen=True)
class Heard:
    """What became of a file's sound; its length, RMS level and peak are those of the samples that were given out."""

    status: str  # of STATUSES
    sample_rate: int
    track: int | None  # the position of the sound track that was read, from 0; None where there is none
    n_channels: int | None  # of the source track
    mix: str | None  # how its channels became one: mean (ffmpeg's, by weights), or the one that was taken, as `channel 1`; None for mono
    duration_s: float | None  # None where there are no samples
    expected_s: float | None  # the container's duration
    n_samples: int
    level_dbfs: float | None  # RMS of the loudest channel before mixing and before any change, without its mean; None as rms_dbfs
    rms_dbfs: float | None  # None where there are no samples, or all are zero
    peak_dbfs: float | None
    error: str | None


@dataclass(frozen=True)
class _Ending:
    """How a decoding went."""

    track: int
    promise: Promise
    n_channels: int | None
    choice: Choice
    code: int  # with which ffmpeg ended
    error: str | None


def stream(decoder: Decoder, path: Path, change: Change | None = None) -> Generator[Block | Heard, None, None]:
    """Yield the sound of `path` as blocks of BLOCK_S seconds, the last one shorter, then exactly one Heard.

    `change` is applied to the blocks before they are measured; it keeps their sizes.  Where the reader stops early, ffmpeg is
    ended.  Raises DecodeError where there is no such file or `track` is negative.
    """
    if decoder.track != "default" and decoder.track < 0:
        raise DecodeError(f"track is {decoder.track}: give 0 for a file's first sound track, 1 for its second, or default for the one marked so")
    if not path.is_file():
        raise DecodeError(f"{path}: no such file")
    endings: list[_Ending] = []
    source = Meter()
    given = Meter() if change else source
    with closing(_blocks(decoder, path, endings)) as blocks:
        for block in change(_metered(blocks, source)) if change else blocks:
            given.add(block)
            yield block
    yield _verdict(decoder, source, given, endings[0])


def arguments(decoder: Decoder, path: str, track: int, channel: int | None = None, channels_to: int | None = None) -> list[str]:
    """The command that writes a sound track of `path` to stdout as mono int16: one channel of it, from 0, or ffmpeg's mix.

    All channels go to the file descriptor `channels_to` as WAV.  `file:` keeps a name that starts with '-' or holds ':' from being read
    as an option or a protocol, and a playlist in a video's clothes may name files only.
    """
    source = ffmpeg.input(f"file:{path}", threads=1, protocol_whitelist="file")
    graph = f"[0:a:{track}]{TELL_TIMES}" + ("" if channel is None else f",pan=mono|c0=c{channel}")
    graph += "[mono]" if channels_to is None else f",asplit[mono][split];[split]{CHANNELS_AT_ONCE}[channels]"
    mono = {"format": "s16le", "acodec": "pcm_s16le", "ac": 1, "ar": decoder.sample_rate, "map": "[mono]", "map_metadata": -1}
    command = source.output("pipe:1", filter_complex=graph, **mono)
    if channels_to is not None:
        all_channels = source.output(f"pipe:{channels_to}", format="wav", acodec="pcm_s16le", map="[channels]", map_metadata=-1)
        command = ffmpeg.merge_outputs(command, all_channels)
    arguments: list[str] = command.global_args(*FLAGS).compile(cmd=decoder.binary)
    return arguments


def ffmpeg_binary(which: str) -> str:
    """The path of ffmpeg: `packaged` is imageio-ffmpeg's (or what its IMAGEIO_FFMPEG_EXE names), `path` the one on PATH.

    Raises DecodeError where there is none; one is never taken for the other.
    """
    if which == "path":
        if (found := shutil.which("ffmpeg")) is None:
            raise DecodeError("no ffmpeg on PATH: install it, or set decode.ffmpeg=packaged")
        return found
    try:
        packaged: str = imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError as error:
        raise DecodeError(f"imageio-ffmpeg has no binary ({error}): reinstall its wheel, or set decode.ffmpeg=path") from error
    if not Path(packaged).is_file():
        raise DecodeError(f"imageio-ffmpeg carries no binary and names {packaged!r}: reinstall its wheel, or set decode.ffmpeg=path")
    return packaged


def ffmpeg_version(binary: str) -> str:
    """The third word of `ffmpeg -version`, such as 7.0.2-static: other versions may resample otherwise."""
    try:
        answer: str = subprocess.run([binary, "-version"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True).stdout
        return answer.split()[2]
    except (OSError, subprocess.CalledProcessError, IndexError) as error:
        raise DecodeError(f"{binary} does not run as ffmpeg ({error}): set decode.ffmpeg to packaged or path") from error


def write_flac(block: Block, sample_rate: int) -> bytes:
    """Compress a block without loss."""
    file = io.BytesIO()
    soundfile.write(file, block, sample_rate, format="FLAC", subtype="PCM_16", compression_level=COMPRESSION)
    return file.getvalue()


def read_flac(data: bytes) -> Block:
    """The samples of a block that `write_flac` made.  Raises CacheError where `data` is something else."""
    try:
        block: Block = soundfile.read(io.BytesIO(data), dtype="int16")[0]
    except soundfile.LibsndfileError as error:
        raise CacheError(f"{len(data)} bytes of stored sound are not FLAC ({error}): delete the folder `waveforms` and run `dvc repro`") from error
    return block


class Meter:
    """Levels and peak of int16 samples by running sums of whole numbers, so that the cut into blocks does not matter."""

    def __init__(self) -> None:
        self.n_samples = 0
        self._sum = self._sum_of_squares = 0
        self._peak = 0

    def add(self, block: Block) -> None:
        """Measure some more."""
        if block.size:
            self.n_samples += block.size
            self._sum += int(block.sum(dtype=np.int64))
            self._sum_of_squares += int(np.square(block, dtype=np.int32).sum(dtype=np.int64))
            self._peak = max(self._peak, int(block.max()), -int(block.min()))

    @property
    def rms_dbfs(self) -> float | None:
        """In dB relative to full scale; None where there are no samples or all are zero."""
        return 10 * math.log10(self._sum_of_squares / self.n_samples / FULL_SCALE**2) if self._sum_of_squares else None

    @property
    def level_dbfs(self) -> float | None:
        """As `rms_dbfs` of what is left without the mean, since a constant is no sound."""
        squares = self.n_samples * self._sum_of_squares - self._sum**2  # of the differences from the mean, n times: a whole number
        return 10 * math.log10(squares / self.n_samples**2 / FULL_SCALE**2) if squares else None

    @property
    def peak_dbfs(self) -> float | None:
        """As `rms_dbfs`."""
        return 20 * math.log10(self._peak / FULL_SCALE) if self._peak else None


@cache
def weights(binary: str, form: Form) -> Floats:
    """By how much each channel of `form` counts in ffmpeg's mix, as ffmpeg itself says it: each in turn plays alone.  Zeros where it cannot mix them."""
    n, of_each = form.n_channels, WEIGHT_SAMPLES
    turns = "|".join(f"eq(floor(n/{of_each})\\,{i})/2" for i in range(n))
    source = ffmpeg.input(f"aevalsrc={turns}:c={form.layout}:s=8000:d={of_each * n / 8000}", format="lavfi")
    command = source.output("pipe:1", format="s16le", acodec="pcm_s16le", ac=1).global_args(*FLAGS).compile(cmd=binary)
    answer = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False).stdout
    mixed = np.frombuffer(answer, "<i2", len(answer) // 2)
    return mixed[of_each // 2 :: of_each] / (FULL_SCALE / 2) if mixed.size == of_each * n else np.zeros(n)


class _Run:
    """ffmpeg at work on one sound track of a file."""

    def __init__(self, decoder: Decoder, track: int, process: "subprocess.Popen[bytes]", log: Log, channels: Channels, read: "Future[None] | None") -> None:
        """Follow `process`, which writes to `log`; `read` ends when `channels` have been measured."""
        self.track = track
        self._decoder, self._process, self._log, self._channels, self._read = decoder, process, log, channels, read

    @property
    def n_channels(self) -> int | None:
        """Of the track; None where it is not known yet."""
        return self._channels.n_channels

    def promise(self) -> Promise:
        """What the container says of itself, as soon as there is sound or ffmpeg has ended."""
        self._process.stdout.peek(1)  # type: ignore[union-attr]
        self._log.read()
        return read_promise(self._log.header, self.track)

    def blocks(self) -> Iterator[Block]:
        """The sound, each sample in its place in time."""
        n_block = round(BLOCK_S * self._decoder.sample_rate)
        return _recut(_in_time(_chunks(self._process, n_block), self._log, Clock(self._decoder.sample_rate), n_block), n_block)

    def end(self) -> _Ending:
        """Wait for ffmpeg, whose sound was read, and say how it went."""
        code = self._process.wait()
        if self._read is not None:
            self._read.result()
        promise = self.promise()
        n_channels = self.n_channels or promise.n_channels
        return _Ending(self.track, promise, n_channels, self._channels.choose(), code, self._log.error())


class _Held:
    """Blocks that wait: few in memory, many on the disk."""

    def __init__(self, file: "tempfile.SpooledTemporaryFile[bytes]", sample_rate: int) -> None:
        """Keep them in `file`."""
        self._file, self._n_bytes = file, 2 * round(BLOCK_S * sample_rate)

    def add(self, block: Block) -> None:
        """Let it wait; all but the last have BLOCK_S."""
        self._file.write(block.astype("<i2", copy=False).tobytes())

    def release(self) -> Iterator[Block]:
        """Yield all that waited, in order."""
        self._file.seek(0)
        while data := self._file.read(self._n_bytes):
            yield np.frombuffer(data, "<i2")
        self._file.seek(0)
        self._file.truncate()


def _metered(blocks: Iterator[Block], meter: Meter) -> Iterator[Block]:
    for block in blocks:
        meter.add(block)
        yield block


def _blocks(decoder: Decoder, path: Path, endings: list[_Ending]) -> Generator[Block, None, None]:
    """The sound as it is to be heard, mixed or one channel; then `endings` holds how that went."""
    with _opened(decoder, path) as run, tempfile.SpooledTemporaryFile(HELD_BYTES) as file:
        held = _Held(file, decoder.sample_rate)
        for block in run.blocks():
            held.add(block)
            if run.n_channels == 1:  # there is nothing to choose
                yield from held.release()
        ending = run.end()
        if ending.choice.channel is None:
            endings.append(ending)
            yield from held.release()
            return
    with _running(decoder, path, ending.track, ending.choice.channel) as run:
        yield from run.blocks()
        endings.append(replace(run.end(), n_channels=ending.n_channels, choice=ending.choice))


@contextmanager
def _opened(decoder: Decoder, path: Path) -> Iterator[_Run]:
    """ffmpeg at work on the track that the decoder asks for.  Which one is marked default is known once ffmpeg has opened the first."""
    track = 0 if decoder.track == "default" else decoder.track
    with _running(decoder, path, track) as run:
        marked = run.promise().default_track if decoder.track == "default" else track
        if marked == track:
            yield run
            return
    with _running(decoder, path, marked) as run:
        yield run


@contextmanager
def _running(decoder: Decoder, path: Path, track: int, channel: int | None = None) -> Iterator[_Run]:
    """ffmpeg at work, ended and reaped when the block is left.

    A name with a line break could forge lines of the log, so such a file is given another name, in an empty folder.
    """
    with ExitStack() as stack:
        folder, name = None, str(path)
        if not name.isprintable():
            folder, name = stack.enter_context(tempfile.TemporaryDirectory()), "clip" + (path.suffix if path.suffix[1:].isalnum() else "")
            Path(folder, name).symlink_to(path.resolve())
        stderr = stack.enter_context(tempfile.TemporaryFile())
        channels = Channels(decoder.silent_below_dbfs, lambda form: weights(decoder.binary, form))
        read, write_to = None, None
        if channel is None:
            reader = stack.enter_context(ThreadPoolExecutor(1))  # left after ffmpeg has ended, so it ends too
            read_from, write_to = os.pipe()
            read = reader.submit(channels.read, os.fdopen(read_from, "rb"))
        try:
            command = arguments(decoder, name, track, channel, write_to)
            handed = () if write_to is None else (write_to,)
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr, cwd=folder, pass_fds=handed
            )  # fmt: skip
        finally:
            if write_to is not None:
                os.close(write_to)
        try:
            yield _Run(decoder, track, process, Log(stderr.fileno()), channels, read)
        finally:
            process.kill()  # nothing where it has ended
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


def _chunks(process: "subprocess.Popen[bytes]", n_samples: int) -> Iterator[Block]:
    """What ffmpeg decodes, as it comes."""
    if process.stdout is None:
        raise DecodeError("ffmpeg was started without a pipe")
    while data := process.stdout.read(2 * n_samples):
        yield np.frombuffer(data, "<i2", len(data) // 2)


def _in_time(chunks: Iterator[Block], log: Log, clock: Clock, n_most: int) -> Iterator[Block]:
    """Fill in silence, at most `n_most` samples at once, where the log tells of a jump.  It does so before the sample after it comes."""
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


def _verdict(decoder: Decoder, source: Meter, given: Meter, ending: _Ending) -> Heard:
    promise, code, error = ending.promise, ending.code, ending.error
    duration_s, expected_s = given.n_samples / decoder.sample_rate, promise.expected_s
    level_dbfs, left_dbfs = (None if level is None else level + ending.choice.lost_db for level in (source.level_dbfs, given.level_dbfs))
    if not given.n_samples:
        if promise.opened and promise.n_tracks <= ending.track:
            error = f"no sound track {ending.track}, counted from 0: the file has {promise.n_tracks}" if promise.n_tracks else None
            status = "no_track" if promise.has_picture or promise.n_tracks else "failed"
            error = "neither a sound track nor a picture" if status == "failed" else error
        else:
            status, error = "failed", error or f"ffmpeg ended with {code} and no samples"
    elif left_dbfs is None or left_dbfs < decoder.silent_below_dbfs:
        status = "silent"
    elif code != 0:
        status, error = "truncated", error or f"ffmpeg ended with {code}"
    elif expected_s is not None and duration_s < expected_s - max(TRUNCATED_S, TRUNCATED_SHARE * expected_s):
        status = "truncated"
    else:
        status = "ok"
    track = ending.track if given.n_samples or ending.track < promise.n_tracks else None
    return Heard(
        status, decoder.sample_rate, track, ending.n_channels, ending.choice.mix, duration_s if given.n_samples else None, expected_s,
        given.n_samples, level_dbfs, given.rms_dbfs, given.peak_dbfs, error,
    )  # fmt: skip

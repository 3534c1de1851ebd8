"""The room that starts ffmpeg for sound: any media file in, blocks of mono int16 and a verdict out, in constant memory.

ffmpeg writes samples on a pipe and what it has to say into a file (pipeline/ffmpeg_log.py).  Sound keeps its place in time: a track
that starts late, or has a gap, is filled with silence here, since ffmpeg itself holds the silence that it fills in whole (an hour of
it took 3 GB).  Blocks are stored as FLAC.
"""
import io
import math
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import ffmpeg
import imageio_ffmpeg
import numpy as np
import numpy.typing as npt
import soundfile

from pipeline.errors import CacheError, DecodeError
from pipeline.ffmpeg_log import LEVEL, TELL_TIMES, Clock, Log, Promise, read_promise

BLOCK_S = 30.0
FULL_SCALE = 32768.0  # of int16
STATUSES = ("ok", "no_track", "silent", "truncated", "failed")
TRUNCATED_S = 0.5  # sound may end this much before the container's duration, which is that of its longest stream...
TRUNCATED_SHARE = 0.05  # ...or this share of it, whichever is more (priming and the last frame of AAC are below 0.1 s)
FLAGS = ("-nostdin", "-hide_banner", "-nostats", "-loglevel", LEVEL)
COMPRESSION = 0.5  # of FLAC, 0 to 1; on 40 recordings 57 % of raw at 16 kHz, 40 % at 32 kHz; 0.25 gives 60 and 51 % in 5 % less time
Block = npt.NDArray[np.int16]
Change = Callable[[Iterator[Block]], Iterator[Block]]


@dataclass(frozen=True)
class Decoder:
    """What is the same for every file."""

    binary: str  # ffmpeg's path
    sample_rate: int  # of the samples, in Hz
    silent_below_dbfs: float  # a track with a lower RMS level is silent (0 = full scale)
    track: int = 0  # which of a file's sound tracks, from 0


@dataclass(frozen=True)
class Heard:
    """What became of a file's sound; all but n_channels and expected_s describes the samples that were given out."""

    status: str  # of STATUSES
    sample_rate: int
    n_channels: int | None  # of the source track
    duration_s: float | None  # None where there are no samples
    expected_s: float | None  # the container's duration
    n_samples: int
    rms_dbfs: float | None  # None where there are no samples, or all are zero
    peak_dbfs: float | None
    error: str | None


def stream(decoder: Decoder, path: Path, change: Change | None = None) -> Generator[Block | Heard, None, None]:
    """Yield the sound of `path` as blocks of BLOCK_S seconds, the last one shorter, then exactly one Heard.

    `change` is applied to the blocks before they are measured; it keeps their sizes.  Where the reader stops early, ffmpeg is
    ended.  Raises DecodeError where there is no such file or `track` is negative.
    """
    if decoder.track < 0:
        raise DecodeError(f"track is {decoder.track}: give 0 for a file's first sound track, 1 for its second")
    if not path.is_file():
        raise DecodeError(f"{path}: no such file")
    with tempfile.TemporaryFile() as stderr, _running(decoder, path, stderr) as process:
        log, meter = Log(stderr.fileno()), Meter()
        n_block = round(BLOCK_S * decoder.sample_rate)
        blocks = _recut(_in_time(_chunks(process, n_block), log, Clock(decoder.sample_rate), n_block), n_block)
        for block in change(blocks) if change else blocks:
            meter.add(block)
            yield block
        code = process.wait()
        log.read()
    yield _verdict(decoder, meter, read_promise(log.header, decoder.track), code, log.error())


def unread(decoder: Decoder, why: str) -> Generator[Block | Heard, None, None]:
    """Yield the Heard of a file that cannot be opened, as `stream` does for one that ffmpeg finds no sound in."""
    yield Heard(
        status="failed", sample_rate=decoder.sample_rate, n_channels=None, duration_s=None, expected_s=None,
        n_samples=0, rms_dbfs=None, peak_dbfs=None, error=why,
    )  # fmt: skip


def arguments(decoder: Decoder, path: str) -> list[str]:
    """The command that writes one sound track of `path` to stdout as mono int16.

    `file:` keeps a name that starts with '-' or holds ':' from being read as an option or a protocol, and a playlist in a video's
    clothes may name files only.
    """
    track = ffmpeg.input(f"file:{path}", threads=1, protocol_whitelist="file")[f"a:{decoder.track}"]
    command = track.output("pipe:", format="s16le", acodec="pcm_s16le", ac=1, ar=decoder.sample_rate, af=TELL_TIMES)
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
    """Level and peak of int16 samples by running sums of whole numbers, so that the cut into blocks does not matter."""

    def __init__(self) -> None:
        self.n_samples = 0
        self._sum_of_squares = 0
        self._peak = 0

    def add(self, block: Block) -> None:
        """Measure some more."""
        if block.size:
            self.n_samples += block.size
            self._sum_of_squares += int(np.square(block, dtype=np.int32).sum(dtype=np.int64))
            self._peak = max(self._peak, int(block.max()), -int(block.min()))

    @property
    def rms_dbfs(self) -> float | None:
        """In dB relative to full scale; None where there are no samples or all are zero."""
        return 10 * math.log10(self._sum_of_squares / self.n_samples / FULL_SCALE**2) if self._sum_of_squares else None

    @property
    def peak_dbfs(self) -> float | None:
        """As `rms_dbfs`."""
        return 20 * math.log10(self._peak / FULL_SCALE) if self._peak else None


@contextmanager
def _running(decoder: Decoder, path: Path, stderr: IO[bytes]) -> Iterator["subprocess.Popen[bytes]"]:
    """ffmpeg at work, ended and reaped when the block is left.

    A name with a line break could forge lines of the log, so such a file is given another name, in an empty folder.
    """
    with ExitStack() as stack:
        folder, name = None, str(path)
        if not name.isprintable():
            folder, name = stack.enter_context(tempfile.TemporaryDirectory()), "clip" + (path.suffix if path.suffix[1:].isalnum() else "")
            Path(folder, name).symlink_to(path.resolve())
        command = arguments(decoder, name)
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr, cwd=folder)
        try:
            yield process
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


def _verdict(decoder: Decoder, meter: Meter, promise: Promise, code: int, error: str | None) -> Heard:
    duration_s = meter.n_samples / decoder.sample_rate
    expected_s = promise.expected_s
    if not meter.n_samples:
        if promise.opened and promise.n_tracks <= decoder.track:
            error = f"no sound track {decoder.track}, counted from 0: the file has {promise.n_tracks}" if promise.n_tracks else None
            status = "no_track" if promise.has_picture or promise.n_tracks else "failed"
            error = "neither a sound track nor a picture" if status == "failed" else error
        else:
            status, error = "failed", error or f"ffmpeg ended with {code} and no samples"
    elif meter.rms_dbfs is None or meter.rms_dbfs < decoder.silent_below_dbfs:
        status = "silent"
    elif code != 0:
        status, error = "truncated", error or f"ffmpeg ended with {code}"
    elif expected_s is not None and duration_s < expected_s - max(TRUNCATED_S, TRUNCATED_SHARE * expected_s):
        status = "truncated"
    else:
        status = "ok"
    return Heard(
        status, decoder.sample_rate, promise.n_channels, duration_s if meter.n_samples else None, expected_s,
        meter.n_samples, meter.rms_dbfs, meter.peak_dbfs, error,
    )  # fmt: skip

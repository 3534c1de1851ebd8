"""The room for sound: any media file in, blocks of mono int16 and a verdict out, in constant memory; and blocks stored
as FLAC.

ffmpeg writes samples on one pipe (_ffmpeg_run.py) and what it has to say on another (_ffmpeg_log.py).  Sound keeps its
place in time: a track that starts late, or has a gap, is filled with silence here, since ffmpeg itself holds the
silence that it fills in whole (an hour of it took 3 GB).  A track of several channels is mixed by ffmpeg; its blocks
wait in memory until the channels are measured to the end (_channels.py), and where the mix loses them, one channel is
decoded instead.  Of a long track no more is held than HELD_BYTES, and the mix is decoded once more.  No step needs a
temporary file.

ffmpeg that is ended by a signal (mostly out of memory) is run once more, and its sound goes on where the first one
stopped; a clip that costs it twice is failed, so that one file cannot block a data set.  ffmpeg that was told to stop,
or whose log is not whole, is an error of the machine and not of the file: the stage ends, and no row is kept.
"""

import hashlib
import io
import logging
import shutil
import subprocess
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import chain, pairwise
from pathlib import Path

import imageio_ffmpeg
import soundfile

from adapt.errors import CacheError, DecodeError
from adapt.video.decoding import refusal
from pipeline.audio._channels import FULL_SCALE as FULL_SCALE
from pipeline.audio._channels import Choice
from pipeline.audio._ffmpeg_log import read_promise
from pipeline.audio._ffmpeg_run import BLOCK_S as BLOCK_S
from pipeline.audio._ffmpeg_run import Block as Block
from pipeline.audio._ffmpeg_run import Decoder as Decoder
from pipeline.audio._ffmpeg_run import Ending, KilledError, opened, running
from pipeline.audio._ffmpeg_run import Track as Track
from pipeline.audio._level import Meter as Meter
from pipeline.audio._level import is_silent, loudest_dbfs

log = logging.getLogger("decode")
HELD_BYTES = 8_000_000  # of a track's blocks that wait: 4 minutes at 16 kHz; a longer one is decoded twice
KILLED = -1  # in place of ffmpeg's exit code
TRIES = 2  # of an ffmpeg that a signal ends
STATUSES = ("ok", "no_track", "silent", "truncated", "failed")
TRUNCATED_S = 0.5  # sound may end this much before the container's duration, which is that of its longest stream...
TRUNCATED_SHARE = 0.05  # ...or this share of it, whichever is more (priming and the last frame of AAC are below 0.1 s)
# of FLAC, 0 to 1; on 40 recordings 57 % of raw at 16 kHz, 40 % at 32 kHz; 0.25 gives 60 and 51 % in 5 % less time
COMPRESSION = 0.5
Change = Callable[[Iterator[Block]], Iterator[Block]]


@dataclass(frozen=True)
class Heard:
    """What became of a file's sound; its length, RMS level and peak are those of the samples that were given out."""

    status: str  # of STATUSES
    sample_rate: int
    track: int | None  # the position of the sound track that was read, from 0; None where there is none
    n_channels: int | None  # of the source track
    # How its channels became one: mean (ffmpeg's, by weights), or the one taken, as `channel 1`; None for mono.
    mix: str | None
    duration_s: float | None  # None where there are no samples
    expected_s: float | None  # the container's duration
    n_samples: int
    level_dbfs: (
        float | None
    )  # RMS of the loudest channel before mixing and before any change, without its mean; None as rms_dbfs
    rms_dbfs: float | None  # None where there are no samples, or all are zero
    peak_dbfs: float | None
    error: str | None


def stream(decoder: Decoder, path: Path, change: Change | None = None) -> Generator[Block | Heard, None, None]:
    """Yield the sound of `path` as blocks of BLOCK_S seconds, the last one shorter, then exactly one Heard.

    `change` is applied to the blocks before they are measured; it keeps their sizes.  Where the reader stops early,
    ffmpeg is ended.  What is no media file by itself, such as a pipe or a playlist, is not read and has failed.  Raises
    DecodeError where there is no such file or `track` is negative.
    """
    if decoder.track != "default" and decoder.track < 0:
        raise DecodeError(
            f"track is {decoder.track}: give 0 for a file's first sound track, 1 for its second, or default for the "
            "one marked so"
        )
    if not path.exists():
        raise DecodeError(f"{path}: no such file")
    if (why := refusal(path)) is not None:
        yield from unread(decoder, why)
        return
    endings: list[Ending] = []
    source = Meter()
    given = Meter() if change else source
    with closing(_blocks(decoder, path, endings)) as blocks:
        for block in change(_metered(blocks, source)) if change else blocks:
            given.add(block)
            yield block
    yield _verdict(decoder, source, given, endings[0])


def unread(decoder: Decoder, why: str) -> Generator[Block | Heard, None, None]:
    """Yield the Heard of a file that cannot be opened, as `stream` does for one that ffmpeg finds no sound in."""
    yield Heard(
        status="failed", sample_rate=decoder.sample_rate, track=None, n_channels=None, mix=None, duration_s=None,
        expected_s=None, n_samples=0, level_dbfs=None, rms_dbfs=None, peak_dbfs=None, error=why,
    )  # fmt: skip


def ffmpeg_binary(which: str) -> str:
    """The path of ffmpeg: `packaged` is imageio-ffmpeg's (or what its IMAGEIO_FFMPEG_EXE names), `path` the one on
    PATH.

    Raises DecodeError where there is none; one is never taken for the other.
    """
    if which == "path":
        if (found := shutil.which("ffmpeg")) is None:
            raise DecodeError("no ffmpeg on PATH: install it, or set decode.ffmpeg=packaged")
        return found
    try:
        packaged: str = imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError as error:
        raise DecodeError(
            f"imageio-ffmpeg has no binary ({error}): reinstall its wheel, or set decode.ffmpeg=path"
        ) from error
    if not Path(packaged).is_file():
        raise DecodeError(
            f"imageio-ffmpeg carries no binary and names {packaged!r}: reinstall its wheel, or set decode.ffmpeg=path"
        )
    return packaged


def ffmpeg_version(binary: str) -> str:
    """The third word of `ffmpeg -version`, such as 7.0.2-static: other versions may resample otherwise."""
    try:
        answer: str = subprocess.run(
            [binary, "-version"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True
        ).stdout
        return answer.split()[2]
    except (OSError, subprocess.CalledProcessError, IndexError) as error:
        raise DecodeError(
            f"{binary} does not run as ffmpeg ({error}): set decode.ffmpeg to packaged or path"
        ) from error


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
        raise CacheError(
            f"{len(data)} bytes of stored sound are not FLAC ({error}): delete the folder `waveforms` and run `dvc "
            "repro`"
        ) from error
    return block


def _metered(blocks: Iterator[Block], meter: Meter) -> Iterator[Block]:
    for block in blocks:
        meter.add(block)
        yield block


def _blocks(decoder: Decoder, path: Path, endings: list[Ending]) -> Generator[Block, None, None]:
    """The sound as it is to be heard; then `endings` holds how that went.

    Where ffmpeg is ended by a signal, another goes on behind the blocks that were given out; it must give the same
    ones.
    """
    given: list[bytes] = []  # hashes
    for n_left in reversed(range(TRIES)):
        try:
            with closing(_chosen(decoder, path, endings)) as blocks:
                # one is held back: the last of an ffmpeg that is killed may be cut
                for i, (block, _) in enumerate(pairwise(chain(blocks, [None]))):
                    assert block is not None
                    sha256 = hashlib.sha256(block.tobytes()).digest()
                    if i == len(given):
                        given.append(sha256)
                        yield block
                    elif given[i] != sha256:
                        raise DecodeError("ffmpeg does not give the same sound twice")
            return
        except DecodeError as error:
            raise DecodeError(f"{path}: {error}") from error
        except KilledError as error:
            log.warning("%s: ffmpeg was ended by %s%s", path, error, ": once more" if n_left else "")
            how = f"ffmpeg was ended by {error} {TRIES} times (out of memory?)"
    endings.append(Ending(0, read_promise(""), None, Choice(None, None, 0.0), KILLED, how))


def _chosen(decoder: Decoder, path: Path, endings: list[Ending]) -> Generator[Block, None, None]:
    """The sound, mixed or one channel, of one ffmpeg or two, one after the other.  Raises KilledError."""
    with opened(decoder, path) as run:
        held: list[Block] = []
        n_bytes = 0
        for block in run.blocks():
            if run.n_channels == 1 and n_bytes <= HELD_BYTES:  # there is nothing to choose
                yield from held
                held.clear()
                yield block
                continue
            n_bytes += block.nbytes
            if n_bytes <= HELD_BYTES:
                held.append(block)
            else:
                held.clear()
        ending = run.end()
    if ending.choice.channel is None and n_bytes <= HELD_BYTES:
        endings.append(ending)
        yield from held
        return
    with running(decoder, path, ending.track, ending.choice.channel, measure=False) as run:
        yield from run.blocks()
        endings.append(replace(run.end(), n_channels=ending.n_channels, choice=ending.choice))


def _verdict(decoder: Decoder, source: Meter, given: Meter, ending: Ending) -> Heard:
    promise, code, error = ending.promise, ending.code, ending.error
    if error and "not on whitelist" in error:  # of kinds of container: ONE_FILE
        error = "it is of no kind that is read here"
    duration_s, expected_s = given.n_samples / decoder.sample_rate, promise.expected_s
    level_dbfs = loudest_dbfs(source, ending.choice)
    if code == KILLED:
        status = "failed"
    elif not given.n_samples:
        if promise.opened and promise.n_tracks <= ending.track:
            error = (
                f"no sound track {ending.track}, counted from 0: the file has {promise.n_tracks}"
                if promise.n_tracks
                else None
            )
            status = "no_track" if promise.has_picture or promise.n_tracks else "failed"
            error = "neither a sound track nor a picture" if status == "failed" else error
        else:
            status, error = "failed", error or f"ffmpeg ended with {code} and no samples"
    elif is_silent(loudest_dbfs(given, ending.choice), decoder.silent_below_dbfs):
        status = "silent"
    elif code != 0:
        status, error = "truncated", error or f"ffmpeg ended with {code}"
    elif expected_s is not None and duration_s < expected_s - max(TRUNCATED_S, TRUNCATED_SHARE * expected_s):
        status = "truncated"
    else:
        status = "ok"
    track = ending.track if given.n_samples or ending.track < promise.n_tracks else None
    return Heard(
        status, decoder.sample_rate, track, ending.n_channels, ending.choice.mix,
        duration_s if given.n_samples else None, expected_s, given.n_samples, level_dbfs,
        given.rms_dbfs, given.peak_dbfs, error,
    )  # fmt: skip

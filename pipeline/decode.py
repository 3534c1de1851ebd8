"""The `decode` stage: the sound track of every clip, as mono int16 at the tagger's sample rate, in cache/<dataset>/audio.

ffmpeg reads the clip and answers on two pipes: samples on stdout, and on stderr what the container promised.  A clip without a
track, with a silent one, or with a broken one is a row with a status; the stage fails only when too many clips did.
"""
import logging
import math
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import ffmpeg
import imageio_ffmpeg
import numpy as np
import numpy.typing as npt

from pipeline import cache, engine, stage, taggers
from pipeline.errors import DatasetError, DecodeError

VERSION = "1"  # raise it when the same clip would give other rows: every clip is then decoded again
STATUSES = ("ok", "no_track", "silent", "truncated", "failed")
FULL_SCALE = 32768.0  # of int16
TRUNCATED_S = 0.5  # sound may end this much before the container's duration, which is that of its longest stream...
TRUNCATED_SHARE = 0.05  # ...or this share of it, whichever is more (priming and the last frame of AAC are below 0.1 s)
ERROR_LINES = 3
NAMED_LAYOUTS = {"mono": 1, "stereo": 2, "downmix": 2, "binaural": 2, "quad": 4, "hexagonal": 6, "octagonal": 8, "cube": 8}
FLAGS = ("-nostdin", "-hide_banner", "-nostats", "-loglevel", "level+info")  # info names the streams, level+ marks the errors

log = logging.getLogger("decode")


@dataclass(frozen=True)
class Options:
    """Decode the sound of a data set's clips for a tagger."""

    dataset: str  # names cache/<dataset> and data/videos/<dataset>
    tagger: str  # pipeline/taggers/<tagger>.py, which knows the sample rate
    ffmpeg: Literal["packaged", "path"] = "packaged"  # the binary of imageio-ffmpeg, or the one on PATH
    silent_below_dbfs: float = -60.0  # a track with a lower RMS level is silent (0 = full scale)
    jobs: int = 2  # clips at a time
    max_failed_share: float = 0.5  # the stage fails when more than this share of the clips did


@dataclass(frozen=True)
class Decoder:
    """What is the same for every clip."""

    binary: str  # ffmpeg's path
    sample_rate: int  # of the samples, in Hz
    silent_below_dbfs: float


@dataclass(frozen=True)
class Promise:
    """What ffmpeg's stderr says of a container before any of it is decoded."""

    opened: bool
    has_sound: bool
    has_picture: bool
    n_channels: int | None
    expected_s: float | None  # the container's duration, of its longest stream


def run(options: Options) -> dict[str, int]:
    """Bring cache/<dataset>/audio in line with clips.parquet and return the counts.

    Raises DecodeError where ffmpeg cannot be run or more than `max_failed_share` of the clips failed, DatasetError where a clip
    of clips.parquet is not there any more.
    """
    decoder = Decoder(ffmpeg_binary(options.ffmpeg), taggers.sample_rate(options.tagger), options.silent_below_dbfs)
    version = ffmpeg_version(decoder.binary)
    folder = cache.folder(options.dataset)
    clips = cache.read_table(folder / "clips.parquet", "clips", ["clip_id", "path", "content_sha256"]).to_pylist()
    paths = {clip["clip_id"]: Path("data/videos") / options.dataset / clip["path"] for clip in clips}
    common = ("decode", VERSION, version, decoder.sample_rate, decoder.silent_below_dbfs)
    wanted = {clip["clip_id"]: cache.sha256_text(*common, clip["content_sha256"]) for clip in clips}

    def make(clip_ids: list[str]) -> Iterator[cache.Row]:
        rows = engine.map_clips(partial(decode_file, decoder), [paths[clip_id] for clip_id in clip_ids], options.jobs)
        log.info("decoded %d clips", len(rows))
        for clip_id, row in zip(clip_ids, rows, strict=True):
            yield row | {"clip_id": clip_id, "cache_key": wanted[clip_id]}

    provenance = {"sample_rate": str(decoder.sample_rate), "ffmpeg": version, "code_version": VERSION}
    counts = cache.sync_shards(folder / "audio", "audio", wanted, make, provenance)
    rows = cache.read_table(folder / "audio", "audio", ["clip_id", "status", "error"]).to_pylist()
    _check_failures(rows, options.max_failed_share)
    by_status = {f"n_{status}": sum(row["status"] == status for row in rows) for status in STATUSES}
    return {"n_clips": len(rows)} | by_status | counts


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


def arguments(decoder: Decoder, path: Path) -> list[str]:
    """The command that writes the first sound track of `path` to stdout as mono int16.

    `file:` keeps a name that starts with '-' or holds ':' from being read as an option or a protocol.
    """
    track = ffmpeg.input(f"file:{path}", threads=1)["a:0"]
    command = track.output("pipe:", format="s16le", acodec="pcm_s16le", ac=1, ar=decoder.sample_rate)
    arguments: list[str] = command.global_args(*FLAGS).compile(cmd=decoder.binary)
    return arguments


def decode_file(decoder: Decoder, path: Path) -> dict[str, object]:
    """Return the row of `audio` for one file, without clip_id and cache_key.  Raises DatasetError where there is no such file."""
    if not path.is_file():
        raise DatasetError(f"{path} is listed in clips.parquet but is not there: run `dvc repro scan`")
    done = subprocess.run(arguments(decoder, path), stdin=subprocess.DEVNULL, capture_output=True)
    stderr = done.stderr.decode("utf-8", errors="replace")
    promise = read_promise(stderr)
    samples = np.frombuffer(done.stdout[: len(done.stdout) // 2 * 2], dtype="<i2")
    duration_s = samples.size / decoder.sample_rate
    rms_dbfs, peak_dbfs = levels(samples)
    error = _last_lines(stderr)
    if promise.opened and not promise.has_sound:
        status, error = ("no_track", None) if promise.has_picture else ("failed", "neither a sound track nor a picture")
    elif done.returncode != 0 or samples.size == 0:
        status, error, samples = "failed", error or f"ffmpeg ended with {done.returncode} and {samples.size} samples", samples[:0]
    elif rms_dbfs is None or rms_dbfs < decoder.silent_below_dbfs:
        status = "silent"
    elif promise.expected_s is not None and duration_s < promise.expected_s - max(TRUNCATED_S, TRUNCATED_SHARE * promise.expected_s):
        status = "truncated"
    else:
        status = "ok"
    heard = samples.size > 0
    return {
        "status": status,
        "sample_rate": decoder.sample_rate,
        "n_channels": promise.n_channels,
        "duration_s": duration_s if heard else None,
        "expected_s": promise.expected_s,
        "n_samples": samples.size,
        "rms_dbfs": rms_dbfs if heard else None,
        "peak_dbfs": peak_dbfs if heard else None,
        "error": error,
        "pcm": samples.tobytes(),
    }


def levels(samples: npt.NDArray[np.int16]) -> tuple[float | None, float | None]:
    """(RMS, peak) of int16 samples in dB relative to full scale; (None, None) where there are none or all are zero."""
    if samples.size == 0 or not samples.any():
        return None, None
    rms = math.sqrt(float(np.square(samples, dtype=np.float64).mean())) / FULL_SCALE
    peak = max(int(samples.max()), -int(samples.min())) / FULL_SCALE
    return 20 * math.log10(rms), 20 * math.log10(peak)


def read_promise(stderr: str) -> Promise:
    """Parse what ffmpeg prints of its input at `-loglevel level+info`."""
    header = stderr.partition("[info] Output #0")[0]
    streams = re.findall(r"^\[info\]   Stream #0:\d+.*?: (Audio|Video): (.*)$", header, re.MULTILINE)
    sound = [text for kind, text in streams if kind == "Audio"]
    duration = re.search(r"^\[info\]   Duration: (\d+):(\d\d):(\d\d\.\d+)", header, re.MULTILINE)
    return Promise(
        opened=re.search(r"^\[info\] Input #0", header, re.MULTILINE) is not None,
        has_sound=bool(sound),
        has_picture=any(kind == "Video" for kind, _ in streams),
        n_channels=_n_channels(sound[0]) if sound else None,
        expected_s=int(duration[1]) * 3600 + int(duration[2]) * 60 + float(duration[3]) if duration else None,
    )


def _n_channels(stream: str) -> int | None:
    """Count the channels of a layout as ffmpeg names it: `stereo`, `5.1(side)`, `3 channels (FL+FR+LFE)`; None where it is another."""
    layout = re.search(r"\d+ Hz, ([^,]+)", stream)
    if layout is None:
        return None
    word = re.split(r"[ (]", layout[1])[0]
    if word in NAMED_LAYOUTS:
        return NAMED_LAYOUTS[word]
    return sum(int(part) for part in word.split(".")) if re.fullmatch(r"\d+(\.\d+)*", word) else None


def _last_lines(stderr: str) -> str | None:
    """The last errors that ffmpeg printed, without the addresses that differ from run to run; None where there were none."""
    lines = [line for line in stderr.splitlines() if re.search(r"\[(error|fatal|panic)\]", line)]
    return " | ".join(re.sub(r" @ 0x[0-9a-f]+", "", line) for line in lines[-ERROR_LINES:]) or None


def _check_failures(rows: list[dict[str, object]], max_failed_share: float) -> None:
    failed = [row for row in rows if row["status"] == "failed"]
    if rows and len(failed) / len(rows) > max_failed_share:
        names = ", ".join(str(row["clip_id"]) for row in failed[:5])
        raise DecodeError(
            f"{len(failed)} of {len(rows)} clips could not be decoded, more than decode.max_failed_share={max_failed_share}: "
            f"{names}; first error: {failed[0]['error']}"
        )


if __name__ == "__main__":
    stage.main(Options, run, prog="pipeline.decode")

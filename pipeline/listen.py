"""What a tagger hears in any media files: `python -m pipeline.listen FILE...`, the five-second way to see that the
sound side works.

No data set, no cache: each file goes through the same ffmpeg and the same windows as in the pipeline, and a table or
JSON comes out.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from adapt import command

if __name__ == "__main__":
    command.begin("pipeline.listen")  # before what takes time to import

import numpy as np
import numpy.typing as npt
import tyro

from adapt.command import printable, printable_json, until_the_reader_leaves
from adapt.errors import EarshotError
from pipeline import tag, taggers
from pipeline.audio import sound

BAR = 24  # characters at probability 1
SILENT_BELOW_DBFS = -60.0
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Options:
    """Print what a tagger hears in media files: the loudest sounds of each, with probability and the second of their
    best window.
    """

    files: tyro.conf.Positional[tuple[Path, ...]]  # any files that ffmpeg reads
    tagger: str = "yamnet"  # pipeline/taggers/<tagger>.py
    variant: str = ""  # one of the tagger's published models; empty: its first
    checkpoint: str = ""  # path of its weights, where they are not packaged
    implementation: taggers.Implementation = "ours"  # whose network runs; package: panns by panns-inference, to compare
    top: int = command.number(5, low=1)  # sounds a file
    min_probability: float = command.number(0.05, low=0, high=1)  # sounds below this are not shown
    window_s: float = command.number(10.0, low=0, high=600, above=True)  # seconds that the tagger hears at once
    hop_s: float = command.number(5.0, low=0, high=600, above=True)  # seconds from one window's start to the next one's
    track: sound.Track = "default"
    """which sound track: default (the one marked so, else the first), or its position from 0"""
    device: str = "cpu"  # cpu, cuda or cuda:1
    precision: str = "fp32"  # fp32, bf16 or fp16
    ffmpeg: Literal["packaged", "path"] = "packaged"  # the binary of imageio-ffmpeg, or the one on PATH
    json: bool = False  # one JSON object a file instead of a table


@dataclass(frozen=True)
class HeardSound:
    """One sound in a file."""

    sound: str
    probability: float  # the largest over the file's windows
    at_s: float  # where that window starts, in seconds


@dataclass(frozen=True)
class Report:
    """What became of a file, and what was heard in it."""

    file: str
    status: str  # as in `audio`
    duration_s: float | None
    track: int | None
    n_channels: int | None
    mix: str | None
    rms_dbfs: float | None
    error: str | None
    sounds: list[HeardSound]


def main(args: list[str] | None = None) -> None:
    """Run as a command."""
    command.main(Options, run, prog="pipeline.listen", args=args)


def run(options: Options) -> None:
    """Print a report a file.  Raises SystemExit, with 1 where a file could not be read, and what `listen` raises."""
    n_failed = 0
    with until_the_reader_leaves():
        for report in listen(options):
            n_failed += report.status == "failed"
            line = json.dumps(asdict(report), ensure_ascii=False)
            print(printable_json(line) if options.json else printable(table(report), lines=True), flush=True)
    raise SystemExit(1 if n_failed else 0)


def listen(options: Options) -> Iterator[Report]:
    """Yield a report for each file, in order.  Raises EarshotError where the tagger or ffmpeg cannot be used."""
    if not options.files:
        raise EarshotError("no file was named: give one or more")
    tag.check_windows(options.window_s, options.hop_s, batch_size=1)
    tagger = taggers.build(
        options.tagger, options.checkpoint, options.device, options.variant, options.precision, options.implementation
    )
    decoder = sound.Decoder(sound.ffmpeg_binary(options.ffmpeg), tagger.sample_rate, SILENT_BELOW_DBFS, options.track)
    for path in options.files:
        yield _report(options, tagger, decoder, path)


def _report(options: Options, tagger: taggers.Tagger, decoder: sound.Decoder, path: Path) -> Report:
    if not path.exists():
        return Report(_text(path), "failed", None, None, None, None, None, "no such file", [])
    ends: list[sound.Heard] = []

    def blocks() -> Iterator[sound.Block]:
        for part in sound.stream(decoder, path):
            if isinstance(part, sound.Heard):
                ends.append(part)
            else:
                yield part

    best, at_s = np.full(len(tagger.labels), -np.inf), np.zeros(len(tagger.labels))
    for row in tag.tag_sounds(tagger, [(str(path), blocks())], options.window_s, options.hop_s):
        logits = np.asarray(row["logits"], np.float64)
        at_s = np.where(logits > best, float(str(row["window_start_s"])), at_s)
        best = np.maximum(best, logits)
    end = ends[0]
    sounds = _loudest(tagger, best, at_s, options) if end.status in tag.WITH_SOUND else []
    return Report(
        _text(path), end.status, end.duration_s, end.track, end.n_channels, end.mix, end.rms_dbfs, end.error, sounds
    )


def _text(path: Path) -> str:
    r"""The path as UTF-8: a byte that is none is written \xe9."""
    return os.fsencode(path).decode(errors="backslashreplace")


def _loudest(tagger: taggers.Tagger, logits: Floats, at_s: Floats, options: Options) -> list[HeardSound]:
    probabilities = 1 / (1 + np.exp(-logits))
    order = np.argsort(-probabilities, kind="stable")[: options.top]
    loud = [i for i in order if probabilities[i] >= options.min_probability]
    return [HeardSound(tagger.labels[i], round(float(probabilities[i]), 4), float(at_s[i])) for i in loud]


def table(report: Report) -> str:
    """A report as lines of text: the file, then a bar a sound."""
    facts = [report.status]
    facts += [f"{report.duration_s:.1f} s"] if report.duration_s is not None else []
    facts += [f"track {report.track}"] if report.track else []  # the first is not worth a word
    facts += [f"{report.n_channels} ch"] if report.n_channels else []
    facts += [f"{report.mix} alone"] if report.mix not in (None, "mean") else []
    facts += [f"{report.rms_dbfs:.1f} dBFS"] if report.rms_dbfs is not None else []
    facts += [printable(report.error)] if report.error else []
    lines = [f"{printable(report.file)}: {', '.join(facts)}"]
    for heard in report.sounds:
        lines.append(
            f"  {'#' * max(1, round(BAR * heard.probability)):{BAR}} {heard.probability:.2f}  {heard.sound}  (from "
            f"{heard.at_s:.0f} s)"
        )
    if not report.sounds and report.status in tag.WITH_SOUND:
        lines.append("  nothing above --min_probability")
    return "\n".join(lines)


if __name__ == "__main__":
    main()

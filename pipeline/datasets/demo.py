"""The embedded demo set: ten classes of generated clips, eight of them instruments that a real tagger knows by their
notes.

`python -m pipeline.datasets.demo --out data/videos/demo` writes OUT/<split>/<class>/<class>_<split>_<nn>.mp4 (H.264 and
AAC, 128 x 128, 16 frames a second, 3 s).  A clip depends on the seed and its own name only: the same bytes, whatever
the number of processes.  Chess and yoga make no telling sound: a third of their clips has no track, a third digital
silence, a third the sea.
"""

import hashlib
import multiprocessing
import shutil
import subprocess
import tempfile
import wave
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from adapt import command

if __name__ == "__main__":
    command.begin("pipeline.datasets.demo")  # before what takes time to import

import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray

from adapt.errors import DatasetError
from adapt.tables.files import replacing
from pipeline.audio.soundfont import SoundFont, load_soundfont
from pipeline.datasets import LeftOut, folder
from pipeline.demo.canvas import SIZE
from pipeline.demo.scenes import FPS, SCENES, frames
from pipeline.demo.sounds import DURATION_S, SAMPLE_RATE, STYLES, play, play_seashore

LABELS = tuple(SCENES)
CLIPS_PER_CLASS = {"train": 12, "val": 3, "test": 12}
QUIET_TRACKS = ("none", "silence", "seashore")  # of the classes that make no telling sound, clip by clip in turn

VARIANTS = folder.VARIANTS
labels = folder.labels


def rows(root: Path, labels: Sequence[str], variant: str = "") -> Iterable[tuple[str, str, str] | LeftOut]:
    """The clips under `root`: (path relative to it, split, label), as in the generic `folder` layout."""
    return folder.rows(root, labels)


@dataclass(frozen=True)
class Options:
    out: Path = Path("data/videos/demo")
    """the folder to write; replaced where it exists"""
    seed: int = 0
    """another seed, other clips"""
    jobs: int = 2
    """processes"""


@dataclass(frozen=True)
class Clip:
    label: str
    split: str
    number: int

    @property
    def path(self) -> Path:
        return Path(self.split, self.label, f"{self.label}_{self.split}_{self.number:02d}.mp4")

    def generator(self, seed: int) -> np.random.Generator:
        """Random numbers from the seed and the clip's name alone."""
        return np.random.default_rng(list(hashlib.sha256(f"{seed}/{self.path.as_posix()}".encode()).digest()))


def all_clips() -> list[Clip]:
    """Every clip of the set, ordered by split, class and number."""
    return [
        Clip(label, split, number) for split, n in CLIPS_PER_CLASS.items() for label in LABELS for number in range(n)
    ]


@cache
def _font() -> SoundFont:
    return load_soundfont()


def sound(clip: Clip, seed: int = 0) -> NDArray[np.float32] | None:
    """The clip's waveform, (DURATION_S x SAMPLE_RATE,) float32 in about [-1, 1]; None where the clip has no track."""
    rng = clip.generator(seed).spawn(2)[1]
    if clip.label in STYLES:
        return play(clip.label, _font(), rng)
    kind = QUIET_TRACKS[clip.number % len(QUIET_TRACKS)]
    if kind == "seashore":
        return play_seashore(_font(), rng)
    return None if kind == "none" else np.zeros(round(DURATION_S * SAMPLE_RATE), np.float32)


def render_clip(clip: Clip, path: Path, seed: int = 0) -> None:
    """Write one clip to `path`.  Raises DatasetError where ffmpeg fails."""
    pictures, waveform = frames(clip.label, clip.generator(seed).spawn(2)[0]), sound(clip, seed)
    with tempfile.TemporaryDirectory() as scratch:
        track = None if waveform is None else _write_wav(Path(scratch, "sound.wav"), waveform)
        with replacing(path) as temporary:
            done = subprocess.run(
                _encode_command(track, temporary), input=pictures.tobytes(), capture_output=True, check=False
            )
            if done.returncode:
                raise DatasetError(
                    f"{path}: ffmpeg cannot encode it: {done.stderr.decode(errors='replace').strip()[-300:]}"
                )


def _write_wav(path: Path, waveform: NDArray[np.float32]) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes((np.clip(waveform, -1, 1) * 32767).round().astype("<i2").tobytes())
    return path


def _encode_command(track: Path | None, out: Path) -> list[str]:
    """ffmpeg from raw frames on stdin, and a sound file, to mp4; one thread and no dates, so that equal input gives
    equal bytes.
    """
    command = [
        imageio_ffmpeg.get_ffmpeg_exe(),
        "-v",
        "error",
        "-y",
        "-threads",
        "1",
        "-f",
        "rawvideo",
        "-pix_fmt",
        "rgb24",
        "-s",
        f"{SIZE}x{SIZE}",
        "-r",
        str(FPS),
        "-i",
        "-",
    ]
    command += ["-i", str(track), "-c:a", "aac", "-b:a", "96k"] if track else []
    command += ["-c:v", "libx264", "-preset", "veryfast", "-crf", "20", "-pix_fmt", "yuv420p", "-threads", "1"]
    return [
        *command,
        "-map_metadata",
        "-1",
        "-fflags",
        "+bitexact",
        "-flags:v",
        "+bitexact",
        "-flags:a",
        "+bitexact",
        "-f",
        "mp4",
        str(out),
    ]


def _render_some(clips: list[Clip], out: Path, seed: int) -> int:
    for clip in clips:
        render_clip(clip, out / clip.path, seed)
    return len(clips)


def render(options: Options) -> dict[str, int]:
    """Write the whole set beside `options.out` and put it there when it is complete; return counts."""
    if options.jobs < 1:
        raise DatasetError(f"--jobs must be at least 1, got {options.jobs}")
    clips = all_clips()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{options.out.name}.", dir=options.out.parent) as scratch:
        fresh = Path(scratch, "clips")
        with ProcessPoolExecutor(
            options.jobs, multiprocessing.get_context("spawn")
        ) as pool:  # a fork would copy locks of other threads
            shares = [
                pool.submit(_render_some, clips[first :: 8 * options.jobs], fresh, options.seed)
                for first in range(8 * options.jobs)
            ]
            n_clips = sum(share.result() for share in shares)
        if options.out.exists():
            shutil.rmtree(options.out)
        fresh.rename(options.out)
    return {"n_clips": n_clips} | {
        f"n_{split}": sum(clip.split == split for clip in clips) for split in CLIPS_PER_CLASS
    }


if __name__ == "__main__":
    command.main(Options, render, prog="pipeline.datasets.demo")

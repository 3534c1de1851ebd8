"""What the tests of the sound side share: a project root of their own, and clips that they make and know."""

import shutil
import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import soundfile

from adapt.tables import cache, parquet
from adapt.tables.files import sha256_file
from pipeline.audio import sound
from tests.places import ROOT

PICTURE = ("-f", "lavfi", "-i", "testsrc=size=64x64:rate=8:duration=1", "-c:v", "libx264", "-preset", "ultrafast")


def make_project(root: Path) -> Path:
    """Give `root` the files that a stage finds in the project's root."""
    (root / "cache").mkdir(parents=True)
    (root / "data").mkdir()
    for name in ("schema.sql", "views.sql"):
        shutil.copy(ROOT / "cache" / name, root / "cache" / name)
    (root / "data/labels").symlink_to(ROOT / "data/labels")
    return root


def encode(path: Path, *arguments: str) -> Path:
    """Run ffmpeg with `arguments` (inputs, codecs) into `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-y", "-loglevel", "error", *arguments, f"file:{path}"]
    subprocess.run(command, stdin=subprocess.DEVNULL, check=True, timeout=60)
    return path


def sine(seconds: float, sample_rate: int, hertz: float = 440.0, peak: float = 0.25) -> "np.ndarray":
    """A sine as float64, full scale 1."""
    return peak * np.sin(2 * np.pi * hertz * np.arange(round(seconds * sample_rate)) / sample_rate)


def write_wav(path: Path, samples: "np.ndarray", sample_rate: int) -> Path:
    """Write samples, (n,) or (n, channels), float of full scale 1 or int16, as 16-bit PCM."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, sample_rate, format="WAV", subtype="PCM_16")
    return path


def hear(path: Path, sample_rate: int = 16000, track: sound.Track = "default") -> tuple["np.ndarray", sound.Heard]:
    """All samples of a file as sound.stream gives them, and what it says of them."""
    *blocks, heard = sound.stream(sound.Decoder(sound.ffmpeg_binary("packaged"), sample_rate, -60.0, track), path)
    assert isinstance(heard, sound.Heard)
    assert not any(isinstance(block, sound.Heard) for block in blocks)
    return np.concatenate([np.empty(0, np.int16), *blocks]), heard  # type: ignore[arg-type]


def stored_sound(dataset: str) -> dict[str, "np.ndarray"]:
    """clip_id -> samples of every clip whose sound lies in cache/<dataset>/waveforms."""
    found: dict[str, list[np.ndarray]] = {}
    for row in parquet.read_table(cache.folder(dataset) / "waveforms", "waveforms").to_pylist():
        blocks = found.setdefault(row["clip_id"], [])
        blocks.append(sound.read_flac(row["flac"]))
        assert (row["block"], row["n_samples"]) == (len(blocks) - 1, blocks[-1].size)
    return {clip_id: np.concatenate(blocks) for clip_id, blocks in found.items()}


def bytes_of(folder: Path) -> dict[str, bytes]:
    """Every file below `folder`, by its path there, but for locks, which say when they were taken."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".lock"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def write_clips(dataset: str, names: list[str]) -> None:
    """Write clips.parquet for files that lie in data/videos/<dataset>, relative to the working directory."""
    folder = Path("data/videos") / dataset
    rows = [
        {"clip_id": Path(name).stem, "path": name, "split": "test", "label_id": 0, "label": "any", "status": "ok",
         "duration_s": 1.0, "n_frames": 8, "content_sha256": sha256_file(folder / name), "error": None}
        for name in names
    ]  # fmt: skip
    parquet.write_table(cache.folder(dataset) / "clips.parquet", "clips", rows)

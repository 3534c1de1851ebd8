"""Recordings of instruments in files of many forms, and what the stages make of them."""

import functools
from collections.abc import Iterator
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

from adapt.tables import cache, classes, parquet
from pipeline import Listener, decode, map_labels, pseudo_label, tag
from pipeline.audio.soundfont import load_soundfont
from pipeline.demo.sounds import SAMPLE_RATE, play
from tests.sounds import make_project, sine, write_clips, write_wav

CLASSES = ["flute", "trumpet", "organ", "drum_kit", "chess"]
Samples = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Made:
    """A project whose stages have run."""

    root: Path
    rows: dict[str, dict[str, object]]  # of pseudo_labels, by clip
    statuses: dict[str, str]

    def read(self, clip: str) -> tuple[Samples, int]:
        """A clip's samples, (channels, n), and their rate."""
        samples, rate = soundfile.read(self.root / f"data/videos/heard/{clip}.wav", dtype="float32", always_2d=True)
        return samples.T, rate


def at(samples: Samples, rate: int) -> Samples:
    """(n, 1) at another rate, by straight lines between samples."""
    places = np.arange(len(samples) * rate // SAMPLE_RATE) * SAMPLE_RATE / rate
    return np.interp(places, np.arange(len(samples)), samples[:, 0])[:, None].astype(np.float32)


@functools.cache
def recordings() -> dict[str, tuple[Samples, int]]:
    """Name -> samples (n, channels) and their rate."""
    font, random = load_soundfont(), np.random.default_rng(3)
    flute, trumpet, organ, drums = (play(name, font, random)[:, None] for name in CLASSES[:4])
    n = len(flute)
    long = np.concatenate([flute, 0 * flute, 0 * flute, trumpet, 0 * flute])
    tone = sine(3, SAMPLE_RATE)[:, None]
    return {
        "mono": (trumpet, SAMPLE_RATE),
        "stereo": (np.hstack([flute, 0.5 * trumpet]), SAMPLE_RATE),
        "opposite": (np.hstack([organ, -organ]), SAMPLE_RATE),
        "left": (np.hstack([drums, 0 * drums]), SAMPLE_RATE),
        "coarse": (at(trumpet, 22050), 22050),
        "fine": (at(organ, 48000), 48000),
        "narrow": (flute.reshape(-1, 4, 1).mean(axis=1), SAMPLE_RATE // 4),
        "surround": (np.hstack([0.3 * flute, organ, trumpet, 0.5 * drums, flute, organ]), SAMPLE_RATE),
        "short": (trumpet[n // 3 : n // 3 + 6400], SAMPLE_RATE),
        "long": (np.hstack([long, long]), SAMPLE_RATE),  # of two windows
        "tone": (tone, SAMPLE_RATE),  # a sound of no class
        "silent": (np.float32(1e-4) * tone, SAMPLE_RATE),
        "zeros": (np.zeros((SAMPLE_RATE, 2)), SAMPLE_RATE),
    }


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The recordings as a data set `heard`: decoded, tagged by yamnet, mapped by words, labelled."""
    root = make_project(tmp_path_factory.mktemp("heard") / "project")
    found = recordings()
    for name, (samples, rate) in found.items():
        write_wav(root / f"data/videos/heard/{name}.wav", samples, rate)
    with chdir(root):
        write_clips("heard", [f"{name}.wav" for name in found])
        clips = cache.folder("heard") / "clips.parquet"
        rows = parquet.read_table(clips, "clips").to_pylist()
        parquet.write_table(clips, "clips", rows, {"classes_sha256": classes.sha256(CLASSES)})
        (cache.folder("heard") / "labels.txt").write_text(classes.text_of(CLASSES))
        decode.run(decode.Options("heard", "yamnet"))
        tag.run(tag.Options("heard", "yamnet"))
        map_labels.run(map_labels.Options("heard", "lexical"))
        pseudo_label.run(pseudo_label.Options("heard", "yamnet"))
        labels = parquet.read_table(cache.folder("heard") / "pseudo_labels.parquet", "pseudo_labels").to_pylist()
        audio = parquet.read_table(cache.folder("heard") / "audio", "audio", ["clip_id", "status"]).to_pylist()
    return Made(root, {row["clip_id"]: row for row in labels}, {row["clip_id"]: row["status"] for row in audio})


@pytest.fixture
def project(made: Made) -> Iterator[Made]:
    """`made`, in its root."""
    with chdir(made.root):
        yield made


@pytest.fixture(scope="session")
def listener(made: Made) -> Listener:
    with chdir(made.root):
        return Listener(CLASSES, label_map="lexical")

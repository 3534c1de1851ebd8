"""What the tests of the taggers share."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from pipeline import taggers
from tests.places import ROOT

GOLDEN = ROOT / "tests/pipeline/taggers/golden"
SHARED = ROOT.parent / "shared"
RECORDINGS = SHARED / "photosound/recordings"
ANIMALS = {  # of the recordings -> their sounds
    "cat": ["Cat", "Meow", "Purr"],
    "dog": ["Dog", "Bark", "Howl"],
    "bird": ["Bird", "Chirp, tweet", "Crow"],
    "frog": ["Frog", "Croak"],
}
needs_recordings = pytest.mark.skipif(not RECORDINGS.is_dir(), reason="needs the recordings of ../shared/photosound")
Floats = npt.NDArray[np.float32]


@contextmanager
def in_project_on_one_thread() -> Iterator[None]:
    """Taggers find their labels from the project's root; threads that wait for each other make small networks slow on a
    busy machine.
    """
    folder, n_threads = Path.cwd(), torch.get_num_threads()
    os.chdir(ROOT)
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)
    os.chdir(folder)


def noise(*shape: int) -> Floats:
    """The same noise for the same shape, each row at a loudness of its own."""
    rows = np.random.default_rng(0).normal(0, 0.1, shape).astype(np.float32)
    return rows * (0.5 + np.arange(shape[0], dtype=np.float32)[:, None] if len(shape) > 1 else np.float32(1))


def hear(tagger: taggers.Tagger, waveform: Floats) -> Floats:
    """The logits of one sound, unpadded."""
    return tagger.logits(waveform[None], np.array([waveform.size]))[0]


def differences_by_batch_and_padding(tagger: taggers.Tagger) -> Floats:
    """|logits of five sounds in one padded batch, and in a wider one in another order - logits of each alone and
    unpadded|.
    """
    rate = tagger.sample_rate
    n_samples = np.array([2 * rate, rate, rate * 3 // 2, rate // 3, 2 * rate])
    sounds = [row[:n] for row, n in zip(noise(5, 2 * rate), n_samples, strict=True)]
    alone = np.stack([hear(tagger, sound) for sound in sounds])
    together = tagger.logits(padded(sounds, 2 * rate), n_samples)
    order = [4, 2, 0, 3, 1]
    wider = tagger.logits(padded([sounds[i] for i in order], 3 * rate), n_samples[order])
    return np.maximum(np.abs(together - alone), np.abs(wider - alone[order])[np.argsort(order)])


def n_animals_told_apart(tagger: taggers.Tagger) -> int:
    """Of five recordings of each of ANIMALS, in how many the loudest of their sounds is one of that animal's: of 20,
    by chance 5.
    """
    columns = [[tagger.labels.index(name) for name in names] for names in ANIMALS.values()]
    n_right = 0
    for truth, animal in enumerate(ANIMALS):
        for path in sorted((RECORDINGS / animal).iterdir())[:5]:
            command = [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-i", str(path), "-f", "s16le", "-ac", "1"]
            command += ["-ar", str(tagger.sample_rate), "-t", "5", "pipe:"]
            pcm = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True, timeout=60).stdout
            logits = hear(tagger, np.frombuffer(pcm, "<i2").astype(np.float32) / np.float32(32768))
            n_right += int(np.argmax([logits[names].max() for names in columns]) == truth)
    return n_right


@contextmanager
def imagined_gpu() -> Iterator[None]:
    """Tensors without values, which know their shape, format and device, `cuda` among them: what is left where there is
    no GPU to run on.
    """
    with pytest.MonkeyPatch.context() as patch, FakeTensorMode(allow_non_fake_inputs=True), torch.inference_mode():
        patch.setattr(torch.cuda, "device_count", lambda: 1)
        patch.setattr(torch, "allclose", lambda *_, **__: True)  # there are no values to compare
        yield


def padded(sounds: list[Floats], width: int) -> Floats:
    """One row a sound, zeros after it."""
    rows = np.zeros((len(sounds), width), dtype=np.float32)
    for row, sound in zip(rows, sounds, strict=True):
        row[: sound.size] = sound
    return rows


def golden(name: str) -> Floats:
    """The golden log-mel (frames, mels); golden/log_mels.py says what made it.  A missing one is a failure."""
    with np.load(GOLDEN / f"log_mel_{name}.npz") as file:
        found: Floats = file["log_mel"]
    return found

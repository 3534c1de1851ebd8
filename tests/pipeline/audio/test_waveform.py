"""waveform: samples in memory give the sound that ffmpeg makes of a file that holds them, bit for bit."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

from adapt.errors import DecodeError
from pipeline.audio import sound, waveform
from tests.sounds import hear, sine, write_wav

Floats = npt.NDArray[np.float64]
RATE = 16000
TONE = sine(1.3, 44100)
DECODER = sound.Decoder(sound.ffmpeg_binary("packaged"), RATE, -60.0)


def noise(n_channels: int, seconds: float, sample_rate: int, level: float = 0.1) -> Floats:
    return np.random.default_rng(n_channels).normal(0, level, (n_channels, round(seconds * sample_rate))).clip(-1, 0.99)


CASES = {
    "mono, nothing to do": (noise(1, 1.1, RATE), RATE),
    "mono, from 8 kHz": (noise(1, 1, 8000), 8000),
    "mono, a twentieth of a second": (noise(1, 0.05, 11025), 11025),
    "stereo, mixed only": (noise(2, 1, RATE), RATE),
    "stereo at 44.1 kHz": (noise(2, 2, 44100), 44100),
    "stereo at 96 kHz": (noise(2, 0.5, 96000), 96000),
    "2.1": (noise(3, 1, 44100), 44100),
    "5.1": (noise(6, 0.5, 48000), 48000),
    "7.1": (noise(8, 0.5, 48000), 48000),
    "opposite": (np.stack([TONE, -TONE]), 44100),
    "opposite, right louder": (np.stack([0.9 * TONE, -TONE]), 44100),
    "left alone": (np.stack([TONE, 0 * TONE]), 44100),
    "below the level of silence": (noise(2, 1, 44100, 1e-4), 44100),
    "zeros": (np.zeros((2, 44100)), 44100),
    "a constant": (np.full((1, RATE), 0.25), RATE),
}


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
@pytest.mark.parametrize("name", CASES)
def test_samples_give_what_ffmpeg_gives_of_their_file(name: str, subtype: str, tmp_path: Path) -> None:
    samples, rate = CASES[name]
    path = tmp_path / "clip.wav"
    soundfile.write(path, samples.T, rate, subtype=subtype)
    stored = soundfile.read(path, dtype="float32", always_2d=True)[0].T
    expected, of_file = hear(path, RATE)
    given, of_samples = waveform.hear(stored, rate, DECODER)
    assert np.array_equal(given, expected)
    for fact in ("status", "mix", "n_channels", "n_samples", "duration_s"):
        assert getattr(of_samples, fact) == getattr(of_file, fact), fact
    for level in ("rms_dbfs", "peak_dbfs"):
        assert getattr(of_samples, level) == getattr(of_file, level), level
    assert (of_samples.level_dbfs is None) == (of_file.level_dbfs is None)
    if of_samples.level_dbfs is not None and of_file.level_dbfs is not None:
        assert of_samples.level_dbfs == pytest.approx(of_file.level_dbfs, abs=0.01)  # measured after resampling


def test_a_long_waveform_is_heard_as_its_file_though_ffmpeg_is_handed_it_in_parts(tmp_path: Path) -> None:
    samples = noise(2, 14, 44100)
    assert samples.shape[1] > 2 * waveform.AT_ONCE
    path = write_wav(tmp_path / "long.wav", samples.T, 44100)
    stored = soundfile.read(path, dtype="int16")[0].T
    assert np.array_equal(waveform.hear(stored, 44100, DECODER)[0], hear(path, RATE)[0])


@pytest.mark.parametrize("kind", ["uint8", "int16", "int32", "float32", "float64"])
def test_every_type_of_samples_says_the_same(kind: str) -> None:
    eighths = np.tile([0.0, 0.25, 0.5, 0.25, 0.0, -0.25, -0.5, -0.25], 4000)  # whole numbers in each type
    wanted = np.rint(eighths * 32768).astype(np.int16)
    full = {"uint8": 128, "int16": 1 << 15, "int32": 1 << 31}.get(kind, 1)
    given = (eighths * full + (128 if kind == "uint8" else 0)).astype(kind)
    assert np.array_equal(waveform.hear(given, RATE, DECODER)[0], wanted)


def test_floats_beyond_full_scale_are_clipped() -> None:
    heard, verdict = waveform.hear(2 * sine(1, RATE, peak=1.0), RATE, DECODER)
    assert (heard.max(), heard.min()) == (32767, -32768)
    assert verdict.peak_dbfs == 0.0


def test_the_callers_samples_are_not_changed() -> None:
    samples = noise(2, 0.5, 44100)
    before = samples.copy()
    waveform.hear(samples, 44100, DECODER)
    assert np.array_equal(samples, before)


@pytest.mark.parametrize(
    ("samples", "rate", "line"),
    [
        (np.zeros(100), 0, "sample_rate is 0: give Hz"),
        (np.zeros(100), 44100.5, "sample_rate is 44100.5: give Hz"),
        (np.zeros(0), RATE, r"the waveform is \(0,\): pass"),
        (np.zeros((1, 1, 9)), RATE, r"the waveform is \(1, 1, 9\): pass"),
        (np.zeros((16000, 2)), RATE, r"the waveform is \(16000, 2\), which is 16000 channels: pass \(channels, sampl"),
        (np.array([0.0, np.nan]), RATE, "the waveform's peak is nan: pass floats of full scale 1"),
        (np.array([0.0, np.inf]), RATE, "the waveform's peak is inf: pass floats of full scale 1"),
        (np.array([0.0, 3000.0]), RATE, "the waveform's peak is 3000: pass floats of full scale 1, or int16"),
        (np.zeros(100, np.int64), RATE, "the waveform is int64: pass float"),
        (np.zeros(100, np.complex64), RATE, "the waveform is complex64: pass float"),
    ],
)
def test_what_is_no_sound_is_one_clear_line(samples: Floats, rate: float, line: str) -> None:
    with pytest.raises(DecodeError, match=line):
        waveform.hear(samples, rate, DECODER)  # type: ignore[arg-type]

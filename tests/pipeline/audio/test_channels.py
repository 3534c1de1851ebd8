"""channels: what is heard of a track of several channels is what they say, and not what is left where they cancel."""

import io
import math
import subprocess
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

from adapt.errors import DecodeError
from pipeline.audio import _channels as channels
from pipeline.audio import _ffmpeg_run as ffmpeg_run
from pipeline.audio import sound
from tests.sounds import encode, hear, sine, write_wav

RATE = 16000
Floats = npt.NDArray[np.float64]
TONE = sine(4, RATE)  # peak 0.25: -12.04 dBFS, RMS 3.01 dB less
TONE_DBFS = 20 * math.log10(0.25 / 2**0.5)
LATE = np.arange(4 * RATE) / (4 * RATE)  # 0 to 1 over the file
FAINT = sine(4, RATE, peak=0.002)  # 20 log10(.002 / 2**.5) = -57.0 dBFS, above -60; its half is below


def noise(seed: int, peak: float = 0.05) -> Floats:
    return np.random.default_rng(seed).normal(0, peak, 4 * RATE)


@dataclass(frozen=True)
class Case:
    """Two channels, and what is to be heard of them."""

    left: Floats
    right: Floats
    mix: str
    level_dbfs: float | None = TONE_DBFS  # of the louder channel, by the formula of a sine
    rms_dbfs: float | None = TONE_DBFS  # of what is given out
    status: str = "ok"


CASES = {
    "the same in both": Case(TONE, TONE, "mean"),
    "opposite": Case(TONE, -TONE, "channel 1"),
    "opposite, right louder": Case(0.9 * TONE, -TONE, "channel 2"),
    "opposite, left louder": Case(TONE, -0.9 * TONE, "channel 1"),
    "opposite, a tenth is left": Case(TONE, -0.8 * TONE, "channel 1"),
    "opposite, a quarter is left": Case(TONE, -0.5 * TONE, "mean", rms_dbfs=TONE_DBFS - 20 * math.log10(4)),
    "opposite, below the level of silence": Case(0.3 * FAINT, -0.3 * FAINT, "mean", None, None, "silent"),
    "opposite, quiet": Case(FAINT, -FAINT, "channel 1", -57, -57),
    "left alone": Case(TONE, 0 * TONE, "channel 1"),
    "right alone": Case(0 * TONE, TONE, "channel 2"),
    "right beside hum": Case(0.005 * sine(4, RATE, 50), TONE, "channel 2"),
    "right beside a quiet sound": Case(0.05 * sine(4, RATE, 50), TONE, "mean", rms_dbfs=TONE_DBFS - 20 * math.log10(2)),
    "left alone, quiet": Case(FAINT, 0 * TONE, "channel 1", -57, -57),
    "unrelated": Case(noise(1), noise(2), "mean", 20 * math.log10(0.05), 20 * math.log10(0.05) - 10 * math.log10(2)),
    "a quarter of a turn apart": Case(TONE, np.roll(TONE, 9), "mean", rms_dbfs=None),
    "opposite in the first half": Case(TONE, np.where(LATE < 0.5, -TONE, TONE), "channel 1"),
    "opposite in the last half": Case(TONE, np.where(LATE < 0.5, TONE, -TONE), "channel 1"),
    "opposite offsets": Case(TONE + 0.3, TONE - 0.3, "mean"),
    "opposite under one offset": Case(
        TONE + 0.3, 0.3 - TONE, "channel 1", rms_dbfs=20 * math.log10(math.hypot(0.25 / 2**0.5, 0.3))
    ),
    "offsets alone": Case(0 * TONE + 0.3, 0 * TONE - 0.2, "mean", None, 20 * math.log10(0.05), "silent"),
    "nothing": Case(0 * TONE, 0 * TONE, "mean", None, None, "silent"),
}


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_two_channels_are_heard_by_their_mean_unless_it_loses_what_they_say(case: Case, tmp_path: Path) -> None:
    samples, heard = hear(write_wav(tmp_path / "two.wav", np.stack([case.left, case.right], axis=1), RATE))
    assert (heard.status, heard.mix, heard.n_channels, heard.track) == (case.status, case.mix, 2, 0)
    both = {"mean": (case.left + case.right) / 2, "channel 1": case.left, "channel 2": case.right}
    assert (
        np.abs(samples / 32768 - both[case.mix]).max() <= 1.01 / 32768
    )  # at the file's own rate, a step of int16 for rounding
    assert heard.level_dbfs == (None if case.level_dbfs is None else pytest.approx(case.level_dbfs, abs=0.05))
    if case.rms_dbfs is not None:
        assert heard.rms_dbfs == pytest.approx(case.rms_dbfs, abs=0.05)


@pytest.mark.parametrize(("opposite_s", "mix"), [(1, "mean"), (4, "channel 1")])
def test_one_channel_is_heard_where_a_tenth_of_the_sounding_seconds_cancels(
    opposite_s: int, mix: str, tmp_path: Path
) -> None:
    left = np.concatenate([np.zeros(30 * RATE), sine(30, RATE)])
    right = np.concatenate(
        [left[: 30 * RATE], -left[30 * RATE : (30 + opposite_s) * RATE], left[(30 + opposite_s) * RATE :]]
    )
    assert hear(write_wav(tmp_path / "long.wav", np.stack([left, right], axis=1), RATE))[1].mix == mix


def ffmpegs_own(path: Path, *arguments: str) -> npt.NDArray[np.int16]:
    """What plain ffmpeg makes of a file: its own choice of a track, its own mix."""
    command = [
        sound.ffmpeg_binary("packaged"),
        "-nostdin",
        "-loglevel",
        "error",
        "-i",
        str(path),
        *arguments,
        "-ac",
        "1",
        "-ar",
        "16000",
    ]
    return np.frombuffer(
        subprocess.run([*command, "-f", "s16le", "-"], capture_output=True, check=True, timeout=60).stdout, "<i2"
    )


WIDE = (  # a block of 30 s and the beginning of a second
    "-f", "lavfi", "-i", "anoisesrc=d=35:r=44100:a=0.3:seed=1",
    "-f", "lavfi", "-i", "anoisesrc=d=35:r=44100:a=0.2:seed=2",
)  # fmt: skip
MIXED = ("-filter_complex", "[0][1]amerge,pan=stereo|c0=.8*c0+.3*c1|c1=.5*c0+.4*c1")


@pytest.mark.parametrize(("name", "n"), [
    ("a.m4a", 2), ("a.flac", 2), ("a.flac", 1),
    *(pytest.param(name, n, marks=pytest.mark.slow) for name, n in (("a.mkv", 2), ("a.mp3", 2), ("a.m4a", 1))),
])  # fmt: skip
def test_ordinary_sound_is_ffmpegs_own_mix_sample_for_sample(name: str, n: int, tmp_path: Path) -> None:
    path = encode(tmp_path / name, *WIDE, *MIXED, "-ac", str(n))
    samples, heard = hear(path)
    assert heard.mix == ("mean" if n == 2 else None)
    assert np.array_equal(samples, ffmpegs_own(path))


def test_a_channel_heard_alone_is_that_channels_sound_sample_for_sample(
    tmp_path: Path,
) -> None:
    """As ffmpeg decodes that channel by itself: two blocks of another rate, so that ffmpeg resamples."""
    path = encode(tmp_path / "opposite.m4a", *WIDE[:4], "-filter_complex", "[0]pan=stereo|c0=.9*c0|c1=-1*c0")
    *blocks, heard = sound.stream(sound.Decoder(sound.ffmpeg_binary("packaged"), RATE, -60.0), path)
    assert isinstance(heard, sound.Heard)
    assert (heard.status, heard.mix) == ("ok", "channel 2")
    assert [block.size for block in blocks if not isinstance(block, sound.Heard)] == [480000, heard.n_samples - 480000]
    assert np.array_equal(np.concatenate(blocks), ffmpegs_own(path, "-af", "pan=mono|c0=c1"))  # type: ignore[arg-type]


FILM = {  # 5.1: left, right, centre, low rumble, two at the back
    "the voice in the centre": ((0.05, 0.05, 1, 0, 0.05, 0.05), "mean"),
    "the voice under loud rumble": ((0.05, 0.05, 0.1, 3, 0.05, 0.05), "mean"),
    "all around": ((1, 1, 1, 1, 1, 1), "mean"),
    **{f"channel {i + 1} alone": (tuple(float(i == k) for k in range(6)), f"channel {i + 1}") for i in range(6)},
}


@pytest.mark.parametrize(("gains", "mix"), FILM.values(), ids=list(FILM))
def test_of_surround_sound_every_channel_is_heard(gains: tuple[float, ...], mix: str, tmp_path: Path) -> None:
    sounds = [gain * sine(2, 48000, 220.0 * (k + 1), 0.1) for k, gain in enumerate(gains)]
    path = encode(
        tmp_path / "film.flac", "-i", str(write_wav(tmp_path / "six.wav", np.stack(sounds, axis=1), 48000)), "-ac", "6"
    )
    samples, heard = hear(path)
    assert (heard.status, heard.mix, heard.n_channels) == ("ok", mix, 6)
    assert heard.level_dbfs == pytest.approx(20 * math.log10(0.1 * max(gains) / 2**0.5), abs=0.1)
    if mix == "mean":
        assert np.array_equal(samples, ffmpegs_own(path))
    else:
        assert heard.rms_dbfs == pytest.approx(heard.level_dbfs, abs=0.1)


def test_fronts_in_opposite_phase_are_replaced_by_one_of_them(tmp_path: Path) -> None:
    tone, quiet = sine(2, 48000), 0.02 * sine(2, 48000, 330)
    path = write_wav(tmp_path / "six.wav", np.stack([tone, -1.1 * tone, quiet, 4 * quiet, quiet, quiet], axis=1), 48000)
    assert hear(path)[1].mix == "channel 2"


def test_the_weights_of_a_mix_are_those_of_ffmpegs_rule() -> None:
    """libswresample's rematrix.c: front by 1/sqrt 2, centre by 1, back by 1/2, low rumble not at all, then all by their
    sum.
    """
    by_rule = np.array([0.5**0.5, 0.5**0.5, 1, 0, 0.5, 0.5])
    found = ffmpeg_run.weights(sound.ffmpeg_binary("packaged"), channels.Form(6, 48000, "0x3f"))
    np.testing.assert_allclose(found, by_rule / by_rule.sum(), atol=1e-4)
    assert ffmpeg_run.weights(sound.ffmpeg_binary("packaged"), channels.Form(2, 48000, "0x3")).tolist() == [0.5, 0.5]


class Dribble(io.BytesIO):
    """A pipe that gives a few bytes at a time, as reads of a raw pipe may."""

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        n = 0
        while n < len(buffer) and (part := self.read(min(977, len(buffer) - n))):
            buffer[n : n + len(part)] = part
            n += len(part)
        return n


@pytest.mark.parametrize("pipe", [io.BytesIO, Dribble])
def test_a_choice_does_not_hang_on_the_cuts_of_the_pipe(
    pipe: Callable[[bytes], io.BytesIO],
) -> None:
    file = io.BytesIO()
    soundfile.write(
        file, np.stack([TONE, np.where(LATE < 0.3, -TONE, 0.5 * TONE)], axis=1), RATE, format="WAV", subtype="PCM_16"
    )
    whole = file.getvalue()
    for before in (b"", b"LIST\x06\x00\x00\x00a tale"):
        found = channels.Channels(-60.0, lambda _: np.array([0.5, 0.5]))
        found.read(pipe(whole[:12] + before + whole[12:]))
        assert found.n_channels == 2
        choice = found.choose()
        assert (choice.mix, choice.channel, choice.lost_db) == ("channel 1", 0, 0.0)


def test_what_is_no_wav_of_16_bits_is_refused_in_one_line() -> None:
    file = io.BytesIO()
    soundfile.write(file, TONE, RATE, format="WAV", subtype="PCM_24")
    with pytest.raises(DecodeError, match="ffmpeg wrote WAV of format 1 with 1 channels of 24 bits, not 16"):
        channels.read_form(io.BytesIO(file.getvalue()))
    with pytest.raises(DecodeError, match="where WAV was asked for"):
        channels.read_form(io.BytesIO(b"fLaC" * 10))
    assert channels.read_form(io.BytesIO()) is None
    nothing = channels.Channels(-60.0, lambda _: np.ones(2))
    nothing.read(io.BytesIO())
    assert nothing.choose() == channels.Choice(None, None, 0.0)


def test_a_track_that_goes_from_stereo_to_mono_goes_on(tmp_path: Path) -> None:
    """In opposite phase before: the second channel is gone then, and the first is heard to the end."""
    opposite = (
        "-f",
        "lavfi",
        "-i",
        "sine=duration=2",
        "-filter_complex",
        "[0]pan=stereo|c0=c0|c1=-1*c0",
        "-c:a",
        "aac",
    )
    stereo = encode(tmp_path / "a.ts", *opposite).read_bytes()
    mono = encode(
        tmp_path / "b.ts", "-f", "lavfi", "-i", "sine=duration=2", "-c:a", "aac", "-output_ts_offset", "2"
    ).read_bytes()
    (tmp_path / "both.ts").write_bytes(stereo + mono)
    samples, heard = hear(tmp_path / "both.ts")
    assert (heard.status, heard.mix) == ("ok", "channel 1")
    assert heard.duration_s == pytest.approx(4, abs=0.1)
    assert all(
        np.abs(second.astype(int)).max() > 3000 for second in np.array_split(samples, 4)
    )  # ffmpeg's sine has a peak of 4096


def test_two_hours_of_stereo_take_the_memory_of_a_few_blocks(tmp_path: Path) -> None:
    path = encode(
        tmp_path / "long.flac", "-f", "lavfi", "-i", "anullsrc=channel_layout=stereo:sample_rate=2000", "-t", "7200"
    )
    decoder = sound.Decoder(sound.ffmpeg_binary("packaged"), 2000, -60.0)
    tracemalloc.start()
    try:
        sizes = [part.size for part in sound.stream(decoder, path) if not isinstance(part, sound.Heard)]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sizes == [60000] * 240
    assert peak < 3 * sound.HELD_BYTES  # the whole is 29 MB

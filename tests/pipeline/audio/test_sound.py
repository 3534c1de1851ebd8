"""sound: whatever a file is, its sound comes out in its place in time and in constant memory, with one verdict."""

import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from adapt.errors import CacheError, DecodeError
from pipeline.audio import _ffmpeg_log as ffmpeg_log
from pipeline.audio import sound
from tests.sounds import PICTURE, encode, hear, sine, write_wav

RATE = 16000
SINE = ("-f", "lavfi", "-i", "sine=frequency=440:sample_rate=44100:duration=1")
FILM = (*SINE, *PICTURE, "-c:a", "aac", "-shortest")
LATE = (
    "-f",
    "lavfi",
    "-i",
    "testsrc=size=64x64:rate=8:duration=3",
    "-itsoffset",
    "2",
    *SINE,
    "-c:v",
    "libx264",
    "-preset",
    "ultrafast",
)
NAMES = (
    "two words",
    'it\'s "quoted"',
    "line\nbreak",
    "-dash",
    "100%d",
    "a:b",
    "file:x",
    "tést 音",
    "[brackets];,*?$HOME",
    "back\\slash",
)


@dataclass(frozen=True)
class Case:
    """A file and what is to come of it."""

    name: str
    make: Callable[[Path], object]  # write it there
    status: str
    seconds: float = 0.0  # of sound that comes out
    n_channels: int | None = 1
    from_s: float = 0.0  # where a tone of 440 Hz begins
    error: str | None = None  # a part of it; None: no error


def write_halved(path: Path, *arguments: str) -> None:
    whole = encode(path, *arguments).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def film(*more: str) -> Callable[[Path], object]:
    return lambda path: encode(path, *FILM, *more)


def wav(sample_rate: int, n_channels: int) -> Callable[[Path], object]:
    return lambda path: write_wav(path, np.tile(sine(1, sample_rate)[:, None], n_channels), sample_rate)


PLAYLIST = "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n"
LONG = ("-f", "lavfi", "-i", "sine=duration=4")
GAP = "asetpts='if(gt(T,0.5),PTS+1/TB,PTS)'"
QUIET = ("-f", "lavfi", "-i", "anullsrc=channel_layout=mono:duration=1")
SUBTITLES = "1\n00:00:01,000 --> 00:00:02,000\nnot a film\n\n" * 100
CASES = [
    Case("film.mp4", film(), "ok", 1.0),
    Case(
        "text.mp4",
        lambda path: path.write_text("not a film\n" * 100),
        "failed",
        n_channels=None,
        error="Invalid data found when processing input",
    ),
    Case(
        "zero.mp4",
        lambda path: path.write_bytes(b""),
        "failed",
        n_channels=None,
        error="the file is empty",
    ),
    Case(
        "noise.mp4",
        lambda path: path.write_bytes(np.random.default_rng(0).bytes(9999)),
        "failed",
        n_channels=None,
        error="Invalid data",
    ),
    Case(
        "subtitles.mp4",
        lambda path: path.write_text(SUBTITLES),
        "failed",
        n_channels=None,
        error="it is of no kind that is read here",
    ),
    Case(
        "playlist.mp4",
        lambda path: path.write_text(PLAYLIST),
        "failed",
        n_channels=None,
        error="a playlist, which names other files",
    ),
    Case(
        "half.mkv",
        lambda path: write_halved(path, *LONG, "-c:a", "pcm_s16le"),
        "truncated",
        2.0,
        error="File ended prematurely",
    ),
    Case("half.mp4", lambda path: write_halved(path, *FILM), "failed", n_channels=None, error="moov atom not found"),
    Case(
        "half_fast.mp4",
        lambda path: write_halved(path, *LONG, "-movflags", "faststart"),
        "truncated",
        1.9,
        error="partial file",
    ),
    Case("no_picture.m4a", lambda path: encode(path, *SINE, "-c:a", "aac"), "ok", 1.0),
    Case("no_track.mp4", lambda path: encode(path, *PICTURE), "no_track", n_channels=None),
    Case("silent.mp4", lambda path: encode(path, *QUIET, *PICTURE, "-c:a", "aac"), "silent", 1.0),
    Case(
        "whisper.wav", lambda path: write_wav(path, sine(1, RATE, peak=0.0009), RATE), "silent", 1.0
    ),  # 20 log10(.0009 / 2**.5) = -64 dB
    Case("late.mp4", lambda path: encode(path, *LATE, "-c:a", "aac"), "ok", 3.0, from_s=2.0),
    Case("late.mkv", lambda path: encode(path, *LATE, "-c:a", "libvorbis"), "ok", 3.0, from_s=2.0),
    Case(
        "late.webm",
        lambda path: encode(path, *LATE[:6], *SINE, "-c:v", "libvpx", "-c:a", "libopus"),
        "ok",
        3.0,
        from_s=2.0,
    ),
    Case("late.ts", lambda path: encode(path, *LATE, "-c:a", "aac"), "ok", 3.0, from_s=2.0),
    Case(
        "early_end.mkv",
        lambda path: encode(path, *PICTURE[:4], *SINE, "-filter:v", "loop=15:1,tpad=stop=24", "-c:a", "flac"),
        "truncated",
        1.0,
    ),
    *(
        Case(f"{rate}_hz.wav", wav(rate, 1), "ok", 1.0)
        for rate in (8000, 11025, 16000, 22050, 44100, 48000, 96000, 192000)
    ),
    *(Case(f"{n}_channels.wav", wav(48000, n), "ok", 1.0, n) for n in range(1, 9)),
    *(Case(f"{name}.mp4", film(), "ok", 1.0) for name in NAMES),
]


@pytest.fixture(scope="module")
def one_film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encode(tmp_path_factory.mktemp("film") / "film.mp4", *FILM)


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_whatever_a_file_is_it_has_one_verdict_and_its_sound_is_in_its_place(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case.make(tmp_path / case.name)
    monkeypatch.chdir(tmp_path)  # the name alone, so that a leading dash leads
    samples, heard = hear(Path(case.name))
    assert (heard.status, heard.n_channels, heard.n_samples, heard.sample_rate) == (
        case.status,
        case.n_channels,
        samples.size,
        RATE,
    )
    assert heard.duration_s == (
        pytest.approx(case.seconds, abs=0.1) if case.seconds else None
    )  # AAC ends on a frame of 1024 samples
    assert (heard.error is None) if case.error is None else (heard.error and case.error in heard.error)
    if case.status == "ok":
        loud = np.flatnonzero(np.abs(samples.astype(int)) > 1000)
        assert loud[0] / RATE == pytest.approx(case.from_s, abs=0.01)
        second = samples[loud[0] : loud[0] + RATE]
        assert np.argmax(np.abs(np.fft.rfft(second, RATE))) == 440  # one bin a hertz


def test_an_undamaged_tone_keeps_its_level(one_film: Path) -> None:
    _, heard = hear(one_film)
    # ffmpeg's `sine` has amplitude 1/8: peak 20 log10(1/8) = -18.06 dB, RMS 3.01 dB less
    assert heard.peak_dbfs == pytest.approx(20 * math.log10(1 / 8), abs=0.5)
    assert heard.rms_dbfs == pytest.approx(20 * math.log10(1 / 8 / math.sqrt(2)), abs=0.5)
    assert heard.expected_s == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("name", ["x.mp4", "x.mkv", "x.mov", "x.m4a"])
def test_the_priming_of_aac_moves_nothing(tmp_path: Path, name: str) -> None:
    """A file's sound lies sample for sample on the noise that was encoded, although AAC's encoder puts 1024 samples in
    front.
    """
    noise = np.random.default_rng(0).normal(0, 0.1, RATE)
    encode(tmp_path / name, "-i", str(write_wav(tmp_path / "noise.wav", noise, RATE)), "-c:a", "aac", "-b:a", "128k")
    samples, _ = hear(tmp_path / name)
    n = 2 * RATE
    likeness = np.fft.irfft(np.fft.rfft(samples[:RATE], n) * np.conj(np.fft.rfft(noise, n)))  # at every shift
    assert np.argmax(likeness) == 0


def test_an_odd_name_and_a_second_run_give_the_same_samples(one_film: Path, tmp_path: Path) -> None:
    odd = Path(
        shutil.copy(
            one_film, tmp_path / "-a\n[info]   Stream #0:0: Audio: pcm, 9 Hz, quad\n[Eval @ 0x1] [info] 9.0\n.mp4"
        )
    )
    first, heard = hear(one_film)
    second, again = hear(odd)
    assert np.array_equal(first, second)
    assert heard == again


def test_a_name_that_forges_lines_of_the_log_is_not_believed(tmp_path: Path) -> None:
    mute = encode(tmp_path / "mute.mp4", *PICTURE)
    _, heard = hear(mute.rename(tmp_path / "x\n[info]   Stream #0:7: Audio: pcm, 9 Hz, quad\n.mp4"))
    assert (heard.status, heard.n_channels) == ("no_track", None)


def test_what_a_file_says_of_itself_forges_no_line_of_the_log_either(tmp_path: Path) -> None:
    titles = (
        "[error] x\n[info]   Stream #0:7: Audio: pcm, 9 Hz, quad\n[Eval @ 0x1] [info] 9.0",
        "Correcting start time of Input #0 by 9000000 us",
    )
    path = encode(
        tmp_path / "x.ts.mkv",
        *SINE,
        *PICTURE,
        "-metadata",
        f"title={titles[0]}",
        "-metadata",
        f"comment=[verbose] {titles[1]}",
    )
    _, heard = hear(path)
    assert (heard.status, heard.n_channels, heard.error) == ("ok", 1, None)
    assert heard.duration_s == pytest.approx(1, abs=0.1)
    mute = encode(tmp_path / "mute.mkv", *PICTURE, "-metadata", f"title={titles[0]}")
    assert hear(mute)[1].status == "no_track"


@pytest.mark.parametrize(("track", "hertz"), [(0, 440), (1, 880)])
def test_of_several_tracks_the_one_asked_for_is_heard(tmp_path: Path, track: int, hertz: int) -> None:
    other = ("-f", "lavfi", "-i", "sine=frequency=880:duration=1")
    path = encode(tmp_path / "two.mkv", *SINE, *other, "-map", "0", "-map", "1", "-c:a", "flac", "-ac:a:1", "2")
    samples, heard = hear(path, track=track)
    assert np.argmax(np.abs(np.fft.rfft(samples[:RATE]))) == hertz
    assert heard.n_channels == 1 + track


def test_a_track_that_is_not_there_is_no_track_and_says_how_many_there_are(one_film: Path) -> None:
    samples, heard = hear(one_film, track=2)
    assert (heard.status, heard.error, samples.size) == (
        "no_track",
        "no sound track 2, counted from 0: the file has 1",
        0,
    )
    with pytest.raises(DecodeError, match="track is -1: give 0"):
        hear(one_film, track=-1)


def test_a_gap_in_the_track_is_silence_of_its_length(tmp_path: Path) -> None:
    path = encode(
        tmp_path / "gap.mkv", "-f", "lavfi", "-i", "sine=sample_rate=48000:duration=1", "-af", GAP, "-c:a", "pcm_s16le"
    )
    samples, heard = hear(path)
    quiet = (
        np.flatnonzero(np.convolve(np.abs(samples.astype(int)), np.ones(160), "valid") < 160) / RATE
    )  # 10 ms without sound
    assert quiet[0] == pytest.approx(0.5, abs=0.03)  # the filter moves whole frames of 1024 samples
    assert quiet[-1] + 0.01 - quiet[0] == pytest.approx(1, abs=0.005)
    assert heard.duration_s == pytest.approx(2, abs=0.005)


def test_a_clock_that_steps_back_loses_no_sound(tmp_path: Path) -> None:
    back = "asetpts='if(gt(T,1),PTS-1/TB,PTS)'"
    path = encode(
        tmp_path / "back.nut",
        "-f",
        "lavfi",
        "-i",
        "sine=sample_rate=48000:duration=2",
        "-af",
        back,
        "-c:a",
        "pcm_s16le",
    )
    _, heard = hear(path)
    assert (heard.status, heard.error) == ("ok", None)
    assert heard.duration_s == pytest.approx(2, abs=0.005)


def test_a_track_that_changes_its_format_goes_on(tmp_path: Path) -> None:
    """As broadcasts do between programmes: ffmpeg starts its filters anew, and their clock with them."""
    stereo = encode(tmp_path / "a.ts", *SINE, "-ac", "2", "-c:a", "aac").read_bytes()
    mono = encode(tmp_path / "b.ts", *SINE, "-c:a", "aac", "-output_ts_offset", "1").read_bytes()
    (tmp_path / "both.ts").write_bytes(stereo + mono)
    _, heard = hear(tmp_path / "both.ts")
    assert heard.duration_s == pytest.approx(2, abs=0.1)


def test_a_file_that_is_not_there_is_an_error() -> None:
    with pytest.raises(DecodeError, match=r"nowhere\.mp4: no such file"):
        hear(Path("nowhere.mp4"))


def test_levels_are_those_of_the_formula_however_the_sound_is_cut() -> None:
    square = np.array([16384, -16384] * 5000, np.int16)  # half of full scale: 20 log10(1/2) = -6.02 dB
    whole, pieces, loudest, nothing = sound.Meter(), sound.Meter(), sound.Meter(), sound.Meter()
    whole.add(square)
    for piece in np.split(square, [1, 7, 4000]):
        pieces.add(piece)
    loudest.add(np.array([-32768], np.int16))
    nothing.add(np.zeros(9, np.int16))
    assert whole.rms_dbfs == whole.peak_dbfs == pytest.approx(20 * math.log10(0.5))
    assert (pieces.rms_dbfs, pieces.n_samples) == (whole.rms_dbfs, 10000)
    assert (loudest.rms_dbfs, loudest.peak_dbfs) == (0, 0)
    assert (nothing.rms_dbfs, nothing.peak_dbfs, nothing.n_samples) == (None, None, 9)


@pytest.mark.parametrize("n_samples", [1, 15, 4097, 480000])
def test_flac_gives_back_every_sample_and_is_half_the_size_of_quiet_noise(n_samples: int) -> None:
    block = np.random.default_rng(n_samples).normal(0, 50, n_samples).astype(np.int16)
    block[:1] = -32768
    data = sound.write_flac(block, RATE)
    assert np.array_equal(sound.read_flac(data), block)
    assert sound.read_flac(data).dtype == np.int16
    assert len(data) < n_samples * 2 * 0.6 or n_samples < 1000
    with pytest.raises(CacheError, match="are not FLAC"):
        sound.read_flac(b"not flac")


@pytest.mark.parametrize(
    ("layout", "n_channels"),
    # the counts are those of `ffmpeg -layouts`
    [
        ("mono", 1),
        ("stereo", 2),
        ("5.1(side)", 6),
        ("7.1.4", 12),
        ("quad(side)", 4),
        ("3 channels (FL+FR+LFE)", 3),
        ("nonesuch", None),
    ],
)
def test_channel_layouts_are_counted(layout: str, n_channels: int | None) -> None:
    stderr = (
        "[info] Input #0, matroska, from 'file:x':\n[info]   Stream #0:0(eng): Audio: aac (LC), 48000 Hz, "
        f"{layout}, fltp (default)\n"
    )
    assert ffmpeg_log.read_promise(stderr).n_channels == n_channels

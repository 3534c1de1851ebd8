"""Which of a file's sound tracks is heard: the one marked default as a player would, or the one at a position."""

import json
from pathlib import Path

import numpy as np
import pytest

from adapt import command
from adapt.errors import DecodeError
from adapt.tables import parquet
from pipeline import decode
from pipeline.audio import _ffmpeg_log as ffmpeg_log
from pipeline.audio import sound
from tests.pipeline.audio.test_channels import ffmpegs_own
from tests.sounds import PICTURE, encode, hear, make_project, write_clips

HERTZ = (440, 880, 1320)  # of the tracks, in order
TONES = tuple(word for hertz in HERTZ for word in ("-f", "lavfi", "-i", f"sine=frequency={hertz}:duration=1"))
CODECS = {
    "mkv": "flac",
    "mp4": "aac",
    "mov": "pcm_s16le",
    "webm": "libopus",
    "nut": "flac",
    "ts": "aac",
    "avi": "libmp3lame",
}
MARKING = ("mkv", "mp4", "mov", "webm", "nut")  # the containers that can mark a track


def three_tracks(path: Path, *marked: int, more: tuple[str, ...] = ()) -> Path:
    """A picture and three tones; those at the positions `marked` are default."""
    marks = [word for i in range(3) for word in (f"-disposition:a:{i}", "default" if i in marked else "0")]
    picture = ("-c:v", "libvpx") if path.suffix == ".webm" else PICTURE[4:]
    maps = ("-map", "0", "-map", "1", "-map", "2", "-map", "3")
    return encode(path, *PICTURE[:4], *TONES, *maps, *picture, "-c:a", CODECS[path.suffix[1:]], *marks, *more)


def pitch(samples: "np.ndarray") -> int:
    """The strongest frequency in Hz of the middle half second."""
    return int(2 * np.argmax(np.abs(np.fft.rfft(samples[4000:12000]))))


@pytest.mark.parametrize("ending", MARKING)
@pytest.mark.parametrize("marked", [0, 1, 2])
def test_the_track_marked_default_is_heard_as_ffmpeg_itself_would_choose(
    ending: str, marked: int, tmp_path: Path
) -> None:
    path = three_tracks(tmp_path / f"film.{ending}", marked)
    samples, heard = hear(path)
    assert (heard.status, heard.track, pitch(samples)) == ("ok", marked, HERTZ[marked])
    assert np.array_equal(samples, ffmpegs_own(path))


@pytest.mark.parametrize(("marked", "track"), [((1, 2), 1), ((0, 1, 2), 0), ((), 0)])
def test_of_several_marked_tracks_the_first_and_of_none_the_first_of_all(
    marked: tuple[int, ...], track: int, tmp_path: Path
) -> None:
    samples, heard = hear(three_tracks(tmp_path / "film.nut", *marked))
    assert (heard.track, pitch(samples)) == (track, HERTZ[track])


@pytest.mark.parametrize("ending", ["ts", "avi"])
def test_where_a_container_marks_nothing_the_first_track_is_heard(ending: str, tmp_path: Path) -> None:
    samples, heard = hear(three_tracks(tmp_path / f"film.{ending}", 2))
    assert (heard.track, pitch(samples)) == (0, 440)


@pytest.mark.parametrize("track", [0, 1, 2])
def test_a_position_is_a_position_whatever_is_marked(track: int, tmp_path: Path) -> None:
    samples, heard = hear(three_tracks(tmp_path / "film.mkv", 1), track=track)
    assert (heard.track, pitch(samples)) == (track, HERTZ[track])


def test_a_default_track_that_cancels_is_heard_by_one_channel(tmp_path: Path) -> None:
    other = ("-filter_complex", "[1]pan=stereo|c0=.9*c0|c1=-1*c0[x]", "-map", "0", "-map", "[x]", "-c:a", "flac")
    samples, heard = hear(
        encode(tmp_path / "film.mkv", *TONES[:8], *other, "-disposition:a:0", "0", "-disposition:a:1", "default")
    )
    assert (heard.status, heard.track, heard.mix, pitch(samples)) == ("ok", 1, "channel 2", 880)


def test_a_file_with_no_sound_has_no_track_and_one_that_is_not_there_is_not_replaced(tmp_path: Path) -> None:
    _, heard = hear(encode(tmp_path / "mute.mkv", *PICTURE))
    assert (heard.status, heard.track, heard.mix) == ("no_track", None, None)
    _, heard = hear(three_tracks(tmp_path / "film.mkv", 1), track=3)
    assert (heard.status, heard.track, heard.error) == (
        "no_track",
        None,
        "no sound track 3, counted from 0: the file has 3",
    )
    with pytest.raises(DecodeError, match="track is -1: give 0 .* or default for the one marked so"):
        hear(tmp_path / "film.mkv", track=-1)


def test_a_language_that_looks_like_a_stream_marks_nothing_on_its_line(tmp_path: Path) -> None:
    forged = ("-metadata:s:a:0", "language=x): Audio: pcm, 9 Hz, quad (default)")
    samples, heard = hear(three_tracks(tmp_path / "film.mkv", 1, more=forged))
    assert (heard.track, heard.n_channels, pitch(samples)) == (1, 1, 880)


def test_a_title_that_looks_like_the_headers_end_hides_no_track(tmp_path: Path) -> None:
    forged = (
        "-metadata",
        "title=[info] Stream mapping: [info] Output #0",
        "-metadata",
        "[info]   Stream #0:0=: Audio: pcm, 9 Hz, quad (default)",
    )
    samples, heard = hear(three_tracks(tmp_path / "film.mkv", 1, more=forged))
    assert (heard.track, heard.n_channels, pitch(samples)) == (1, 1, 880)


def test_a_language_of_several_lines_costs_at_most_its_own_file(tmp_path: Path) -> None:
    lines = (
        "x): Audio: pcm, 9 Hz, mono",
        "[info]   Stream #0:9: Audio: pcm, 9 Hz, quad (default)",
        "[info]   Stream #0:8(k",
    )
    _, heard = hear(three_tracks(tmp_path / "film.mkv", more=("-metadata:s:a:2", "language=" + "\n".join(lines))))
    assert heard.status in ("ok", "failed")
    assert heard.error if heard.status == "failed" else heard.n_samples == pytest.approx(16000, abs=800)


def test_streams_listed_by_programme_are_put_in_the_files_order() -> None:
    line = "[info]   Stream #0:{}[0x10{}]({}): Audio: aac (LC), 48000 Hz, {}, fltp{}\n"
    listed = [
        line.format(2, 2, "eng", "mono", " (default)"),
        "[info]   Stream #0:1: Video: h264\n",
        line.format(0, 0, "fre", "stereo", ""),
    ]
    promise = ffmpeg_log.read_promise("[info] Input #0, mpegts, from 'x':\n" + "".join(listed + listed[:1]), 1)
    assert (promise.n_tracks, promise.default_track, promise.n_channels, promise.has_picture) == (2, 1, 1, True)


@pytest.mark.parametrize(("flags", "hertz"), [([], 880), (["--track", "default"], 880), (["--track", "2"], 1320)])
def test_the_stage_takes_default_or_a_position_as_dvc_writes_them(
    flags: list[str], hertz: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(make_project(tmp_path))
    three_tracks(tmp_path / "data/videos/tiny/film.mkv", 1)
    write_clips("tiny", ["film.mkv"])
    command.main(
        decode.Options, decode.run, prog="pipeline.decode", args=["--dataset", "tiny", "--tagger", "yamnet", *flags]
    )
    assert json.loads(capsys.readouterr().out)["n_ok"] == 1
    (row,) = parquet.read_table(Path("cache/tiny/audio"), "audio").to_pylist()
    (stored,) = parquet.read_table(Path("cache/tiny/waveforms"), "waveforms").to_pylist()
    assert (row["track"], pitch(sound.read_flac(stored["flac"]))) == (HERTZ.index(hertz), hertz)


def test_a_track_that_is_neither_is_a_wrong_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        command.main(
            decode.Options,
            decode.run,
            prog="pipeline.decode",
            args=["--dataset", "tiny", "--tagger", "yamnet", "--track", "second"],
        )
    assert stopped.value.code == 2
    assert "second" in capsys.readouterr().err

"""decode: every clip becomes a row of sound with a status, whatever its file is."""
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pipeline import cache, decode, engine, stage
from pipeline.errors import DatasetError, DecodeError, EarshotError
from tests.sounds import encode, make_project, write_clips

PICTURE = ("-f", "lavfi", "-i", "testsrc=size=64x64:rate=8:duration=1", "-c:v", "libx264", "-preset", "ultrafast")
SINE = ("-f", "lavfi", "-i", "sine=frequency=440:sample_rate=44100:duration=1")
ODD_NAME = "-dash 'quote' \"two\" colon: %d é\nline.mp4"
OPTIONS = decode.Options("tiny", "yamnet", max_failed_share=1.0)


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file of each kind, made once."""
    folder = tmp_path_factory.mktemp("films")
    encode(folder / "tone.mp4", *SINE, *PICTURE, "-c:a", "aac")
    encode(folder / "stereo.wav", "-f", "lavfi", "-i", "sine=duration=1", "-ac", "2")
    encode(folder / "no_track.mp4", *PICTURE)
    encode(folder / "silence.mp4", "-f", "lavfi", "-i", "anullsrc=channel_layout=mono:duration=1", *PICTURE, "-c:a", "aac")
    encode(folder / "whisper.wav", *SINE, "-filter:a", "volume=-50dB")
    whole = encode(folder / "whole.mkv", "-f", "lavfi", "-i", "sine=duration=4", "-c:a", "pcm_s16le").read_bytes()
    (folder / "cut.mkv").write_bytes(whole[: len(whole) // 2])
    (folder / "whole.mkv").unlink()
    (folder / "zero.mp4").write_bytes(b"")
    (folder / "text.mp4").write_text("not a film\n" * 100)
    (folder / "subtitles.mp4").write_text("1\n00:00:01,000 --> 00:00:02,000\nnot a film\n\n" * 100)
    shutil.copy(folder / "tone.mp4", folder / ODD_NAME)
    return folder


@pytest.fixture
def project(tmp_path: Path, films: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose data set `tiny` holds all of `films`."""
    make_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(films, tmp_path / "data/videos/tiny")
    write_clips("tiny", [path.name for path in films.iterdir()])
    return tmp_path


@pytest.fixture(scope="module")
def rows(films: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, dict[str, object]]]:
    """The rows of `audio` of all of `films`, by clip_id."""
    with pytest.MonkeyPatch.context() as patch:
        root = make_project(tmp_path_factory.mktemp("decoded"))
        patch.chdir(root)
        (root / "data/videos").mkdir()
        (root / "data/videos/tiny").symlink_to(films)
        write_clips("tiny", [path.name for path in films.iterdir()])
        decode.run(OPTIONS)
        yield {row["clip_id"]: row for row in cache.read_table(Path("cache/tiny/audio"), "audio").to_pylist()}


def pcm(row: dict[str, object]) -> np.ndarray:
    assert isinstance(row["pcm"], bytes)
    return np.frombuffer(row["pcm"], dtype="<i2")


@pytest.mark.parametrize(
    ("clip_id", "status"),
    [
        ("tone", "ok"),
        ("stereo", "ok"),
        (Path(ODD_NAME).stem, "ok"),
        ("no_track", "no_track"),
        ("silence", "silent"),
        ("whisper", "silent"),
        ("cut", "truncated"),
        ("zero", "failed"),
        ("text", "failed"),
        ("subtitles", "failed"),
    ],
)
def test_each_kind_of_file_has_its_status(rows: dict[str, dict[str, object]], clip_id: str, status: str) -> None:
    row = rows[clip_id]
    assert row["status"] == status
    assert row["sample_rate"] == 16000
    assert len(pcm(row)) == row["n_samples"]
    assert (row["n_samples"] == 0) == (status in ("no_track", "failed"))
    assert row["error"] or status != "failed"


def test_a_failed_clips_row_says_why_without_what_differs_from_run_to_run(rows: dict[str, dict[str, object]]) -> None:
    assert "Invalid data found when processing input" in str(rows["text"]["error"])
    assert "0x" not in str(rows["text"]["error"])
    assert rows["subtitles"]["error"] == "neither a sound track nor a picture"


def test_an_undamaged_tone_keeps_its_length_pitch_and_level(rows: dict[str, dict[str, object]]) -> None:
    row = rows["tone"]
    assert row["duration_s"] == pytest.approx(1, abs=0.1)  # AAC ends on a frame of 1024 samples
    assert row["expected_s"] == pytest.approx(1, abs=0.1)
    spectrum = np.abs(np.fft.rfft(pcm(row)[:16000]))
    assert np.argmax(spectrum) == 440  # one bin a hertz
    # ffmpeg's `sine` has amplitude 1/8: peak 20 log10(1/8) = -18.06 dB, RMS 3.01 dB less
    assert row["peak_dbfs"] == pytest.approx(20 * math.log10(1 / 8), abs=0.5)
    assert row["rms_dbfs"] == pytest.approx(20 * math.log10(1 / 8 / math.sqrt(2)), abs=0.5)


def test_an_odd_file_name_changes_nothing_of_the_sound(rows: dict[str, dict[str, object]]) -> None:
    assert rows[Path(ODD_NAME).stem]["pcm"] == rows["tone"]["pcm"]


def test_channels_are_those_of_the_source(rows: dict[str, dict[str, object]]) -> None:
    assert (rows["stereo"]["n_channels"], rows["tone"]["n_channels"], rows["no_track"]["n_channels"]) == (2, 1, None)


def test_a_cut_file_tells_what_was_promised_and_what_came(rows: dict[str, dict[str, object]]) -> None:
    assert rows["cut"]["expected_s"] == pytest.approx(4, abs=0.1)
    assert rows["cut"]["duration_s"] == pytest.approx(2, abs=0.2)


def test_a_digital_silence_has_no_level(rows: dict[str, dict[str, object]]) -> None:
    assert rows["silence"]["rms_dbfs"] is None
    assert rows["silence"]["n_samples"]


@pytest.mark.parametrize(
    ("layout", "n_channels"),
    # the counts are those of `ffmpeg -layouts`
    [("mono", 1), ("stereo", 2), ("5.1(side)", 6), ("7.1.4", 12), ("quad(side)", 4), ("3 channels (FL+FR+LFE)", 3), ("nonesuch", None)],
)
def test_channel_layouts_are_counted(layout: str, n_channels: int | None) -> None:
    stderr = f"[info] Input #0, matroska, from 'file:x':\n[info]   Stream #0:0(eng): Audio: aac (LC), 48000 Hz, {layout}, fltp (default)\n"
    assert decode.read_promise(stderr).n_channels == n_channels


def test_a_second_run_decodes_nothing_and_changes_no_byte(project: Path) -> None:
    first = decode.run(OPTIONS)
    before = {path: path.read_bytes() for path in Path("cache/tiny/audio").iterdir()}
    second = decode.run(OPTIONS)
    assert (first["n_made"], first["n_kept"]) == (10, 0)
    assert (second["n_made"], second["n_kept"]) == (0, 10)
    assert {path: path.read_bytes() for path in Path("cache/tiny/audio").iterdir()} == before


def test_decoding_again_from_nothing_gives_the_same_bytes(project: Path) -> None:
    decode.run(OPTIONS)
    before = {path: path.read_bytes() for path in Path("cache/tiny/audio").iterdir()}
    shutil.rmtree("cache/tiny/audio")
    decode.run(OPTIONS)
    assert {path: path.read_bytes() for path in Path("cache/tiny/audio").iterdir()} == before


def test_new_and_changed_clips_are_decoded_and_gone_ones_dropped(project: Path) -> None:
    write_clips("tiny", ["tone.mp4", "stereo.wav", "zero.mp4"])
    decode.run(OPTIONS)
    shutil.copy("data/videos/tiny/silence.mp4", "data/videos/tiny/zero.mp4")
    write_clips("tiny", ["stereo.wav", "zero.mp4", "whisper.wav"])
    counts = decode.run(OPTIONS)
    assert (counts["n_kept"], counts["n_made"], counts["n_dropped"]) == (1, 2, 1)
    assert (counts["n_clips"], counts["n_ok"], counts["n_silent"], counts["n_failed"]) == (3, 1, 2, 0)


def test_the_command_prints_its_counts_as_one_line_of_json(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = "--dataset tiny --tagger yamnet --ffmpeg packaged --silent_below_dbfs -20.0 --jobs 2 --max_failed_share 1"
    write_clips("tiny", ["tone.mp4", "zero.mp4"])
    stage.main(decode.Options, decode.run, prog="pipeline.decode", args=flags.split())
    counts = json.loads(capsys.readouterr().out)
    assert counts == {
        "n_clips": 2, "n_ok": 0, "n_no_track": 0, "n_silent": 1, "n_truncated": 0, "n_failed": 1, "n_kept": 0, "n_made": 2, "n_dropped": 0
    }  # fmt: skip


def test_the_stage_fails_naming_five_clips_when_too_many_did(project: Path) -> None:
    names = [f"broken_{i}.mp4" for i in range(7)]
    for name in names:
        Path("data/videos/tiny", name).write_bytes(b"")
    write_clips("tiny", [*names, "tone.mp4"])
    with pytest.raises(DecodeError, match="7 of 8 clips .* broken_0, broken_1, broken_2, broken_3, broken_4; first error: "):
        decode.run(decode.Options("tiny", "yamnet"))


def test_a_clip_that_is_not_there_any_more_asks_for_a_new_scan(project: Path) -> None:
    Path("data/videos/tiny/tone.mp4").unlink()
    with pytest.raises(DatasetError, match=r"tone\.mp4 .* run `dvc repro scan`"):
        decode.run(OPTIONS)


def test_a_missing_ffmpeg_on_path_is_not_replaced_by_the_packaged_one(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(project))
    with pytest.raises(DecodeError, match="no ffmpeg on PATH: install it, or set decode.ffmpeg=packaged"):
        decode.run(decode.Options("tiny", "yamnet", ffmpeg="path"))


def test_an_ffmpeg_on_path_is_used_when_asked_for(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "bin").mkdir()
    (project / "bin/ffmpeg").symlink_to(decode.ffmpeg_binary("packaged"))
    monkeypatch.setenv("PATH", str(project / "bin"))
    assert decode.ffmpeg_binary("path") == str(project / "bin/ffmpeg")
    assert decode.ffmpeg_version("ffmpeg") == decode.ffmpeg_version(decode.ffmpeg_binary("packaged"))


def test_map_clips_keeps_the_order_and_raises_what_an_item_raised() -> None:
    assert engine.map_clips(lambda x: x * x, range(20), jobs=4) == [x * x for x in range(20)]
    with pytest.raises(ZeroDivisionError):
        engine.map_clips(lambda x: 1 // x, [1, 0], jobs=2)
    with pytest.raises(EarshotError, match="jobs is 0: give 1 or more"):
        engine.map_clips(str, [1], jobs=0)

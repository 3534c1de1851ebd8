"""decode: every clip becomes a row of `audio` with a status and its blocks of sound, once, whatever interrupts it."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapt import command
from adapt.errors import CacheError, DatasetError, DecodeError
from adapt.tables import parquet
from adapt.tables.files import sha256_file
from pipeline import decode
from pipeline.audio import perturb, sound
from pipeline.workers import shards
from tests.places import ROOT
from tests.sounds import (
    PICTURE,
    bytes_of,
    encode,
    hear,
    make_project,
    sine,
    stored_sound,
    write_clips,
    write_wav,
)

ODD_NAME = "-dash 'quote' \"two\" colon: %d é\nline.mp4"
OPTIONS = decode.Options("tiny", "yamnet", max_failed_share=1.0)
STATUSES = {
    "tone": "ok", "stereo": "ok", "long": "ok", Path(ODD_NAME).stem: "ok", "no_track": "no_track",
    "silence": "silent", "whisper": "silent", "cut": "truncated", "zero": "failed", "text": "failed",
}  # fmt: skip


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file of each kind, made once."""
    folder = tmp_path_factory.mktemp("films")
    encode(
        folder / "tone.mp4",
        "-f",
        "lavfi",
        "-i",
        "sine=frequency=440:sample_rate=44100:duration=1",
        *PICTURE,
        "-c:a",
        "aac",
    )
    write_wav(folder / "stereo.wav", np.stack([sine(1, 44100), sine(1, 44100)], axis=1), 44100)
    write_wav(folder / "long.wav", sine(65, 16000), 16000)
    encode(folder / "no_track.mp4", *PICTURE)
    write_wav(folder / "silence.wav", np.zeros(16000), 16000)
    write_wav(folder / "whisper.wav", sine(1, 44100, peak=0.0005), 44100)
    whole = encode(folder / "whole.mkv", "-f", "lavfi", "-i", "sine=duration=4", "-c:a", "pcm_s16le").read_bytes()
    (folder / "cut.mkv").write_bytes(whole[: len(whole) // 2])
    (folder / "whole.mkv").unlink()
    (folder / "zero.mp4").write_bytes(b"")
    (folder / "text.mp4").write_text("not a film\n" * 100)
    shutil.copy(folder / "tone.mp4", folder / ODD_NAME)
    return folder


@pytest.fixture
def project(tmp_path: Path, films: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose data set `tiny` holds all of `films`."""
    monkeypatch.chdir(make_project(tmp_path))
    shutil.copytree(films, tmp_path / "data/videos/tiny")
    write_clips("tiny", [path.name for path in films.iterdir()])
    return tmp_path


@pytest.fixture(scope="module")
def rows(films: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, dict[str, object]]]:
    """The rows of `audio` of all of `films`, by clip_id, with their stored `samples`."""
    with pytest.MonkeyPatch.context() as patch:
        root = make_project(tmp_path_factory.mktemp("decoded"))
        patch.chdir(root)
        (root / "data/videos").mkdir()
        (root / "data/videos/tiny").symlink_to(films)
        write_clips("tiny", [path.name for path in films.iterdir()])
        decode.run(OPTIONS)
        samples = stored_sound("tiny")
        yield {str(row["clip_id"]): row | {"samples": samples.get(str(row["clip_id"]))} for row in audio()}


def audio() -> list[dict[str, object]]:
    found: list[dict[str, object]] = parquet.read_table(Path("cache/tiny/audio"), "audio").to_pylist()
    return found


@pytest.mark.parametrize(("clip_id", "status"), STATUSES.items())
def test_each_kind_of_file_has_its_status_and_its_sound(
    rows: dict[str, dict[str, object]], films: Path, clip_id: str, status: str
) -> None:
    row = rows[clip_id]
    assert (row["status"], row["sample_rate"]) == (status, 16000)
    samples, heard = hear(next(path for path in films.iterdir() if path.stem == clip_id))
    facts = {name: value for name, value in vars(heard).items() if name != "error"}  # which names the file
    assert {name: row[name] for name in facts} == facts
    assert row["samples"] is None if status in ("no_track", "failed") else np.array_equal(row["samples"], samples)  # type: ignore[arg-type]
    assert row["n_blocks"] == -(-samples.size // 480000)  # of 30 s
    assert row["error"] or status != "failed"


def test_sound_in_opposite_phase_is_a_channel_kept_or_not_and_after_a_second_run(project: Path) -> None:
    tone = sine(65, 16000)  # three blocks
    write_wav(project / "data/videos/tiny/opposite.wav", np.stack([0.9 * tone, -tone], axis=1), 16000)
    write_clips("tiny", ["opposite.wav", "stereo.wav", "tone.mp4"])
    decode.run(OPTIONS)
    facts = {row["clip_id"]: (row["status"], row["mix"], row["track"]) for row in audio()}
    assert facts == {"opposite": ("ok", "channel 2", 0), "stereo": ("ok", "mean", 0), "tone": ("ok", None, 0)}
    kept, before = stored_sound("tiny"), bytes_of(project / "cache")
    assert np.abs(kept["opposite"] / 32768 + tone).max() <= 1 / 32768
    assert decode.run(OPTIONS)["n_made"] == 0
    assert bytes_of(project / "cache") == before
    decode.run(replace(OPTIONS, keep_audio=False))
    assert {row["clip_id"]: (row["status"], row["mix"], row["track"]) for row in audio()} == facts
    blocks = decode.reopen("tiny")
    assert all(np.array_equal(np.concatenate(list(blocks(clip_id))), samples) for clip_id, samples in kept.items())
    decode.run(replace(OPTIONS, perturb="mute"))
    assert {row["status"] for row in audio()} == {"silent"}


def test_an_odd_file_name_changes_nothing_of_the_sound(rows: dict[str, dict[str, object]]) -> None:
    assert np.array_equal(rows[Path(ODD_NAME).stem]["samples"], rows["tone"]["samples"])  # type: ignore[arg-type]


def test_a_failed_clips_row_says_why_without_what_differs_from_run_to_run(rows: dict[str, dict[str, object]]) -> None:
    assert "Invalid data found when processing input" in str(rows["text"]["error"])
    assert "0x" not in str(rows["text"]["error"])


def test_a_second_run_decodes_nothing_and_changes_no_byte(project: Path) -> None:
    first = decode.run(OPTIONS)
    before = bytes_of(project / "cache")
    second = decode.run(OPTIONS)
    assert (first["n_made"], first["n_kept"]) == (10, 0)
    assert (second["n_made"], second["n_kept"]) == (0, 10)
    assert bytes_of(project / "cache") == before


@pytest.mark.parametrize("jobs", [1, 5])
def test_decoding_again_from_nothing_gives_the_same_bytes_on_any_number_of_threads(project: Path, jobs: int) -> None:
    decode.run(OPTIONS)
    before = bytes_of(project / "cache")
    shutil.rmtree("cache/tiny/audio")
    shutil.rmtree("cache/tiny/waveforms")
    decode.run(replace(OPTIONS, jobs=jobs))
    assert bytes_of(project / "cache") == before


def test_new_and_changed_clips_are_decoded_and_gone_ones_dropped(project: Path) -> None:
    write_clips("tiny", ["tone.mp4", "stereo.wav", "zero.mp4"])
    decode.run(OPTIONS)
    shutil.copy("data/videos/tiny/silence.wav", "data/videos/tiny/zero.mp4")
    write_clips("tiny", ["stereo.wav", "zero.mp4", "whisper.wav"])
    counts = decode.run(OPTIONS)
    assert (counts["n_kept"], counts["n_made"], counts["n_dropped"]) == (1, 2, 1)
    assert (counts["n_clips"], counts["n_ok"], counts["n_silent"], counts["n_failed"]) == (3, 1, 2, 0)
    assert stored_sound("tiny").keys() == {"stereo", "zero", "whisper"}


def test_a_clip_may_take_its_sound_from_another_file(project: Path) -> None:
    clips = parquet.read_table(Path("cache/tiny/clips.parquet"), "clips").to_pylist()
    lent = {"sound_path": "tone.mp4", "sound_sha256": sha256_file(Path("data/videos/tiny/tone.mp4"))}
    decode.run(OPTIONS)
    parquet.write_table(
        Path("cache/tiny/clips.parquet"),
        "clips",
        [row | (lent if row["clip_id"] == "no_track" else {}) for row in clips],
    )
    assert decode.run(OPTIONS)["n_made"] == 1
    assert {row["clip_id"]: row["status"] for row in audio()}["no_track"] == "ok"
    samples = stored_sound("tiny")
    assert np.array_equal(samples["no_track"], samples["tone"])


def write_tones(n_clips: int, first: int = 0) -> list[str]:
    names = [f"clip{i:03d}.wav" for i in range(first, first + n_clips)]
    for name in names:
        write_wav(Path("data/videos/tiny") / name, sine(0.1, 8000, 200.0 + int(name[4:7])), 8000)
    return names


def test_ten_new_clips_among_fifty_decode_ten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(make_project(tmp_path))
    old = write_tones(40)
    write_clips("tiny", old)
    decode.run(OPTIONS)
    heard: list[Path] = []
    real = sound.stream

    def listened(decoder: Any, path: Path, change: Any) -> Any:
        heard.append(path)
        return real(decoder, path, change)

    monkeypatch.setattr(sound, "stream", listened)
    new = write_tones(10, first=40)
    write_clips("tiny", [*old, *new])
    counts = decode.run(OPTIONS)
    assert (counts["n_made"], counts["n_kept"]) == (10, 40)
    assert sorted(path.name for path in heard) == new
    assert len(stored_sound("tiny")) == 50


OTHER_ROWS: list[dict[str, object]] = [
    {"track": 1},
    {"silent_below_dbfs": -50.0},
    {"keep_audio": False},
    {"perturb": "mute"},
]


@pytest.mark.parametrize("change", OTHER_ROWS, ids=str)
def test_what_changes_a_row_decodes_again(project: Path, change: dict[str, object]) -> None:
    write_clips("tiny", ["tone.mp4", "stereo.wav"])
    decode.run(OPTIONS)
    assert decode.run(replace(OPTIONS, **change))["n_made"] == 2  # type: ignore[arg-type]


def test_a_tagger_at_another_rate_has_every_clip_decoded_again(project: Path) -> None:
    settings = decode.Settings("packaged", 16000, -60.0, 0, True, perturb.Perturbation())
    low, high = (decode.make_plan("tiny", replace(settings, sample_rate=rate)).keys for rate in (16000, 32000))
    assert low.keys() == high.keys()
    assert not set(low.values()) & set(high.values())


@pytest.mark.parametrize("change", [{"jobs": 1}, {"max_failed_share": 0.9}, {"ffmpeg": "path"}], ids=str)
def test_what_changes_no_row_decodes_nothing(
    project: Path, change: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "ffmpeg").symlink_to(sound.ffmpeg_binary("packaged"))
    monkeypatch.setenv("PATH", str(project))
    write_clips("tiny", ["tone.mp4", "stereo.wav"])
    decode.run(OPTIONS)
    assert decode.run(replace(OPTIONS, **change))["n_made"] == 0  # type: ignore[arg-type]


def test_sound_that_is_not_kept_is_measured_and_can_be_made_again(project: Path) -> None:
    decode.run(OPTIONS)
    kept, before = stored_sound("tiny"), audio()
    assert decode.run(replace(OPTIONS, keep_audio=False))["n_made"] == 10
    assert stored_sound("tiny") == {}
    differ = {"n_blocks": 0, "cache_key": ""}
    assert [row | differ for row in audio()] == [row | differ for row in before]
    blocks = decode.reopen("tiny")
    assert [block.size for block in blocks("long")] == [480000, 480000, 80000]
    assert all(np.array_equal(np.concatenate(list(blocks(clip_id))), samples) for clip_id, samples in kept.items())
    assert list(blocks("no_track")) == []


def test_sound_cannot_be_made_again_before_decode_or_without_its_settings(project: Path) -> None:
    with pytest.raises(CacheError, match="cache/tiny/audio is missing: run `dvc repro decode` first"):
        decode.reopen("tiny")
    for text in ("", "{}", "[]", '{"perturbation": 3}'):
        with pytest.raises(CacheError, match="are not the settings that decode wrote"):
            decode.Settings.from_json(text)


KILLED = """
import os, signal
from pathlib import Path
from pipeline import decode
from pipeline.audio import sound
from pipeline.workers import shards
shards.CLIPS_PER_SHARD = 2
real, n_started = sound.stream, 0
def deadly(*args):
    global n_started
    n_started += 1
    if n_started > 1 and len(list(Path("cache/tiny/audio").glob("part-*"))) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*args)
sound.stream = deadly
decode.run(decode.Options("tiny", "yamnet"))
"""


def test_a_run_that_was_killed_goes_on_and_ends_with_the_bytes_of_an_undisturbed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(make_project(tmp_path / "killed"))
    write_clips("tiny", write_tones(14))
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", KILLED], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False
    )
    assert done.returncode == -9, done.stderr.decode()
    left = bytes_of(Path("cache/tiny"))
    assert len([name for name in left if name.startswith("audio/part-")]) == 2
    monkeypatch.setattr(shards, "CLIPS_PER_SHARD", 2)
    counts = decode.run(decode.Options("tiny", "yamnet"))
    assert 0 < counts["n_kept"] < 14
    assert counts["n_kept"] + counts["n_made"] == 14
    resumed = bytes_of(Path("cache/tiny"))
    assert all(resumed[name] == content for name, content in left.items() if "/part-" in name)
    monkeypatch.chdir(make_project(tmp_path / "undisturbed"))
    write_clips("tiny", write_tones(14))
    decode.run(decode.Options("tiny", "yamnet"))
    assert bytes_of(Path("cache/tiny")) == resumed


def test_the_command_prints_its_counts_as_one_line_of_json(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = (
        "--dataset tiny --tagger yamnet --variant  --ffmpeg packaged --track default --silent_below_dbfs -20.0 "
        "--no-keep_audio --jobs 2"
    )
    flags += (
        " --max_failed_share 1 --perturb none --snr_db 10.0 --shift_s 1.0 --music_file  --seed 0"  # as DVC writes them
    )
    write_clips("tiny", ["tone.mp4", "zero.mp4"])
    command.main(decode.Options, decode.run, prog="pipeline.decode", args=flags.split(" "))
    counts = json.loads(capsys.readouterr().out)
    assert counts == {
        "n_clips": 2, "n_ok": 0, "n_no_track": 0, "n_silent": 1, "n_truncated": 0, "n_failed": 1,
        "n_kept": 0, "n_made": 2, "n_dropped": 0,
    }  # fmt: skip


def test_help_tells_units_and_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(decode.Options, decode.run, prog="pipeline.decode", args=["--help"])
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "{none,noise,shift,swap,mute,music}" in text
    for words in (
        "dB, -40 to 60",
        "seconds, -60 to 60",
        "(default: -60.0)",
        "(default: 10.0)",
        "counted from 0",
        "(default: default)",
    ):
        assert words in text


def test_the_stage_fails_naming_five_clips_when_too_many_did(project: Path) -> None:
    names = [f"broken_{i}.mp4" for i in range(7)]
    for name in names:
        Path("data/videos/tiny", name).write_bytes(b"")
    write_clips("tiny", [*names, "tone.mp4"])
    with pytest.raises(
        DecodeError, match="7 of 8 clips .* broken_0, broken_1, broken_2, broken_3, broken_4; first error: "
    ):
        decode.run(decode.Options("tiny", "yamnet"))


@pytest.mark.parametrize(
    ("change", "message"), [({"max_failed_share": 1.5}, "give 0 to 1"), ({"track": -1}, "track is -1: give 0")]
)
def test_an_option_out_of_range_is_an_error(project: Path, change: dict[str, object], message: str) -> None:
    with pytest.raises(DecodeError, match=message):
        decode.run(replace(OPTIONS, **change))  # type: ignore[arg-type]


def test_a_clip_that_is_not_there_any_more_asks_for_a_new_scan(project: Path) -> None:
    Path("data/videos/tiny/tone.mp4").unlink()
    with pytest.raises(DatasetError, match=r"tone\.mp4 .* run `dvc repro scan`"):
        decode.run(OPTIONS)

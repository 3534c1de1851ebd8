"""sound: whatever ffmpeg does, a file's sound is right or there is none, and neither memory nor disk fills."""

import resource
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapt.errors import DecodeError
from pipeline.audio import sound
from tests.places import ROOT
from tests.sounds import encode, hear, sine, write_wav

RATE = 16000
GAP = "asetpts='if(gt(T,0.5),PTS+1/TB,PTS)'"


def sparse_wav(path: Path, seconds: int, sample_rate: int) -> Path:
    """Zeros that take no room on the disk."""
    write_wav(path, np.zeros(0), sample_rate)
    n_bytes = 2 * sample_rate * seconds
    with path.open("r+b") as file:
        head = bytearray(file.read(44))
        head[4:8], head[40:44] = (36 + n_bytes).to_bytes(4, "little"), n_bytes.to_bytes(4, "little")
        file.seek(0)
        file.write(head)
        file.truncate(44 + n_bytes)
    return path


def test_a_two_hour_file_takes_the_memory_of_a_few_blocks(tmp_path: Path) -> None:
    path = sparse_wav(tmp_path / "long.wav", 7200, 2000)
    decoder = sound.Decoder(sound.ffmpeg_binary("packaged"), 2000, -60.0)
    tracemalloc.start()
    try:
        parts = sound.stream(decoder, path)
        sizes = [part.size for part in parts if not isinstance(part, sound.Heard)]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sizes == [60000] * 240  # of 30 s at 2 kHz
    assert peak < 1.5e6  # a block is 0.12 MB, the whole 29 MB


def test_a_gap_of_two_hours_takes_no_memory_of_ours_or_of_ffmpegs(tmp_path: Path) -> None:
    """ffmpeg's own way of filling it (aresample=async=1) was seen to hold 3 GB for one hour."""
    gap = GAP.replace("+1/TB", "+7200/TB")
    path = encode(
        tmp_path / "gap.mkv", "-f", "lavfi", "-i", "sine=sample_rate=48000:duration=1", "-af", gap, "-c:a", "pcm_s16le"
    )
    code = (
        "import resource, sys\nfrom pathlib import Path\nfrom pipeline.audio import sound\n"
        "def peak(who): return resource.getrusage(who).ru_maxrss / 1000\n"
        "parts = sound.stream(sound.Decoder(sound.ffmpeg_binary('packaged'), 16000, -90.0), Path(sys.argv[1]))\n"
        "heard = next(parts)\nbefore = peak(resource.RUSAGE_SELF)\nfor heard in parts: pass\n"
        "print(heard.n_samples, peak(resource.RUSAGE_SELF) - before, peak(resource.RUSAGE_CHILDREN))\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(path)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    n_samples, grown_mb, ffmpegs_mb = (float(word) for word in done.stdout.split())
    assert n_samples == pytest.approx(7201 * RATE, abs=RATE / 10)
    assert grown_mb < 20
    assert ffmpegs_mb < 300


def test_a_reader_that_stops_early_leaves_no_ffmpeg_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []

    class Remembered(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            started.append(self)

    monkeypatch.setattr(subprocess, "Popen", Remembered)
    parts = sound.stream(
        sound.Decoder(sound.ffmpeg_binary("packaged"), 8000, -60.0), sparse_wav(tmp_path / "long.wav", 7200, 8000)
    )
    next(parts)
    assert started[-1].poll() is None
    parts.close()
    assert started[-1].returncode == -9


LAST_WORDS = "echo '[verbose] Exiting with exit code 0' >&2"


def fake_ffmpeg(path: Path, script: str) -> sound.Decoder:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return sound.Decoder(str(path), RATE, -60.0)


def test_megabytes_of_complaints_neither_block_nor_fill_memory(tmp_path: Path) -> None:
    complaints = "yes '[mp3 @ 0x55aa] [error] Header missing' | head -n 100000 >&2"
    decoder = fake_ffmpeg(
        tmp_path / "chatty", f"{complaints}; yes no | head -c 32000; exit 1"
    )  # "no\nno\n" is three loud samples
    tracemalloc.start()
    try:
        block, heard = sound.stream(decoder, tmp_path / "chatty")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert isinstance(heard, sound.Heard)
    assert (heard.status, heard.n_samples) == ("truncated", 16000)
    assert heard.error == " | ".join(["[mp3] [error] Header missing"] * 4)
    assert peak < 2e6


@pytest.mark.parametrize(
    ("script", "status", "error"),
    [
        (f"yes no | head -c 3200; {LAST_WORDS}; exit 3", "truncated", "ffmpeg ended with 3"),
        (f"{LAST_WORDS}; exit 3", "failed", "ffmpeg ended with 3 and no samples"),
        ("kill -9 $$", "failed", "ffmpeg was ended by SIGKILL 2 times (out of memory?)"),
        ("yes no | head -c 3200; kill -11 $$", "failed", "ffmpeg was ended by SIGSEGV 2 times (out of memory?)"),
        (f"yes no | head -c 3201; {LAST_WORDS}", "ok", None),  # half a sample is none
    ],
)
def test_the_way_ffmpeg_ended_is_told(tmp_path: Path, script: str, status: str, error: str | None) -> None:
    *_, heard = sound.stream(fake_ffmpeg(tmp_path / "ffmpeg", script), tmp_path / "ffmpeg")
    assert isinstance(heard, sound.Heard)
    assert (heard.status, heard.error) == (status, error)


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ("yes no | head -c 3200", "its log is incomplete"),
        ("exec 2>&-; yes no | head -c 3200", "its log is incomplete"),
        (f"yes no | head -c 3200; {LAST_WORDS}; printf '[verbose] torn' >&2", "its log is incomplete"),
        (
            f"echo '[info] Exiting normally, received signal 15.' >&2; {LAST_WORDS}; exit 255",
            "told to stop by signal 15",
        ),
    ],
)
def test_sound_of_an_ffmpeg_that_did_not_say_all_is_an_error_and_no_row(
    tmp_path: Path, script: str, error: str
) -> None:
    with pytest.raises(DecodeError, match=error):
        list(sound.stream(fake_ffmpeg(tmp_path / "ffmpeg", script), tmp_path / "ffmpeg"))


def test_sound_goes_on_where_an_ffmpeg_was_killed_and_is_that_of_an_undisturbed_one(tmp_path: Path) -> None:
    write_wav(path := tmp_path / "a.wav", sine(100, RATE), RATE)  # three blocks, and a fourth of 10 s
    real, once = sound.ffmpeg_binary("packaged"), tmp_path / "once"
    part = f"'{real}' \"$@\" | head -c {2 * RATE * 70}; kill -9 $$"
    decoder = fake_ffmpeg(tmp_path / "ffmpeg", f"[ -e {once} ] || {{ touch {once}; {part}; }}; exec '{real}' \"$@\"")
    *blocks, heard = sound.stream(decoder, path)
    *expected, undisturbed = sound.stream(replace(decoder, binary=real), path)
    assert once.exists()
    assert heard == undisturbed
    assert [len(block) for block in blocks] == [30 * RATE] * 3 + [10 * RATE]  # type: ignore[arg-type]
    assert all((a == b).all() for a, b in zip(blocks, expected, strict=True))  # type: ignore[union-attr]


@pytest.mark.parametrize(("n_channels", "seconds"), [(1, 60), (2, 300)])  # of 300 s of stereo not all is held
def test_nothing_of_the_sound_depends_on_a_disk_that_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_channels: int, seconds: int
) -> None:
    sound_of = ("-itsoffset", "1", "-f", "lavfi", "-i", f"sine=frequency=440:duration={seconds}")
    picture = ("-f", "lavfi", "-i", f"testsrc=duration={seconds + 1}:size=32x32:rate=1", "-map", "0:a", "-map", "1:v")
    path = encode(tmp_path / "late\n.mkv", *sound_of, *picture, "-ac", str(n_channels), "-c:a", "pcm_s16le")
    expected, whole = hear(path)
    assert not expected[: RATE - 100].any()  # a track that starts late keeps its silence
    monkeypatch.setenv("TMPDIR", str(tmp_path / "nowhere"))
    monkeypatch.setattr("tempfile.tempdir", None)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))  # as on a full disk: no file can grow, of children neither
    try:
        found, heard = hear(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert heard == whole
    assert np.array_equal(found, expected)


def test_a_missing_ffmpeg_on_path_is_not_replaced_by_the_packaged_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DecodeError, match="no ffmpeg on PATH: install it, or set decode.ffmpeg=packaged"):
        sound.ffmpeg_binary("path")


def test_an_ffmpeg_on_path_is_used_when_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ffmpeg").symlink_to(sound.ffmpeg_binary("packaged"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert sound.ffmpeg_binary("path") == str(tmp_path / "ffmpeg")
    assert sound.ffmpeg_version("ffmpeg") == sound.ffmpeg_version(sound.ffmpeg_binary("packaged"))
    with pytest.raises(DecodeError, match="does not run as ffmpeg"):
        sound.ffmpeg_version(str(tmp_path / "nonesuch"))

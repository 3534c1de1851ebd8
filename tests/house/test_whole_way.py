"""A user's own folder, good and bad files in it, through every stage as the commands that DVC runs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from adapt.tables import cache as adapter_cache
from adapt.tables import parquet
from tests.places import ROOT
from tests.sounds import encode, make_project

pytestmark = pytest.mark.slow  # minutes
BAD = {f"test/snow/{name}" for name in ("zero bytes", "text", "no picture", r"caf\xe9", "broken disk")}
SIZE = "96x64"
VIDEO = ("--frames", "4", "--views", "2", "--resize", "64", "--size", "64")


def film(path: Path, colour: str, sound: bool) -> None:
    """One second of a flat colour, with a tone or without a sound track."""
    source = ["-f", "lavfi", "-t", "1", "-i", f"color={colour}:size={SIZE}:rate=8"]
    tone = ["-f", "lavfi", "-t", "1", "-i", "sine=440"] if sound else []
    encode(path, *source, *tone, "-c:v", "libx264", "-pix_fmt", "yuv420p", *(["-c:a", "aac"] if sound else []))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = make_project(tmp_path_factory.mktemp("own"))
    videos = root / "data/videos/own"
    for split, n in (("train", 4), ("val", 1), ("test", 2)):
        for colour, label in (("0x202020", "night"), ("white", "snow")):
            for i in range(n):
                film(videos / split / label / f"{i}.mp4", colour, sound=i % 2 == 0)
    bad = videos / "test/snow"
    (bad / "zero bytes.mp4").write_bytes(b"")
    (bad / "text.mp4").write_text("not a video at all\n" * 50)
    encode(bad / "no picture.mp4", "-f", "lavfi", "-t", "1", "-i", "sine=440", "-c:a", "aac")
    (bad / os.fsdecode(b"caf\xe9.mp4")).write_bytes((bad / "0.mp4").read_bytes())
    (bad / "broken disk.mp4").symlink_to("/proc/self/mem")  # its first byte is an I/O error, for root too
    return root


def stage(root: Path, *command: str) -> dict[str, object]:
    """Run `python -m command` in `root` and return its JSON line."""
    path = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=root, capture_output=True, text=True, check=False, env=path
    )
    assert done.returncode == 0, done.stderr
    counts: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return counts


def test_bad_files_become_status_rows_and_the_run_ends_with_their_count(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = ("--dataset", "own")
    scanned = stage(folder, "pipeline.scan", *own, "--recipe", "folder")
    assert (scanned["n_clips"], scanned["n_failed"]) == (19, 5)
    decoded = stage(folder, "pipeline.decode", *own, "--tagger", "yamnet")
    assert (decoded["n_failed"], decoded["n_no_track"], decoded["n_ok"]) == (4, 6, 9)
    again = stage(folder, "pipeline.decode", *own, "--tagger", "yamnet")
    assert (again["n_made"], again["n_kept"]) == (0, 19)
    stage(folder, "pipeline.tag", *own, "--tagger", "yamnet")
    stage(folder, "pipeline.map_labels", *own, "--mapper", "lexical")
    assert stage(folder, "pipeline.pseudo_label", *own, "--tagger", "yamnet")["n_clips"] == 19
    tanet = (*own, "--backbone", "tanet", *VIDEO)
    stage(folder, "adapt.train", *tanet, "--epochs", "3", "--batch_size", "4", "--no-augment")
    stage(folder, "adapt.statistics", *tanet)
    adapted = stage(
        folder,
        "adapt",
        *tanet,
        "--method",
        "audio",
        "--corruptions",
        "gauss",
        "--max_iterations",
        "2",
        "--max_failed_share",
        "0.6",
    )
    assert (adapted["n_predictions"], adapted["n_failed"]) == (9, 5)
    report = stage(folder, "adapt.report", *own, "--methods", "audio", "--corruptions", "gauss")
    assert "5 of them unreadable" in (folder / str(report["report"])).read_text()

    monkeypatch.chdir(folder)
    statuses = {
        r["clip_id"]: r["status"] for r in parquet.read_table(Path("cache/own/clips.parquet"), "clips").to_pylist()
    }
    assert {c for c, s in statuses.items() if s == "failed"} == BAD
    predictions = adapter_cache.read_predictions(Path("cache/own/adapt/audio/predictions.parquet"))
    assert {r["clip_id"] for r in predictions if r["stop_reason"] == "failed"} == BAD


def test_a_set_in_which_nothing_sounds_runs_through_as_well(folder: Path) -> None:
    for split in ("train", "val", "test"):
        for label, colour in (("night", "0x202020"), ("snow", "white")):
            film(folder / f"data/videos/mute/{split}/{label}/0.mp4", colour, sound=False)
    mute = ("--dataset", "mute")
    stage(folder, "pipeline.scan", *mute, "--recipe", "folder")
    assert stage(folder, "pipeline.decode", *mute, "--tagger", "yamnet")["n_no_track"] == 6
    stage(folder, "pipeline.tag", *mute, "--tagger", "yamnet")
    stage(folder, "pipeline.map_labels", *mute, "--mapper", "lexical")
    assert stage(folder, "pipeline.pseudo_label", *mute, "--tagger", "yamnet")["n_heard"] == 0

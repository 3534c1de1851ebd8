"""scan and its recipes: every video becomes a row, whatever its file is."""

import hashlib
import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from adapt import command
from adapt.errors import DatasetError, EarshotError, VideoError
from adapt.tables import parquet
from adapt.tables.cache import Clip
from adapt.video.clips import VideoOptions, count_frames, read_clip
from pipeline import datasets, scan
from pipeline.datasets import demo, folder
from tests import numbered
from tests.adapt.video.test_decoding_workers import children, wait_for, watches_its_parent
from tests.clips import write_video
from tests.places import ROOT
from tests.sounds import encode, make_project

OPTIONS = scan.Options("mine")


@pytest.fixture
def videos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """data/videos/mine of a project of its own, empty; the working directory is the project's root."""
    root = make_project(tmp_path / "project") / "data/videos/mine"
    root.mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "project")
    return Path("data/videos/mine")


def rows() -> dict[str, dict[str, object]]:
    return {row["clip_id"]: row for row in parquet.read_table(Path("cache/mine/clips.parquet"), "clips").to_pylist()}


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"not looked into")
    return path


def test_a_row_has_the_clips_split_label_length_and_hash(videos: Path) -> None:
    path = write_video(videos / "train/dog/rex one.mp4", [0, 50, 100, 150, 200, 250, 200, 150, 100, 50], fps=8)
    write_video(videos / "test/cat/tom.mkv", [0, 255])
    assert scan.run(OPTIONS) == {
        "n_clips": 2,
        "n_missing": 0,
        "n_left_out": 0,
        "n_failed": 0,
        "n_labels": 2,
        "n_train": 1,
        "n_val": 0,
        "n_test": 1,
    }
    assert rows()["train/dog/rex one"] == {
        "clip_id": "train/dog/rex one", "path": "train/dog/rex one.mp4", "split": "train", "label_id": 1,
        "label": "dog", "status": "ok", "duration_s": 1.25, "n_frames": 10, "reader": "decord",
        "content_sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "error": None,
        "label_ids": None, "sound_path": None, "sound_sha256": None,
    }  # fmt: skip
    assert Path("cache/mine/labels.txt").read_text() == "cat\ndog\n"
    expected = hashlib.sha256(b"cat\ndog").hexdigest()
    assert parquet.provenance(Path("cache/mine/clips.parquet"))["classes_sha256"] == expected


def test_a_file_without_a_readable_picture_is_a_row_that_says_why(videos: Path) -> None:
    good = write_video(videos / "test/cat/good.mp4", [0, 100] * 20).read_bytes()
    (videos / "test/cat/zero.mp4").write_bytes(b"")
    (videos / "test/cat/text.mp4").write_text("not a film\n" * 100)
    (videos / "test/cat/cut.mp4").write_bytes(good[: len(good) // 2])
    start = good.index(b"mdat") + 4
    (videos / "test/cat/blank.mp4").write_bytes(
        good[:start] + bytes(good.index(b"moov") - 4 - start) + good[good.index(b"moov") - 4 :]
    )
    encode(videos / "test/cat/sound.mp4", "-f", "lavfi", "-i", "sine=duration=1", "-c:a", "aac")
    assert scan.run(OPTIONS)["n_failed"] == 5
    found = rows()
    assert {clip_id.split("/")[-1]: row["status"] for clip_id, row in found.items()} == dict.fromkeys(
        ["blank", "cut", "sound", "text", "zero"], "failed"
    ) | {"good": "ok"}
    assert found["test/cat/zero"]["error"] == "the file is empty"
    assert found["test/cat/text"]["error"] == "no video can be opened (Invalid data found when processing input)"
    assert found["test/cat/cut"]["error"] == "no video can be opened (moov atom not found)"
    assert found["test/cat/sound"]["error"] == "there is no video track"
    assert str(found["test/cat/blank"]["error"]).startswith("no picture can be decoded (")
    for row in found.values():
        if row["status"] == "failed":
            assert row["error"] and "\n" not in str(row["error"])
            assert row["n_frames"] is None and row["duration_s"] is None and row["reader"] is None


def test_scanning_twice_writes_the_same_bytes_and_a_clock_never_enters_the_table(videos: Path) -> None:
    write_video(videos / "train/cat/a.mp4", [0, 255])
    encode(videos / "train/cat/sound.mp4", "-f", "lavfi", "-i", "sine=duration=1", "-c:a", "aac")
    scan.run(OPTIONS)
    first = Path("cache/mine/clips.parquet").read_bytes()
    scan.run(scan.Options("mine", jobs=1))
    assert Path("cache/mine/clips.parquet").read_bytes() == first


def test_two_files_that_would_be_one_clip_are_named(videos: Path) -> None:
    touch(videos / "train/cat/a.mp4")
    touch(videos / "train/cat/a.avi")
    with pytest.raises(
        DatasetError, match=r"train/cat/a\.avi and train/cat/a\.mp4 would both be clip 'train/cat/a': rename one"
    ):
        scan.run(OPTIONS)


def test_the_command_prints_counts_on_one_line_or_one_reason(
    videos: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    write_video(videos / "test/cat/a.mp4", [0, 255])
    (videos / "test/cat/text.mp4").write_text("not a film")
    command.main(
        scan.Options, scan.run, prog="pipeline.scan", args=["--dataset", "mine", "--recipe", "folder", "--jobs", "2"]
    )
    out, _ = capfd.readouterr()
    assert json.loads(out)["n_clips"] == 2 and out.count("\n") == 1
    assert "test/cat/text.mp4: no video can be opened" in caplog.text
    with pytest.raises(SystemExit, match="1"):
        command.main(scan.Options, scan.run, prog="pipeline.scan", args=["--dataset", "mine", "--recipe", "foldr"])
    assert (
        capfd.readouterr().err
        == f"pipeline.scan: unknown recipe 'foldr': choose one of [{', '.join(datasets.names())}]\n"
    )


@pytest.mark.parametrize("prepare", ["missing", "empty", "no videos"])
def test_an_empty_data_set_says_where_to_put_videos(videos: Path, prepare: str) -> None:
    if prepare == "missing":
        videos.rmdir()
    if prepare == "no videos":
        touch(videos / "train/cat/readme.txt")
    with pytest.raises(
        DatasetError,
        match=r"put (them|videos) at data/videos/mine/<split>/<class>/<name>\.mp4, split one of train, val, test",
    ):
        scan.run(OPTIONS)


def test_a_folder_that_is_no_split_is_named(videos: Path) -> None:
    touch(videos / "train/cat/a.mp4")
    touch(videos / "validation/cat/b.mp4")
    with pytest.raises(DatasetError, match="folder 'validation' is no split: the folders there are train, val, test"):
        scan.run(OPTIONS)


def test_hidden_files_are_passed_over_and_others_are_counted(videos: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in (
        "test/cat/a.MP4",
        "test/cat/deeper/b.webm",
        "test/cat/.a.mp4",
        "test/cat/.git/c.mp4",
        ".DS_Store",
        "test/.cat/d.mp4",
        "test/cat/a.srt",
        "manifest.csv",
        "test/loose.mp4",
    ):
        touch(videos / name)
    with caplog.at_level(logging.INFO):
        assert scan.run(OPTIONS)["n_left_out"] == 3
    assert list(rows()) == ["test/cat/a", "test/cat/deeper/b"]
    assert "mine: 3 left out (no video of a class): manifest.csv, test/cat/a.srt, test/loose.mp4" in caplog.text


def test_classes_come_from_the_list_where_there_is_one_and_from_the_folders_else(videos: Path, tmp_path: Path) -> None:
    touch(videos / "train/dog/a.mp4")
    touch(videos / "test/cat/a.mp4")
    assert folder.labels("mine", videos) == ["cat", "dog"]
    labels = Path("data/labels")
    labels.unlink()  # a link to the project's own
    labels.mkdir()
    (labels / "mine.txt").write_text("dog\n\nbird\ncat\n")
    assert folder.labels("mine", videos) == ["dog", "bird", "cat"]
    touch(videos / "val/cats/a.mp4")
    with pytest.raises(
        DatasetError,
        match=r"class folder 'cats' is not in data/labels/mine\.txt: add it there, rename or remove the folder",
    ):
        folder.labels("mine", videos)
    (labels / "mine.txt").write_text("dog\ncat\ncats\ndog\n")
    with pytest.raises(DatasetError, match="names 'dog' more than once"):
        folder.labels("mine", videos)


def test_the_folder_of_recipes_is_the_registry() -> None:
    assert datasets.names() == [
        "ava",
        "ave",
        "avmit",
        "csvfile",
        "demo",
        "folder",
        "kinetics_sounds",
        "listfile",
        "ssv2",
        "ucf101",
        "ucf101_c",
    ]
    assert all(
        hasattr(datasets.build(name), part) for name in datasets.names() for part in ("VARIANTS", "labels", "rows")
    )


def test_a_variant_that_the_recipe_does_not_offer_is_named(videos: Path) -> None:
    with pytest.raises(DatasetError, match=r"recipe folder has no variant '2': choose one of \[''\]"):
        scan.run(scan.Options("mine", variant="2"))


def test_a_clips_sound_is_that_of_the_original_of_the_same_name(videos: Path) -> None:
    for name in ("test/cat/a.mp4", "test/cat/b.mp4"):
        write_video(videos / name, [0, 255])
    original = touch(videos / "sound/deeper/a.avi")
    scan.run(OPTIONS)
    found = rows()
    assert found["test/cat/a"]["path"] == "test/cat/a.mp4"
    assert found["test/cat/a"]["sound_path"] == "sound/deeper/a.avi"
    assert found["test/cat/a"]["sound_sha256"] == hashlib.sha256(original.read_bytes()).hexdigest()
    assert found["test/cat/b"]["sound_path"] is None and found["test/cat/b"]["sound_sha256"] is None


def test_where_names_repeat_the_folder_decides_whose_sound_it_is(videos: Path) -> None:
    for name in ("test/cat/1.mp4", "test/dog/1.mp4", "test/cow/1.mp4"):
        write_video(videos / name, [0, 255])
    touch(videos / "sound/cat/1.mp4")
    touch(videos / "sound/dog/1.mkv")
    scan.run(OPTIONS)
    assert {clip_id: row["sound_path"] for clip_id, row in rows().items()} == {
        "test/cat/1": "sound/cat/1.mp4",
        "test/dog/1": "sound/dog/1.mkv",
        "test/cow/1": None,
    }
    touch(videos / "sound/cat/1.avi")
    with pytest.raises(
        DatasetError, match=r"sound/cat/1\.avi and sound/cat/1\.mp4 would both be the sound of test/cat/1\.mp4"
    ):
        scan.run(OPTIONS)


def test_the_demo_is_laid_out_like_any_folder(videos: Path) -> None:
    for clip in demo.all_clips()[::40]:
        touch(videos / clip.path)
    labels = datasets.build("demo").labels("demo", videos)
    assert tuple(labels) == demo.LABELS
    assert list(datasets.build("demo").rows(videos, labels)) == list(folder.rows(videos, labels))


def test_scan_finds_what_adapting_will_read_and_says_by_which_reader(videos: Path) -> None:
    """A cut without encoding, of whose packets a player hides some; AVI; a width that decord opens and cannot decode; a
    shape too long.
    """
    long = numbered.write(Path("long.mp4"), range(300), "-c:v", "libx264", "-g", "250", "-bf", "3", fps=30)
    made = {
        "cut.mp4": ("-ss", "5", "-t", "2", "-i", long, "-c", "copy"),
        "b.avi": ("-i", long, "-c:v", "mpeg4", "-bf", "2"),
        "narrow.mp4": ("-i", long, "-vf", "scale=48:32", "-c:v", "libx264"),
        "fine.mp4": ("-i", long, "-c", "copy"),
    }
    (videos / "test/cat").mkdir(parents=True)
    for name, arguments in made.items():
        numbered.ffmpeg(*arguments, videos / "test/cat" / name)
    numbered.ffmpeg(
        "-f", "lavfi", "-i", "color=size=4000x64:rate=2:duration=1", "-c:v", "libx264", videos / "test/cat/wide.mp4"
    )
    assert scan.run(OPTIONS)["n_failed"] == 1
    found = {clip_id.split("/")[-1]: row for clip_id, row in rows().items()}
    assert {name: row["reader"] for name, row in found.items()} == {
        "cut": "pyav",
        "b": "pyav",
        "narrow": "pyav",
        "fine": "decord",
        "wide": None,
    }
    assert found["cut"]["n_frames"] == len(numbered.played(videos / "test/cat/cut.mp4"))
    assert found["wide"]["error"] == "4000 x 64 pixels: one side is more than 32 times the other: crop the video"
    for name, row in found.items():
        options = VideoOptions(frames=4, views=1, resize=32, size=32)
        clip = Clip(name, videos / str(row["path"]), "test", 0, "ok")
        if row["status"] == "ok":
            assert count_frames(clip.path) == row["n_frames"] and read_clip(clip, options, "clean", 0).centre.shape == (
                1,
                3,
                4,
                32,
                32,
            )
        else:
            with pytest.raises(VideoError, match=f"{name}.mp4: {row['error']}"):
                read_clip(clip, options, "clean", 0)


def test_a_timeout_that_is_no_time_is_one_reason(videos: Path) -> None:
    write_video(videos / "test/cat/a.mp4", [0, 255])
    with pytest.raises(EarshotError, match="decode_timeout_s is -1: give seconds, more than 0"):
        scan.run(scan.Options("mine", decode_timeout_s=-1))


def test_ctrl_c_ends_a_scan_whose_file_hangs(videos: Path) -> None:
    for i in range(300):
        write_video(videos / f"test/cat/{i}.mp4", [0, 255]) if i == 0 else (videos / f"test/cat/{i}.mp4").symlink_to(
            "0.mp4"
        )
    path = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    with subprocess.Popen(
        [sys.executable, "-m", "pipeline.scan", "--dataset", "mine"], stderr=subprocess.PIPE, env=path
    ) as run:
        try:
            assert wait_for(lambda: len(set(filter(watches_its_parent, children(run.pid)))) == 2)
            for pid in children(run.pid):  # not before they have started: who starts a process waits for its start
                os.kill(pid, signal.SIGSTOP)
            time.sleep(0.5)
            assert run.poll() is None
            run.send_signal(signal.SIGINT)
            _, said = run.communicate(timeout=60)
            assert run.returncode == command.INTERRUPTED
            assert said.decode().splitlines()[-1] == "pipeline.scan: interrupted"
        finally:
            run.kill()

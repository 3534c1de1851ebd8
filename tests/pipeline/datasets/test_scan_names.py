"""scan on names and folders of any kind: links, loops, names that no table can hold, files that cannot be read."""

import logging
import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from adapt import command
from adapt.errors import DatasetError, VideoError
from adapt.tables import cache, parquet
from adapt.tables import cache as adapt_cache
from adapt.video.clips import VideoOptions, stream
from pipeline import datasets, decode, query, scan
from pipeline.datasets import LOOP, NO_FILE, NO_VIDEO, NOWHERE, LeftOut
from tests.pipeline.datasets.layouts import clips, enter_project, film, put, run, splits

NFC, NFD = "caf\u00e9", "cafe\u0301"
# As they may come from cameras, phones, downloads and scripts; none is of another kind for a file system than `a.mp4`.
HARMLESS = (
    "-rf.mp4", "%s%03d.mp4", "quo'te\".mp4", "\\x41.mp4", " blank .mp4", "$(x);`y`.mp4", f"{NFC}.mp4", f"{NFD}.mp4",
    "a:b.mp4", "https:x.mp4", "concat:a|b.mp4", "\U0001f600.mp4", "star*?[0-9].mp4", "~.mp4", "CON.mp4", "a,b.mp4",
    "\u202ertl.mp4",
)  # fmt: skip
ESCAPED = {
    b"caf\xe9.mp4": r"caf\xe9", b"a\nb.mp4": r"a\x0ab", b"c\rd.mp4": r"c\x0dd", b"tab\t.mp4": r"tab\x09",
    b"esc\x1b[31m.mp4": r"esc\x1b[31m", b"u\xc2\x85v.mp4": r"u\xc2\x85v", b"p\xe2\x80\xa8q.mp4": r"p\xe2\x80\xa8q",
    b"back\\slash\n.mp4": r"back\\slash\x0a",
}  # fmt: skip


@pytest.fixture
def videos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """data/videos/mine of a project of its own, with a clip of class cat; the working directory is the project's
    root.
    """
    root = enter_project(tmp_path, monkeypatch) / "mine"
    put(root, {"test/cat/good.mp4": film()})
    return root


def put_bytes(folder: Path, name: bytes) -> None:
    Path(folder, os.fsdecode(name)).write_bytes(film())


def scanned(videos: Path) -> dict[str, int]:
    """What is not 0 of the counts that `scan` gives on trouble."""
    assert videos.is_dir()
    return {
        name: n for name, n in run("mine", "folder").items() if n and name in ("n_missing", "n_left_out", "n_failed")
    }


def test_class_folders_deeper_folders_splits_and_files_may_be_links(videos: Path, tmp_path: Path) -> None:
    away = tmp_path / "another disk"
    put(away, {"dogs/1.mp4": film(), "dogs/deep/2.mp4": film(), "train/cow/3.mp4": film(), "4.mp4": film()})
    (videos / "test/dog").symlink_to(away / "dogs")
    (videos / "test/cat/more").symlink_to(away / "dogs/deep")
    (videos / "train").symlink_to(away / "train")
    (videos / "test/cat/4.mp4").symlink_to(away / "4.mp4")
    assert scanned(videos) == {}
    assert {clip_id: row["label"] for clip_id, row in clips("mine").items()} == {
        "test/cat/good": "cat", "test/cat/more/2": "cat", "test/cat/4": "cat", "test/dog/1": "dog",
        "test/dog/deep/2": "dog", "train/cow/3": "cow",
    }  # fmt: skip


def test_the_data_sets_own_folder_may_be_a_link(videos: Path, tmp_path: Path) -> None:
    shutil.move(videos, tmp_path / "another disk")
    videos.symlink_to(tmp_path / "another disk")
    assert scanned(videos) == {}
    assert list(clips("mine")) == ["test/cat/good"]


def test_a_link_to_a_folder_that_it_lies_in_is_cut_counted_and_named(
    videos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (videos / "test/cat/up").symlink_to("..")
    (videos / "test/cat/root").symlink_to("../..")
    (videos / "test/self").symlink_to(".")
    put(videos, {"test/dog/1.mp4": film()})
    (videos / "test/dog/cats").symlink_to("../cat")
    (videos / "test/cat/dogs").symlink_to("../dog")
    with caplog.at_level(logging.INFO):
        assert scanned(videos) == {"n_left_out": 7}  # up, root and the pair's second round, each on two ways; self
    assert set(clips("mine")) == {"test/cat/good", "test/cat/dogs/1", "test/dog/1", "test/dog/cats/good"}
    assert cache.read_labels("mine") == ["cat", "dog"]  # self is no class
    assert f"mine: 7 left out ({LOOP}): test/cat/dogs/cats, test/cat/root, test/cat/up" in caplog.text


def test_a_link_to_nowhere_is_counted_and_named_on_every_level(videos: Path, caplog: pytest.LogCaptureFixture) -> None:
    (videos / "test/cat/gone.mp4").symlink_to("/nowhere/gone.mp4")
    (videos / "test/cat/itself.mp4").symlink_to("itself.mp4")
    (videos / "test/dog").symlink_to("/nowhere/dog")
    (videos / "train").symlink_to("/nowhere/train")
    assert scanned(videos) == {"n_missing": 2, "n_left_out": 2}
    assert (
        "mine: 1 of 3 videos found; missing: test/cat/gone.mp4 (a link to nowhere), test/cat/itself.mp4 (a link to "
        "nowhere)" in caplog.text
    )
    assert f"mine: 2 left out ({NOWHERE}): train, test/dog" in caplog.text
    assert cache.read_labels("mine") == ["cat"]


def test_pipes_sockets_and_devices_named_like_videos_are_failed_rows(
    videos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    os.mkfifo(videos / "test/cat/pipe.mp4")  # whoever opens it waits for a writer
    (videos / "test/cat/zero.mp4").symlink_to("/dev/zero")  # it has no end
    os.mkfifo(videos / "test/cat/pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        folder = os.open(videos / "test/cat", os.O_RDONLY)
        listening.bind(f"/proc/self/fd/{folder}/socket.mp4")  # the path of a socket has at most 108 characters
        os.close(folder)
        assert scanned(videos) == {"n_failed": 3, "n_left_out": 1}
    assert f"mine: 1 left out ({NO_FILE}): test/cat/pipe" in caplog.text
    found = {name: clips("mine")[f"test/cat/{name}"] for name in ("pipe", "zero", "socket")}
    assert {name: row["error"] for name, row in found.items()} == {
        "pipe": "a pipe, not a file", "zero": "a device, not a file", "socket": "a socket, not a file"
    }  # fmt: skip
    counts = decode.run(decode.Options("mine", "yamnet", max_failed_share=1.0))
    assert (counts["n_failed"], counts["n_no_track"]) == (3, 1)


def test_a_folder_that_cannot_be_listed_is_left_out_and_named(
    videos: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(videos, {"test/dog/deep/1.mp4": film(), "test/dog/2.mp4": film()})
    listdir = os.listdir

    def denied(path: str | Path) -> list[str]:  # chmod would not keep root from it
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied", path)
        return listdir(path)

    monkeypatch.setattr(os, "listdir", denied)
    assert scanned(videos) == {"n_left_out": 1}
    assert "mine: 1 left out (cannot be opened: Permission denied): test/dog/deep" in caplog.text
    assert set(clips("mine")) == {"test/cat/good", "test/dog/2"}


def test_names_that_a_table_can_hold_are_clips_and_heard_like_any_other(videos: Path) -> None:
    put(videos, {f"test/cat/{name}": film() for name in HARMLESS})
    assert scanned(videos) == {}
    assert {row["path"] for row in clips("mine").values()} == {
        "test/cat/good.mp4",
        *(f"test/cat/{name}" for name in HARMLESS),
    }
    assert decode.run(decode.Options("mine", "yamnet"))["n_no_track"] == 1 + len(HARMLESS)


def test_names_that_no_table_can_hold_are_failed_rows_by_which_the_file_can_be_found(
    videos: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ESCAPED:
        put_bytes(videos / "test/cat", name)
    assert scanned(videos) == {"n_failed": len(ESCAPED)}
    failed = {clip_id: row for clip_id, row in clips("mine").items() if row["status"] == "failed"}
    assert set(failed) == {f"test/cat/{name}" for name in ESCAPED.values()}
    for clip_id, row in failed.items():
        assert (row["path"], row["content_sha256"], row["n_frames"]) == (f"{clip_id}.mp4", None, None)
        found = subprocess.run(["bash", "-c", f"test -f $'{videos}/{row['path']}'"], check=False)
        assert found.returncode == 0, row["path"]
    assert r"test/cat/caf\xe9.mp4: the name holds \xe9, a byte that is no UTF-8: rename it" in caplog.text
    query.main(["mine", "SELECT clip_id, error FROM clips WHERE status = 'failed'", "--csv"])
    assert len(capsys.readouterr().out.splitlines()) == 1 + len(ESCAPED)


def test_such_a_folder_makes_its_clips_failed_rows_as_well(videos: Path) -> None:
    folder = videos / "test/cat" / os.fsdecode(b"\xe9t\xe9")
    folder.mkdir()
    put_bytes(folder, b"1.mp4")
    assert scanned(videos) == {"n_failed": 1}
    assert clips("mine")[r"test/cat/\xe9t\xe9/1"]["path"] == r"test/cat/\xe9t\xe9/1.mp4"


def test_two_names_that_would_be_written_alike_are_one_error(videos: Path) -> None:
    put_bytes(videos / "test/cat", b"caf\xe9.mp4")
    put_bytes(videos / "test/cat", rb"caf\xe9.mp4")
    with pytest.raises(
        DatasetError,
        match=r"test/cat/caf\\xe9\.mp4 and test/cat/caf\\xe9\.mp4 would both be clip 'test/cat/caf\\\\xe9': rename one",
    ):
        scan.run(scan.Options("mine"))


def test_a_file_that_cannot_be_read_is_a_failed_row_for_picture_and_sound(videos: Path) -> None:
    (videos / "test/cat/broken.mp4").symlink_to(
        "/proc/self/mem"
    )  # a file whose first byte is an I/O error, for root too
    assert scanned(videos) == {"n_failed": 1}
    row = clips("mine")["test/cat/broken"]
    assert (row["status"], row["content_sha256"], row["error"]) == (
        "failed",
        None,
        "the file cannot be read (Input/output error)",
    )
    counts = decode.run(decode.Options("mine", "yamnet"))
    assert (counts["n_failed"], counts["n_no_track"]) == (1, 1)
    audio = {row["clip_id"]: row for row in parquet.read_table(Path("cache/mine/audio"), "audio").to_pylist()}
    assert (
        audio["test/cat/broken"]["error"]
        == "scan could not read test/cat/broken.mp4: the file cannot be read (Input/output error)"
    )
    assert decode.run(decode.Options("mine", "yamnet"))["n_kept"] == 2


def test_an_original_without_readable_sound_fails_the_sound_alone(
    videos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(videos, {"test/cat/odd.mp4": film()})
    (videos / "sound").mkdir()
    (videos / "sound/good.mp4").symlink_to("/nowhere/good.mp4")
    folder = videos / "sound" / os.fsdecode(b"\xe9")
    folder.mkdir()
    put_bytes(folder, b"odd.mp4")
    assert scanned(videos) == {}
    found = clips("mine")
    assert [found[f"test/cat/{name}"]["status"] for name in ("good", "odd")] == ["ok", "ok"]
    assert (found["test/cat/odd"]["sound_path"], found["test/cat/odd"]["sound_sha256"]) == (r"sound/\xe9/odd.mp4", None)
    assert found["test/cat/good"]["error"] == "of its sound, the file cannot be read (No such file or directory)"
    assert "test/cat/good.mp4: of its sound, the file cannot be read" in caplog.text
    assert decode.run(decode.Options("mine", "yamnet", max_failed_share=1.0))["n_failed"] == 2
    (videos / "sound/good.mp4").unlink()
    (videos / "sound/good.mp4").symlink_to("/proc/self/mem")
    scanned(videos)
    assert (
        decode.run(decode.Options("mine", "yamnet", max_failed_share=1.0))["n_made"] == 1
    )  # for another reason than before
    said = {row["clip_id"]: row["error"] for row in parquet.read_table(Path("cache/mine/audio"), "audio").to_pylist()}
    assert (
        said["test/cat/good"]
        == "scan could not read sound/good.mp4: of its sound, the file cannot be read (Input/output error)"
    )


@pytest.mark.parametrize(
    "name", [b"a\nb", b"a\x0bb", b"a\x1cb", b"a\xc2\x85b", b"a\xe2\x80\xa8b", b" a", b"a ", b"\xc2\xa0", b"caf\xe9"]
)
def test_a_class_folder_whose_name_no_class_can_have_is_refused_in_one_line(
    videos: Path, capfd: pytest.CaptureFixture[str], name: bytes
) -> None:
    (videos / os.fsdecode(b"test/" + name)).mkdir()
    with pytest.raises(SystemExit, match="1"):
        command.main(scan.Options, scan.run, prog="pipeline.scan", args=["--dataset", "mine"])
    out, err = capfd.readouterr()
    assert out == "" and err.endswith("\n") and len(err.splitlines()) == 1
    assert err.startswith("pipeline.scan: data/videos/mine has ")
    assert not Path("cache/mine/labels.txt").exists()


def test_one_class_in_two_spellings_of_unicode_is_refused_and_both_are_shown(videos: Path) -> None:
    put(videos, {f"train/{NFC}/1.mp4": film(), f"test/{NFD}/1.mp4": film()})
    with pytest.raises(
        DatasetError,
        match=r"mine has the classes 'cafe\\u0301' and 'caf\\xe9', one name in two spellings of Unicode: give both",
    ):
        scan.run(scan.Options("mine"))
    shutil.rmtree(videos / f"train/{NFC}")
    labels = Path("data/labels")
    labels.unlink()  # a link to the project's own
    put(Path(), {"data/labels/mine.txt": f"cat\n{NFC}\n"})
    with pytest.raises(
        DatasetError,
        match=r"class folder 'cafe\\u0301' is 'caf\\xe9' in data/labels/mine\.txt, one name in two spellings",
    ):
        scan.run(scan.Options("mine"))


def test_a_recipe_whose_own_classes_no_list_can_hold_is_refused(videos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.build("folder"), "labels", lambda dataset, root: ["cat", "a\u2028b"])
    with pytest.raises(
        DatasetError,
        match=r"the class list of mine has the class 'a\\xe2\\x80\\xa8b', whose name holds .*, a line break: rename it",
    ):
        scan.run(scan.Options("mine"))


def test_the_files_of_a_list_may_be_links_and_have_any_name_that_a_line_holds(
    videos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    labels = Path("data/labels")
    labels.unlink()
    put(Path(), {"data/labels/mine.txt": "cat\n"})
    names = ["u\x85v.mp4", "p\u2028q.mp4", "v\x0bw.mp4", "-a %d.mp4", f"{NFC}.mp4"]
    put(videos, {name: film() for name in names})
    (videos / "link.mp4").symlink_to("test/cat/good.mp4")
    (videos / "gone.mp4").symlink_to("/nowhere/gone.mp4")
    names += ["link.mp4", "gone.mp4", f"{NFD}.mp4", f"{'long' * 100}.mp4", "test"]
    put(videos, {"test.txt": "".join(f"{name} 8 0\r\n" for name in names)})
    counts = run("mine", "listfile")
    assert (counts["n_clips"], counts["n_failed"], counts["n_missing"]) == (6, 3, 4)
    assert {clip_id for clip_id, row in clips("mine").items() if row["status"] == "failed"} == {
        r"u\xc2\x85v",
        r"p\xe2\x80\xa8q",
        r"v\x0bw",
    }
    assert f"missing: {NFD}.mp4, gone.mp4 (a link to nowhere), {'long' * 100}.mp4, test (no file)" in caplog.text


def test_the_adapter_never_takes_another_file_for_one_whose_name_is_escaped(videos: Path) -> None:
    labels = Path("data/labels")
    labels.unlink()
    put(Path(), {"data/labels/mine.txt": "cat\n"})
    put(
        videos, {"u\x85v.mp4": film(), r"u\xc2\x85v.mp4": film(), "test.txt": "test/cat/good.mp4 8 0\nu\x85v.mp4 8 0\n"}
    )
    assert run("mine", "listfile")["n_failed"] == 1
    read = stream(adapt_cache.read_clips("mine", "test"), VideoOptions(4, 1, 32, 32), "clean", 0, workers=1)
    said = {clip.clip_id: str(frames) for clip, frames in read if isinstance(frames, VideoError)}
    assert list(said) == [r"u\xc2\x85v"]
    assert (
        r"u\xc2\x85v.mp4: scan could not read it: the name holds \xc2\x85, a control character" in said[r"u\xc2\x85v"]
    )


def test_what_a_recipe_that_looks_for_videos_cannot_follow_is_counted(
    videos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = videos.parent / "ucf101"
    names = Path("data/labels/ucf101.txt").read_text().split()
    put(root, {
        "UCF-101/Archery/v_Archery_g08_c01.avi": film(),
        "UCF-101/thumbs.db": "",
        "ucfTrainTestlist/testlist01.txt": "",
        "ucfTrainTestlist/trainlist01.txt": "Archery/v_Archery_g08_c01.avi 3\n",
        "ucfTrainTestlist/classInd.txt": "".join(f"{i} {name}\n" for i, name in enumerate(names, 1)),
    })  # fmt: skip
    (root / "UCF-101/Archery/up").symlink_to("..")
    (root / "UCF-101/Basketball").symlink_to("/nowhere")
    counts = run("ucf101")
    assert (counts["n_clips"], counts["n_missing"], counts["n_left_out"]) == (1, 0, 2)
    assert f"ucf101: 1 left out ({LOOP}): UCF-101/Archery/up" in caplog.text
    assert splits("ucf101") == {"UCF-101/Archery/v_Archery_g08_c01": "train"}


def test_the_walk_gives_paths_in_order_and_passes_hidden_and_absent_folders_over(videos: Path) -> None:
    put(
        videos,
        {
            "b/2.mp4": "",
            "b/1.mp4": "",
            "b.mp4": "",
            "a/c/3.MKV": "",
            "a/x.txt": "",
            "a/.h/4.mp4": "",
            "a/.5.mp4": "",
            "v.mp4/6.mp4": "",
        },
    )
    assert list(datasets.walk(videos, "b", "a", "absent", "v.mp4")) == [
        "b/1.mp4", "b/2.mp4", "a/c/3.MKV", LeftOut("a/x.txt", NO_VIDEO), "v.mp4/6.mp4"]  # fmt: skip
    shutil.rmtree(videos / "test")
    assert [path for path in datasets.walk(videos, ".") if isinstance(path, str)] == [
        "a/c/3.MKV",
        "b/1.mp4",
        "b/2.mp4",
        "b.mp4",
        "v.mp4/6.mp4",
    ]

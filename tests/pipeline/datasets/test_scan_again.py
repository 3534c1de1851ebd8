"""scan of a data set that has been scanned before: unchanged files are neither hashed nor decoded again, changed ones
always are.
"""

import hashlib
import os
import time
from pathlib import Path

import pytest

from pipeline import scan, seen
from pipeline.seen import SETTLED_S
from tests.pipeline.datasets.layouts import clips, enter_project, film, put


@pytest.fixture
def videos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three videos of data/videos/mine that have lain there for a while, by the clock that `scan` reads."""
    root = enter_project(tmp_path, monkeypatch) / "mine"
    put(root, {f"test/cat/{i}.mp4": film() for i in range(3)})
    now = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: now() + round(2 * SETTLED_S * 1e9))
    return root


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are hashed or probed, as it happens."""
    done: list[str] = []
    digest, probe = hashlib.file_digest, scan.probe

    def hashed(file: object, name: str) -> object:
        done.append("hash " + Path(f"/proc/self/fd/{file.fileno()}").readlink().name)  # type: ignore[attr-defined]
        return digest(file, name)  # type: ignore[arg-type]

    def probed(path: Path, decoders: object) -> dict[str, object]:
        done.append(f"probe {path.name}")
        return probe(path, decoders)  # type: ignore[arg-type]

    monkeypatch.setattr(hashlib, "file_digest", hashed)
    monkeypatch.setattr(scan, "probe", probed)
    return done


def scanned(work: list[str], **changes: object) -> list[str]:
    """What one scan hashes and probes."""
    work.clear()
    scan.run(scan.Options("mine", jobs=1, **changes))  # type: ignore[arg-type]
    return sorted(work)


def every(what: str, *numbers: int) -> list[str]:
    return [f"{what} {i}.mp4" for i in numbers]


def test_a_second_scan_reads_no_unchanged_file_and_writes_the_same_bytes(videos: Path, work: list[str]) -> None:
    assert scanned(work) == every("hash", 0, 1, 2) + every("probe", 0, 1, 2)
    first = Path("cache/mine/clips.parquet").read_bytes()
    assert scanned(work) == []
    assert Path("cache/mine/clips.parquet").read_bytes() == first
    assert scanned(work) == []  # what was not looked at is remembered too


def test_rehash_reads_every_file_again(videos: Path, work: list[str]) -> None:
    scanned(work)
    assert scanned(work, rehash=True) == every("hash", 0, 1, 2) + every("probe", 0, 1, 2)
    assert scanned(work) == []


def test_a_change_under_the_old_size_and_time_is_seen_by_inode_or_ctime(videos: Path, work: list[str]) -> None:
    scanned(work)
    for i, content in ((0, film()[:-1] + b"x"), (1, film()[:-1] + b"y")):
        path = videos / f"test/cat/{i}.mp4"
        before = path.stat()
        if i:  # another file takes its place
            (fresh := path.with_name("fresh")).write_bytes(content)
            fresh.replace(path)
        else:  # written in place
            path.write_bytes(content)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert scanned(work) == every("hash", 0, 1) + every("probe", 0, 1)
    assert clips("mine")["test/cat/0"]["content_sha256"] == hashlib.sha256(film()[:-1] + b"x").hexdigest()


def test_a_file_that_has_just_changed_is_read_again_until_it_has_settled(
    videos: Path, work: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    later = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: later() - round(2 * SETTLED_S * 1e9))  # the clock as it is
    assert scanned(work) == scanned(work) == every("hash", 0, 1, 2) + every("probe", 0, 1, 2)
    monkeypatch.setattr(time, "time_ns", later)
    assert (len(scanned(work)), scanned(work)) == (6, [])


def test_what_another_decoder_found_is_found_again_and_hashes_are_kept(
    videos: Path, work: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    scanned(work)
    monkeypatch.setattr(seen, "_version", lambda name: "0.0")
    assert scanned(work) == every("probe", 0, 1, 2)


def test_a_file_whose_picture_cannot_be_read_is_tried_again(videos: Path, work: list[str]) -> None:
    (videos / "test/cat/1.mp4").write_bytes(b"no video")
    scanned(work)
    assert scanned(work) == every("probe", 1)


def test_a_memo_that_is_damaged_or_of_another_form_is_as_good_as_none(videos: Path, work: list[str]) -> None:
    scanned(work)
    for content in (b"", b"PAR1 no Parquet", (Path("cache/mine") / "clips.parquet").read_bytes()):
        (Path("cache/mine") / seen.NAME).write_bytes(content)
        assert scanned(work) == every("hash", 0, 1, 2) + every("probe", 0, 1, 2)


def test_a_memo_in_which_any_bit_has_flipped_is_as_good_as_none(videos: Path, work: list[str]) -> None:
    scanned(work)
    path = Path("cache/mine") / seen.NAME
    whole, state = path.read_bytes(), seen.State.of((videos / "test/cat/1.mp4").stat())
    memory = seen.Memory(path)
    for place in range(0, 8 * len(whole), 61):  # in every part of the file, and in turn every bit of a byte
        data = bytearray(whole)
        data[place // 8] ^= 1 << place % 8
        path.write_bytes(data)
        memory.read()
        assert memory.get("test/cat/1.mp4", state) is None
    path.write_bytes(whole)
    memory.read()
    assert memory.get("test/cat/1.mp4", state) is not None

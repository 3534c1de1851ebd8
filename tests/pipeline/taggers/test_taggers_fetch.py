"""Downloading published checkpoints: whole, resumed, checked, or one clear line.

The server is ours, on this machine.
"""

import dataclasses
import hashlib
import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from adapt import command
from adapt.errors import TaggerError
from pipeline.taggers import _fetch, panns
from pipeline.taggers._panns_networks import VARIANTS

BYTES = bytes(range(256)) * 5000  # 1.28 MB: more than one block
FILE = "Cnn6_mAP=0.343.pth"
MD5 = hashlib.md5(BYTES, usedforsecurity=False).hexdigest()
SHA256 = hashlib.sha256(BYTES).hexdigest()


class Zenodo(ThreadingHTTPServer):
    """Serves BYTES as FILE, and the record that states their md5; `ranges` were asked for."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.ranges: list[str | None] = []
        self.cut_after: int | None = None  # bytes of a body, then the connection is closed
        self.knows_ranges = True
        self.stated = {"key": FILE, "checksum": f"md5:{MD5}"}


class Handler(BaseHTTPRequestHandler):
    server: Zenodo

    def do_GET(self) -> None:
        if self.path == "/api/records/3987831":
            self.answer(200, json.dumps({"files": [self.server.stated]}).encode())
        elif self.path == "/records/3987831/files/Cnn6_mAP%3D0.343.pth?download=1":
            asked = self.headers["Range"]
            self.server.ranges.append(asked)
            start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and self.server.knows_ranges else 0
            if start >= len(BYTES):
                self.send_error(416)
            else:
                self.answer(206 if start else 200, BYTES[start:])
        else:
            self.send_error(404)

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: self.server.cut_after])

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def zenodo(monkeypatch: pytest.MonkeyPatch) -> Iterator[Zenodo]:
    with Zenodo() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setattr(_fetch, "ZENODO", f"http://127.0.0.1:{server.server_port}")
        yield server
        server.shutdown()
        thread.join()


def fetch(path: Path, md5: str = MD5) -> str:
    return _fetch.download(_fetch.Published("3987831", FILE, md5), path)


def test_a_whole_file_comes_and_nothing_else_is_left(zenodo: Zenodo, tmp_path: Path) -> None:
    assert fetch(tmp_path / "new/Cnn6.pth") == SHA256
    assert (tmp_path / "new/Cnn6.pth").read_bytes() == BYTES
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["Cnn6.pth"]


def test_a_file_that_is_there_is_not_downloaded_again(zenodo: Zenodo, tmp_path: Path) -> None:
    (tmp_path / "Cnn6.pth").write_bytes(BYTES)
    assert fetch(tmp_path / "Cnn6.pth") == SHA256
    assert zenodo.ranges == []


def test_a_cut_download_goes_on_where_it_was_cut(zenodo: Zenodo, tmp_path: Path) -> None:
    path = tmp_path / "Cnn6.pth"
    zenodo.cut_after = 400_000
    with pytest.raises(
        TaggerError,
        match=r"the download of Cnn6_mAP=0.343.pth was cut \(.*\): run the same command again, it goes on from there",
    ):
        fetch(path)
    assert not path.exists() and (tmp_path / "Cnn6.pth.part").stat().st_size == 400_000
    zenodo.cut_after = None
    assert fetch(path) == SHA256
    assert zenodo.ranges == [None, "bytes=400000-"]
    assert path.read_bytes() == BYTES and not (tmp_path / "Cnn6.pth.part").exists()


def test_a_server_that_does_not_know_ranges_sends_all_of_it_again(zenodo: Zenodo, tmp_path: Path) -> None:
    (tmp_path / "Cnn6.pth.part").write_bytes(BYTES[:1000])
    zenodo.knows_ranges = False
    assert fetch(tmp_path / "Cnn6.pth") == SHA256
    assert (tmp_path / "Cnn6.pth").read_bytes() == BYTES


def test_a_download_that_was_whole_but_not_renamed_is_only_checked(zenodo: Zenodo, tmp_path: Path) -> None:
    (tmp_path / "Cnn6.pth.part").write_bytes(BYTES)
    assert fetch(tmp_path / "Cnn6.pth") == SHA256


@pytest.mark.parametrize("there", [b"", b"another file, longer than a range"])
def test_bytes_with_another_md5_are_not_kept(there: bytes, zenodo: Zenodo, tmp_path: Path) -> None:
    if there:
        (tmp_path / "Cnn6.pth.part").write_bytes(there)
    with pytest.raises(TaggerError, match="has md5 [0-9a-f]{32}, but 0{32} is published; it was not kept"):
        fetch(tmp_path / "Cnn6.pth", md5="0" * 32)
    assert list(tmp_path.iterdir()) == []


def test_no_connection_is_one_line_that_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    monkeypatch.setattr(_fetch, "ZENODO", f"http://127.0.0.1:{port}")  # closed by now
    with pytest.raises(
        TaggerError,
        match=r"^no connection to http://127.0.0.1:\d+ \(.*refused.*\): download [^\n]* copy it to [^\n]*Cnn6.pth$",
    ):
        fetch(tmp_path / "Cnn6.pth")


def test_a_file_that_the_record_has_not_is_one_line(zenodo: Zenodo, tmp_path: Path) -> None:
    with pytest.raises(TaggerError, match=r"^http://[^\n]*Cnn9.pth[^\n]* answered 404 Not Found: download [^\n]*$"):
        _fetch.download(_fetch.Published("3987831", "Cnn9.pth", MD5), tmp_path / "Cnn9.pth")


def test_where_we_know_no_md5_the_record_is_asked_for_it(zenodo: Zenodo, tmp_path: Path) -> None:
    assert fetch(tmp_path / "Cnn6.pth", md5="") == SHA256
    zenodo.stated["checksum"] = "md5:" + "0" * 32
    with pytest.raises(TaggerError, match="but 0{32} is published"):
        fetch(tmp_path / "other.pth", md5="")


@pytest.mark.parametrize(
    "stated", [{"key": "another.pth", "checksum": "md5:00"}, {"key": FILE, "checksum": "crc:00"}, {"name": FILE}]
)
def test_bytes_that_cannot_be_checked_are_not_downloaded(
    stated: dict[str, str], zenodo: Zenodo, tmp_path: Path
) -> None:
    zenodo.stated = stated
    with pytest.raises(
        TaggerError, match="download Cnn6_mAP=0.343.pth by hand and check it|download it by hand and check it"
    ):
        fetch(tmp_path / "Cnn6.pth", md5="")
    assert zenodo.ranges == [] and list(tmp_path.iterdir()) == []


def test_the_command_prints_the_path_and_the_sha256(
    zenodo: Zenodo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(VARIANTS, "Cnn6", dataclasses.replace(VARIANTS["Cnn6"], md5=MD5))
    command.main(
        panns.Fetch, panns.fetch, prog="pipeline.taggers.panns", args=["fetch", "Cnn6", "--out", str(tmp_path)]
    )
    assert json.loads(capsys.readouterr().out) == {
        "checkpoint": f"{tmp_path}/Cnn6.pth",
        "n_bytes": len(BYTES),
        "sha256": SHA256,
    }


def test_the_command_offers_every_variant() -> None:
    assert panns.Fetch.__annotations__["name"].__args__[0].__args__ == tuple(VARIANTS)


def test_only_mobilenet_v2_has_no_md5_of_ours() -> None:
    assert [name for name, variant in VARIANTS.items() if len(variant.md5) != 32] == ["MobileNetV2"]

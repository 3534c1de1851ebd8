"""A QuickTime track whose media lie in another file, by a data reference (`dref`): that file is not read."""

import struct
import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest

from adapt.video.decoding import DecodeError, Decoders
from tests.sounds import PICTURE, encode, hear

PARENTS = (b"moov", b"trak", b"mdia", b"minf", b"dinf")
N_SAMPLES = 16_000


def alias(path: Path) -> bytes:
    """The entry of a `dref` that names `path` in Apple's alias record: QuickTime File Format, and what FFmpeg reads of
    it (mov_read_dref): a name, how many folders up and down, and the absolute path as a field of type 2.
    """
    name, full = path.name.encode(), str(path).encode()
    body = bytes(10 + 1 + 27 + 12) + bytes([len(name)]) + name.ljust(63, b"\0") + bytes(16)
    body += struct.pack(">HH", 1, 1) + bytes(16)
    body += struct.pack(">HH", 2, len(full)) + full + bytes(len(full) % 2) + struct.pack(">HH", 0xFFFF, 0)
    return struct.pack(">I4sI", 12 + max(150, len(body)), b"alis", 0) + body.ljust(150, b"\0")


def pointed(boxes: bytes, handler: bytes, entry: bytes) -> bytes:
    """The boxes of a file, the `dref` of each track of that kind replaced.  `moov` must come after the media, whose
    places stay as they are.
    """
    out, start = b"", 0
    while start < len(boxes):
        size, kind = struct.unpack_from(">I4s", boxes, start)
        box, start = boxes[start + 8 : start + size], start + size
        if kind in PARENTS and not (kind == b"trak" and handler not in box):
            box = pointed(box, handler, entry)
        elif kind == b"dref":
            box = struct.pack(">II", 0, 1) + entry
        out += struct.pack(">I4s", 8 + len(box), kind) + box
    return out


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A film with a picture and a sine of 440 Hz, uncompressed."""
    sine = ("-f", "lavfi", "-i", "sine=frequency=440:duration=1:sample_rate=16000", "-c:a", "pcm_s16le")
    return encode(tmp_path_factory.mktemp("film") / "film.mov", *PICTURE[:4], *sine, *PICTURE[4:])


def follow(path: Path, track: str, form: str) -> bytes:
    """A track as FFmpeg gives it where it is told to follow references."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-loglevel", "error", "-enable_drefs", "1"]
    command += ["-use_absolute_path", "1", "-i", f"file:{path}", "-map", track, "-f", form, "-"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True, timeout=60)
    return done.stdout


def test_sound_that_lies_in_another_file_is_not_read(film: Path, tmp_path: Path) -> None:
    secret = np.random.default_rng(0).integers(-30_000, 30_000, 20 * N_SAMPLES).astype("<i2")
    secret.tofile(tmp_path / "secret.raw")
    (path := tmp_path / "pointing.mov").write_bytes(pointed(film.read_bytes(), b"soun", alias(tmp_path / "secret.raw")))
    followed = np.frombuffer(follow(path, "0:a", "s16le"), "<i2")  # so the file is what it should be
    assert np.isin(followed[:1000], secret).all()
    assert np.abs(followed).max() > 20_000
    samples, heard = hear(path)
    assert samples.size == 0
    assert heard.status == "failed"
    assert hear(film)[0].size == N_SAMPLES


def test_a_picture_that_lies_in_another_file_is_not_read(film: Path, tmp_path: Path) -> None:
    (other := tmp_path / "other.mov").write_bytes(film.read_bytes())
    (path := tmp_path / "pointing.mov").write_bytes(pointed(film.read_bytes(), b"vide", alias(other)))
    assert follow(path, "0:v", "rawvideo") == follow(film, "0:v", "rawvideo") != b""
    with Decoders() as decoders:
        with pytest.raises(DecodeError):
            decoders.probe(path)
        assert decoders.probe(film).n_frames == 8

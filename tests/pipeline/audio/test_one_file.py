"""Files that name other files, and what is no file: never followed, never waited for, one reason each.

A film with sound lies beside them; reading it would be hearing it.
"""

import os
import socket
from pathlib import Path

import imageio_ffmpeg
import pytest

from adapt.video.corruptions import _codec
from adapt.video.decoding import DecodeError, Decoders, refusal
from pipeline.audio import sound
from pipeline.audio._ffmpeg_run import opened
from tests.sounds import encode

PLAYLISTS = {
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{film}\n#EXT-X-ENDLIST\n",
    "hls_after_a_mark": "\ufeff#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{film}\n#EXT-X-ENDLIST\n",
    "ffconcat": "ffconcat version 1.0\nfile '{film}'\n",
    "dash": '<?xml version="1.0"?>\n'
    '<MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><Period><BaseURL>{film}</BaseURL></Period></MPD>',
    "smil": '<smil><body><video src="{film}"/></body></smil>',
    "sdp": "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\nc=IN IP4 127.0.0.1\r\nm=audio 5004 RTP/AVP 96\r\n",
    "sdp_in_another_order": "c=IN IP4 127.0.0.1\r\nm=audio 5004 RTP/AVP 96\r\nv=0\r\n",
    "pls": "[playlist]\nFile1={film}\n",
    "xspf": '<playlist version="1"><trackList><track><location>file://{film}</location></track></trackList></playlist>',
}


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    media = ("-f", "lavfi", "-i", "testsrc=size=64x64:rate=8:d=1", "-f", "lavfi", "-i", "sine=duration=1")
    return encode(tmp_path_factory.mktemp("film") / "film.mp4", *media)


def heard(path: Path) -> sound.Heard:
    decoder = sound.Decoder(imageio_ffmpeg.get_ffmpeg_exe(), 16000, -60.0)
    (end,) = list(sound.stream(decoder, path))
    assert isinstance(end, sound.Heard)
    return end


@pytest.mark.parametrize("kind", PLAYLISTS)
def test_a_playlist_is_refused_by_its_content_for_picture_and_sound(kind: str, film: Path, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_text(PLAYLISTS[kind].format(film=film))
    end = heard(path)
    assert (end.status, end.n_samples) == ("failed", 0)
    assert str(end.error).startswith("a playlist, which names other files")
    with Decoders() as decoders, pytest.raises(DecodeError, match="a playlist, which names other files"):
        decoders.probe(path)


@pytest.mark.parametrize("kind", ["hls", "ffconcat"])
def test_ffmpeg_itself_reads_no_playlist_that_is_not_recognised_here(kind: str, film: Path, tmp_path: Path) -> None:
    """As one that takes a file's place after it was looked at."""
    path, target = tmp_path / "clip.mp4", tmp_path / "out.mp4"
    path.write_text(PLAYLISTS[kind].format(film=film))
    decoder = sound.Decoder(imageio_ffmpeg.get_ffmpeg_exe(), 16000, -60.0)
    with opened(decoder, path) as run:
        assert sum(block.size for block in run.blocks()) == 0
    with pytest.raises(Exception, match="cannot encode it"):
        _codec._encode(decoder.binary, path, target, 10_000)


def test_a_pipe_a_socket_a_folder_and_a_device_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "zero.mp4").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listening:
        folder = os.open(tmp_path, os.O_RDONLY)
        listening.bind(f"/proc/self/fd/{folder}/socket.mp4")
        os.close(folder)
    found = {name: heard(tmp_path / f"{name}.mp4") for name in ("pipe", "folder", "zero", "socket")}
    assert {name: (end.status, end.error) for name, end in found.items()} == {
        "pipe": ("failed", "a pipe, not a file"), "folder": ("failed", "a folder, not a file"),
        "zero": ("failed", "a device, not a file"), "socket": ("failed", "a socket, not a file"),
    }  # fmt: skip


def test_media_files_are_not_refused(film: Path) -> None:
    assert refusal(film) is None

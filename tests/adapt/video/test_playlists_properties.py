"""Files that name other files: a playlist is refused whatever blanks stand before it, and no real video is, whatever
its own title says.
"""

import subprocess
import tempfile
from pathlib import Path

import imageio_ffmpeg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapt.video.decoding import refusal

# The forms as their specifications begin: RFC 8216, FFmpeg's concat demuxer, ISO 23009-1, MS-SSTR, SMIL 3.0, RFC 8866,
# Winamp's PLS, ASX in both forms, WPL, XSPF.
PLAYLISTS = (
    "#EXTM3U\n#EXTINF:9,\n{}\n", "#EXTM3U\r\n#EXT-X-VERSION:3\r\n{}\r\n", "ffconcat version 1.0\nfile {}\n",
    '<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><BaseURL>{}</BaseURL></MPD>',
    '<SmoothStreamingMedia MajorVersion="2"><c n="{}"/></SmoothStreamingMedia>',
    '<smil xmlns="http://www.w3.org/ns/SMIL"><body><video src="{}"/></body></smil>',
    "v=0\no=- 1 1 IN IP4 127.0.0.1\ns={}\nm=audio 5004 RTP/AVP 0\n", "[playlist]\nFile1={}\nNumberOfEntries=1\n",
    '<ASX version="3.0"><entry><ref href="{}"/></entry></ASX>', "[Reference]\nRef1={}\n",
    '<?wpl version="1.0"?><smil><body><seq><media src="{}"/></seq></body></smil>',
    '<playlist version="1" xmlns="http://xspf.org/ns/0/"><track>{}</track></playlist>',
)  # fmt: skip
BLANKS = st.lists(st.sampled_from([b" ", b"\t", b"\r", b"\n", b"\r\n", b"\xef\xbb\xbf"]), max_size=60).map(b"".join)
NAMES = st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=40)
CONTAINERS = ("mp4", "mov", "mkv", "avi", "ts", "flv", "nut", "ogv")


def refused(data: bytes, suffix: str = ".mp4") -> str | None:
    with tempfile.NamedTemporaryFile(suffix=suffix) as file:
        file.write(data)
        file.flush()
        return refusal(file.name)


@given(st.sampled_from(PLAYLISTS), NAMES, BLANKS, st.binary(max_size=200).map(lambda data: data.replace(b"\0", b"")))
def test_a_playlist_is_refused_whatever_blanks_stand_before_it(form: str, name: str, blanks: bytes, end: bytes) -> None:
    assert "playlist" in str(refused(blanks + form.format(name).encode() + end))


@pytest.fixture(scope="module", params=CONTAINERS)
def video(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """A real file of each container, whose title looks like playlists."""
    path = tmp_path_factory.mktemp("videos") / f"film.{request.param}"
    title = "#EXTM3U <smil > <playlist > <MPD > v=0\nm=audio 1\nffconcat version 1.0"
    picture = ("-f", "lavfi", "-i", "testsrc=size=64x64:rate=8:duration=0.5", "-metadata", f"title={title}")
    codec = ("-c:v", "libtheora") if request.param == "ogv" else ()
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-loglevel", "error", *picture, *codec, str(path)]
    subprocess.run(command, check=True, timeout=60, stdin=subprocess.DEVNULL)
    return path, path.read_bytes()


def test_no_real_container_is_refused_whatever_its_title_says(video: tuple[Path, bytes]) -> None:
    path, data = video
    assert refusal(path) is None
    assert refused(data, ".txt") is None


@given(st.integers(64, 5000))
def test_no_start_of_a_real_container_is_refused_as_a_playlist(video: tuple[Path, bytes], n_bytes: int) -> None:
    assert refused(video[1][:n_bytes]) is None

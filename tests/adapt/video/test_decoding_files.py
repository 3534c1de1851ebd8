"""Which files are read as videos, and what is said of those that are none."""

import os
from pathlib import Path

import pytest

from adapt.video.decoding import DecodeError, Decoders
from tests import numbered


@pytest.mark.parametrize(("name", "content", "reason"), [
    ("hls.mp4", b"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{film}\n#EXT-X-ENDLIST\n", "a playlist, which names "
                                                                                           "other files"),
    ("concat.mp4", b"ffconcat version 1.0\nfile '{film}'\n", "a playlist, which names other files"),
    ("dash.mp4", b'<?xml version="1.0"?>\n<MPD '
                 b'xmlns="urn:mpeg:dash:schema:mpd:2011"><BaseURL>{film}</BaseURL></MPD>', "a playlist"),
    ("sdp.mp4", b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\nm=video 5004 RTP/AVP 96\r\n", "a playlist, which names other "
                                                                                   "files"),
    ("text.avi", b"not a film\n" * 100, r"no video can be opened \(Invalid data found when processing input\)"),
    ("empty.mkv", b"", "the file is empty"),
    ("one.ts", b"G", r"no video can be opened \(Invalid data found when processing input\)"),
])  # fmt: skip
def test_what_is_no_video_says_so_and_no_other_file_is_opened(
    tmp_path: Path, film: Path, name: str, content: bytes, reason: str
) -> None:
    (tmp_path / name).write_bytes(content.replace(b"{film}", str(film).encode()))
    with Decoders(30) as decoders, pytest.raises(DecodeError, match=f"^{reason}"):
        decoders.probe(tmp_path / name)


def test_a_picture_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    numbered.ffmpeg("-f", "lavfi", "-i", "testsrc2=size=64x64", "-frames:v", "1", "-f", "image2", "-c:v", "png", path)
    with (
        Decoders(30) as decoders,
        pytest.raises(DecodeError, match=r"no video can be opened \(it is of no kind that is read here\)"),
    ):
        decoders.probe(path)


def test_pipes_devices_folders_and_absent_or_forbidden_files_are_refused(tmp_path: Path, film: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "device.mp4").symlink_to("/dev/zero")
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "dangling.mp4").symlink_to(tmp_path / "nowhere")
    reasons = {"pipe": "a pipe, not a file", "device": "a device, not a file", "folder": "a folder, not a file",
               "dangling": "cannot be opened (No such file or directory)", "gone": "cannot be opened (No such file or "
                                                                                   "directory)"}  # fmt: skip
    with Decoders(30) as decoders:
        for name, reason in reasons.items():
            with pytest.raises(DecodeError) as refused:
                decoders.probe(tmp_path / f"{name}.mp4")
            assert str(refused.value) == reason


@pytest.mark.parametrize(
    "name", ["-rex [%d] one.mp4", "file:http:.mp4", "été ☃.mp4", "\udcff\udcfe.mp4", "line\nbreak.mp4"]
)
def test_any_name_of_a_file_can_be_read(tmp_path: Path, film: Path, name: str) -> None:
    """The fourth is no UTF-8, which decord does not take: PyAV reads it."""
    path = tmp_path / name
    path.write_bytes(film.read_bytes())
    with Decoders(30) as decoders, decoders.open(path, check=True) as video:
        assert video.facts.n_frames == 20
        assert [n for chunk in video.frames([3, 7]) for n in numbered.numbers(chunk)] == [3, 7]
        assert video.facts.reader == ("pyav" if "\udcff" in name else "decord")


def test_a_cover_picture_is_not_shown_for_the_film_or_the_song(tmp_path: Path, film: Path) -> None:
    cover = tmp_path / "cover.png"
    numbered.ffmpeg("-f", "lavfi", "-i", "testsrc2=size=300x300", "-frames:v", "1", cover)
    both, song = tmp_path / "both.mp4", tmp_path / "song.mp4"
    numbered.ffmpeg(
        "-i", cover, "-i", film, "-map", "0", "-map", "1", "-c", "copy", "-disposition:v:0", "attached_pic", both
    )
    sound = ("-f", "lavfi", "-t", "1", "-i", "sine", "-i", cover, "-map", "0", "-map", "1")
    numbered.ffmpeg(*sound, "-c:a", "aac", "-c:v", "copy", "-disposition:v:0", "attached_pic", song)
    with Decoders(30) as decoders:
        with decoders.open(both) as video:
            assert [n for chunk in video.frames([3, 7]) for n in numbered.numbers(chunk)] == [3, 7]
        with pytest.raises(DecodeError, match="there is no video track"):
            decoders.probe(song)


def test_nothing_is_written_to_the_terminal_for_bad_files(
    tmp_path: Path, film: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = film.read_bytes()
    for name, content in (
        ("cut.mp4", whole[: len(whole) // 2]),
        ("noise.avi", b"RIFF\xff\xff\xff\x7fAVI LIST" + bytes(range(256)) * 40),
    ):
        (tmp_path / name).write_bytes(content)
        with Decoders(30) as decoders, pytest.raises(DecodeError):
            decoders.probe(tmp_path / name)
    assert capfd.readouterr() == ("", "")

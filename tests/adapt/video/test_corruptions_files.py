"""Corruptions that are files: h265_abr encodes and caches, ready-made ones are found by their lists; and the contact
sheet of all.
"""

import math
import subprocess
import sys
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from adapt.errors import AdaptError, VideoError
from adapt.tables.cache import Clip
from adapt.video import corruptions
from adapt.video.clips import ClipFrames, VideoOptions, count_frames, read_clip, read_frames, stream
from adapt.video.corruptions import _codec, _ready_made
from adapt.video.corruptions.sheet import Options, run
from tests.clips import write_video

OPTIONS = VideoOptions(frames=4, views=2, resize=64, size=64)


def clip(path: Path, clip_id: str = "a") -> Clip:
    return Clip(clip_id, path, "test", 0, "ok")


@pytest.fixture
def film(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A busy film of 2 s with sound, 16 frames a second, in a project of its own."""
    monkeypatch.chdir(tmp_path)
    source = ["-f", "lavfi", "-i", "testsrc2=size=96x64:rate=16:duration=2", "-f", "lavfi", "-i", "sine=duration=2"]
    command = [
        imageio_ffmpeg.get_ffmpeg_exe(),
        "-nostdin",
        "-y",
        "-loglevel",
        "error",
        *source,
        "-crf",
        "5",
        "-pix_fmt",
        "yuv420p",
        "film.mp4",
    ]
    subprocess.run(command, check=True, timeout=60)
    return tmp_path / "film.mp4"


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return 10 * math.log10(255**2 / float(((a.astype(float) - b.astype(float)) ** 2).mean()))


def test_h265_keeps_every_frame_and_a_higher_severity_lowers_the_psnr(film: Path) -> None:
    everything = np.arange(32)
    clean = read_frames(film, everything, OPTIONS)
    files = [corruptions.file(film, "h265_abr", severity) for severity in range(1, 6)]
    assert [count_frames(path) for path in files] == [32] * 5
    values = [psnr(clean, read_frames(path, everything, OPTIONS)) for path in files]
    assert all(a > b for a, b in zip(values, values[1:], strict=False)), values


def test_h265_divides_the_rate_of_the_whole_file(film: Path) -> None:
    assert _codec.bit_rate(film) == pytest.approx(8 * film.stat().st_size / 2, rel=0.01)  # 2 s
    assert _codec.bit_rate(corruptions.file(film, "h265_abr", 2)) < _codec.bit_rate(film) / 2


def test_h265_is_encoded_once_for_the_same_bytes_and_always_to_the_same_bytes(film: Path) -> None:
    first = corruptions.file(film, "h265_abr", 3)
    content, made = first.read_bytes(), first.stat().st_mtime_ns
    renamed = film.rename(film.with_name("-strange: name.mp4"))
    assert corruptions.file(renamed, "h265_abr", 3) == first
    assert first.stat().st_mtime_ns == made
    first.unlink()
    assert corruptions.file(renamed, "h265_abr", 3).read_bytes() == content
    assert [path.name for path in _codec.FOLDER.iterdir()] == [first.name]  # nothing half-made is left


def test_read_clip_takes_the_frames_of_the_encoded_file(film: Path) -> None:
    corrupted = read_clip(clip(film), OPTIONS, "h265_abr", 5).centre
    expected = read_frames(corruptions.file(film, "h265_abr", 5), np.array([4, 12, 20, 28]), OPTIONS)
    assert np.array_equal(corrupted[0].permute(1, 2, 3, 0).numpy(), expected)


@pytest.mark.parametrize("size", [(17, 23), (64, 33)])
def test_h265_takes_odd_sides_and_single_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_video(tmp_path / "odd.mp4", [128], size)
    assert count_frames(corruptions.file(path, "h265_abr", 5)) == 1


@pytest.mark.parametrize("content", [b"", b"this is no video\n" * 100])
def test_h265_of_a_file_without_a_picture_is_that_clips_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.mp4").write_bytes(content)
    with pytest.raises(VideoError, match=r"bad\.mp4"):
        read_clip(clip(Path("bad.mp4")), OPTIONS, "h265_abr", 1)
    with pytest.raises(VideoError, match=r"gone\.mp4"):
        read_clip(clip(Path("gone.mp4")), OPTIONS, "h265_abr", 1)


def test_without_ffmpeg_h265_stops_a_stream_and_says_what_to_install(
    film: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(AdaptError, match=r"h265_abr needs ffmpeg with libx265 .*earshot\[codecs\]"):
        list(stream([clip(film)], OPTIONS, "h265_abr", 1, workers=1))


def test_motion_temporal_averages_neighbours_in_the_file_not_in_the_view(tmp_path: Path) -> None:
    path = write_video(tmp_path / "ramp.mp4", [3 * i for i in range(80)], (64, 64))
    seen = read_clip(clip(path), OPTIONS, "motion_temporal", 1).centre[0, 0].float().mean((1, 2)).tolist()
    assert seen == pytest.approx([3 * i - 1.5 for i in (10, 30, 50, 70)], abs=3)  # frames i - 3 to i + 2
    assert read_clip(clip(path), OPTIONS, "motion_temporal", 0).centre[0, 0, 0].float().mean() == pytest.approx(
        30, abs=3
    )


def test_frames_are_read_in_parts_that_make_one_whole(tmp_path: Path) -> None:
    path = write_video(tmp_path / "long.mp4", [2 * i for i in range(100)], (64, 64))
    seen = read_frames(path, np.arange(100), OPTIONS)
    assert seen.shape == (100, 64, 64, 3)
    assert np.abs(seen.mean((1, 2, 3)) - 2 * np.arange(100)).max() <= 3


def test_neither_order_nor_threads_change_how_a_clip_is_corrupted(tmp_path: Path) -> None:
    clips = [clip(write_video(tmp_path / f"{i}.mp4", [60 * i + 20] * 8, (64, 64)), str(i)) for i in range(3)]
    seen = {c.clip_id: frames for c, frames in stream(clips, OPTIONS, "gauss", 3, workers=1)}
    for c, frames in stream(clips[::-1], OPTIONS, "gauss", 3, workers=3):
        before = seen[c.clip_id]
        assert isinstance(frames, ClipFrames) and isinstance(before, ClipFrames)
        assert (frames.views == before.views).all() and (frames.centre == before.centre).all()


@pytest.fixture
def shipped(tmp_path: Path) -> Path:
    """A folder as ViTTA's authors ship it: two corruptions of severity 5, one list shuffled."""
    root = tmp_path / "ready made"
    for name, level in (("gauss", 10), ("motion", 20)):
        for clip_name in ("v_Archery_g01_c01", "v_Apply Lipstick_g01_c02"):
            write_video(root / "level_5_ucf_val_split_1" / name / f"{clip_name}.mp4", [level] * 8, (64, 64))
    lists = root / "list_video_perturbations_ucf"
    lists.mkdir()
    (lists / "gauss.txt").write_text("gauss/v_Archery_g01_c01.mp4 8 2\ngauss/v_Apply Lipstick_g01_c02.mp4 8 1\n\n")
    (lists / "motion_shuffled.txt").write_text(
        "motion/v_Apply Lipstick_g01_c02.mp4 8 1\r\nmotion/v_Archery_g01_c01.mp4 8 2\r\n"
    )
    return root


@pytest.mark.parametrize(("corruption", "level"), [("gauss", 10), ("motion", 20)])
@pytest.mark.parametrize("name", ["Archery/v_Archery_g01_c01", "ApplyLipstick/v_Apply Lipstick_g01_c02"])
def test_a_ready_made_file_is_read_instead_of_corrupting_the_clip(
    shipped: Path, corruption: str, level: int, name: str
) -> None:
    original = clip(write_video(shipped / f"UCF-101/{name}.avi", [200] * 8, (64, 64)))
    options = VideoOptions(frames=4, views=1, resize=64, size=64, ready_made=str(shipped))
    assert read_clip(original, options, corruption, 5).centre.float().mean() == pytest.approx(level, abs=3)
    assert read_clip(original, options, "clean", 5).centre.float().mean() == pytest.approx(200, abs=3)


def test_a_clip_whose_own_file_is_the_ready_made_one_is_not_corrupted_again(shipped: Path) -> None:
    options = VideoOptions(frames=4, views=1, resize=64, size=64, ready_made=str(shipped))
    own = clip(shipped / "level_5_ucf_val_split_1/gauss/v_Archery_g01_c01.mp4")
    seen = read_clip(own, options, "gauss", 5).centre.float()
    assert seen.std() < 1 and seen.mean() == pytest.approx(10, abs=3)  # noise of severity 5 has a deviation of 97


def test_a_clip_that_the_list_lacks_is_that_clips_error(shipped: Path) -> None:
    with pytest.raises(VideoError, match=r"gauss\.txt has no line for test/other\.avi"):
        _ready_made.find(shipped, "gauss", 5, Path("test/other.avi"))


def test_the_folder_decides_between_files_of_one_name(shipped: Path) -> None:
    listed = shipped / "list_video_perturbations_ucf/gauss.txt"
    listed.write_text("gauss/cat/1.mp4 8 0\ngauss/dog/1.mp4 8 1\n")
    assert (
        _ready_made.find(shipped, "gauss", 5, Path("test/dog/1.avi"))
        == shipped / "level_5_ucf_val_split_1/gauss/dog/1.mp4"
    )
    with pytest.raises(VideoError, match="no line for test/cow/1"):
        _ready_made.find(shipped, "gauss", 5, Path("test/cow/1.avi"))


def test_a_line_of_a_list_ends_at_its_line_feed_only(shipped: Path) -> None:
    (shipped / "list_video_perturbations_ucf/gauss.txt").write_bytes(
        "gauss/a\x85b.mp4 8 0\r\ngauss/c\u2028d\x0be.mp4 8 1\n".encode()
    )
    for name in ("a\x85b", "c\u2028d\x0be"):
        assert (
            _ready_made.find(shipped, "gauss", 5, Path(f"test/{name}.avi"))
            == shipped / f"level_5_ucf_val_split_1/gauss/{name}.mp4"
        )


@pytest.mark.parametrize(("line", "message"), [
    ("gauss/a.mp4 8", r"gauss\.txt line 2: 'gauss/a\.mp4 8' is not `path n_frames class_id`"),
    ("gauss/a.mp4 8 -1", r"line 2: .* is not `path n_frames class_id`"),
    ("../../secret.mp4 8 1", r"line 2: path '\.\./\.\./secret\.mp4' leads out of the videos' folder"),
    ("/etc/secret.mp4 8 1", r"line 2: path '/etc/secret\.mp4' leads out"),
])  # fmt: skip
def test_a_malformed_line_of_a_list_is_one_error_with_its_place(shipped: Path, line: str, message: str) -> None:
    (shipped / "list_video_perturbations_ucf/gauss.txt").write_text(f"gauss/v_Archery_g01_c01.mp4 8 2\n{line}\n")
    with pytest.raises(AdaptError, match=message):
        _ready_made.find(shipped, "gauss", 5, Path("a.avi"))


def test_a_corruption_or_severity_that_was_not_shipped_is_named(shipped: Path) -> None:
    with pytest.raises(AdaptError, match=r"has no list rain\.txt or rain_shuffled\.txt"):
        _ready_made.find(shipped, "rain", 5, Path("a.avi"))
    with pytest.raises(AdaptError, match="has no folder level_3_"):
        _ready_made.find(shipped, "gauss", 3, Path("a.avi"))
    (shipped / "gauss.txt").write_text("")
    with pytest.raises(AdaptError, match=r"gauss\.txt and .*gauss\.txt would both do"):
        _ready_made.find(shipped, "gauss", 5, Path("a.avi"))


def test_the_contact_sheet_has_a_row_a_corruption_and_a_column_a_severity(film: Path) -> None:
    counts = run(Options(film, Path("out/sheet.png"), size=48, cell=48))
    picture = np.asarray(Image.open("out/sheet.png"))
    assert picture.shape[:2] == (counts["height"], counts["width"]) == (24 + 14 * 48, 120 + 6 * 48)
    cells = picture[24:, 120:].reshape(14, 48, 6, 48, 3).swapaxes(1, 2)  # (corruption, severity, 48, 48, 3)
    assert (cells[:, 0] == cells[0, 0]).all()  # the clean frame
    assert all((cells[row, column] != cells[0, 0]).any() for row in range(14) for column in range(1, 6))
    assert (picture[:24, 120:] < 128).any() and (picture[24:, :120] < 128).any()  # names
    with pytest.raises(AdaptError, match="sheet.doc cannot be written"):
        run(Options(film, Path("sheet.doc"), size=48, cell=48))

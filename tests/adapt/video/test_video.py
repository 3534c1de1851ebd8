"""Frames come back in order, once, at the size asked for; what cannot be read is a row, not a crash."""

from pathlib import Path

import numpy as np
import pytest
import torch

from adapt.errors import AdaptError, VideoError
from adapt.tables.cache import Clip
from adapt.video.clips import VideoOptions, multi_scale_crop, read_clip, stream, view_indices
from tests.clips import write_video

OPTIONS = VideoOptions(frames=4, views=2, resize=32, size=24)


def clip(path: Path, clip_id: str = "a") -> Clip:
    return Clip(clip_id, path, "test", 0, "ok")


def test_a_view_takes_one_frame_of_each_segment_at_its_offset() -> None:
    assert view_indices(16, 4, 0.0).tolist() == [0, 4, 8, 12]
    assert view_indices(16, 4, 0.5).tolist() == [2, 6, 10, 14]
    assert view_indices(2, 4, 0.5).tolist() == [0, 0, 1, 1]  # shorter than a view: frames repeat
    assert view_indices(1, 4, 0.9).tolist() == [0, 0, 0, 0]


def test_views_and_centre_hold_the_very_frames_that_their_offsets_name(tmp_path: Path) -> None:
    levels = [10 * i for i in range(16)]
    frames = read_clip(clip(write_video(tmp_path / "a.mp4", levels)), OPTIONS, "clean", 0)
    assert frames.views.shape == (2, 3, 4, 24, 24)
    assert frames.centre.shape == (1, 3, 4, 24, 24)
    seen = frames.views.float().mean((1, 3, 4)).numpy()
    assert (
        np.abs(seen - np.array([[10, 50, 90, 130], [30, 70, 110, 150]])).max() <= 3
    )  # offsets .25 and .75 of segments of 4
    assert np.abs(frames.centre.float().mean((1, 3, 4)).numpy() - np.array([[20, 60, 100, 140]])).max() <= 3


def test_a_frame_that_two_views_share_is_corrupted_once(tmp_path: Path) -> None:
    one_frame = clip(write_video(tmp_path / "a.mp4", [128]))
    frames = read_clip(one_frame, OPTIONS, "gauss", 5)
    assert (frames.views[0] == frames.centre[0]).all()
    assert frames.views.float().std() > 50


@pytest.mark.parametrize(("name", "content"), [("empty.mp4", b""), ("text.mp4", b"this is no video\n" * 100)])
def test_a_file_without_a_picture_is_one_clear_error(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(VideoError, match=name):
        read_clip(clip(tmp_path / name), OPTIONS, "clean", 0)


def test_a_stream_keeps_its_order_and_hands_over_what_failed(tmp_path: Path) -> None:
    clips = [clip(write_video(tmp_path / f"{i}.mp4", [20 * i] * 4), str(i)) for i in range(6)]
    (tmp_path / "bad.mp4").write_bytes(b"")
    clips.insert(3, clip(tmp_path / "bad.mp4", "bad"))
    seen = list(stream(clips, OPTIONS, "clean", 0, workers=2))
    assert [c.clip_id for c, _ in seen] == ["0", "1", "2", "bad", "3", "4", "5"]
    assert [isinstance(f, VideoError) for _, f in seen] == [False] * 3 + [True] + [False] * 3


def test_a_multi_scale_crop_keeps_the_shape_and_the_view_to_predict_from(tmp_path: Path) -> None:
    """Frames are a ramp from left to right: a crop of share s has slope s, and no value that the frame lacks."""
    view = torch.arange(64, dtype=torch.uint8).mul(3).expand(3, 4, 64, 64).contiguous()
    spans = set()
    for seed in range(40):
        cropped = multi_scale_crop(view, np.random.default_rng(seed))
        assert cropped.shape == view.shape
        assert torch.equal(cropped[:, 0], cropped[:, 3])
        spans.add(round((int(cropped[0, 0, 32, 60]) - int(cropped[0, 0, 32, 4])) / (3 * 56), 2))
    assert min(spans) == pytest.approx(0.66, abs=0.03) and max(spans) == pytest.approx(1, abs=0.01)
    clip = Clip("a", write_video(tmp_path / "a.mp4", [10 * i for i in range(16)], (64, 64)), "test", 0, "ok")
    plain, first, again = (
        read_clip(clip, VideoOptions(4, 2, 64, 64, crop), "clean", 0)
        for crop in ("centre", "multi_scale", "multi_scale")
    )
    assert torch.equal(first.views, again.views)
    assert torch.equal(first.centre, plain.centre)
    with pytest.raises(AdaptError, match="crop 'random': choose 'centre' or 'multi_scale'"):
        read_clip(clip, VideoOptions(4, 2, 64, 64, "random"), "clean", 0)

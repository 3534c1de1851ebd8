"""Multi-scale crops of the whole decoded frame, as ViTTA's code cuts them."""

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from adapt.tables.cache import Clip
from adapt.video._crops import cut, whole_box
from adapt.video.clips import VideoOptions, read_clip
from tests.clips import write_frames, write_video

WHOLE = VideoOptions(frames=4, views=2, resize=32, size=24, crop="multi_scale_whole", sampling="vitta")


def published_boxes(height: int, width: int, size: int) -> set[tuple[int, int, int, int]]:
    """All that TSN's _sample_crop_size and fill_fix_offset can give, written out: top, left, height, width."""
    short = min(height, width)
    sides = [int(short * scale) for scale in (1, 0.875, 0.75, 0.66)]
    sides = [size if abs(side - size) < 3 else side for side in sides]
    boxes = set()
    for i, h in enumerate(sides):
        for j, w in enumerate(sides):
            if abs(i - j) > 1:
                continue
            down, right = (height - h) // 4, (width - w) // 4
            corners = [(0, 0), (4, 0), (0, 4), (4, 4), (2, 2)]
            more = [(0, 2), (4, 2), (2, 4), (2, 0), (1, 1), (3, 1), (1, 3), (3, 3)]
            boxes |= {(y * down, x * right, h, w) for x, y in corners + more}
    return boxes


@pytest.mark.parametrize(("height", "width", "size"), [(240, 320, 224), (256, 340, 224), (180, 101, 64)])
def test_a_box_is_one_of_the_published_and_each_of_them_comes(height: int, width: int, size: int) -> None:
    random = np.random.default_rng(0)
    drawn = {whole_box(height, width, size, random) for _ in range(6000)}
    assert drawn == published_boxes(height, width, size)


def test_the_ten_pairs_of_sides_are_equally_likely() -> None:
    random = np.random.default_rng(0)
    pairs = Counter(whole_box(1000, 1000, 50, random)[2:] for _ in range(20_000))
    assert len(pairs) == 10
    assert all(count == pytest.approx(2000, abs=5 * 2000**0.5) for count in pairs.values())


def test_a_side_that_is_nearly_the_networks_is_the_networks() -> None:
    boxes = {whole_box(256, 340, 224, np.random.default_rng(seed))[2:] for seed in range(200)}
    assert {224, 256, 192, 168} == {side for box in boxes for side in box}  # int(256 * .66) = 168
    near = {whole_box(255, 340, 224, np.random.default_rng(seed))[2:] for seed in range(200)}
    assert 224 in {side for box in near for side in box}  # int(255 * .875) = 223


def test_a_cut_is_pillows_bilinear_resize_of_the_box() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (1, 60, 80, 3), np.uint8)
    top, left, height, width = 4, 10, 52, 45
    theirs = (
        Image.fromarray(frame[0])
        .crop((left, top, left + width, top + height))
        .resize((24, 24), Image.Resampling.BILINEAR)
    )
    assert np.abs(cut(frame, (top, left, height, width), 24)[0].astype(int) - np.asarray(theirs)).max() <= 1


def test_views_are_cut_from_beyond_the_centre_crop_and_the_centre_view_is_not(tmp_path: Path) -> None:
    """Frames are a ramp from black on the left to white on the right, four times as wide as high."""
    ramp = np.broadcast_to(np.arange(256, dtype=np.uint8)[None, None, :, None], (20, 64, 256, 3))
    path = write_frames(tmp_path / "a.mp4", ramp)
    clips = [Clip(str(i), path, "test", 0, "ok") for i in range(12)]
    seen = [read_clip(clip, WHOLE, "clean", 0) for clip in clips]
    plain = read_clip(clips[0], dataclasses.replace(WHOLE, crop="centre"), "clean", 0)
    assert all(torch.equal(one.centre, plain.centre) for one in seen)
    lowest, highest = int(plain.centre.min()), int(plain.centre.max())
    views = [view for one in seen for view in one.views]
    assert any(view.max() < lowest for view in views) and any(view.min() > highest for view in views)
    assert torch.equal(seen[0].views, read_clip(clips[0], WHOLE, "clean", 0).views)
    assert {one.views.shape for one in seen} == {(2, 3, 4, 24, 24)}


def test_each_view_has_a_box_of_its_own_the_same_for_all_its_frames(tmp_path: Path) -> None:
    levels = [10 + 5 * i for i in range(40)]
    path = write_video(tmp_path / "a.mp4", levels, (64, 64))
    seen = read_clip(Clip("a", path, "test", 0, "ok"), WHOLE, "clean", 0)
    # sampling vitta of 40 frames in segments of 10: from frame 1 and from frame 10; the centre from frame 6
    expected = [[levels[i] for i in row] for row in ((1, 11, 21, 31), (10, 20, 30, 39), (6, 16, 26, 36))]
    found = torch.cat([seen.views, seen.centre]).float().mean((1, 3, 4))
    assert np.abs(found.numpy() - np.array(expected)).max() <= 3


@pytest.mark.parametrize("corruption", ["gauss", "contrast", "motion_temporal"])
def test_frames_cut_from_the_whole_are_corrupted_after_the_cut(tmp_path: Path, corruption: str) -> None:
    levels = [10 + 5 * i for i in range(40)]
    clip = Clip("a", write_video(tmp_path / "a.mp4", levels, (64, 64)), "test", 0, "ok")
    seen = read_clip(clip, WHOLE, corruption, 1)
    assert seen.views.shape == (2, 3, 4, 24, 24)
    if corruption == "gauss":
        assert seen.views[0, 0, 1].float().std() == pytest.approx(0.08 * 255, rel=0.15)  # ImageNet-C, severity 1
    if corruption == "motion_temporal":  # three frames before, and three from the frame on: half a step lower
        assert seen.centre[0, :, 1].float().mean() == pytest.approx(levels[16] - 2.5, abs=3)

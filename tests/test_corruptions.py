"""Corruptions against closed forms and independent computations; harder severities hurt more; nothing depends on order."""
import io
import math

import numpy as np
import pytest
from PIL import Image

from adapt import corruptions
from adapt.errors import AdaptError

NAMES = list(corruptions.CORRUPTIONS)


def picture(t: int = 2, h: int = 48, w: int = 64) -> np.ndarray:
    """A smooth colourful scene with an edge, uint8 (t, h, w, 3)."""
    y, x = np.mgrid[0:h, 0:w]
    base = np.stack([128 + 80 * np.sin(x / 7), 128 + 80 * np.cos(y / 5), np.where(x > w / 2, 200, 40)], -1)
    return np.repeat(base[None], t, 0).clip(0, 255).astype(np.uint8)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return 10 * math.log10(255**2 / max(1e-9, float(((a.astype(float) - b.astype(float)) ** 2).mean())))


@pytest.mark.parametrize("name", NAMES)
def test_a_higher_severity_lowers_the_psnr(name: str) -> None:
    clean = picture()
    values = [psnr(clean, corruptions.apply(clean, name, s, seed=0, clip_id="a")) for s in range(1, 6)]
    assert all(a > b for a, b in zip(values, values[1:], strict=False)), values


@pytest.mark.parametrize("name", NAMES)
def test_a_clip_is_corrupted_the_same_each_time_and_differently_from_another(name: str) -> None:
    clean = picture()
    first = corruptions.apply(clean, name, 5, seed=0, clip_id="a")
    corruptions.apply(clean, name, 5, seed=0, clip_id="b")
    assert np.array_equal(first, corruptions.apply(clean, name, 5, seed=0, clip_id="a"))
    assert first.shape == clean.shape
    assert first.dtype == np.uint8
    if name in ("gauss", "impulse", "motion"):
        assert not np.array_equal(first, corruptions.apply(clean, name, 5, seed=0, clip_id="b"))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(1, 17, 23), (3, 16, 9)])
def test_odd_sizes_and_one_frame_clips_work(name: str, shape: tuple[int, int, int]) -> None:
    assert corruptions.apply(picture(*shape), name, 5, seed=0, clip_id="a").shape == (*shape, 3)


def test_gauss_adds_noise_of_the_published_deviation() -> None:
    grey = np.full((4, 64, 64, 3), 128, np.uint8)
    noisy = corruptions.apply(grey, "gauss", 1, seed=0, clip_id="a").astype(float)
    assert noisy.std() / 255 == pytest.approx(0.08, rel=0.03)


def test_impulse_replaces_the_published_share_by_black_and_white_alike() -> None:
    grey = np.full((4, 64, 64, 3), 128, np.uint8)
    noisy = corruptions.apply(grey, "impulse", 5, seed=0, clip_id="a")
    assert (noisy == 0).mean() == pytest.approx(0.135, abs=0.01)
    assert (noisy == 255).mean() == pytest.approx(0.135, abs=0.01)


def test_contrast_scales_about_the_channel_mean() -> None:
    clean = picture()
    mean = clean.mean((1, 2), keepdims=True)
    expected = 0.05 * (clean - mean) + mean
    assert np.abs(corruptions.apply(clean, "contrast", 5, seed=0, clip_id="a") - expected).max() <= 1


def test_motion_keeps_a_flat_picture_and_smears_a_point_into_a_line_of_unit_weight() -> None:
    flat = np.full((1, 40, 40, 3), 77, np.uint8)
    assert np.array_equal(corruptions.apply(flat, "motion", 5, seed=0, clip_id="a"), flat)
    point = np.zeros((1, 101, 101, 3), np.uint8)
    point[0, 50, 50] = 255
    smeared = corruptions.apply(point, "motion", 1, seed=0, clip_id="a")[0, :, :, 0].astype(float)
    assert smeared.sum() == pytest.approx(255, rel=0.05)  # rounding of small weights
    assert 5 <= (smeared > 0).sum() <= 21  # radius 10: at most 21 taps


def test_jpeg_is_what_pillow_makes_of_the_same_quality() -> None:
    clean = picture(1)
    ours = corruptions.apply(clean, "jpeg", 3, seed=0, clip_id="a")[0]
    buffer = io.BytesIO()
    Image.fromarray(clean[0]).save(buffer, "JPEG", quality=15)
    theirs = np.asarray(Image.open(buffer))
    assert psnr(ours, theirs) > 35


def test_clean_and_severity_0_change_nothing() -> None:
    clean = picture()
    assert np.array_equal(corruptions.apply(clean, "clean", 5, seed=0, clip_id="a"), clean)
    assert np.array_equal(corruptions.apply(clean, "gauss", 0, seed=0, clip_id="a"), clean)


@pytest.mark.parametrize(("name", "severity", "message"), [("fog", 5, "unknown corruption 'fog'"), ("gauss", 6, "severity 6 of gauss")])
def test_a_wrong_name_or_severity_is_one_clear_error(name: str, severity: int, message: str) -> None:
    with pytest.raises(AdaptError, match=message):
        corruptions.apply(picture(), name, severity, seed=0, clip_id="a")

"""Corruptions of frames against closed forms and independent computations; harder severities hurt more; nothing depends
on order.
"""

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from adapt.errors import AdaptError
from adapt.video import corruptions

NAMES = list(corruptions.CORRUPTIONS)
RANDOM = ("gauss", "pepper", "salt", "shot", "impulse", "motion", "rain")
LINES = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))  # radius and sigma of ImageNet-C's motion_blur


def picture(t: int = 2, h: int = 48, w: int = 64) -> np.ndarray:
    """A smooth colourful scene with an edge that moves a pixel to the right each frame, uint8 (t, h, w, 3)."""
    frame, y, x = np.mgrid[0:t, 0:h, 0:w]
    x = x - frame
    colours = np.stack([128 + 80 * np.sin(x / 7), 128 + 80 * np.cos(y / 5), np.where(x > w / 2, 200, 40)], -1)
    return colours.clip(0, 255).astype(np.uint8)


def flat(value: int, t: int = 1, h: int = 64, w: int = 64) -> np.ndarray:
    return np.full((t, h, w, 3), value, np.uint8)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return 10 * math.log10(255**2 / max(1e-9, float(((a.astype(float) - b.astype(float)) ** 2).mean())))


def corrupt(frames: np.ndarray, name: str, severity: int = 5, clip_id: str = "a") -> np.ndarray:
    return corruptions.apply(frames, name, severity, seed=0, clip_id=clip_id)


@pytest.mark.parametrize("name", NAMES)
def test_a_higher_severity_lowers_the_psnr(name: str) -> None:
    clean = picture(24, 64, 80)
    values = [psnr(clean, corrupt(clean, name, severity)) for severity in range(1, 6)]
    assert all(a > b for a, b in zip(values, values[1:], strict=False)), values


@pytest.mark.parametrize("name", NAMES)
def test_a_clip_is_corrupted_the_same_each_time_and_differently_from_another(name: str) -> None:
    clean = picture()
    first = corrupt(clean, name)
    other = corrupt(clean, name, clip_id="b")
    assert np.array_equal(first, corrupt(clean, name))
    assert np.array_equal(clean, picture())  # the argument is not changed
    assert first.shape == clean.shape
    assert first.dtype == np.uint8
    assert np.array_equal(first, other) == (name not in RANDOM)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(1, 17, 23), (3, 16, 9), (1, 1, 1), (2, 5, 1)])
@pytest.mark.parametrize("severity", [1, 5])
def test_odd_sizes_tiny_ones_and_one_frame_clips_work(name: str, shape: tuple[int, int, int], severity: int) -> None:
    assert corrupt(picture(*shape), name, severity).shape == (*shape, 3)


@pytest.mark.parametrize("name", ["defocus", "motion", "zoom", "motion_temporal", "contrast", "contrast_mini"])
def test_a_blur_and_contrast_keep_a_flat_picture(name: str) -> None:
    assert np.array_equal(corrupt(flat(77, 4, 40, 40), name), flat(77, 4, 40, 40))


def test_gauss_adds_noise_of_the_published_deviation() -> None:
    noisy = corrupt(flat(128, 4), "gauss", 1).astype(float)
    assert noisy.std() / 255 == pytest.approx(0.08, rel=0.03)


def test_impulse_replaces_the_published_share_by_black_and_white_alike() -> None:
    noisy = corrupt(flat(128, 4), "impulse")
    assert (noisy == 0).mean() == pytest.approx(0.135, abs=0.01)
    assert (noisy == 255).mean() == pytest.approx(0.135, abs=0.01)


@pytest.mark.parametrize(("name", "value"), [("salt", 255), ("pepper", 0)])
@pytest.mark.parametrize(("severity", "amount"), [(1, 0.03), (5, 0.27)])
def test_salt_is_white_only_and_pepper_black_only_of_the_amounts_of_impulse(
    name: str, value: int, severity: int, amount: float
) -> None:
    noisy = corrupt(flat(128, 4), name, severity)
    assert (noisy == value).mean() == pytest.approx(amount, abs=0.01)
    assert set(np.unique(noisy)) == {128, value}


@pytest.mark.parametrize(("severity", "photons"), [(1, 60), (5, 3)])
def test_shot_noise_has_the_probabilities_of_a_poisson_distribution(severity: int, photons: int) -> None:
    noisy = corrupt(flat(128, 8), "shot", severity)
    rate = 128 / 255 * photons
    for k in range(photons):
        expected = math.exp(k * math.log(rate) - rate - math.lgamma(k + 1))
        assert (noisy == k * 255 // photons).mean() == pytest.approx(
            expected, abs=4 * math.sqrt(expected / noisy.size) + 2e-5
        )
    assert corrupt(flat(0), "shot").max() == 0  # no light, no noise


def test_shot_noise_of_a_count_of_photons_is_the_published_codes_byte() -> None:
    """np.uint8(clip(count / c, 0, 1) * 255), for all counts that a white pixel can bring forth."""
    for severity, photons in enumerate((60, 25, 12, 5, 3), 1):
        published = {int(np.uint8(min(count / photons, 1) * 255)) for count in range(4 * photons)}
        assert set(np.unique(corrupt(np.tile(np.arange(256, dtype=np.uint8), 4096 * 3).reshape(1, -1, 256, 3), "shot",
                                     severity)).tolist()) == published  # fmt: skip


@pytest.mark.parametrize(("name", "shares"), [
    ("contrast", (0.4, 0.3, 0.2, 0.1, 0.05)),  # ImageNet-C
    ("contrast_mini", (0.5, 0.4, 0.3, 0.2, 0.1)),  # Mini-Kinetics-C
])  # fmt: skip
def test_contrast_is_the_published_arithmetic_to_the_bit(name: str, shares: tuple[float, ...]) -> None:
    """Of frames in which no value falls on a whole number, where their rounding decides."""
    clean = np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3), np.uint8)
    for severity, share in enumerate(shares, 1):
        x = clean[0] / 255.0
        mean = x.mean((0, 1), keepdims=True)
        expected = np.uint8(np.clip((x - mean) * share + mean, 0, 1) * 255)
        assert np.array_equal(corrupt(clean, name, severity)[0], expected)


def test_contrast_scales_about_the_channel_mean() -> None:
    clean = picture()
    mean = clean.mean((1, 2), keepdims=True)
    expected = 0.05 * (clean - mean) + mean
    assert np.abs(corrupt(clean, "contrast") - expected).max() <= 1


@pytest.mark.parametrize("severity", range(1, 6))
def test_motion_is_bit_for_bit_what_earlier_results_were_made_with(severity: int) -> None:
    clean = np.random.default_rng(1).integers(0, 256, (2, 40, 50, 3), np.uint8)
    radius, sigma = LINES[severity - 1]
    angle = math.radians(corruptions.generator(0, "a", "motion").uniform(-45, 45))
    weights = np.exp(-(np.arange(2 * radius + 1) ** 2) / (2 * sigma**2))
    expected = np.zeros(clean.shape, np.float32)
    for tap, weight in enumerate((weights / weights.sum()).astype(np.float32)):
        dy, dx = math.ceil(tap * math.sin(angle) - 0.5), math.ceil(tap * math.cos(angle) - 0.5)
        rows, columns = np.clip(np.arange(40) + dy, 0, 39), np.clip(np.arange(50) + dx, 0, 49)
        expected += weight * clean[:, rows][:, :, columns].astype(np.float32)
    assert np.array_equal(corrupt(clean, "motion", severity), expected.round().astype(np.uint8))


def test_motion_smears_a_point_into_a_line_of_unit_weight() -> None:
    point = flat(0, 1, 101, 101)
    point[0, 50, 50] = 255
    smeared = corrupt(point, "motion", 1)[0, :, :, 0].astype(float)
    assert smeared.sum() == pytest.approx(255, rel=0.05)  # rounding of small weights
    assert 5 <= (smeared > 0).sum() <= 21  # radius 10: at most 21 taps


@pytest.mark.parametrize(("severity", "radius", "sigma", "rim"), [(1, 3, 0.1, 1), (4, 8, 0.5, 1), (5, 10, 0.5, 2)])
def test_defocus_is_the_convolution_with_a_softened_disc(severity: int, radius: int, sigma: float, rim: int) -> None:
    clean = np.random.default_rng(0).integers(0, 256, (1, 40, 50, 3), np.uint8)
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    soft = torch.exp(-(torch.arange(-rim, rim + 1).double() ** 2) / (2 * sigma**2))
    disc = F.conv2d(
        torch.from_numpy(x**2 + y**2 <= radius**2).double()[None, None],
        (soft[:, None] * soft)[None, None],
        padding=2 * rim,
    )
    pad = radius + rim
    images = F.pad(torch.from_numpy(clean).permute(3, 0, 1, 2).double(), (pad, pad, pad, pad), "reflect")
    expected = F.conv2d(images, disc / disc.sum()).permute(1, 2, 3, 0)
    assert np.abs(corrupt(clean, "defocus", severity) - expected.numpy()).max() <= 0.501


@pytest.mark.parametrize(
    ("severity", "end", "step", "n_factors"), [(1, 1.11, 0.01, 12), (2, 1.16, 0.01, 16), (5, 1.31, 0.03, 11)]
)
def test_zoom_is_the_mean_of_the_frame_and_its_enlarged_centres(
    severity: int, end: float, step: float, n_factors: int
) -> None:
    clean = picture(1, 61, 80)
    total = clean[0].astype(float)
    factors = np.arange(1, end, step).tolist()  # as ImageNet-C has them: rounding lets the first range reach its end
    assert len(factors) == n_factors
    for factor in factors:
        larger = clean[0].astype(float)
        for axis, size in enumerate((61, 80)):
            crop = math.ceil(size / factor)
            length = round(crop * factor)
            places = ((length - size) // 2 + np.arange(size)) * (crop - 1) / (length - 1) + (size - crop) // 2
            lines = np.moveaxis(larger, axis, -1)
            taken = [np.interp(places, np.arange(size), line) for line in lines.reshape(-1, size)]
            larger = np.moveaxis(np.array(taken).reshape(lines.shape), -1, axis)
        total += larger
    assert np.abs(corrupt(clean, "zoom", severity)[0] - total / (len(factors) + 1)).max() <= 1


def test_motion_temporal_averages_the_neighbours_before_and_after() -> None:
    ramp = np.concatenate([flat(5 * i, 1, 8, 8) for i in range(40)])
    averaged = corrupt(ramp, "motion_temporal", 1)[:, 0, 0, 0]
    assert (
        averaged[20] == 5 * (17 + 18 + 19 + 20 + 21 + 22) // 6
    )  # Mini-Kinetics-C: three before, and three from the frame on
    assert averaged[0] == 5 * (0 + 1 + 2) // 3  # the neighbours that exist
    assert averaged[39] == 5 * (36 + 37 + 38 + 39) // 4


def test_rain_has_the_published_number_of_streaks_of_the_published_brightness() -> None:
    rainy = corrupt(flat(100, 1, 240, 320), "rain", 2)[0, :, :, 0].astype(float)
    dry, wet = sorted(np.unique(rainy, return_counts=True)[0][np.argsort(-np.unique(rainy, return_counts=True)[1])][:2])
    assert (rainy != dry).sum() == pytest.approx(240 * 320 // 770 * 31, rel=0.15)  # some drops overlap or begin outside
    lit = 100 + int(220 * (1 - 100 / 255) ** 2)
    streak = (6 * 100 + 3 * lit) / 9 * 220 / 255 + 100 * 35 / 255  # 3 x 3 mean inside a line one pixel wide
    assert wet - dry == pytest.approx(0.8 * (streak - 100), abs=1.01)
    assert dry == pytest.approx(100 + 0.2 * (rainy.mean() - 100), abs=1.01)  # contrast 0.8 about the mean


def test_it_rains_anew_on_every_frame_and_in_every_channel_alike() -> None:
    rainy = corrupt(flat(100, 2), "rain")
    assert not np.array_equal(rainy[0], rainy[1])
    assert np.array_equal(rainy[..., 0], rainy[..., 2])


def test_jpeg_is_what_pillow_makes_of_the_same_quality() -> None:
    clean = picture(1)
    ours = corrupt(clean, "jpeg", 3)[0]
    buffer = io.BytesIO()
    Image.fromarray(clean[0]).save(buffer, "JPEG", quality=15)
    theirs = np.asarray(Image.open(buffer))
    assert psnr(ours, theirs) > 35


def test_clean_and_severity_0_change_nothing() -> None:
    clean = picture()
    assert np.array_equal(corrupt(clean, "clean"), clean)
    assert np.array_equal(corrupt(clean, "gauss", 0), clean)


def test_the_twelve_of_the_benchmark_and_two_of_mini_kinetics_c_are_all() -> None:
    assert {*corruptions.BENCHMARK, "motion_temporal", "contrast_mini"} == {*NAMES, *corruptions.FILE_CORRUPTIONS}
    assert len(corruptions.BENCHMARK) == 12


@pytest.mark.parametrize(("name", "severity", "message"), [
    ("fog", 5, "unknown corruption 'fog'"), ("gauss", 6, "severity 6 of gauss"), ("h265_abr", 1, "corrupts a file, not "
                                                                                                 "frames"),
])  # fmt: skip
def test_a_wrong_name_or_severity_is_one_clear_error(name: str, severity: int, message: str) -> None:
    with pytest.raises(AdaptError, match=message):
        corrupt(picture(), name, severity)

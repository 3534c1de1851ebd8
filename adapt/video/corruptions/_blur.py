"""Blur: defocus, motion, zoom, and motion_temporal, which averages neighbouring frames."""

import math

import numpy as np
import torch
from torch.nn import functional as F

DISCS = (
    (3, 0.1),
    (4, 0.5),
    (6, 0.5),
    (8, 0.5),
    (10, 0.5),
)  # radius in pixels, sigma of the Gaussian that softens the disc's rim
LINES = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))  # radius and sigma in pixels
ZOOMS = ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))  # from 1 up to, in steps of
NEIGHBOURS = (3, 5, 7, 9, 11)  # frames before a frame; with it and those after, twice as many are averaged
FRAMES_AT_ONCE = 4  # of zoom: as many as stay in the processor's cache


def defocus(frames: np.ndarray, severity: int, random: np.random.Generator) -> np.ndarray:
    """Average over a disc with a softened rim (ImageNet-C defocus_blur; here the kernel sums to 1, there to 1.01 at
    radius 8 and 10).

    A disc is a stack of runs, and a run's sum is a difference of two running sums: two additions a row instead of a
    multiplication a pixel.
    """
    radius, sigma = DISCS[severity - 1]
    rim = 1 if radius <= 8 else 2  # the Gaussian's radius: the published code has 3 x 3 and 5 x 5
    soft = np.exp(-(np.arange(-rim, rim + 1) ** 2) / (2 * sigma**2))
    soft = (soft / soft.sum()).astype(np.float32)
    height, width = frames.shape[1:3]
    out = np.empty_like(frames)
    for frame, blurred in zip(frames, out, strict=True):
        sums, area = _disc_sums(frame, radius, rim)
        rows = _weighted([sums[i : i + height] for i in range(2 * rim + 1)], soft / np.float32(area))
        columns = _weighted([rows[:, 3 * i : 3 * (i + width)] for i in range(2 * rim + 1)], soft)
        blurred[:] = columns.round().clip(0, 255).reshape(frame.shape)
    return out


def _disc_sums(frame: np.ndarray, radius: int, rim: int) -> tuple[np.ndarray, int]:
    """(sums over the disc at every pixel and `rim` pixels beyond, (H + 2 rim, 3 (W + 2 rim)) int32; the disc's
    pixels).
    """
    height, width = frame.shape[0] + 2 * rim, 3 * (frame.shape[1] + 2 * rim)
    far = radius + rim
    padded = np.pad(frame, ((far, far), (far + 1, far), (0, 0)), "reflect")
    running = np.cumsum(padded, axis=1, dtype=np.int32).reshape(len(padded), -1)
    halves = [
        math.isqrt(radius**2 - dy**2) for dy in range(radius + 1)
    ]  # half the run's length, dy rows off the centre
    sums = np.zeros((height, width), np.int32)
    for dy, half in enumerate(halves):
        rows = running[radius : radius + height]
        if dy:
            rows = running[radius + dy : radius + dy + height] + running[radius - dy : radius - dy + height]
        sums += rows[:, 3 * (radius + half + 1) :][:, :width]
        sums -= rows[:, 3 * (radius - half) :][:, :width]
    return sums, sum(2 * half + 1 for half in halves) * 2 - (2 * halves[0] + 1)


def _weighted(terms: list[np.ndarray], weights: np.ndarray) -> np.ndarray:
    """Sum of float32 `weights` times `terms`."""
    total = terms[0] * weights[0]
    for term, weight in zip(terms[1:], weights[1:], strict=True):
        total += term * weight
    return total


def motion(frames: np.ndarray, severity: int, random: np.random.Generator) -> np.ndarray:
    """Blur along one direction within +-45 degrees a clip: ImageMagick's one-sided Gaussian line (ImageNet-C
    motion_blur).
    """
    radius, sigma = LINES[severity - 1]
    angle = math.radians(random.uniform(-45, 45))
    taps = np.arange(2 * radius + 1)
    weights = np.exp(-(taps**2) / (2 * sigma**2))
    weights /= weights.sum()
    dy = np.ceil(taps * math.sin(angle) - 0.5).astype(int)
    dx = np.ceil(taps * math.cos(angle) - 0.5).astype(int)
    height, width = frames.shape[1:3]
    top, left = max(0, -dy.min()), max(0, -dx.min())
    margins = ((top, max(0, dy.max())), (left, max(0, dx.max())), (0, 0))
    out = np.empty_like(frames)
    for frame, blurred in zip(frames, out, strict=True):
        padded = np.pad(frame, margins, "edge").astype(np.float32).reshape(height + sum(margins[0]), -1)
        total, term = np.zeros((2, height, 3 * width), np.float32)
        for y, x, weight in zip(top + dy, 3 * (left + dx), weights.astype(np.float32), strict=True):
            np.multiply(padded[y : y + height, x : x + 3 * width], weight, out=term)
            total += term
        blurred[:] = total.round().clip(0, 255).reshape(frame.shape)
    return out


def zoom(frames: np.ndarray, severity: int, random: np.random.Generator) -> np.ndarray:
    """Mean of the frame and its enlarged centres, bilinear, from the frame itself on (ImageNet-C zoom_blur).

    Each enlargement is rounded to uint8, for speed: the mean is off by less than half a level.
    """
    end, step = ZOOMS[severity - 1]
    factors = np.arange(1, end, step)  # as published: rounding lets the first severity reach its end
    height, width = frames.shape[1:3]
    plans = [(_enlarged(height, factor), _enlarged(width, factor)) for factor in factors.tolist()]
    n_terms = len(plans) + 1
    out = np.empty_like(frames)
    for first in range(0, len(frames), FRAMES_AT_ONCE):
        x = torch.from_numpy(frames[first : first + FRAMES_AT_ONCE]).permute(0, 3, 1, 2)
        total = x.to(torch.int16)  # at most 17 x 255
        for (rows, tall, kept_rows), (columns, wide, kept_columns) in plans:
            larger = F.interpolate(x[:, :, rows, columns], size=(tall, wide), mode="bilinear", align_corners=True)
            total += larger[:, :, kept_rows, kept_columns]
        out[first : first + FRAMES_AT_ONCE] = (total.permute(0, 2, 3, 1).numpy() + n_terms // 2) // n_terms
    return out


def _enlarged(size: int, factor: float) -> tuple[slice, int, slice]:
    """(the centre that is enlarged, its length afterwards, the part of it that is kept) along one side of `size`
    pixels.
    """
    crop = math.ceil(size / factor)
    start, length = (size - crop) // 2, round(crop * factor)
    trim = (length - size) // 2
    return slice(start, start + crop), length, slice(trim, trim + size)


def motion_temporal(frames: np.ndarray, severity: int, random: np.random.Generator) -> np.ndarray:
    """Average each frame with its neighbours, `frames` being consecutive (Mini-Kinetics-C motion_blur).

    The published code leaves out the frames at both ends; here they have the neighbours that exist.
    """
    return average(frames, neighbours(np.arange(len(frames)), len(frames), severity))


def neighbours(indices: np.ndarray, n_frames: int, severity: int) -> np.ndarray:
    """(first, one past the last) of the frames that make each of `indices` of a clip of `n_frames` -> (len(indices),
    2).
    """
    reach = NEIGHBOURS[severity - 1]
    return np.stack([np.maximum(indices - reach, 0), np.minimum(indices + reach, n_frames)], axis=1)


def average(frames: np.ndarray, spans: np.ndarray) -> np.ndarray:
    """Mean of frames[first:last], rounded down, for each (first, last) of `spans` -> uint8 (len(spans), H, W, 3)."""
    out = np.empty((len(spans), *frames.shape[1:]), np.uint8)
    total = np.empty(frames.shape[1:], np.uint16)  # at most 22 x 255
    for mean, (first, last) in zip(out, spans.tolist(), strict=True):
        total[:] = frames[first]
        for frame in frames[first + 1 : last]:
            total += frame
        mean[:] = total // (last - first)
    return out

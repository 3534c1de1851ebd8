"""Corruptions of the -C benchmarks on uint8 frames (T, H, W, 3), severities 1 to 5; severity 0 or `clean` changes nothing.

Parameters are ImageNet-C's (Hendrycks and Dietterich 2019); each function's line says which.  Randomness comes from (seed, clip_id,
corruption), so neither order nor batch size changes a clip.
"""
import hashlib
import math
from collections.abc import Callable

import numpy as np
import torch
from torchvision.io import ImageReadMode, decode_jpeg, encode_jpeg

from adapt.errors import AdaptError

Corruption = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]


def gauss(frames: np.ndarray, severity: int, random: np.random.Generator) -> np.ndarray:
    """Add N(0, s) per pixel (ImageNet-C gaussian_noise)."""
    sigma = (0.08, 0.12, 0.18, 0.26, 0.38)[severity - 1] * 255
    noise = random.standard_normal(frames.shape, np.float32)
    return (frames + noise * np.float32(sigma)).clip(0, 255).astype(np.uint8)


def impulse(frames: np.ndarray, severity: int, random: np.random.Generator) -> np.ndarray:
    """Set a share of the values to black or white, half each (ImageNet-C impulse_noise, per channel as skimage does)."""
    amount = (0.03, 0.06, 0.09, 0.17, 0.27)[severity - 1]
    draw = random.random(frames.shape, np.float32)
    out = np.where(draw < amount / 2, np.uint8(0), frames)
    return np.where(draw > 1 - amount / 2, np.uint8(255), out)


def contrast(frames: np.ndarray, severity: int, random: np.random.Generator) -> np.ndarray:
    """(x - mu) c + mu, mu per channel and frame (ImageNet-C contrast)."""
    c = (0.4, 0.3, 0.2, 0.1, 0.05)[severity - 1]
    x = frames.astype(np.float32)
    mean = x.mean(axis=(1, 2), keepdims=True)
    return ((x - mean) * np.float32(c) + mean).clip(0, 255).astype(np.uint8)


def motion(frames: np.ndarray, severity: int, random: np.random.Generator) -> np.ndarray:
    """Blur along one direction within +-45 degrees a clip: ImageMagick's one-sided Gaussian line (ImageNet-C motion_blur)."""
    radius, sigma = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))[severity - 1]
    angle = math.radians(random.uniform(-45, 45))
    taps = np.arange(2 * radius + 1)
    weights = np.exp(-(taps**2) / (2 * sigma**2))
    weights /= weights.sum()
    dy = np.ceil(taps * math.sin(angle) - 0.5).astype(int)
    dx = np.ceil(taps * math.cos(angle) - 0.5).astype(int)
    height, width = frames.shape[1:3]
    top, left = max(0, -dy.min()), max(0, -dx.min())
    padded = np.pad(frames, ((0, 0), (top, max(0, dy.max())), (left, max(0, dx.max())), (0, 0)), "edge").astype(np.float32)
    out = np.zeros(frames.shape, np.float32)
    for y, x, weight in zip(top + dy, left + dx, weights.astype(np.float32), strict=True):
        out += weight * padded[:, y : y + height, x : x + width]
    return out.round().clip(0, 255).astype(np.uint8)


def jpeg(frames: np.ndarray, severity: int, random: np.random.Generator) -> np.ndarray:
    """Encode every frame as JPEG and decode it (ImageNet-C jpeg_compression)."""
    quality = (25, 18, 15, 10, 7)[severity - 1]
    images = torch.from_numpy(frames).permute(0, 3, 1, 2).contiguous()
    decoded = [decode_jpeg(encode_jpeg(image, quality), ImageReadMode.RGB) for image in images]
    return torch.stack(decoded).permute(0, 2, 3, 1).contiguous().numpy()


CORRUPTIONS: dict[str, Corruption] = {f.__name__: f for f in (gauss, impulse, contrast, motion, jpeg)}


def generator(seed: int, clip_id: str, corruption: str) -> np.random.Generator:
    """The random generator of one clip under one corruption."""
    digest = hashlib.sha256(f"{seed}/{corruption}/{clip_id}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "little"))


def apply(frames: np.ndarray, corruption: str, severity: int, *, seed: int, clip_id: str) -> np.ndarray:
    """Corrupt uint8 `frames` (T, H, W, 3) -> the same shape and type; the argument is not changed.

    Raises AdaptError for an unknown corruption or a severity outside 1 to 5 (0 and `clean` return the frames).
    """
    if corruption == "clean" or severity == 0:
        return frames
    if corruption not in CORRUPTIONS:
        raise AdaptError(f"unknown corruption {corruption!r}: choose one of {['clean', *CORRUPTIONS]}")
    if severity not in range(1, 6):
        raise AdaptError(f"severity {severity} of {corruption}: choose 0 (clean) to 5")
    return CORRUPTIONS[corruption](frames, severity, generator(seed, clip_id, corruption))

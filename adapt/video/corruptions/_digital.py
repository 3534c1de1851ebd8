"""Losses of recording and storing a picture: contrast, contrast_mini, jpeg."""

import numpy as np
import torch
from torchvision.io import ImageReadMode, decode_jpeg, encode_jpeg


def contrast(frames: np.ndarray, severity: int, random: np.random.Generator) -> np.ndarray:
    """(x - mu) c + mu, mu per channel and frame (ImageNet-C contrast)."""
    return _towards_the_mean(frames, (0.4, 0.3, 0.2, 0.1, 0.05)[severity - 1])


def contrast_mini(frames: np.ndarray, severity: int, random: np.random.Generator) -> np.ndarray:
    """The same, a step milder (contrast of Mini-Kinetics-C and Mini-SSV2-C)."""
    return _towards_the_mean(frames, (0.5, 0.4, 0.3, 0.2, 0.1)[severity - 1])


def _towards_the_mean(frames: np.ndarray, c: float) -> np.ndarray:
    x = frames.astype(np.float32)
    mean = x.mean(axis=(1, 2), keepdims=True)
    return ((x - mean) * np.float32(c) + mean).clip(0, 255).astype(np.uint8)


def jpeg(frames: np.ndarray, severity: int, random: np.random.Generator) -> np.ndarray:
    """Encode every frame as JPEG and decode it (ImageNet-C jpeg_compression)."""
    quality = (25, 18, 15, 10, 7)[severity - 1]
    images = torch.from_numpy(frames).permute(0, 3, 1, 2).contiguous()
    decoded = [decode_jpeg(encode_jpeg(image, quality), ImageReadMode.RGB) for image in images]
    return torch.stack(decoded).permute(0, 2, 3, 1).contiguous().numpy()

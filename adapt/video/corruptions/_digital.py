"""Losses of recording and storing a picture: contrast, jpeg."""

import numpy as np
import torch
from torchvision.io import ImageReadMode, decode_jpeg, encode_jpeg


def contrast(frames: np.ndarray, severity: int, random: np.random.Generator) -> np.ndarray:
    """(x - mu) c + mu, mu per channel and frame (ImageNet-C contrast)."""
    c = (0.4, 0.3, 0.2, 0.1, 0.05)[severity - 1]
    x = frames.astype(np.float32)
    mean = x.mean(axis=(1, 2), keepdims=True)
    return ((x - mean) * np.float32(c) + mean).clip(0, 255).astype(np.uint8)


def jpeg(frames: np.ndarray, severity: int, random: np.random.Generator) -> np.ndarray:
    """Encode every frame as JPEG and decode it (ImageNet-C jpeg_compression)."""
    quality = (25, 18, 15, 10, 7)[severity - 1]
    images = torch.from_numpy(frames).permute(0, 3, 1, 2).contiguous()
    decoded = [decode_jpeg(encode_jpeg(image, quality), ImageReadMode.RGB) for image in images]
    return torch.stack(decoded).permute(0, 2, 3, 1).contiguous().numpy()

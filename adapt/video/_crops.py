"""Crops of decoded frames: the centre, and the multi-scale crops that views are adapted on."""

import itertools

import numpy as np
import torch
from torchvision.transforms.v2 import functional as tv

CROPS = ("centre", "multi_scale", "multi_scale_whole")
SCALES = (1, 0.875, 0.75, 0.66)
PLACES = (
    (0, 0),
    (0, 4),
    (4, 0),
    (4, 4),
    (2, 2),
    (2, 0),
    (2, 4),
    (4, 2),
    (0, 2),
    (1, 1),
    (1, 3),
    (3, 1),
    (3, 3),
)  # down and right, quarters of the room
NEAR = 3  # pixels: a side that differs less from the network's is the network's
Box = tuple[int, int, int, int]  # top, left, height, width


def centre_crop(frames: np.ndarray, resize: int, size: int) -> np.ndarray:
    """The short side of uint8 frames (N, H, W, 3) resized, then the centre cut out -> (N, size, size, 3)."""
    images = torch.from_numpy(frames).permute(0, 3, 1, 2)
    if min(images.shape[-2:]) != resize:
        images = tv.resize(images, [resize], antialias=True)
    return tv.center_crop(images, [size, size]).permute(0, 2, 3, 1).contiguous().numpy()


def multi_scale_crop(view: torch.Tensor, random: np.random.Generator) -> torch.Tensor:
    """Crop a view (C, T, H, W) to one of TSN's scales at one of its 13 places, the same for all frames, and resize it
    to H x W.

    Height and width are shares 1, .875, .75 or .66 of the short side, at most one scale apart (TSN, Wang et al., ECCV
    2016, section 3.2; ViTTA).
    """
    height, width = view.shape[2:]
    sides = [int(min(height, width) * scale) for scale in SCALES]
    i = int(random.integers(len(sides)))
    j = int(random.integers(max(0, i - 1), min(len(sides), i + 2)))
    down, right = random.choice(PLACES).tolist()
    top, left = down * (height - sides[i]) // 4, right * (width - sides[j]) // 4
    frames = tv.resized_crop(view.transpose(0, 1), top, left, sides[i], sides[j], [height, width], antialias=True)
    return frames.transpose(0, 1)


def whole_box(height: int, width: int, size: int, random: np.random.Generator) -> Box:
    """One of the boxes that ViTTA's code cuts out of a whole decoded frame of H x W pixels for a network of `size`.

    The same scales and places; all ten pairs of sides at most one scale apart are equally likely, sides are taken for
    `size` where they nearly are, and places are whole multiples of a quarter of the room, rounded down.
    """
    sides = [int(min(height, width) * scale) for scale in SCALES]
    sides = [size if abs(side - size) < NEAR else side for side in sides]
    pairs = [(i, j) for i, j in itertools.product(range(len(sides)), repeat=2) if abs(i - j) <= 1]
    i, j = pairs[int(random.integers(len(pairs)))]
    down, right = PLACES[int(random.integers(len(PLACES)))]
    return down * ((height - sides[i]) // 4), right * ((width - sides[j]) // 4), sides[i], sides[j]


def cut(frames: np.ndarray, box: Box, size: int) -> np.ndarray:
    """The box of uint8 frames (N, H, W, 3), resized -> (N, size, size, 3)."""
    images = torch.from_numpy(frames).permute(0, 3, 1, 2)
    return tv.resized_crop(images, *box, [size, size], antialias=True).permute(0, 2, 3, 1).contiguous().numpy()

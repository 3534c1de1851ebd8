"""Mild random changes of training clips, on the device where they are: mirroring, crops, contrast, brightness, blur and
noise (ours).

They are far milder than the test corruptions: without any, a source model falls to chance under severity 5.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as tv


def augmented(frames: Tensor, random: np.random.Generator, *, change: bool, flip: bool) -> Tensor:
    """Float frames (B, C, T, H, W) in [0, 1] from uint8 ones, changed the same way in all frames of a clip.

    `flip` mirrors half of the clips; `change` is all the rest.
    """
    out = []
    for clip in frames:
        x = clip.float() / 255
        if flip and random.random() < 0.5:
            x = x.flip(-1)
        if change:
            x = _changed(x, random)
        out.append(x.clamp(0, 1))
    return torch.stack(out)


def _changed(x: Tensor, random: np.random.Generator) -> Tensor:
    """One clip (C, T, H, W), cropped, and some of the times with other contrast, blurred, or noisy."""
    height, width = x.shape[-2:]
    pad = width // 12
    dy, dx = random.integers(0, 2 * pad + 1, 2)
    x = F.pad(x, (pad, pad, pad, pad), mode="replicate")[..., dy : dy + height, dx : dx + width]
    if random.random() < 0.5:
        mean = x.mean((2, 3), keepdim=True)
        x = (x - mean) * random.uniform(0.4, 1.2) + mean * random.uniform(0.8, 1.2)
    if random.random() < 0.3:
        x = tv.gaussian_blur(x.transpose(0, 1), [5, 5], [random.uniform(0.3, 1.5)]).transpose(0, 1)
    if random.random() < 0.3:
        x = x + _noise(x, random) * random.uniform(0, 0.1)
    return x


def _noise(x: Tensor, random: np.random.Generator) -> Tensor:
    """Standard normal values like `x`; on a GPU drawn there, since drawing on the CPU would keep it waiting."""
    if x.device.type == "cpu":
        return torch.from_numpy(random.standard_normal(tuple(x.shape), np.float32))
    on_device = torch.Generator(x.device).manual_seed(int(random.integers(2**63)))
    return torch.randn(x.shape, generator=on_device, device=x.device)

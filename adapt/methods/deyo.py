"""DeYO (Lee et al., ICLR 2024, arXiv 2403.07366): Tent on clips whose answer hangs on the shape of what is seen.

A clip counts where its entropy H is below `entropy_margin`, and where its top class loses more than `deyo_drop` of
probability once the patches of the picture are shuffled: the pseudo-label probability difference PLPD = p_y(x) -
p_y(x') (equation 8).  loss = mean over such clips of (1 / exp(H - Ent_0) + 1 / exp(-PLPD)) H, the weight held fixed
(equation 10).  The top norm layers keep still, as in SAR.

What differs: the shuffle is drawn once, the same for all clips, views and frames, so that answers hang on nothing but
the clips; the authors draw one an image.
"""

import dataclasses
import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adapt.contract import Answer, Batch, SourceStatistics
from adapt.core.settings import setting
from adapt.losses import entropy
from adapt.methods import sar, tent
from adapt.methods.tent import Tent


@dataclass(frozen=True)
class Settings(tent.Settings):
    """Of DeYO."""

    entropy_margin: float = setting(0.5, unit="share of log K", source="DeYO, equation 8: tau_Ent")
    """clips of higher entropy are left out"""
    deyo_drop: float = setting(0.2, unit="probability", low=-1.0, high=1, source="DeYO, equation 8: tau_PLPD")
    """clips whose top class loses no more than this by the shuffle are left out"""
    deyo_entropy: float = setting(0.4, unit="share of log K", source="DeYO, equation 10: Ent_0")
    """entropy at which the first part of the weight is 1"""
    deyo_patches: int = setting(4, unit="a side", low=2, source="DeYO's code: patch_len")
    """patches along each side of a frame"""
    sar_frozen: float = setting(0.25, unit="share of the layers", high=1, source="DeYO's code, as SAR's")
    """share of the norm layers, nearest to the output, that keep still"""


def shuffled(frames: Tensor, n: int) -> Tensor:
    """Frames (B, V, C, T, H, W) cut into n x n patches in another order, always the same.

    A side that n does not divide is scaled to one that it does, and back; a side below n has a patch a pixel.
    """
    height, width = frames.shape[4:]
    rows, columns = min(n, height), min(n, width)
    h, w = height // rows, width // columns
    flat = _scaled(frames.flatten(0, 2), rows * h, columns * w)  # (B V C, T, rows h, columns w)
    patches = flat.unflatten(3, (columns, w)).unflatten(2, (rows, h)).transpose(3, 4).flatten(2, 3)
    order = torch.randperm(rows * columns, generator=torch.Generator().manual_seed(0)).to(frames.device)
    mixed = patches[:, :, order]  # (B V C, T, rows columns, h, w)
    whole = mixed.unflatten(2, (rows, columns)).transpose(3, 4).flatten(4, 5).flatten(2, 3)
    return _scaled(whole, height, width).view_as(frames)


def _scaled(frames: Tensor, height: int, width: int) -> Tensor:
    if frames.shape[2:] == (height, width):
        return frames
    return F.interpolate(frames, (height, width), mode="bilinear", antialias=True)


class Deyo(Tent):
    """Entropy minimisation where the shape matters."""

    def __init__(self, model: nn.Module, n_classes: int, settings: Settings) -> None:
        still = sar.Settings(scope=settings.scope, sar_frozen=settings.sar_frozen)
        super().__init__(model, settings, sar.below_the_top(model, still))
        self.settings: Settings = settings
        self.log_k = math.log(n_classes)

    @torch.no_grad()
    def drop(self, batch: Batch, log_p: Tensor) -> Tensor:
        """PLPD of clips with log p (B, K): (B,)."""
        frames = shuffled(batch.frames, self.settings.deyo_patches)
        p, there = log_p.exp(), self.look(dataclasses.replace(batch, frames=frames)).log_mean.exp()
        top = p.argmax(1, keepdim=True)
        return (p.gather(1, top) - there.gather(1, top))[:, 0]

    def learn(self, batch: Batch) -> Answer:
        """One step on the chosen clips of the batch, then predict all of it."""
        started, s = time.perf_counter(), self.settings
        views = self.look(batch)
        h = entropy(views.log_mean)
        sure = h < s.entropy_margin * self.log_k
        if not sure.any():
            return self.answer(batch, views, "unreliable", started)
        drop = self.drop(batch, views.log_mean.detach())
        chosen = sure & (drop > s.deyo_drop)
        if not chosen.any():
            return self.answer(batch, views, "shapeless", started)
        weight = (s.deyo_entropy * self.log_k - h.detach()).exp() + drop.exp()
        loss = (weight * h)[chosen].mean()
        taken = self.optimiser.step(loss)
        return self.answer(batch, views, "max_iterations", started, loss if taken else None)


def build(model: nn.Module, statistics: SourceStatistics | None, n_classes: int, settings: Settings) -> Deyo:
    """DeYO around `model`; it needs no source statistics but those in the batch norm buffers."""
    return Deyo(model, n_classes, settings)

"""Batch norm with the statistics of what is forwarded, mixed with the source's (Schneider et al., NeurIPS 2020, 2006.16971).

mean = (1 - r) mean_source + r mean_clip, and the variance likewise, over clips, views, time, height and width.  r = 1 is batch norm in
training mode, as Tent, EATA and SAR have it.  Gradients reach the clip's own statistics, as they do in training mode.
"""
import functools
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from adapt.alignment import moments
from adapt.errors import MethodError
from adapt.methods import Settings


def own_share(settings: Settings, n_clips: int) -> float:
    """r: `bn_prior`, or n / (N + n) for n clips where `bn_samples` gives the N clips that the source's statistics count as."""
    return n_clips / (settings.bn_samples + n_clips) if settings.bn_samples > 0 else settings.bn_prior


def batch_norms(model: nn.Module) -> dict[str, _BatchNorm]:
    """Name -> every batch norm layer that holds source statistics."""
    return {name: module for name, module in model.named_modules() if isinstance(module, _BatchNorm) and module.running_mean is not None}


def _normalised(norm: _BatchNorm, name: str, share: float, x: Tensor) -> Tensor:
    assert norm.running_mean is not None and norm.running_var is not None
    if share >= 1 and x.numel() == x.shape[1]:
        raise MethodError(f"batch norm {name!r} sees one value a channel, which has no variance: set bn_prior below 1")
    own_mean, own_variance = moments(x, channel_last=False)
    mean, variance = torch.lerp(norm.running_mean, own_mean, share), torch.lerp(norm.running_var, own_variance, share)
    if not torch.is_grad_enabled():
        return F.batch_norm(x, mean, variance, norm.weight, norm.bias, training=False, eps=norm.eps)
    scale = (variance + norm.eps).rsqrt()  # written out: F.batch_norm passes no gradient to statistics that it is given
    scale = scale if norm.weight is None else scale * norm.weight
    shift = -mean * scale if norm.bias is None else norm.bias - mean * scale
    shape = (1, -1, *[1] * (x.dim() - 2))
    return x * scale.view(shape) + shift.view(shape)


@contextmanager
def own_statistics(model: nn.Module, share: float) -> Iterator[None]:
    """Within the block every batch norm gives what it sees the weight `share` in [0, 1]; no buffer changes.  A no-op without batch norm."""
    norms = batch_norms(model)
    for name, norm in norms.items():
        norm.__dict__["forward"] = functools.partial(_normalised, norm, name, share)
    try:
        yield
    finally:
        for norm in norms.values():
            del norm.__dict__["forward"]

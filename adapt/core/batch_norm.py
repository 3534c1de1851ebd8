"""Batch norm with the statistics of what is forwarded, mixed with the source's (Schneider et al., NeurIPS 2020,
2006.16971).

mean = (1 - r) mean_source + r mean_clip, and the variance likewise, over clips, views, time, height and width.  r = 1
is batch norm in training mode, as Tent, EATA and SAR have it.  Gradients reach the clip's own statistics, as they do in
training mode.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from adapt.core.moments import moments
from adapt.core.settings import setting
from adapt.errors import MethodError


@dataclass(frozen=True)
class MixingSettings:
    """How much a clip's own statistics count."""

    bn_prior: float = setting(0.3, high=1, source="Schneider et al.; default ours")
    """weight of the clip's own batch norm statistics over the source's; 1 in Tent, EATA and SAR, which have large
    batches
    """
    bn_samples: float = setting(0.0, unit="clips", source="Schneider et al.: pseudo sample size")
    """N: above 0 that weight is n / (N + n) for n clips a batch"""


def own_share(settings: MixingSettings, n_clips: int) -> float:
    """r: `bn_prior`, or n / (N + n) for n clips where `bn_samples` gives the N clips that the source's statistics count
    as.
    """
    return n_clips / (settings.bn_samples + n_clips) if settings.bn_samples > 0 else settings.bn_prior


def batch_norms(model: nn.Module) -> dict[str, _BatchNorm]:
    """Name -> every batch norm layer that holds source statistics."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    }


class Mixing:
    """One batch norm with mixed statistics; the layer's own forward runs, since some layers fuse their activation into
    it (timm's).
    """

    def __init__(self, norm: _BatchNorm, name: str, share: float, unbiased: bool) -> None:
        self.norm, self.name, self.share, self.unbiased = norm, name, share, unbiased
        self.source = norm.running_mean, norm.running_var
        self.handle = norm.register_forward_pre_hook(self)

    def __call__(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        """Without gradients, give the layer the mixed statistics; with them, the input that it normalises as if it had
        them.

        Batch norm passes no gradient to its buffers, so there (x - m) sqrt((v_source + eps) / (v + eps)) + m_source
        goes in.
        """
        (x,), (mean, variance) = inputs, self.source
        assert mean is not None and variance is not None
        if self.share >= 1 and x.numel() == x.shape[1]:
            raise MethodError(
                f"batch norm {self.name!r} sees one value a channel, which has no variance: set bn_prior below 1"
            )
        own_mean, own_variance = moments(x, channel_last=False)
        if self.unbiased:
            own_variance = own_variance * self._unbiasing(x.numel() // x.shape[1])
        mixed_mean, mixed_variance = (
            torch.lerp(mean, own_mean, self.share),
            torch.lerp(variance, own_variance, self.share),
        )
        if not torch.is_grad_enabled():
            self.norm.running_mean, self.norm.running_var = mixed_mean, mixed_variance
            return None
        shape = (1, -1, *[1] * (x.dim() - 2))
        scale = ((variance + self.norm.eps) / (mixed_variance + self.norm.eps)).sqrt()
        return (((x - mixed_mean.view(shape)) * scale.view(shape) + mean.view(shape)).to(x.dtype),)

    def _unbiasing(self, n_values: int) -> float:
        """n / (n - 1) of n values a channel.  Raises MethodError for a single one."""
        if n_values == 1:
            raise MethodError(
                f"batch norm {self.name!r} sees one value a channel, which has no unbiased variance: set bn_variance "
                "to 'biased'"
            )
        return n_values / (n_values - 1)

    def remove(self) -> None:
        """Leave the layer as it was."""
        self.handle.remove()
        self.norm.running_mean, self.norm.running_var = self.source


@contextmanager
def own_statistics(model: nn.Module, share: float, unbiased: bool = False) -> Iterator[None]:
    """Within the block every batch norm gives what it sees the weight `share` in [0, 1]; no buffer has changed after
    it.

    The variance that is mixed is the biased one, as in training mode, or the unbiased one, as torch keeps it in a
    norm's buffers.  A no-op without batch norm.
    """
    mixing = [Mixing(norm, name, share, unbiased) for name, norm in batch_norms(model).items()]
    try:
        yield
    finally:
        for one in mixing:
            one.remove()

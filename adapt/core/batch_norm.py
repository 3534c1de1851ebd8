"""Batch norm with the statistics of what is forwarded, mixed with the source's (Schneider et al., NeurIPS 2020,
2006.16971).

mean = (1 - r) mean_source + r mean_clip, and the variance likewise, over clips, views, time, height and width.  r = 1
is batch norm in training mode, as Tent, EATA and SAR have it.  Gradients reach the clip's own statistics, as they do in
training mode.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from adapt.core.moments import moments
from adapt.core.settings import setting
from adapt.core.state import Stateful
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


KINDS = ("running_mean", "running_var", "num_batches_tracked")  # buffers of a batch norm


class Buffers(Stateful):
    """The running statistics of a model's batch norms where these follow the stream, and the source's."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.source = self.copy()

    def _now(self) -> dict[str, Tensor]:
        """Name -> today's buffer; looked up each time, since moving a network replaces its buffers."""
        found = {
            f"{name}.{kind}": getattr(norm, kind) for name, norm in batch_norms(self.model).items() for kind in KINDS
        }
        return {name: buffer for name, buffer in found.items() if buffer is not None}

    def copy(self) -> dict[str, Tensor]:
        """Today's values by name."""
        return {name: buffer.clone() for name, buffer in self._now().items()}

    @torch.no_grad()
    def put(self, values: Mapping[str, Tensor]) -> None:
        """Set every buffer."""
        for name, buffer in self._now().items():
            buffer.copy_(values[name])

    @contextmanager
    def at(self, values: Mapping[str, Tensor]) -> Iterator[None]:
        """Within the block the buffers have these values; afterwards, bit for bit, those of before."""
        before = self.copy()
        self.put(values)
        try:
            yield
        finally:
            self.put(before)

    def finite(self) -> bool:
        """Whether every statistic is a number."""
        return all(bool(buffer.isfinite().all()) for buffer in self._now().values())

    def reset(self) -> None:
        """Back to the source."""
        self.put(self.source)

    def state(self) -> dict[str, Any]:
        """Name -> value."""
        return self.copy()

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Set every buffer by name.  Raises MethodError, before any is changed, where names or shapes differ."""
        expected = {name: buffer.shape for name, buffer in self._now().items()}
        if {name: value.shape for name, value in state.items()} != expected:
            raise MethodError(
                f"the state's {len(state)} batch norm statistics are not the {len(expected)} of this model: load it "
                "into the same model"
            )
        self.put(state)


@contextmanager
def following(model: nn.Module, momentum: float) -> Iterator[None]:
    """Within the block every batch norm is in torch's training mode: it normalises by what it sees, and its buffers
    take that in with the weight `momentum` (the variance unbiased).  Everything else stays in eval mode.

    Raises MethodError for a layer that sees one value a channel, which has no variance.
    """
    norms = batch_norms(model)
    modes = {name: (norm.training, norm.momentum) for name, norm in norms.items()}
    handles = [norm.register_forward_pre_hook(_Counted(name)) for name, norm in norms.items()]
    for norm in norms.values():
        norm.training, norm.momentum = True, momentum
    try:
        yield
    finally:
        for name, norm in norms.items():
            norm.training, norm.momentum = modes[name]
        for handle in handles:
            handle.remove()


class _Counted:
    """Sees that a batch norm is given more than one value a channel."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if inputs[0].numel() == inputs[0].shape[1]:
            raise MethodError(
                f"batch norm {self.name!r} sees one value a channel, which has no variance: take more views or clips "
                "at once, or choose a method that follows no statistics"
            )

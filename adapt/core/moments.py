"""The moments of what norm layers put out: mean and biased variance of each channel over clips, views, time, height and
width.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.instancenorm import _InstanceNorm

from adapt.contract import Moments, SourceStatistics
from adapt.errors import CheckpointError, MethodError

NORMS = (_BatchNorm, _InstanceNorm, nn.LayerNorm, nn.GroupNorm)  # SyncBatchNorm and subclasses of one's own among them
REDUCED = (torch.float16, torch.bfloat16)  # types of autocast, too coarse for sums


def norm_layers(model: nn.Module) -> list[str]:
    """Names of the norm layers aligned by default: the backbone's own choice, else all of them.  Raises MethodError for
    none.

    An instance norm without running statistics is left out: the moments of its output are those of its weights,
    whatever comes in.
    """
    chosen = getattr(model, "alignment_layers", None)
    names = (
        chosen() if chosen is not None else [name for name, module in model.named_modules() if _says_something(module)]
    )
    if not names:
        raise MethodError(
            f"{model._get_name()} has no norm layer to align: name layers, or use a method that needs none"
        )
    return list(names)


def _says_something(module: nn.Module) -> bool:
    return isinstance(module, NORMS) and not (isinstance(module, _InstanceNorm) and module.running_mean is None)


def moments(output: Tensor, channel_last: bool) -> tuple[Tensor, Tensor]:
    """Mean and biased variance per channel of a layer's output: (C,), (C,), in float32 at least."""
    flat = output.reshape(-1, output.shape[-1]) if channel_last else output
    mean, variance = _Moments.apply(flat)  # type: ignore[no-untyped-call]
    return mean, variance


class _Moments(torch.autograd.Function):
    """Mean and biased variance of x (N, C, ...) per channel, by batch norm's own kernel: as safe as torch.var_mean, 20
    x faster on the CPU.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, variance = torch.batch_norm_update_stats(x.float() if x.dtype in REDUCED else x, None, None, 0.0)
        ctx.save_for_backward(x, mean)
        return mean, variance

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        x, mean = ctx.saved_tensors
        of_mean, of_variance = gradients
        per_value = x.shape[1] / x.numel()
        slope = 2 * per_value * of_variance
        offset = per_value * of_mean - slope * mean
        shape = (1, -1, *[1] * (x.dim() - 2))
        return torch.addcmul(offset.view(shape), x, slope.view(shape)).to(x.dtype)


def has_channels_last(norm: nn.Module) -> bool:
    """Whether a norm layer's channels are its output's last axis: so for a layer norm, but for those made for images
    (timm's LayerNorm2d).
    """
    return isinstance(norm, nn.LayerNorm) and not any(kind in type(norm).__name__ for kind in ("1d", "2d", "3d"))


def output_moments(norm: nn.Module, given: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance per channel of a norm layer's output, given its input.

    A norm with running statistics in eval mode is one scale and shift a channel, so its output's moments follow from
    its input's: exact, and safe where the network overwrites the output (in-place activations and residual sums).  A
    norm whose work is done passes its input on (adapt/backbones/_folding.py).
    """
    passed_on = output is given
    if (
        passed_on
        or not isinstance(norm, _NormBase)
        or norm.training
        or norm.running_mean is None
        or norm.running_var is None
    ):
        return moments(output, channel_last=has_channels_last(norm))
    mean, variance = moments(given, channel_last=False)
    scale = (norm.running_var + norm.eps).rsqrt()
    scale = scale if norm.weight is None else scale * norm.weight
    shift = -norm.running_mean * scale
    shift = shift if norm.bias is None else shift + norm.bias
    return scale * mean + shift, scale.square() * variance


def record(seen: Moments, name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    """Put the moments of a norm layer's output into `seen`: a forward hook, once the first two are bound."""
    seen[name] = output_moments(module, inputs[0], output)


def from_buffers(model: nn.Module, names: Sequence[str]) -> Moments:
    """Source-free statistics: after batch norm a channel has mean beta and variance gamma^2 on the source, if it was
    trained well (ours).
    """
    modules = dict(model.named_modules())
    norms = {name: modules[name] for name in names if isinstance(modules.get(name), _BatchNorm)}
    if len(norms) != len(names):
        raise MethodError(
            "source statistics from buffers need batch norm layers: run the statistics stage, or pass "
            "adapt.source_statistics"
        )
    if bare := [name for name, norm in norms.items() if norm.weight is None]:
        raise MethodError(
            f"batch norm {bare[0]!r} has no scale and shift: run the statistics stage, or pass adapt.source_statistics"
        )
    return {name: (norm.bias.detach().clone(), norm.weight.detach().square()) for name, norm in norms.items()}


def source_moments(model: nn.Module, names: Sequence[str], statistics: SourceStatistics | None) -> Moments:
    """The source's moments of the named layers, on the model's device; from batch norm buffers where `statistics` is
    None.

    Raises MethodError where a layer is missing.
    """
    device = next(model.parameters()).device
    found = from_buffers(model, names) if statistics is None else statistics.moments
    if missing := [name for name in names if name not in found]:
        raise MethodError(
            f"the source statistics lack layer {missing[0]!r}: take them of this model (adapt.source_statistics, or "
            "the stage)"
        )
    return {name: (found[name][0].to(device), found[name][1].to(device)) for name in names}


class Running:
    """Mean and variance merged one clip at a time in float64 (Chan et al. 1983), so nothing cancels."""

    def __init__(self) -> None:
        self.n_clips = 0
        self.weight: dict[str, float] = {}  # taken in, per layer
        self.mean: dict[str, Tensor] = {}
        self.variance: dict[str, Tensor] = {}

    def add(self, seen: Moments, counts: Mapping[str, int]) -> None:
        """Take in the moments (mean (C,), biased variance (C,)) of one clip per layer, `counts` the values a channel
        each was taken over.
        """
        self.n_clips += 1
        for name, (mean, variance) in seen.items():
            count = counts[name]
            self.weight[name] = self.weight.get(name, 0) + count
            share = count / self.weight[name]
            mean, variance = mean.double().cpu(), variance.double().cpu()
            old_mean = self.mean.get(name, torch.zeros_like(mean))
            old_variance = self.variance.get(name, torch.zeros_like(variance))
            delta = mean - old_mean
            self.mean[name] = old_mean + share * delta
            self.variance[name] = (1 - share) * old_variance + share * variance + share * (1 - share) * delta.square()

    def result(self) -> Moments:
        """The moments over all clips taken in, as float32."""
        return {name: (self.mean[name].float(), self.variance[name].float()) for name in self.mean}


@torch.no_grad()
def collect(model: nn.Module, names: Sequence[str], clips: Iterable[Tensor]) -> Moments:
    """Moments of the named layers' outputs over all values of all `clips` of frames (N, C, T, H, W) in [0, 1], the
    model as it is.

    Clips may differ in size: each counts by its number of values.  Sums are float64.  Raises MethodError for an unknown
    layer or without a clip, CheckpointError where a moment is not finite.
    """
    running, modules = Running(), dict(model.named_modules())
    if unknown := [name for name in names if name not in modules]:
        raise MethodError(f"{model._get_name()} has no layer {unknown[0]!r}: choose among its named modules")
    seen: Moments = {}
    counts: dict[str, int] = {}

    def count(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        given = inputs[0].double()
        seen[name] = output_moments(module, given, given if output is inputs[0] else output.double())
        counts[name] = output.numel() // seen[name][0].numel()

    with ExitStack() as hooks:
        for name in names:
            hooks.callback(modules[name].register_forward_hook(partial(count, name)).remove)
        for frames in clips:
            model(frames)
            running.add(seen, counts)
    if not running.n_clips:
        raise MethodError("source statistics need at least one clip")
    found = running.result()
    if wrong := [name for name, (mean, variance) in found.items() if not bool((mean + variance).isfinite().all())]:
        raise CheckpointError(
            f"the statistics of layer {wrong[0]!r} are not finite: train the model again at a lower rate"
        )
    return found


def source_statistics(
    model: nn.Module,
    clips: Iterable[Tensor],
    layers: Sequence[str] = (),
    prepare: Callable[[Tensor], Any] | None = None,
) -> SourceStatistics:
    """What alignment pulls towards: per norm layer, mean and variance of the output over clean source clips (1, C, T,
    H, W) in [0, 1].

    Needed for networks without batch norm, better than its buffers for those with.  Raises MethodError without clips or
    norm layers.
    """
    network = _Source(model.eval(), prepare)
    names = list(layers) or norm_layers(model)
    found = collect(network, [f"model.{name}" for name in names], clips)
    return SourceStatistics({name.removeprefix("model."): pair for name, pair in found.items()})


class _Source(nn.Module):
    """The user's network behind `prepare`."""

    def __init__(self, model: nn.Module, prepare: Callable[[Tensor], Any] | None) -> None:
        super().__init__()
        self.model, self.prepare = model, prepare

    def forward(self, frames: Tensor) -> object:
        """Frames (N, C, T, H, W) in [0, 1] -> whatever the network answers."""
        return self.model(frames if self.prepare is None else self.prepare(frames))

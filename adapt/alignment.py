"""Feature alignment (ViTTA, Lin et al., CVPR 2023, section 3.1): pull the output statistics of norm layers towards the source's.

Statistics of a layer are the mean and the biased variance of each channel over clips, views, time, height and width.  The online estimate is
an exponential moving average that the gradient reaches through the newest clip only, and that is committed once a clip.
"""
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from adapt.checkpoints import Statistics
from adapt.errors import MethodError

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.LayerNorm, nn.GroupNorm)


def norm_layers(model: nn.Module) -> list[str]:
    """Names of the norm layers aligned by default: the backbone's own choice, else all of them.  Raises MethodError for none."""
    chosen = getattr(model, "alignment_layers", None)
    names = chosen() if chosen is not None else [name for name, module in model.named_modules() if isinstance(module, NORMS)]
    if not names:
        raise MethodError(f"{type(model).__name__} has no norm layer to align: name layers, or use a method that needs none")
    return list(names)


def moments(output: Tensor, channel_last: bool) -> tuple[Tensor, Tensor]:
    """Mean and biased variance per channel of a layer's output: (C,), (C,)."""
    axis = output.dim() - 1 if channel_last else 1
    rest = [d for d in range(output.dim()) if d != axis]
    variance, mean = torch.var_mean(output, rest, correction=0)
    return mean, variance


def output_moments(norm: nn.Module, given: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance per channel of a norm layer's output, given its input.

    Batch norm in eval mode is one scale and shift a channel, so its output's moments follow from its input's: exact, and safe where the
    network overwrites the output (in-place activations and residual sums).
    """
    if not isinstance(norm, _BatchNorm) or norm.training or norm.running_mean is None or norm.running_var is None:
        return moments(output, channel_last=isinstance(norm, nn.LayerNorm))
    mean, variance = moments(given, channel_last=False)
    scale = (norm.running_var + norm.eps).rsqrt()
    scale = scale if norm.weight is None else scale * norm.weight
    shift = -norm.running_mean * scale
    shift = shift if norm.bias is None else shift + norm.bias
    return scale * mean + shift, scale.square() * variance


@contextmanager
def recorded(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
    """Within the block, each forward leaves the moments of the named layers in the yielded dict."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    modules = dict(model.named_modules())
    if unknown := [name for name in names if name not in modules]:
        raise MethodError(f"{type(model).__name__} has no layer {unknown[0]!r}: choose among its named modules")

    def record(name: str) -> torch.utils.hooks.RemovableHandle:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            seen[name] = output_moments(module, inputs[0], output)

        return modules[name].register_forward_hook(hook)

    handles = [record(name) for name in names]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def from_buffers(model: nn.Module, names: Sequence[str]) -> Statistics:
    """Source-free statistics: after batch norm a channel has mean beta and variance gamma^2 on the source, if it was trained well (ours)."""
    modules = dict(model.named_modules())
    norms = {name: modules[name] for name in names if isinstance(modules.get(name), _BatchNorm)}
    if len(norms) != len(names):
        raise MethodError("source statistics from buffers need batch norm layers: run the statistics stage for this model instead")
    return {name: (norm.bias.detach().clone(), norm.weight.detach().square()) for name, norm in norms.items()}


class Alignment:
    """The alignment loss and its online estimate."""

    def __init__(self, source: Statistics, *, ema: float, start: str = "source") -> None:
        """`ema` is the weight of the newest clip; `start` is "source", or "zero" as ViTTA has it (without bias correction)."""
        if start not in ("source", "zero"):
            raise MethodError(f"alignment start {start!r}: choose 'source' or 'zero'")
        self.source, self.ema, self.start = source, ema, start
        self.reset()

    def reset(self) -> None:
        """Forget the online estimate."""
        keep = 1.0 if self.start == "source" else 0.0
        self.online = {name: (mean * keep, variance * keep) for name, (mean, variance) in self.source.items()}

    def loss(self, seen: dict[str, tuple[Tensor, Tensor]]) -> Tensor:
        """sum over layers of mean|mu - mu_src| + mean|var - var_src|, a scalar; equation 6 of ViTTA."""
        terms = []
        for name, (mean, variance) in self._blend(seen).items():
            source_mean, source_variance = self.source[name]
            terms.append((mean - source_mean).abs().mean() + (variance - source_variance).abs().mean())
        return torch.stack(terms).sum()

    def commit(self, seen: dict[str, tuple[Tensor, Tensor]]) -> None:
        """Take the newest clip's moments into the online estimate."""
        self.online = {name: (mean.detach(), variance.detach()) for name, (mean, variance) in self._blend(seen).items()}

    def _blend(self, seen: dict[str, tuple[Tensor, Tensor]]) -> Statistics:
        return {
            name: (self.ema * mean + (1 - self.ema) * self.online[name][0], self.ema * variance + (1 - self.ema) * self.online[name][1])
            for name, (mean, variance) in seen.items()
        }

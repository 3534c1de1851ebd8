"""Feature alignment (ViTTA, Lin et al., CVPR 2023, section 3.1): pull the output statistics of norm layers towards the source's.

The online estimate is an exponential moving average that the gradient reaches through the newest clip only, and that is committed once a clip.
"""
import torch
from torch import Tensor

from adapt.contract import Moments
from adapt.core.state import Stateful
from adapt.errors import MethodError


class Alignment(Stateful):
    """The alignment loss and its online estimate."""

    running = ("online",)

    def __init__(self, source: Moments, *, ema: float, start: str = "source") -> None:
        """`ema` is the weight of the newest clip; `start` is "source", or "zero" as ViTTA has it (without bias correction)."""
        if start not in ("source", "zero"):
            raise MethodError(f"alignment start {start!r}: choose 'source' or 'zero'")
        self.source, self.ema, self.start = source, ema, start
        self.reset()

    def reset(self) -> None:
        """Forget the online estimate."""
        keep = 1.0 if self.start == "source" else 0.0
        self.online = {name: (mean * keep, variance * keep) for name, (mean, variance) in self.source.items()}

    def loss(self, seen: Moments) -> Tensor:
        """sum over layers of mean|mu - mu_src| + mean|var - var_src|, a scalar; equation 6 of ViTTA."""
        terms = []
        for name, (mean, variance) in self._blend(seen).items():
            source_mean, source_variance = self.source[name]
            terms.append((mean - source_mean).abs().mean() + (variance - source_variance).abs().mean())
        return torch.stack(terms).sum()

    def commit(self, seen: Moments) -> None:
        """Take the newest clip's moments into the online estimate."""
        self.online = {name: (mean.detach(), variance.detach()) for name, (mean, variance) in self._blend(seen).items()}

    def _blend(self, seen: Moments) -> Moments:
        return {
            name: (self.ema * mean + (1 - self.ema) * self.online[name][0], self.ema * variance + (1 - self.ema) * self.online[name][1])
            for name, (mean, variance) in seen.items()
        }

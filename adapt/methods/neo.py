"""NEO (Murphy et al., ICLR 2026, arXiv 2510.05635): features are centred anew before the head; no gradients, no source
statistics.  What DUA is to batch norm, for networks with layer norm: it works with any norm, or none.

A shift of the input moves all features by about the same vector.  The source's own mean is the origin where the network
was trained to neural collapse (proposition 4.2), so the running mean of the stream's features is that vector, and it is
taken away before the head: logits = W (h - mean) + b, the clip itself taken into the mean first (algorithm 1).  With
`neo_ema` above 0 the mean is a moving one (NEO-Continual).  FOA's activation shifting (Niu et al., ICML 2024) is the
same with the source's mean in place of the origin.

What differs: the origin counts as `neo_start` clips in the mean, since at batch 1 the first clip would else be taken
from itself, and its answer be the bias alone.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adapt.contract import Answer, Batch, SourceStatistics
from adapt.core.head import find_head, forward_with_features
from adapt.core.learner import NOT_FINITE
from adapt.core.settings import setting
from adapt.core.state import Stateful


@dataclass(frozen=True)
class Settings:
    """Of NEO."""

    neo_start: float = setting(1.0, unit="clips", source="NEO, algorithm 1: 0; default ours")
    """what the origin, the source's own mean, counts as in the running mean"""
    neo_ema: float = setting(0.0, unit="share", high=1, source="NEO-Continual: 0.1 in the authors' code; NEO: off")
    """above 0: weight of the newest batch in a moving mean that takes the running one's place"""


class Centre(Stateful):
    """The running mean of features."""

    running = ("mean", "n_clips")

    def __init__(self, head: nn.Linear, settings: Settings) -> None:
        self.settings = settings
        self.start = torch.zeros_like(head.weight[0], requires_grad=False)
        self.reset()

    def reset(self) -> None:
        """The origin."""
        self.mean, self.n_clips = self.start.clone(), self.settings.neo_start

    def add(self, features: Tensor) -> None:
        """Take in clips of features (B, C)."""
        self.n_clips += len(features)
        share = self.settings.neo_ema if self.settings.neo_ema > 0 else len(features) / self.n_clips
        self.mean = torch.lerp(self.mean, features.to(self.mean).mean(0), share)


class Neo(Stateful):
    """A frozen network whose features are centred anew."""

    def __init__(self, model: nn.Module, n_classes: int, settings: Settings) -> None:
        self.model = model.eval()
        self.head = find_head(model, n_classes)
        self.centre = Centre(self.head, settings)

    @torch.no_grad()
    def adapt(self, batch: Batch) -> Answer:
        """Take the batch's features into the mean, then predict it from what is left of them."""
        seen = forward_with_features(self.model, self.head, batch.centre[:, 0])
        before = seen.logits.log_softmax(1)
        if bool(before.isnan().any()):
            return Answer(before=before, after=before, stop_reason=NOT_FINITE, source=before)
        self.centre.add(seen.features)
        logits = F.linear(seen.features - self.centre.mean.to(seen.features), self.head.weight, self.head.bias)
        after = logits.masked_fill(before == -torch.inf, -torch.inf).log_softmax(1)
        return Answer(before=before, after=after, source=before)

    @torch.no_grad()
    def source_answer(self, batch: Batch) -> Tensor:
        """Log-probabilities of the centre view, its features as they are: (B, K)."""
        log_p: Tensor = self.model(batch.centre[:, 0]).log_softmax(1)
        return log_p


def build(model: nn.Module, statistics: SourceStatistics | None, n_classes: int, settings: Settings) -> Neo:
    """NEO around `model`, which needs a last linear layer."""
    return Neo(model, n_classes, settings)

"""ViTTA's step on DUA's statistics: first the batch norm buffers take the clip in (dua.py), then alignment and
consistency take a step under these buffers (vitta.py).

The two papers are put together by us; each part is as in its own file.  A clip that gives no step leaves the buffers
alone.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from adapt.contract import Answer, Batch, SourceStatistics
from adapt.methods import vitta
from adapt.methods.dua import Follower, Following
from adapt.methods.vitta import Vitta


@dataclass(frozen=True)
class Settings(Following, vitta.Settings):
    """Of ViTTA on DUA's statistics."""


class VittaDua(Vitta):
    """ViTTA under batch norm statistics that follow the stream."""

    def __init__(self, model: nn.Module, statistics: SourceStatistics | None, settings: Settings) -> None:
        super().__init__(model, statistics, settings)
        self.follower = Follower(model, settings, "vitta_dua")

    def learn(self, batch: Batch) -> Answer:
        """Take the batch's statistics in, take ViTTA's step, predict."""
        before = self.follower.state()
        self.follower.follow(batch)
        answer = super().learn(batch)
        if not answer.steps:
            self.follower.load_state(before)
        return answer

    def source_answer(self, batch: Batch) -> Tensor:
        """Log-probabilities (B, K) of the centre view by the source weights and the source's statistics."""
        with self.follower.buffers.at(self.follower.buffers.source):
            return super().source_answer(batch)


def build(model: nn.Module, statistics: SourceStatistics | None, n_classes: int, settings: Settings) -> VittaDua:
    """ViTTA on DUA's statistics around `model`, which needs batch norm."""
    return VittaDua(model, statistics, settings)

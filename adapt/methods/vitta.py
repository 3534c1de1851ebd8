"""ViTTA (Lin et al., CVPR 2023): align feature statistics and make temporal views consistent, one SGD step a clip.

loss = alignment + 0.1 consistency (sections 3.1 to 3.3).  --preset vitta_published is the authors' recipe for TANet;
the defaults depart from it where validation says so.  What stays different from their code: our
statistics stage pools all values where theirs averages the moments of batches of 32 (`statistics_files` takes theirs),
corruptions made here change pixels after the crop (`ready_made` files are corrupted whole, as theirs), frames are
resized by torchvision instead of Pillow (a level apart), and random numbers come from other generators.
"""

import time
from dataclasses import dataclass

from torch import nn

from adapt.contract import Answer, Batch, SourceStatistics, Step
from adapt.core import learner
from adapt.core.learner import Learner, adapted_parameters, milliseconds_since
from adapt.core.moments import norm_layers, source_moments
from adapt.core.settings import setting
from adapt.losses import Alignment, consistency


@dataclass(frozen=True)
class Aligning:
    """Of methods that align."""

    lr: float = setting(
        1e-3,
        unit="per step",
        source="ViTTA: experiments (TANet 5e-5, Swin 1e-5, all weights); default ours, for norm layers",
    )
    """SGD's learning rate on the stream"""
    ema: float = setting(0.1, unit="share", high=1, source="ViTTA, section 3.1 and experiments (TANet 0.1, Swin 0.05)")
    """weight of the newest clip in the online statistics"""
    consistency: float = setting(0.1, source="ViTTA, section 3.3")
    """weight of the views' consistency"""


@dataclass(frozen=True)
class Settings(Aligning, learner.Settings):
    """Of ViTTA."""

    ema_start: str = setting("source", choices=("source", "zero"), source="zero: ViTTA's code; source: ours")
    """where the online statistics start; zero is without bias correction"""
    consistency_over: str = setting("mean", choices=("mean", "sum"), source="sum: ViTTA's code; mean: ours")
    """what is taken of the consistency over the clips of a batch; equal for batches of one"""


class Vitta(Learner):
    """The model, its optimiser and the online statistics."""

    def __init__(self, model: nn.Module, statistics: SourceStatistics | None, settings: Settings) -> None:
        self.settings, self.layers = settings, norm_layers(model)
        source = source_moments(model, self.layers, statistics)
        weights = adapted_parameters(model, settings.scope)
        super().__init__(model, settings, weights, settings.lr, settings.weight_decay, settings.dropout)
        self.alignment = Alignment(source, ema=settings.ema, start=settings.ema_start)

    def learn(self, batch: Batch) -> Answer:
        """One step on the batch, then predict it."""
        started = time.perf_counter()
        views = self.look(batch)
        align, agree = self.alignment.loss(views.seen), consistency(views.log_p, self.settings.consistency_over)
        loss = align + self.settings.consistency * agree
        trace = []
        if self.optimiser.step(loss):
            self.alignment.commit(views.seen)
            trace = [Step(loss.item(), bool(views.agree), milliseconds_since(started), align.item(), agree.item())]
        before, after = views.mean().detach().log(), self.predict(batch)
        return Answer(before, after, steps=len(trace), stop_reason="max_iterations", trace=trace)


def build(model: nn.Module, statistics: SourceStatistics | None, n_classes: int, settings: Settings) -> Vitta:
    """ViTTA around `model`."""
    return Vitta(model, statistics, settings)

"""ViTTA (Lin et al., CVPR 2023): align feature statistics and make temporal views consistent, one SGD step a clip.

loss = alignment + 0.1 consistency (sections 3.1 to 3.3).  With scope=all, lr=5e-5, weight_decay=5e-4, ema_start=zero, dropout=True and views by
crop=multi_scale (adapt/video/clips.py) this is the published recipe; the defaults depart where validation says so (Settings).
"""
import time

from torch import Tensor, nn

from adapt.contract import Answer, Batch, Moments, Step
from adapt.core import moments
from adapt.core.learner import Learner, Views, adapted_parameters, milliseconds_since
from adapt.errors import MethodError
from adapt.methods import Settings


def consistency(log_p: Tensor) -> Tensor:
    """mean over views of ||p_v - p||_1, p not detached: (B, V, K) -> scalar (ViTTA, equation 9)."""
    p = log_p.exp()
    return (p - p.mean(1, keepdim=True)).abs().sum(2).mean()


class Vitta(Learner):
    """The model, its optimiser and the online statistics."""

    def __init__(self, model: nn.Module, statistics: Moments | None, settings: Settings) -> None:
        self.names = moments.norm_layers(model)
        device = next(model.parameters()).device
        source = statistics if statistics is not None else moments.from_buffers(model, self.names)
        if missing := [name for name in self.names if name not in source]:
            raise MethodError(f"the source statistics lack layer {missing[0]!r}: take them of this model (adapt.source_statistics, or the stage)")
        source = {name: (source[name][0].to(device), source[name][1].to(device)) for name in self.names}
        super().__init__(model, settings, adapted_parameters(model, settings.scope), settings.lr)
        self.alignment = Alignment(source, ema=settings.ema, start=settings.ema_start)

    def look(self, batch: Batch) -> Views:
        """Forward the views: batch norm in eval mode, dropout as set."""
        with moments.recorded(self.model, self.names) as seen:
            log_p = self.forward_views(batch)
        return Views(log_p, seen)

    def learn(self, batch: Batch) -> Answer:
        """One step on the batch, then predict it."""
        started = time.perf_counter()
        views = self.look(batch)
        align = self.alignment.loss(views.seen)
        agree = consistency(views.log_p)
        loss = align + self.settings.consistency * agree
        self.optimiser.step(loss)
        self.alignment.commit(views.seen)
        step = Step(loss.item(), views.agree(), milliseconds_since(started), align.item(), agree.item())
        return Answer(
            before=views.mean().detach().log(), after=self.predict(batch), steps=1, stop_reason="max_iterations", trace=[step]
        )


def build(model: nn.Module, statistics: Moments | None, n_classes: int, settings: Settings) -> Vitta:
    """ViTTA around `model`."""
    return Vitta(model, statistics, settings)

"""ViTTA (Lin et al., CVPR 2023): align feature statistics and make temporal views consistent, one SGD step a clip.

loss = alignment + 0.1 consistency (sections 3.1 to 3.3).  With scope=all, lr=5e-5, weight_decay=5e-4, ema_start=zero and dropout=True this
is the published recipe; the defaults depart where validation says so (Settings).
"""
import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from adapt import alignment
from adapt.checkpoints import Statistics
from adapt.errors import MethodError
from adapt.methods import Answer, Batch, Settings, Step

Moments = dict[str, tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Views:
    """What one forward of the views gives."""

    log_p: Tensor  # (B, V, K)
    seen: Moments

    def mean(self) -> Tensor:
        """p, the mean over views: (B, K)."""
        return self.log_p.exp().mean(1)

    def agree(self) -> bool:
        """Whether all views of every clip have the same class on top."""
        top = self.log_p.argmax(2)
        return bool((top == top[:, :1]).all())


def consistency(log_p: Tensor) -> Tensor:
    """mean over views of ||p_v - p||_1, p not detached: (B, V, K) -> scalar (ViTTA, equation 9)."""
    p = log_p.exp()
    return (p - p.mean(1, keepdim=True)).abs().sum(2).mean()


def adapted_parameters(model: nn.Module, scope: str) -> list[nn.Parameter]:
    """The parameters that adapt: `norm` is scale and shift of every norm layer, `all` is everything.  Raises MethodError for none."""
    if scope == "all":
        return list(model.parameters())
    if scope != "norm":
        raise MethodError(f"scope {scope!r}: choose 'norm' or 'all'")
    found = [p for module in model.modules() if isinstance(module, alignment.NORMS) for p in module.parameters(recurse=False)]
    if not found:
        raise MethodError(f"{type(model).__name__} has no norm layer with weights: set scope to 'all'")
    return found


class Vitta:
    """The model, its optimiser and the online statistics."""

    def __init__(self, model: nn.Module, statistics: Statistics | None, settings: Settings) -> None:
        self.model, self.settings = model.eval(), settings
        self.names = alignment.norm_layers(model)
        device = next(model.parameters()).device
        source = statistics if statistics is not None else alignment.from_buffers(model, self.names)
        if missing := [name for name in self.names if name not in source]:
            raise MethodError(f"the source statistics lack layer {missing[0]!r}: run `dvc repro statistics` for this model")
        source = {name: (source[name][0].to(device), source[name][1].to(device)) for name in self.names}
        self.alignment = alignment.Alignment(source, ema=settings.ema, start=settings.ema_start)
        model.requires_grad_(False)
        self.parameters = adapted_parameters(model, settings.scope)
        for parameter in self.parameters:
            parameter.requires_grad_(True)
        self.initial = [parameter.detach().clone() for parameter in self.parameters]
        self.optimiser = self._optimiser()

    def _optimiser(self) -> torch.optim.Optimizer:
        s = self.settings
        return torch.optim.SGD(self.parameters, lr=s.lr, momentum=s.momentum, weight_decay=s.weight_decay)

    def reset(self) -> None:
        """Give back the source weights and forget optimiser and online statistics."""
        with torch.no_grad():
            for parameter, value in zip(self.parameters, self.initial, strict=True):
                parameter.copy_(value)
        self.optimiser = self._optimiser()
        self.alignment.reset()

    def look(self, batch: Batch) -> Views:
        """Forward the views: batch norm in eval mode, dropout as set."""
        b, v = batch.frames.shape[:2]
        if self.settings.dropout:
            for module in self.model.modules():
                if isinstance(module, nn.Dropout):
                    module.train()
        with alignment.recorded(self.model, self.names) as seen:
            log_p = self.model(batch.frames.flatten(0, 1)).log_softmax(1).view(b, v, -1)
        self.model.eval()
        return Views(log_p, seen)

    @torch.inference_mode()
    def predict(self, batch: Batch) -> Tensor:
        """Log-probabilities of the centre view: (B, K)."""
        log_p: Tensor = self.model(batch.centre[:, 0]).log_softmax(1)
        return log_p

    def adapt(self, batch: Batch) -> Answer:
        """One step on the batch, then predict it."""
        started = time.perf_counter()
        views = self.look(batch)
        align = self.alignment.loss(views.seen)
        agree = consistency(views.log_p)
        loss = align + self.settings.consistency * agree
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        self.alignment.commit(views.seen)
        step = Step(loss.item(), views.agree(), 1000 * (time.perf_counter() - started), align.item(), agree.item())
        return Answer(
            before=views.mean().detach().log(), after=self.predict(batch), steps=1, stop_reason="max_iterations", trace=[step]
        )


def build(model: nn.Module, statistics: Statistics | None, n_classes: int, settings: Settings) -> Vitta:
    """ViTTA around `model`."""
    return Vitta(model, statistics, settings)

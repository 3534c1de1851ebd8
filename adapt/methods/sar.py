"""SAR (Niu et al., ICLR 2023, arXiv 2302.12400): Tent on reliable clips, by steps that seek a flat minimum, with
recovery from collapse.

min S(x) H^SA(x), S = 1 where H(x) < E_0, else 0 (equation 2), H^SA the largest entropy within `sar_radius` of the
weights. To first order that is at theta + eps, eps = rho g / ||g||_2 (equation 4), and the gradient is taken there.
Clips whose entropy at theta + eps is above E_0 are left out too.  A running mean of the loss, weight 0.1 for the newest
clip, below e_0 means collapse: the source weights come back and the mean starts anew (the authors' code goes on with
the old one).

The top of the network keeps still (`sar_frozen`, `sar_top`).  e_0 is given as a share of log K: the paper's 0.2 is for
K = 1000.

As published: --preset sar_published.  What stays different from the authors' code: the mean that starts anew after a
recovery, all norm layers below the top adapt, the temporal modules' 1D ones too, and it answers with the forward that
the gradient came from (column before_id, with one view).
"""

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from adapt.contract import Answer, Batch, SourceStatistics
from adapt.core.learner import NOT_FINITE, Views, adapted_parameters
from adapt.core.moments import NORMS
from adapt.core.settings import setting
from adapt.core.state import MovingAverage
from adapt.errors import MethodError
from adapt.losses import entropy
from adapt.methods.eata import Reliable
from adapt.methods.tent import Tent

NEWEST = 0.1  # weight of the newest loss in its running mean
N_BLOCKS, N_TOP_BLOCKS = 12, 3  # of ViT-Base, and of them those that keep still (the authors' code, collect_params)


@dataclass(frozen=True)
class Settings(Reliable):
    """Of SAR."""

    sar_radius: float = setting(0.05, unit="norm of the weights' change", source="SAR, equation 4")
    """rho, how far the sharpness-aware step looks, in weight space"""
    sar_reset: float = setting(0.029, unit="share of log K", source="SAR: model recovery (0.2 with K = 1000)")
    """e_0: a running loss below it is a collapse"""
    sar_frozen: float = setting(
        0.25,
        unit="share of the layers",
        high=1,
        source="SAR: experiments (3 of 12 blocks of a ViT, layer4 of a ResNet)",
    )
    """share of the norm layers, nearest to the output, that keep still"""
    sar_top: str = setting("share", choices=("share", "published"), source="published: SAR's code; share: ours")
    """what keeps still: the share sar_frozen of the norm layers, or as published layer4 of a ResNet, else the last 3 of
    12 blocks and the norms behind them"""
    sar_coasts: bool = setting(False, source="SAR's code; default ours")
    """where no clip is reliable the momentum goes on, as after a gradient of 0"""


def below_the_top(model: nn.Module, settings: Settings) -> list[nn.Parameter]:
    """The parameters that adapt, without those of the norm layers nearest to the output that keep still.

    Raises MethodError where `sar_top` is published and the network has no such top.
    """
    norms: list[nn.Module] = [module for module in model.modules() if isinstance(module, NORMS)]
    top = norms[len(norms) - int(settings.sar_frozen * len(norms)) :]
    if settings.sar_top == "published":
        top = published_top(model)
    frozen = {id(parameter) for norm in top for parameter in norm.parameters()}
    return [parameter for parameter in adapted_parameters(model, settings.scope) if id(parameter) not in frozen]


def published_top(model: nn.Module) -> list[nn.Module]:
    """The norm layers of a ResNet's layer4; else those of the last 3 of a stack of 12 blocks, and all behind it.

    Raises MethodError for a network without either.
    """
    norms: dict[str, nn.Module] = {name: norm for name, norm in model.named_modules() if isinstance(norm, NORMS)}
    if of_layer4 := [norm for name, norm in norms.items() if "layer4" in name.split(".")]:
        return of_layer4
    for name, stack in model.named_modules():
        if isinstance(stack, nn.ModuleList | nn.Sequential) and len(stack) == N_BLOCKS:
            blocks = [f"{name}.{child}.".removeprefix(".") for child, _ in stack.named_children()]
            last = [max((i for i, norm in enumerate(norms) if norm.startswith(block)), default=-1) for block in blocks]
            if min(last) >= 0:
                return list(norms.values())[last[N_BLOCKS - N_TOP_BLOCKS - 1] + 1 :]
    raise MethodError(
        f"sar_top is 'published', but {model._get_name()} has neither layer4 nor a stack of {N_BLOCKS} blocks: set "
        "sar_top to 'share'"
    )


class Sar(Tent):
    """Sharpness-aware and reliable entropy minimisation."""

    def __init__(self, model: nn.Module, n_classes: int, settings: Settings) -> None:
        super().__init__(model, settings, below_the_top(model, settings))
        self.settings: Settings = settings
        self.margin, self.collapsed_below = (
            settings.entropy_margin * math.log(n_classes),
            settings.sar_reset * math.log(n_classes),
        )
        self.loss = MovingAverage(NEWEST)
        self.coasts = settings.sar_coasts

    def gradients(self, loss: Tensor) -> list[Tensor | None]:
        """Of the parameters; None for one that the loss does not depend on."""
        return list(torch.autograd.grad(loss, self.parameters, allow_unused=True))

    def climbed(self, gradients: list[Tensor | None]) -> list[Tensor]:
        """theta + rho g / ||g||_2; equation 4."""
        norm = torch.stack([g.norm() for g in gradients if g is not None]).norm()
        scale = self.settings.sar_radius / (norm + 1e-12)
        return [
            w.detach() if g is None else w.detach() + scale * g for w, g in zip(self.parameters, gradients, strict=True)
        ]

    def learn(self, batch: Batch) -> Answer:
        """One sharpness-aware step on the reliable clips of the batch, then predict all of it."""
        started = time.perf_counter()
        views = self.look(batch)
        h = entropy(views.log_mean)
        reliable = h < self.margin
        if not reliable.any():
            return self._unreliable(batch, views, h, started)
        with self.weights.at(self.climbed(self.gradients(h[reliable].mean()))):
            h_there = entropy(self.look(batch).log_mean)
            still = reliable & (h_there < self.margin)
            loss = h_there[still].mean()
            gradients = self.gradients(loss) if still.any() else []
        if not gradients:
            return self._unreliable(batch, views, h_there, started)
        if not self.optimiser.apply(gradients, loss):
            return self.answer(batch, views, "max_iterations", started)
        reason = self._recover(loss)
        return self.answer(batch, views, reason, started, loss)

    def _unreliable(self, batch: Batch, views: Views, h: Tensor, started: float) -> Answer:
        """The answer without a step, since no clip is reliable by its entropy `h`."""
        if bool(h.isnan().any()):
            return self.answer(batch, views, NOT_FINITE, started)
        if self.coasts:
            self.optimiser.coast()
        return self.answer(batch, views, "unreliable", started)

    def _recover(self, loss: Tensor) -> str:
        """Give back the source weights where the running loss says that the model has collapsed; the stop reason."""
        self.loss.add(loss)
        if self.loss.value is None or self.loss.value >= self.collapsed_below:
            return "max_iterations"
        for part in (self.weights, self.optimiser, self.loss):
            part.reset()
        return "recovered"


def build(model: nn.Module, statistics: SourceStatistics | None, n_classes: int, settings: Settings) -> Sar:
    """SAR around `model`; it needs no source statistics but those in the batch norm buffers."""
    return Sar(model, n_classes, settings)

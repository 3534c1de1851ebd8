"""EATA (Niu et al., ICML 2022, arXiv 2204.02610): Tent on reliable and non-redundant clips only, held back by a Fisher
regulariser.

min over the clips x of S(x) H(x) + beta sum_i omega_i (theta_i - theta_i^source)^2 (equation 8), with
S_ent = exp(E_0 - H(x)) where H(x) < E_0, else 0 (equation 3), S_div = 1 where cos(p(x), m) < epsilon, else 0 (equation
5), S = S_ent S_div and m the running mean of the p of the clips chosen before, weight 0.1 for the newest (equation 4).
A clip that is skipped takes no step and is predicted all the same.

omega are squared gradients on source clips (equation 9, `importance`).  They come with the source statistics, under the
names of the parameters, as (omega, source value); without them the regulariser is off, which the authors call ETA.
The authors square the mean gradient of a batch of 64, we a clip's own, which adds up to far more (`batch` of
`importance`).

As published: --preset eata_published, of the stage and of `python -m adapt.statistics`.  What stays different from the
authors' code: they adapt BatchNorm2d alone, we every norm layer, and they answer with the forward that the gradient
came from (column before_id, with one view).
"""

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adapt.contract import Answer, Batch, Moments, SourceStatistics
from adapt.core.batch_norm import own_share, own_statistics
from adapt.core.learner import adapted_parameters
from adapt.core.settings import setting
from adapt.core.state import MovingAverage
from adapt.errors import MethodError
from adapt.losses import entropy
from adapt.methods import tent
from adapt.methods.tent import Tent

NEWEST = 0.1  # weight of the newest clips in m (equation 4)


@dataclass(frozen=True)
class Reliable(tent.Settings):
    """Of the methods that leave out unreliable clips."""

    entropy_margin: float = setting(0.4, unit="share of log K", source="EATA, equation 3; SAR, equation 2")
    """E_0: clips of higher entropy are unreliable"""


@dataclass(frozen=True)
class Settings(Reliable):
    """Of EATA."""

    eata_similarity: float = setting(0.4, unit="cosine", low=-1.0, source="EATA, equation 5 (CIFAR-10; ImageNet: 0.05)")
    """epsilon: clips more similar than this to those before are redundant"""
    eata_fisher: float = setting(2000.0, source="EATA, equation 8 (ImageNet; CIFAR-10: 1)")
    """beta, weight of the Fisher regulariser where the statistics hold it"""


class Eata(Tent):
    """Entropy minimisation on chosen clips."""

    def __init__(self, model: nn.Module, n_classes: int, settings: Settings, fisher: Moments | None = None) -> None:
        """`fisher` maps the name of every parameter that adapts to (omega, source value); None turns the regulariser
        off.
        """
        super().__init__(model, settings)
        self.settings: Settings = settings
        self.margin = settings.entropy_margin * math.log(n_classes)
        self.chosen = MovingAverage(NEWEST)
        if fisher is not None and (missing := [name for name in self.weights.names if name not in fisher]):
            raise MethodError(f"the Fisher weights lack parameter {missing[0]!r}: they were taken with another scope")
        self.fisher = None if fisher is None else [fisher[name] for name in self.weights.names]

    def weigh(self, log_p: Tensor) -> tuple[Tensor, Tensor]:
        """(S (B,), whether reliable (B,) bool) of clips with log p (B, K); equations 3 and 5."""
        h, p = entropy(log_p.detach()), log_p.detach().exp()
        reliable = h < self.margin
        new = torch.ones_like(reliable)
        if self.chosen.value is not None:
            new = F.cosine_similarity(self.chosen.value[None], p, dim=1) < self.settings.eata_similarity
        return (self.margin - h).exp() * (reliable & new), reliable

    def regulariser(self) -> Tensor:
        """beta sum_i omega_i (theta_i - theta_i^source)^2; equation 8."""
        if self.fisher is None:
            return torch.zeros(())
        terms = [
            (omega.to(w) * (w - source.to(w)).square()).sum()
            for w, (omega, source) in zip(self.parameters, self.fisher, strict=True)
        ]
        return self.settings.eata_fisher * torch.stack(terms).sum()

    def learn(self, batch: Batch) -> Answer:
        """One step on the chosen clips of the batch, then predict all of it."""
        started = time.perf_counter()
        views = self.look(batch)
        log_p = views.log_mean
        weight, reliable = self.weigh(log_p)
        picked = weight > 0
        if not picked.any():
            return self.answer(batch, views, "redundant" if reliable.any() else "unreliable", started)
        loss = (weight * entropy(log_p))[picked].mean() + self.regulariser().to(log_p)
        if not self.optimiser.step(loss):
            return self.answer(batch, views, "max_iterations", started)
        self.chosen.add(log_p[picked].exp().mean(0))
        return self.answer(batch, views, "max_iterations", started, loss)


def importance(model: nn.Module, clips: Iterable[Tensor], settings: tent.Settings, batch: int = 1) -> Moments:
    """Parameter name -> (omega, today's value), from unlabelled source clips of frames (1, C, T, H, W) in [0, 1];
    equation 9.

    omega is the mean over batches of `batch` clips of the squared gradient of their mean cross-entropy to the model's
    own answers, with the batch norm statistics that `settings` give such a batch.  The authors' code takes 64.  Raises
    MethodError without clips.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    parameters = adapted_parameters(model.eval().requires_grad_(False), settings.scope)
    for parameter in parameters:
        parameter.requires_grad_(True)
    totals, n_batches = [torch.zeros_like(parameter) for parameter in parameters], 0
    for frames in _together(clips, batch):
        with own_statistics(model, own_share(settings, len(frames))):
            logits = model(frames)
        gradients = torch.autograd.grad(F.cross_entropy(logits, logits.argmax(1)), parameters, allow_unused=True)
        for total, gradient in zip(totals, gradients, strict=True):
            total += 0 if gradient is None else gradient.square()
        n_batches += 1
    if n_batches == 0:
        raise MethodError("the Fisher regulariser needs at least one source clip")
    return {names[id(p)]: (total / n_batches, p.detach().clone()) for p, total in zip(parameters, totals, strict=True)}


def _together(clips: Iterable[Tensor], n: int) -> Iterator[Tensor]:
    """The clips, `n` in a tensor; the last may hold fewer."""
    rest = iter(clips)
    while some := list(islice(rest, n)):
        yield torch.cat(some)


def build(model: nn.Module, statistics: SourceStatistics | None, n_classes: int, settings: Settings) -> Eata:
    """EATA around `model`, with the regulariser where `statistics` hold what `importance` gave.  Raises MethodError
    where they hold a part of it.
    """
    return Eata(model, n_classes, settings, (statistics.fisher or None) if statistics is not None else None)

"""Ours: an ensemble of adapters on the stream, and on each clip that is heard as many steps of its own as it needs
(adapt/METHOD.md).

1. Look: the members beside ViTTA adapt and predict (ensemble.py); forward the views.
2. Believe: trusted fusion says what all pictures and the sound say together, t, and how far the sound is trusted, r
(adapt/fusion/trusted.py).
3. Step on the stream: alignment + consistency, ViTTA's step.  It stays.
4. Answer: the pool of all centre views; fused with the sound, the answer of picture and sound.
5. Steps of the clip's own, where it is heard: alignment + consistency + w r KL(t || p_v), until ViTTA's picture answers
t too.  They serve the clip's own prediction, in place of the pool, and are undone afterwards: a clip whose sound says
something is learned hard without dragging later clips towards the classes that sound.
"""

import dataclasses
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from adapt.contract import Answer, Batch, SourceStatistics, Step
from adapt.core.learner import NOT_FINITE, SgdSettings, Views, adapted_parameters
from adapt.core.settings import setting
from adapt.core.state import Sgd
from adapt.fusion import trusted
from adapt.fusion.trusted import Belief, Trusted
from adapt.losses import three_terms
from adapt.methods.ensemble import Ensemble, Joining

UNHEARD = 0.01  # a weight of the audio term below this is no sound: the clip takes the stream's step alone
SURE = 0.8  # share of the target's confidence from which the views agree with it
TOLERANCE = 0.001  # relative change of the loss that counts as converged
SLACK = 0.2  # relative rise of the loss that counts as diverged


@dataclass(frozen=True)
class Settings(Joining, trusted.Settings, SgdSettings):
    """Of audio, those of the fusion that makes its targets among them."""

    audio_weight: float = setting(1.0, source="audio-assisted adaptation: Zeng et al.; the term and its weight ours")
    """w, of the audio term in a clip's own steps; 0 leaves the ensemble"""
    audio_lr: float = setting(0.2, unit="per step")
    """SGD's learning rate in a clip's own steps: it is learned hard, then let go"""
    cycle: str = setting(
        "flexible", choices=("flexible", "fixed"), source="flexible cycle: Zeng et al.; its rules ours"
    )
    """stop by the rules of METHOD.md section 5, or fixed: max_iterations steps on every heard clip"""
    max_iterations: int = setting(
        5, unit="steps a clip", low=1, source="flexible cycle: Zeng et al.; its rules and numbers ours"
    )
    """the most steps that a clip takes, the stream's included"""


class Audio(Ensemble):
    """The ensemble with ears."""

    def __init__(
        self, model: nn.Module, statistics: SourceStatistics | None, n_classes: int, settings: Settings
    ) -> None:
        super().__init__(model, statistics, n_classes, settings)
        self.fusion = Trusted(n_classes, settings)
        self.asks_source = self.fusion.needs_source
        last = {id(parameter) for parameter in adapted_parameters(model, "last")}
        self.own = [
            parameter for parameter in self.parameters if id(parameter) in last
        ]  # those that a clip's own steps change
        self.own_optimiser = Sgd(self.own, settings.audio_lr)

    def learn(self, batch: Batch) -> Answer:
        """Take the stream's step, then the clip's own steps, predict, and let go of the latter."""
        beside = self.ask(batch)
        started = time.perf_counter()
        views = self.look(batch)
        before = self.members.before(views.log_mean.detach(), beside)
        belief = self.fusion.believe(before, beside.unpooled, batch)
        weight = torch.where(batch.mass > 0, belief.trust, 0).clamp(0, 1)
        loss, align, agree, audio = self.terms(views, belief.answer, weight)
        trace = []
        if self.optimiser.step(align + self.settings.consistency * agree):
            self.alignment.commit(views.seen)
            trace = [_step(started, views, loss.item(), align, agree, audio)]
        unheard = after = self.members.after(self.predict(batch), beside)
        answer = Answer(
            before,
            after,
            steps=len(trace),
            stop_reason="unheard",
            gate=weight.mean().item(),
            unheard=unheard,
            source=beside.source,
            pooled=beside.pooled,
        )
        if trace and self.settings.audio_weight > 0 and bool((weight > UNHEARD).any()):
            with self._for_this_clip():
                reason = self._own_steps(batch, belief, weight, loss.item(), trace)
                after = self.predict(batch) if len(trace) > 1 else after  # those beside have not heard a thing
            answer = dataclasses.replace(answer, after=after, steps=len(trace), stop_reason=reason)
        self.members.add(views.log_mean.detach(), beside)
        return dataclasses.replace(answer, trace=trace, fused=self.fusion.finish(answer, batch, belief))

    def terms(self, views: Views, t: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(loss, alignment, consistency, audio), each a scalar, of a target t (B, K) and the weights (B,) of the audio
        term.
        """
        align, agree, away = three_terms(self.alignment, views.seen, views.log_p, t)
        audio = self.settings.audio_weight * (weight * away).mean()
        return align + self.settings.consistency * agree + audio, align, agree, audio

    def _own_steps(self, batch: Batch, belief: Belief, weight: Tensor, previous: float, trace: list[Step]) -> str:
        """Go on until a stop rule of METHOD.md section 5 holds, leave the best step's weights, return the rule's
        name.
        """
        s = self.settings
        best, best_weights = math.inf, _copy(self.own)
        while self.budget is None or self.budget.allows_step(max(step.ms for step in trace)):
            if s.cycle == "fixed" and len(trace) >= s.max_iterations:
                return "max_iterations"  # without another look: what the last step made counts
            started = time.perf_counter()
            views = self.look(batch)
            loss, align, agree, audio = self.terms(views, belief.answer, weight)
            value = loss.item()
            if s.cycle == "flexible":
                if value < best:
                    best, best_weights = value, _copy(self.own)
                if reason := self._stops(value, previous, views, belief.answer, len(trace)):
                    if reason != "agreed":
                        _put(self.own, best_weights)
                    return reason
            if not self.own_optimiser.step(loss):
                return NOT_FINITE
            trace.append(_step(started, views, value, align, agree, audio))
            previous = value
        if s.cycle == "flexible":
            _put(self.own, best_weights)
        return "budget"

    def _stops(self, value: float, previous: float, views: Views, t: Tensor, n_steps: int) -> str:
        """Why the cycle ends after `n_steps`, of which the last had the loss `previous`; "" where it goes on.

        `agreed`: the views agree on the target's class, and are nearly as sure of it as the target.
        """
        agree, p = bool(views.agree), views.mean()
        t_sure, t_top = t.max(1)
        if agree and bool(((p.argmax(1) == t_top) & (p.amax(1) > SURE * t_sure)).all()):
            return "agreed"
        if n_steps > 1 and value > (1 + SLACK) * previous:
            return "diverged"
        if agree and abs(value - previous) < TOLERANCE * abs(previous):
            return "converged"
        return "max_iterations" if n_steps >= self.settings.max_iterations else ""

    @contextmanager
    def _for_this_clip(self) -> Iterator[None]:
        """Within the block only the own steps' weights need gradients, so that what lies before runs once a clip; after
        it they are back.
        """
        own = {id(parameter) for parameter in self.own}
        resting = [parameter for parameter in self.parameters if id(parameter) not in own]
        stay = _copy(self.own)
        for parameter in resting:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in resting:
                parameter.requires_grad_(True)
            _put(self.own, stay)

    def _predict_only(self, batch: Batch) -> Answer:
        """The answers to a batch that there is no time to adapt on; the centre view stands for the views."""
        answer = super()._predict_only(batch)
        return dataclasses.replace(answer, fused=self.fusion.fuse(answer, batch))


def _step(started: float, views: Views, loss: float, align: Tensor, agree: Tensor, audio: Tensor) -> Step:
    """A row of the trace."""
    ms = 1000 * (time.perf_counter() - started)
    return Step(loss, bool(views.agree), ms, align.item(), agree.item(), audio.item())


def _copy(parameters: list[nn.Parameter]) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in parameters]


@torch.no_grad()
def _put(parameters: list[nn.Parameter], values: list[Tensor]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)


def build(model: nn.Module, statistics: SourceStatistics | None, n_classes: int, settings: Settings) -> Audio:
    """ViTTA with ears around `model`, whose head has `n_classes`."""
    return Audio(model, statistics, n_classes, settings)

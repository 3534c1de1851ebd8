"""Ours: ViTTA's visual losses with an audio pseudo-label, for as many steps as a clip needs (adapt/METHOD.md, sections 3 to 6).

loss = alignment + consistency + w g KL(t || p_v).  A clip's first step is the stream's: ViTTA's step, with the share `stream_audio` of the audio
term, and it stays.  Further steps are the clip's own: on the whole loss, they go on while the picture does not yet answer what picture and sound
say together, serve this clip's prediction, and all but the share `commit` of them is undone afterwards.  So a clip whose sound says something is
learned hard without dragging later clips towards the classes that sound: with both shares at 0, clips that make no sound are adapted exactly as
by vision alone.  How far sound and picture are believed, and how much of the picture is the source model's, is learned on the way (adapt/fusion/_trust.py).
"""
import dataclasses
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from adapt.contract import Answer, Batch, Moments, Step
from adapt.core.learner import Views, adapted_parameters, milliseconds_since
from adapt.core.state import Sgd, Weights
from adapt.errors import MethodError
from adapt.fusion._old import ClassPrior, trusted
from adapt.fusion._trust import Information, Recall, Trust
from adapt.losses.predictions import consistency
from adapt.methods import Settings
from adapt.methods.vitta import Vitta
from adapt.targets import TARGETS, candidate_target, hard_target, soft_target

UNHEARD = 0.01  # a gate below this is no sound: the clip is adapted by the visual losses alone
GATES = ("mass", "sharpness", "agreement", "trust", "none")
CHOICES = {"target": TARGETS, "cycle": ("flexible", "fixed"), "cycle_stages": ("all", "last")}

RANGES = {"trust": (0, 1), "trust_class": (0, 1), "trust_share": (0, 1), "fusion_floor": (0, math.inf)}  # above the first, up to the second


@dataclass(frozen=True)
class Belief:
    """What is believed of a batch before its first step."""

    picture: Tensor  # log p of the views as first seen and of the source model: (B, K)
    trust: Tensor  # r of the class that each clip's sound speaks for: (B,)
    weight: float  # omega, of the picture
    target: Tensor  # t: (B, K)
    gate: Tensor  # g: (B,)
    earned: Tensor  # (B,) how far r has risen from its prior to 1: what may teach the stream


def divergence(views: Views, t: Tensor) -> Tensor:
    """KL(t || p_v), mean over views: t (B, K) -> (B,)."""
    return (t[:, None] * (t.clamp_min(1e-12).log()[:, None] - views.log_p)).sum(2).mean(1)


class Audio(Vitta):
    """ViTTA with ears."""

    def __init__(self, model: nn.Module, statistics: Moments | None, n_classes: int, settings: Settings) -> None:
        for name, known in CHOICES.items():
            if getattr(settings, name) not in known:
                raise MethodError(f"{name} {getattr(settings, name)!r}: choose one of {list(known)}")
        if unknown := sorted(set(settings.gate) - set(GATES)):
            raise MethodError(f"gate {unknown[0]!r}: choose among {list(GATES)}")
        for name, (low, high) in RANGES.items():
            if not low < getattr(settings, name) <= high:
                raise MethodError(f"{name} {getattr(settings, name)}: give more than {low}, at most {high}")
        if not 0 <= settings.recall <= 1:
            raise MethodError(f"recall {settings.recall}: give 0 to 1")
        super().__init__(model, statistics, settings)
        self.trust, self.information = Trust(n_classes, settings), Information(n_classes, settings)
        self.recall, self.answers = Recall(n_classes, settings), ClassPrior(n_classes, settings.balance)
        self.own = self._own_parameters()

    def _own_parameters(self) -> list[nn.Parameter]:
        """Those of the adapting parameters that a clip's own steps change."""
        if self.settings.cycle_stages == "all":
            return self.parameters
        last = {id(parameter) for parameter in adapted_parameters(self.model, "last")}
        return [parameter for parameter in self.parameters if id(parameter) in last]

    # -- what is believed

    def fuse(self, log_p: Tensor, batch: Batch, trust: Tensor, weight: float) -> Tensor:
        """omega log p + log(r a + (1 - r) / K) - b log prior: log p (B, K) -> scores (B, K), log-probabilities."""
        s = self.settings
        heard = trusted(batch.s, trust, s.fusion_floor, batch.absent, s.negative)
        return self.answers.balanced((weight * log_p).log_softmax(1) + heard).log_softmax(1)

    def gate(self, picture: Tensor, batch: Batch, trust: Tensor) -> Tensor:
        """g of log p (B, K) = mass x sharpness x agreement x trust: (B,) in [0, 1]; `gate` names those that count ("none" stands for no factor).

        Sharpness is 1 - entropy(q) / log K; agreement falls from 1 to 0 as picture and sound are both sure of different classes.
        """
        q, p = batch.q, picture.exp()
        entropy = -(q * q.clamp_min(1e-12).log()).sum(1)
        differs = p.argmax(1) != q.argmax(1)
        factors = {
            "mass": batch.mass,
            "sharpness": 1 - entropy / math.log(q.shape[1]),
            "agreement": 1 - differs * p.amax(1) * q.amax(1),
            "trust": trust.to(q),
            "none": torch.ones_like(batch.mass),
        }
        g = (batch.mass > 0).to(q)
        for name in self.settings.gate:
            g = g * factors[name]
        return g.clamp(0, 1)

    def target(self, log_p: Tensor, batch: Batch, trust: Tensor, weight: float) -> Tensor:
        """t of log p (B, K): (B, K), sums to 1."""
        s = self.settings
        if s.target == "hard":
            return hard_target(batch.q)
        if s.target == "candidate":
            return candidate_target(log_p, batch.s, s.candidate_threshold)
        if s.target == "soft":
            return self.answers.balanced(soft_target(log_p, batch.q, s.target_sound).clamp_min(1e-12).log()).softmax(1)
        return self.fuse(log_p, batch, trust, weight).exp()

    def believed(self, batch: Batch, weight: float) -> Tensor:
        """r of the class that each clip's sound speaks for: (B,) in [0, 1]; `weight` is omega."""
        return self.trust.of(batch.q.argmax(1), weight).to(batch.q)

    def believe(self, views: Views, source: Tensor | None, batch: Batch) -> Belief:
        """What to make of a batch as first seen, and as the source model sees it, by what the clips before it taught."""
        picture, weight = self.recall.mix(views.log_mean().detach(), source), self.information.weight()
        trust = self.believed(batch, weight)
        target, gate = self.target(picture, batch, trust, weight), self.gate(picture, batch, trust)
        return Belief(picture, trust, weight, target, gate, self.earned(trust))

    def earned(self, trust: Tensor) -> Tensor:
        """(r - r_0) / (1 - r_0), at least 0: a sound that is believed on credit serves its own clip alone.  1 where r_0, the prior, is 1."""
        prior = self.settings.trust * self.settings.trust_class
        return torch.ones_like(trust) if self.settings.trust >= 1 else ((trust - prior) / (1 - prior)).clamp(0, 1)

    # -- how it learns

    def terms(self, views: Views, t: Tensor, g: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(loss, alignment, consistency, audio), each a scalar."""
        s = self.settings
        align, agree = self.alignment.loss(views.seen), consistency(views.log_p)
        audio = s.audio_weight * (g * divergence(views, t)).mean()
        return align + s.consistency * agree + audio, align, agree, audio

    def learn(self, batch: Batch) -> Answer:
        """Take the stream's step, then the clip's own steps, predict, and let go of the latter."""
        started = time.perf_counter()
        source = self._source_answer(batch)  # first: it moves the weights to and fro
        views = self.look(batch)
        belief = self.believe(views, source, batch)
        loss, *parts = self.terms(views, belief.target, belief.gate)
        align, agree, _ = parts
        teaching = self.settings.audio_weight * (belief.earned * belief.gate * divergence(views, belief.target)).mean()
        self.optimiser.step(align + self.settings.consistency * agree + self.settings.stream_audio * teaching)
        self.alignment.commit(views.seen)
        stay = self.weights.copy()
        trace = [self._record(loss, parts, views, started)]
        heard = self.settings.audio_weight > 0 and bool((belief.gate > UNHEARD).any())
        after = self.predict(batch)
        picture = self.recall.mix(self._all_views(after, views), source)
        fused, reason = self._fused(picture, batch, belief.trust, belief.weight), "unheard"
        if heard:  # fused already: the clip's own steps have the sound in them, which would count twice
            reason = self._own_steps(batch, belief, loss.item(), trace)
            after = self.predict(batch) if len(trace) > 1 else after
        self.weights.keep(stay, self.settings.commit)
        before = views.log_mean().detach()
        self.recall.add(before, source)
        self._learn_of(belief.picture, batch)
        return Answer(before, after, fused, len(trace), reason, belief.gate.mean().item(), trace)

    def _source_answer(self, batch: Batch) -> Tensor | None:
        """log p of the centre view by the source weights: (B, K); None where it does not count."""
        if self.settings.recall <= 0:
            return None
        with self.weights.at(self.weights.source):
            return self.predict(batch)

    def _predict_only(self, batch: Batch) -> Answer:
        """The answers to a batch that there is no time to adapt on; the centre view stands for the views."""
        answer, weight = super()._predict_only(batch), self.information.weight()
        fused = self._fused(answer.after, batch, self.believed(batch, weight), weight)
        self._learn_of(answer.after, batch)
        return dataclasses.replace(answer, fused=fused)

    def _own_steps(self, batch: Batch, belief: Belief, previous: float, trace: list[Step]) -> str:
        """Go on until a stop rule of METHOD.md section 5 holds, leave the best step's weights, return the rule's name."""
        s = self.settings
        optimiser, tracked = Sgd(self.own, s.audio_lr), Weights(self.model, self.own)
        best, best_weights = math.inf, tracked.copy()
        with self._only_own():
            while self.budget.allows_step(max(step.ms for step in trace)):
                if s.cycle == "fixed" and len(trace) >= s.max_iterations:
                    return "max_iterations"  # without another look: what the last step made counts
                started = time.perf_counter()
                views = self.look(batch)
                loss, *parts = self.terms(views, belief.target, belief.gate)
                value = loss.item()
                if s.cycle == "flexible":
                    if value < best:
                        best, best_weights = value, tracked.copy()
                    if self._agreed(views, belief.target):
                        return "agreed"
                    if reason := self._stopped(value, previous, views, len(trace)):
                        tracked.put(best_weights)
                        return reason
                optimiser.step(loss)
                trace.append(self._record(loss, parts, views, started))
                previous = value
        if s.cycle == "flexible":
            tracked.put(best_weights)
        return "budget"

    def _stopped(self, value: float, previous: float, views: Views, n_steps: int) -> str:
        """Why the cycle ends without agreement; "" where it goes on."""
        s = self.settings
        if n_steps > 1 and value > (1 + s.slack) * previous:
            return "diverged"
        if abs(value - previous) < s.tolerance * abs(previous) and views.agree():
            return "converged"
        return "max_iterations" if n_steps >= s.max_iterations else ""

    @contextmanager
    def _only_own(self) -> Iterator[None]:
        """Within the block only the own steps' parameters need gradients: what lies before them runs once a clip (adapt/core/prefix.py)."""
        own = {id(parameter) for parameter in self.own}
        resting = [parameter for parameter in self.parameters if id(parameter) not in own]
        for parameter in resting:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in resting:
                parameter.requires_grad_(True)

    def _agreed(self, views: Views, t: Tensor) -> bool:
        """Whether the views agree on the target's class, and are nearly as sure of it as the target: by the factor `confident`."""
        p = views.mean()
        t_sure, t_top = t.max(1)
        return views.agree() and bool(((p.argmax(1) == t_top) & (p.amax(1) > self.settings.confident * t_sure)).all())

    def _record(self, loss: Tensor, parts: list[Tensor], views: Views, started: float) -> Step:
        align, agree, audio = (part.item() for part in parts)
        return Step(loss.item(), views.agree(), milliseconds_since(started), align, agree, audio)

    def _all_views(self, centre: Tensor, views: Views) -> Tensor:
        """log p of the centre view, before the clip's own steps, mixed with the views as first seen: (B, K)."""
        return torch.lerp(centre.exp(), views.mean().detach(), self.settings.fusion_views).clamp_min(1e-12).log()

    def _fused(self, log_p: Tensor, batch: Batch, trust: Tensor, weight: float) -> Tensor:
        """The fused answer: log-probabilities (B, K); the running prior takes it in."""
        scores = self.fuse(log_p, batch, trust, weight)
        self.answers.add(scores)
        return scores

    def _learn_of(self, log_p: Tensor, batch: Batch) -> None:
        """Take the batch, whose picture says log p (B, K), into information and trust."""
        p = log_p.exp()
        self.information.add(p)
        self.trust.add(p, batch.q, batch.mass > 0, self.information.mean())


def build(model: nn.Module, statistics: Moments | None, n_classes: int, settings: Settings) -> Audio:
    """ViTTA with ears around `model`, whose head has `n_classes`."""
    return Audio(model, statistics, n_classes, settings)

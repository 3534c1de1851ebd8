"""Ours: ViTTA's visual losses with an audio pseudo-label, for as many steps as a clip needs (adapt/METHOD.md).

loss = alignment + consistency + w g KL(t || p_v).  A clip's first step is the stream's: ViTTA's step, with the share `stream_audio` of the audio
term, and it stays.  Further steps are the clip's own: on the whole loss, they go on while sound and picture disagree, serve this clip's
prediction, and all but the share `commit` of them is undone afterwards.  So a clip whose sound says something is learned hard without dragging
later clips towards the classes that sound: with both shares at 0, clips that make no sound are adapted exactly as by vision alone.
"""
import math
import time

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adapt.alignment import Moments
from adapt.errors import MethodError
from adapt.fusion import ClassPrior, fuse
from adapt.learner import Views, milliseconds_since
from adapt.methods import Answer, Batch, Settings, Step
from adapt.methods.vitta import Vitta, consistency
from adapt.state import Sgd, Stateful

UNHEARD = 0.01  # a gate below this is no sound: the clip is adapted by the visual losses alone


def soft_target(log_p: Tensor, q: Tensor, share: float) -> Tensor:
    """t proportional to p^(1 - share) q^share: log p (B, K), q (B, K) -> (B, K) summing to 1."""
    return ((1 - share) * log_p + share * q.clamp_min(1e-6).log()).softmax(1)


def hard_target(q: Tensor) -> Tensor:
    """One-hot argmax q: (B, K)."""
    return F.one_hot(q.argmax(1), q.shape[1]).to(q)


def candidate_target(log_p: Tensor, s: Tensor, threshold: float) -> Tensor:
    """One-hot of the video's best class among those with evidence above `threshold`; the strongest evidence where none has."""
    allowed = (s >= torch.minimum(s.amax(1, keepdim=True), s.new_tensor(threshold))) & (s > 0)
    allowed |= ~allowed.any(1, keepdim=True)
    return F.one_hot(log_p.masked_fill(~allowed, -math.inf).argmax(1), s.shape[1]).to(s)


class Trust(Stateful):
    """r_c: per class, how often sound and picture agreed where the picture was sure (Beta prior a, a)."""

    running = ("agreed", "seen")

    def __init__(self, n_classes: int, prior: float) -> None:
        self.n_classes, self.prior = n_classes, prior
        self.reset()

    def reset(self) -> None:
        """Back to the prior."""
        self.agreed = torch.full((self.n_classes,), self.prior)
        self.seen = torch.full((self.n_classes,), 2 * self.prior)

    def of(self, classes: Tensor) -> Tensor:
        """r of each class id, scaled so that the prior is 1: (B,) -> (B,) in [0, 1]."""
        return (2 * self.agreed[classes.cpu()] / self.seen[classes.cpu()]).clamp_max(1).to(classes.device)

    def add(self, heard: Tensor, agrees: Tensor) -> None:
        """Count clips by the class that was heard (B,), and whether the picture agrees (B,) bool."""
        for c, yes in zip(heard.tolist(), agrees.tolist(), strict=True):
            self.seen[c] += 1
            self.agreed[c] += yes


class Audio(Vitta):
    """ViTTA with ears."""

    def __init__(self, model: nn.Module, statistics: Moments | None, n_classes: int, settings: Settings) -> None:
        if settings.target not in ("soft", "hard", "candidate"):
            raise MethodError(f"target {settings.target!r}: choose 'soft', 'hard' or 'candidate'")
        if settings.converged_weights not in ("last", "best"):
            raise MethodError(f"converged_weights {settings.converged_weights!r}: choose 'last' or 'best'")
        super().__init__(model, statistics, settings)
        self.trust = Trust(n_classes, settings.trust_prior)
        self.targets = ClassPrior(n_classes, settings.target_balance)
        self.answers = ClassPrior(n_classes, settings.fusion_balance)

    def gate(self, views: Views, batch: Batch) -> Tensor:
        """g = mass x (1 - entropy(q) / log K) x agreement x trust of the heard class: (B,) in [0, 1].

        Agreement falls from 1 to 0 as picture and sound are both sure of different classes.
        """
        k = batch.q.shape[1]
        entropy = -(batch.q * batch.q.clamp_min(1e-12).log()).sum(1)
        sharpness = 1 - entropy / math.log(k)
        p = views.mean().detach()
        differs = p.argmax(1) != batch.q.argmax(1)
        agreement = 1 - differs * p.amax(1) * batch.q.amax(1)
        return (batch.mass * sharpness * agreement * self.trust.of(batch.q.argmax(1))).clamp(0, 1)

    def target(self, views: Views, batch: Batch) -> Tensor:
        """t: (B, K) summing to 1, divided by how often each class was a target before."""
        s = self.settings
        log_p = views.mean().detach().clamp_min(1e-12).log()
        if s.target == "hard":
            return hard_target(batch.q)
        if s.target == "candidate":
            return candidate_target(log_p, batch.s, s.candidate_threshold)
        t = soft_target(log_p, batch.q, s.target_sound).clamp_min(1e-12).log()
        return self.targets.balanced(t).softmax(1)

    def terms(self, views: Views, t: Tensor, g: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(loss, alignment, consistency, audio), each a scalar."""
        s = self.settings
        align, agree = self.alignment.loss(views.seen), consistency(views.log_p)
        divergence = (t[:, None] * (t.clamp_min(1e-12).log()[:, None] - views.log_p)).sum(2).mean(1)
        audio = s.audio_weight * (g * divergence).mean()
        return align + s.consistency * agree + audio, align, agree, audio

    def learn(self, batch: Batch) -> Answer:
        """Take the stream's step, then the clip's own steps, predict, and let go of the latter."""
        started = time.perf_counter()
        views = first = self.look(batch)
        g, t = self.gate(views, batch), self.target(views, batch)
        heard = bool((g > UNHEARD).any())
        trace: list[Step] = []
        loss, *parts = self.terms(views, t, g)
        align, agree, audio = parts
        self.optimiser.step(align + self.settings.consistency * agree + self.settings.stream_audio * audio)
        self.alignment.commit(first.seen)
        stay = self.weights.copy()
        trace.append(self._record(loss, parts, views, started))
        reason = "unheard"
        if heard:
            reason = self._own_steps(batch, t, g, loss.item(), trace)
        after = self.predict(batch)
        fused = self._fuse(after, batch)
        self.weights.keep(stay, self.settings.commit)
        self._learn_of(first, t, g, batch)
        before = first.mean().detach().log()
        return Answer(before, after, fused, len(trace), reason, g.mean().item(), trace)

    def _own_steps(self, batch: Batch, t: Tensor, g: Tensor, previous: float, trace: list[Step]) -> str:
        """Go on until a stop rule of METHOD.md section 5 holds; leave the weights that it names; return the rule's name."""
        s = self.settings
        optimiser = Sgd(self.parameters, s.audio_lr)
        best, best_weights = math.inf, self.weights.copy()
        while True:
            started = time.perf_counter()
            views = self.look(batch)
            loss, *parts = self.terms(views, t, g)
            value = loss.item()
            if value > (1 + s.slack) * previous and len(trace) > 1:
                self.weights.put(best_weights)
                return "diverged"
            if value < best:
                best, best_weights = value, self.weights.copy()
            if self._agreed(views, batch):
                return "agreed"
            if abs(value - previous) < s.tolerance * abs(previous) and views.agree():
                if s.converged_weights == "best":
                    self.weights.put(best_weights)
                return "converged"
            if len(trace) >= s.max_iterations:
                self.weights.put(best_weights)
                return "max_iterations"
            optimiser.step(loss)
            trace.append(self._record(loss, parts, views, started))
            previous = value

    def _agreed(self, views: Views, batch: Batch) -> bool:
        p = views.mean()
        return views.agree() and bool(((p.argmax(1) == batch.q.argmax(1)) & (p.amax(1) > self.settings.confident)).all())

    def _record(self, loss: Tensor, parts: list[Tensor], views: Views, started: float) -> Step:
        align, agree, audio = (part.item() for part in parts)
        return Step(loss.item(), views.agree(), milliseconds_since(started), align, agree, audio)

    def _fuse(self, after: Tensor, batch: Batch) -> Tensor:
        """p (e + s) / prior^b: the fused answer; the running prior takes in each answer after it is given."""
        scores = self.answers.balanced(fuse(after, batch.s, self.settings.fusion_floor))
        self.answers.add(scores)
        return scores

    def _learn_of(self, first: Views, t: Tensor, g: Tensor, batch: Batch) -> None:
        """Update the running target prior and trust with this batch."""
        self.targets.add(t.clamp_min(1e-12).log())
        p = first.mean().detach()
        sure = (batch.mass > 0) & (p.amax(1) > self.settings.confident)
        self.trust.add(batch.q.argmax(1)[sure], (p.argmax(1) == batch.q.argmax(1))[sure])


def build(model: nn.Module, statistics: Moments | None, n_classes: int, settings: Settings) -> Audio:
    """ViTTA with ears around `model`, whose head has `n_classes`."""
    return Audio(model, statistics, n_classes, settings)

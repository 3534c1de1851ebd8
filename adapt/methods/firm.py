"""FIRM (Frozen Inference via Rebalanced Marginals, github.com/zeroomi/FIRM-MM-TTA, README and firm/method.py; no paper
was public when this was written): a frozen network whose decisions are rebalanced; no gradients.

* Rebalancing: the posteriors of all clips so far are scaled, rows and columns in turn (Sinkhorn; Cuturi, NeurIPS 2013),
  until each clip sums to 1 and each class has the same mass; r is the newest row.
* Gate: X = sum_k (n_k - n / K)^2 / (n / K) over the counts n_k of the classes answered so far is chi-square with K - 1
  degrees of freedom under a uniform prior, about normal; the gate is max(0, 2 Phi(z) - 1), z = (X - K + 1) /
  sqrt(2 (K - 1)).  A clip's responsibility is (1 - gate) p + gate r.
* Prototypes, queried before they are written: the answer is responsibility x softmax(cosine with the prototypes /
  `firm_temperature`)^`firm_weight`; only then the clip's unit feature joins each class's prototype with its
  responsibility.  A class without mass has its weight vector of the head for a prototype.

What differs: the authors query prototypes of three features (audio, video, both) of an audio-visual network and keep
the posteriors of the whole stream; here there is the picture's feature alone (the sound comes in by the fusion), and
the newest `firm_window` posteriors, so that memory and time do not grow.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adapt.contract import Answer, Batch, SourceStatistics
from adapt.core.head import Seen, find_head, forward_with_features
from adapt.core.learner import NOT_FINITE
from adapt.core.settings import setting
from adapt.core.state import Stateful

N_SWEEPS = 20  # over rows and columns
TINY = 1e-12  # probability that stands for 0
NO_MASS = 1e-8  # of a prototype that nothing was written to


@dataclass(frozen=True)
class Settings:
    """Of FIRM."""

    firm_weight: float = setting(0.25, source="FIRM's code: evidence_weight")
    """exponent of what the prototypes say; 0: rebalancing alone"""
    firm_temperature: float = setting(0.07, unit="cosine", above=True, source="FIRM's code: prototype_temperature")
    """what the cosine with a prototype is divided by"""
    firm_gate: bool = setting(True, source="FIRM's code: drift_gate")
    """rebalance as far as the counts of answers speak against a uniform prior; off: always in full"""
    firm_window: int = setting(1000, unit="clips", low=1, source="ours; FIRM keeps all")
    """the newest posteriors that are rebalanced together"""


def rebalanced(p: Tensor, prior: Tensor) -> Tensor:
    """Posteriors (n, K) scaled until rows sum to 1 and columns are near n times the prior (K,); float64."""
    r = p.double().clamp_min(TINY)
    mass = len(p) * prior.to(r).clamp_min(TINY)
    for _ in range(N_SWEEPS):
        r = r / r.sum(1, keepdim=True)
        r = r * (mass / r.sum(0).clamp_min(TINY))
    return r / r.sum(1, keepdim=True)


def gate(p: Tensor, prior: Tensor) -> float:
    """How surely the answers to posteriors (n, K) are not drawn from the prior (K,): 0 to 1."""
    counts = F.one_hot(p.argmax(1), len(prior)).sum(0).double()
    expected = len(p) * prior.double().clamp_min(1e-6)
    degrees = max(len(prior) - 1, 1)
    z = (((counts - expected).square() / expected).sum().item() - degrees) / math.sqrt(2 * degrees)
    return max(0.0, math.erf(z / math.sqrt(2)))


class Decisions(Stateful):
    """What FIRM carries from clip to clip: posteriors, and what was written to the prototypes."""

    running = ("posteriors", "sums", "mass")

    def __init__(self, head: nn.Linear, settings: Settings) -> None:
        self.settings, self.anchor = settings, F.normalize(head.weight.detach(), dim=1)
        self.reset()

    def reset(self) -> None:
        """No clip seen."""
        self.posteriors = self.anchor.new_zeros(0, len(self.anchor))
        self.sums, self.mass = torch.zeros_like(self.anchor), self.anchor.new_zeros(len(self.anchor))

    def responsibility(self, log_p: Tensor) -> Tensor:
        """Take in a clip of log p (K,); its rebalanced posterior: (K,).  A class that the head masks has no mass."""
        p = log_p.exp().to(self.anchor)
        self.posteriors = torch.cat([self.posteriors, p[None]])[-self.settings.firm_window :]
        told = (log_p > -math.inf).to(p)
        prior = told / told.sum()
        r = rebalanced(self.posteriors, prior)[-1].to(p)
        share = gate(self.posteriors, prior) if self.settings.firm_gate else 1.0
        return torch.lerp(p, r, share)

    def evidence(self, feature: Tensor) -> Tensor:
        """log-probabilities (K,) by the cosine of a unit feature (C,) with the prototypes."""
        written = self.mass[:, None] > NO_MASS
        prototypes = torch.where(written, F.normalize(self.sums, dim=1), self.anchor)
        return ((prototypes @ feature).to(feature) / self.settings.firm_temperature).log_softmax(0)

    def write(self, feature: Tensor, responsibility: Tensor) -> None:
        """Let a clip's unit feature (C,) join every class's prototype with its responsibility (K,)."""
        self.sums = self.sums + responsibility[:, None] * feature
        self.mass = self.mass + responsibility

    def decide(self, feature: Tensor, log_p: Tensor) -> Tensor:
        """The answer to a clip of feature (C,) and log p (K,): log-probabilities (K,); then the clip is written."""
        unit = F.normalize(feature.to(self.anchor), dim=0)
        responsibility = self.responsibility(log_p)
        scores = responsibility.clamp_min(TINY).log() + self.settings.firm_weight * self.evidence(unit)
        self.write(unit, responsibility)
        return scores.masked_fill(log_p == -math.inf, -math.inf).log_softmax(0)


class Firm(Stateful):
    """A frozen network whose decisions are rebalanced."""

    def __init__(self, model: nn.Module, n_classes: int, settings: Settings) -> None:
        self.model = model.eval()
        self.head = find_head(model, n_classes)
        self.decisions = Decisions(self.head, settings)

    @torch.no_grad()
    def adapt(self, batch: Batch) -> Answer:
        """Decide on the clips of the batch one after the other."""
        seen = self._look(batch)
        before = seen.logits.log_softmax(1)
        if bool(before.isnan().any()):
            return Answer(before=before, after=before, stop_reason=NOT_FINITE, source=before)
        after = [self.decisions.decide(z, log_p) for z, log_p in zip(seen.features, before, strict=True)]
        return Answer(before=before, after=torch.stack(after).to(before), source=before)

    @torch.no_grad()
    def source_answer(self, batch: Batch) -> Tensor:
        """Log-probabilities of the centre view as the network says them: (B, K)."""
        return self._look(batch).logits.log_softmax(1)

    def _look(self, batch: Batch) -> Seen:
        return forward_with_features(self.model, self.head, batch.centre[:, 0])


def build(model: nn.Module, statistics: SourceStatistics | None, n_classes: int, settings: Settings) -> Firm:
    """FIRM around `model`, which needs a last linear layer."""
    return Firm(model, n_classes, settings)

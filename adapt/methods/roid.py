"""ROID (Marsden et al., WACV 2024, arXiv 2306.00650): self-training on clips that are certain and unlike those before,
weights pulled back to the source's, and answers corrected by the class prior.

loss = w (SLR(p) + SCE(p, p')), SLR(p) = -sum_k p_k log(p_k / (1 - p_k)) the soft likelihood ratio, SCE(p, p') =
-sum_k (p_k log p'_k + p'_k log p_k) / 2 the symmetric cross-entropy of two looks at a clip.  With d = 1 - cos(p, m), m
the running mean of answers, c = -H(p), both scaled to [0, 1] over a batch, w = exp(`roid_sharpness` d c), and 0
where d is below its mean.  After each batch theta <- `ensemble` theta + (1 - `ensemble`) theta_source.  The answer's
logits are multiplied by the batch's smoothed mean answer.

What differs from the authors' code (github.com/mariodoebler/test-time-adaptation): the newest `roid_window` clips stand
for the batch that d, c and the mean answer are scaled and taken over, and m moves by a clip's share of such a batch
(equal at a batch of that size; of a batch of 1 the code's weights are 0 / 0); the second look is another view of the
clip in place of a random change of the image; the mean answer is times K, so that a flat one changes nothing; the step
is without Nesterov's look ahead.
"""

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adapt.contract import Answer, Batch, SourceStatistics
from adapt.core.batch_norm import own_share, own_statistics
from adapt.core.learner import Learner
from adapt.core.settings import setting
from adapt.core.state import Stateful
from adapt.methods import tent
from adapt.methods.tent import Tent

MEMORY = 0.9  # weight of the past in the running mean of answers, a batch
MOST = 0.99  # probability above which the likelihood ratio has no gradient
TINY = 1e-5  # added to the ratio of a class without probability


@dataclass(frozen=True)
class Weighing(tent.Settings):
    """Of the methods that weigh clips as ROID does."""

    roid_sharpness: float = setting(3.0, source="ROID's code: 1 / temperature")
    """factor of the product of diversity and certainty in the weight's exponent"""
    roid_window: int = setting(16, unit="clips", low=1, source="ours; ROID: the batch")
    """the newest clips whose diversity, certainty and mean answer stand for a batch's"""


@dataclass(frozen=True)
class Settings(Weighing):
    """Of ROID."""

    ensemble: float = setting(0.99, high=1, source="ROID: weight ensembling")
    """alpha in w <- alpha w + (1 - alpha) w_source after each clip; 1 is off"""


def likelihood_ratio(log_p: Tensor) -> Tensor:
    """-sum_k p_k log(p_k / (1 - p_k)), p at most MOST: (B, K) -> (B,)."""
    p = log_p.exp().clamp(max=MOST)
    return -(p * (p / (1 - p) + TINY).log()).sum(1)


def disagreement(log_p: Tensor) -> Tensor:
    """Symmetric cross-entropy, mean over pairs of different views: log p (B, V, K) -> (B,); 0 for one view."""
    n_views = log_p.shape[1]
    if n_views < 2:
        return log_p.new_zeros(len(log_p))
    told = log_p.masked_fill(log_p == -math.inf, 0)
    crosses = -torch.einsum("buk,bvk->buv", log_p.exp(), told)
    return (crosses.sum((1, 2)) - crosses.diagonal(dim1=1, dim2=2).sum(1)) / (n_views * (n_views - 1))


class Weigher(Stateful):
    """The newest clips' answers, and the running mean of all answers."""

    running = ("mean", "answers")

    def __init__(self, n_classes: int, settings: Weighing) -> None:
        self.n_classes, self.settings = n_classes, settings
        self.start = torch.full((n_classes,), 1 / n_classes)
        self.reset()

    def reset(self) -> None:
        """No clip seen; the mean is uniform."""
        self.mean, self.answers = self.start.clone(), self.start.new_zeros(0, self.n_classes)

    def weigh(self, log_p: Tensor) -> Tensor:
        """The weights w (B,) of clips with log p (B, K), which are taken in."""
        p = log_p.to(self.mean).exp()
        n = max(self.settings.roid_window, len(p))
        self.answers = torch.cat([self.answers, p])[-n:]
        diversity = _to_unit(1 - F.cosine_similarity(self.mean[None], self.answers, dim=1))
        certainty = _to_unit(torch.special.xlogy(self.answers, self.answers).sum(1))
        weight = (self.settings.roid_sharpness * diversity * certainty).exp()
        self.mean = torch.lerp(self.mean, p.mean(0), (1 - MEMORY) * len(p) / n)
        return weight.masked_fill(diversity < diversity.mean(), 0)[-len(p) :]

    def prior(self) -> Tensor:
        """K times the smoothed prior of the newest clips' answers: (K,), mean 1."""
        n, k = len(self.answers), self.n_classes
        if n == 0:
            return torch.ones_like(self.mean)
        prior = self.answers.mean(0)
        smooth = max(1 / n, 1 / k) / prior.max()
        return k * (prior + smooth) / (1 + smooth * k)


def _to_unit(values: Tensor) -> Tensor:
    """Scaled to [0, 1]; 0 where all are equal."""
    low, high = values.min(), values.max()
    return (values - low) / (high - low).clamp_min(torch.finfo(values.dtype).tiny)


class Roid(Tent):
    """Self-training on weighed clips."""

    def __init__(self, model: nn.Module, n_classes: int, settings: Weighing) -> None:
        super().__init__(model, settings)
        self.settings: Weighing = settings
        self.weigher = Weigher(n_classes, settings)
        self.weigher.move(lambda tensor: tensor.to(self.parameters[0]))

    @torch.inference_mode()
    def predict(self, batch: Batch) -> Tensor:
        """Log-probabilities of the centre view with its own statistics, corrected by the prior: (B, K)."""
        with own_statistics(self.model, own_share(self.settings, len(batch.centre))):
            logits = self.centre_logits(batch)
        return (logits * self.weigher.prior().to(logits)).log_softmax(1)

    def source_answer(self, batch: Batch) -> Tensor:
        """Log-probabilities (B, K) of the centre view by the source weights, uncorrected."""
        with self.weights.at(self.weights.source):
            return Learner.predict(self, batch)

    def learn(self, batch: Batch) -> Answer:
        """One step on the batch, its clips weighed, then predict it."""
        started = time.perf_counter()
        views, before = self.look(batch), self.weigher.state()
        weight = self.weigher.weigh(views.log_mean.detach())
        if not weight.any():
            return self.answer(batch, views, "redundant", started)
        loss = (weight * (likelihood_ratio(views.log_mean) + disagreement(views.log_p))).mean()
        if not self.optimiser.step(loss):
            self.weigher.load_state(before)
            return self.answer(batch, views, "max_iterations", started)
        self.filter()
        return self.answer(batch, views, "max_iterations", started, loss)

    def filter(self) -> None:
        """What becomes of the weights after a step, before the answer: nothing in ROID."""


def build(model: nn.Module, statistics: SourceStatistics | None, n_classes: int, settings: Settings) -> Roid:
    """ROID around `model`; it needs no source statistics but those in the batch norm buffers."""
    return Roid(model, n_classes, settings)

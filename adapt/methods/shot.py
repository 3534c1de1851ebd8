"""SHOT (Liang et al., ICML 2020, arXiv 2002.08546): information maximisation and pseudo-labels, the head frozen; here
online.

loss = H(p) + L_div - beta log p_y (section 3).  SHOT trains for epochs on a whole target set; on a stream of single
clips

* L_div = sum_k pbar_k log pbar_k needs the mean prediction pbar of the target set: we take the running mean over the
clips so far (uniform
  counts as K clips) and sum_k p_k log pbar_k with pbar held fixed, whose gradient is that of L_div for one clip of the
  set.  H(p) + L_div is then -KL(p || pbar), whose mean over clips is minus the mutual information of clips and classes;
* the pseudo-label y is the class whose centroid has the largest cosine with the clip's features: centroids are running
  sums of unit features, weighted by p at first and by the label so found in the second round, and start at the head's
  weight vectors (SHOT's head is weight-normalised, so these are the source's prototypes) since no class has a clip yet;
* weights: the scale and shift of norm layers as in Tent, not all below the head (scope=all gives that), and `momentum`
as elsewhere.
"""

import time
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from adapt.contract import Answer, Batch, SourceStatistics
from adapt.core.batch_norm import own_share, own_statistics
from adapt.core.head import find_head, forward_with_features
from adapt.core.learner import Views, adapted_parameters
from adapt.core.settings import setting
from adapt.core.state import ClassPrior, Stateful
from adapt.losses import entropy
from adapt.methods import tent
from adapt.methods.tent import Tent


@dataclass(frozen=True)
class Settings(tent.Settings):
    """Of SHOT."""

    shot_labels: float = setting(0.3, source="SHOT, section 3")
    """beta, weight of the pseudo-label term; 0 is SHOT-IM, which needs no linear head"""


class Centroids(Stateful):
    """Running class centroids of unit features, in two rounds."""

    running = ("soft", "hard")

    def __init__(self, prototypes: Tensor) -> None:
        """`prototypes` (K, C) are where the classes start, of any length."""
        self.start = F.normalize(prototypes.detach(), dim=1)
        self.reset()

    def reset(self) -> None:
        """Back to the prototypes."""
        self.soft, self.hard = self.start.clone(), self.start.clone()

    def label(self, features: Tensor, p: Tensor) -> Tensor:
        """Take in clips of features (B, C) and predictions p (B, K); their pseudo-labels: (B,)."""
        z = F.normalize(features.detach(), dim=1)
        self.soft = self.soft + p.detach().T @ z
        first = self.nearest(z, self.soft)
        self.hard = self.hard + F.one_hot(first, len(self.hard)).to(z).T @ z
        return self.nearest(z, self.hard)

    @staticmethod
    def nearest(z: Tensor, sums: Tensor) -> Tensor:
        """The class with the largest cosine: unit features (B, C), sums of them (K, C) -> (B,)."""
        return (z @ F.normalize(sums, dim=1).T).argmax(1)


def diversity(log_p: Tensor, marginal: Tensor) -> Tensor:
    """sum_k p_k log pbar_k, mean over clips: log p (B, K), pbar (K,) held fixed -> scalar."""
    return (log_p.exp() * marginal.detach().log()).sum(1).mean()


class Shot(Tent):
    """Information maximisation."""

    def __init__(self, model: nn.Module, n_classes: int, settings: Settings) -> None:
        head = find_head(model, n_classes) if settings.shot_labels > 0 else None
        hypothesis = {id(parameter) for parameter in head.parameters()} if head is not None else set()
        super().__init__(
            model, settings, [p for p in adapted_parameters(model, settings.scope) if id(p) not in hypothesis]
        )
        self.settings: Settings = settings
        self.head = head
        self.centroids = None if head is None else Centroids(head.weight)
        self.answers = ClassPrior(n_classes)

    def look_at_features(self, batch: Batch) -> tuple[Views, Tensor | None]:
        """Forward the views with their own statistics; features (B, C) are the mean over views."""
        if self.head is None:
            return self.look(batch), None
        b, v = batch.frames.shape[:2]
        with own_statistics(self.model, own_share(self.settings, b)), self._dropout():
            seen = forward_with_features(self.model, self.head, batch.frames.flatten(0, 1))
        return Views(seen.logits.log_softmax(1).view(b, v, -1)), seen.features.view(b, v, -1).mean(1)

    def learn(self, batch: Batch) -> Answer:
        """One step on the batch, then predict it."""
        started = time.perf_counter()
        views, features = self.look_at_features(batch)
        log_p = views.log_mean
        estimates = self.answers.state(), None if self.centroids is None else self.centroids.state()
        self.answers.add(log_p)
        loss = entropy(log_p).mean() + diversity(log_p, self.answers.mean().to(log_p))
        if features is not None and self.centroids is not None:
            loss = loss + self.settings.shot_labels * F.nll_loss(log_p, self.centroids.label(features, log_p.exp()))
        taken = self.optimiser.step(loss)
        if not taken:
            self.answers.load_state(estimates[0])
            if self.centroids is not None and estimates[1] is not None:
                self.centroids.load_state(estimates[1])
        return self.answer(batch, views, "max_iterations", started, loss if taken else None)


def build(model: nn.Module, statistics: SourceStatistics | None, n_classes: int, settings: Settings) -> Shot:
    """SHOT around `model`; it needs no source statistics but those in the batch norm buffers."""
    return Shot(model, n_classes, settings)

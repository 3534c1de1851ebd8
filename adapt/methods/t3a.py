"""T3A (Iwasawa and Matsuo, NeurIPS 2021): replace the head's weight vectors by running class centroids of features; no
gradients.

Supports of class k start as {w_k / ||w_k||}; a clip's unit feature joins those of the class that the head gives it; of
each class only the `t3a_supports` of lowest entropy stay; a clip is scored by its feature's inner product with the
classes' centroids.  As in the authors' code a centroid is scaled to unit length and the head's bias is left out; unlike
there a class always starts with its own weight vector, whatever class the head would give that.  The feature is what
comes into the model's last linear layer for the centre view.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adapt.contract import Answer, Batch, SourceStatistics
from adapt.core.head import find_head, forward_with_features
from adapt.core.settings import setting
from adapt.core.state import Stateful
from adapt.losses import entropy


@dataclass(frozen=True)
class Settings:
    """Of T3A."""

    t3a_supports: int = setting(
        20, unit="features a class", low=1, source="T3A: experiments, of the grid 1, 5, 20, 50, 100"
    )
    """M, the supports of lowest entropy kept per class"""


class Supports(Stateful):
    """Unit features, each with the class it was given and the entropy of that decision."""

    running = ("vectors", "classes", "entropies")

    def __init__(self, head: nn.Linear, per_class: int) -> None:
        self.per_class = per_class
        weight = head.weight.detach()
        decided = F.linear(weight, weight, None if head.bias is None else head.bias.detach()).log_softmax(1)
        self.start = F.normalize(weight, dim=1), torch.arange(len(weight), device=weight.device), entropy(decided)
        self.reset()

    def reset(self) -> None:
        """The head's own weight vectors, one a class."""
        self.vectors, self.classes, self.entropies = self.start

    def add(self, features: Tensor, log_p: Tensor) -> None:
        """Take in clips of features (B, C) that the head gives log p (B, K), then keep the best of each class."""
        self.vectors = torch.cat([self.vectors, F.normalize(features, dim=1)])
        self.classes = torch.cat([self.classes, log_p.argmax(1)])
        self.entropies = torch.cat([self.entropies, entropy(log_p)])
        order = self.entropies.argsort(stable=True)
        kept = [order[self.classes[order] == k][: self.per_class] for k in range(log_p.shape[1])]
        chosen = torch.cat(kept).sort().values  # in order of arrival
        self.vectors, self.classes, self.entropies = self.vectors[chosen], self.classes[chosen], self.entropies[chosen]

    def centroids(self, n_classes: int) -> Tensor:
        """Unit vectors: (K, C)."""
        sums = F.one_hot(self.classes, n_classes).to(self.vectors).T @ self.vectors
        return F.normalize(sums, dim=1)


class T3A(Stateful):
    """A frozen network with a head that follows the stream."""

    def __init__(self, model: nn.Module, n_classes: int, settings: Settings) -> None:
        self.model, self.n_classes = model.eval(), n_classes
        self.head = find_head(model, n_classes)
        self.supports = Supports(self.head, settings.t3a_supports)

    @torch.no_grad()
    def adapt(self, batch: Batch) -> Answer:
        """Take the batch into the supports, then predict it."""
        seen = forward_with_features(self.model, self.head, batch.centre[:, 0])
        before = seen.logits.log_softmax(1)
        if bool(before.isnan().any()):
            return Answer(before=before, after=before, stop_reason="not_finite", source=before)
        self.supports.add(seen.features, before)
        scores = seen.features @ self.supports.centroids(self.n_classes).T
        after = scores.masked_fill(before == -math.inf, -math.inf).log_softmax(1)
        return Answer(before=before, after=after, source=before)

    @torch.no_grad()
    def source_answer(self, batch: Batch) -> Tensor:
        """Log-probabilities of the centre view by the model's own head: (B, K)."""
        return forward_with_features(self.model, self.head, batch.centre[:, 0]).logits.log_softmax(1)


def build(model: nn.Module, statistics: SourceStatistics | None, n_classes: int, settings: Settings) -> T3A:
    """T3A around `model`, which needs a last linear layer."""
    return T3A(model, n_classes, settings)

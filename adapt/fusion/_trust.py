"""Whether to believe the sound, the picture, and which picture: things learned from the stream itself, without labels (ours).

Trust.  Either the sounds belong to the pictures or they do not, and then a class's sounds may still be mapped to the wrong class.  A clip whose
sound says q and whose picture says p speaks for belonging by the factor b = sum_k p_k q_k / sum_k pi_k q_k, pi the running mean of p: how much
likelier the picture finds this sound's classes than it does on average.  If class c's sounds belong, a share rho of its clips agrees, so the
likelihood ratio of n clips is L_c = mean over rho of prod_i (rho b_i + 1 - rho); with the prior probability `trust` that the stream's sounds
belong and `trust_class` that a class's do given that, Bayes' rule gives the posterior of both.

Information.  A picture that answers the same to every clip contradicts nothing and nobody.  I = (H(mean p) - mean H(p)) / log K, the mutual
information of clip and answer (Bridle et al. 1991), divided by `information` and cut at 1, is the weight omega that the picture has against the
sound, and the weight of the evidence L_c.

Recall.  The adapted model has learned the corruption and forgotten some of what the source model knew.  Both look, and their logarithms are
mixed by the information in each: a source that the corruption has made answer the same to every clip is not listened to.
"""
import math

import torch
from torch import Tensor

from adapt.core.state import Stateful
from adapt.methods import Settings

GRID = 9  # values of rho between the smallest share and 1


class Information(Stateful):
    """The running mean of p and of its entropy."""

    running = ("total", "entropy", "n_clips")

    def __init__(self, n_classes: int, settings: Settings) -> None:
        self.n_classes, self.enough, self.start = n_classes, settings.information, settings.information_start
        self.reset()

    def reset(self) -> None:
        """A uniform mean that counts as one clip."""
        self.total = torch.full((self.n_classes,), 1 / self.n_classes, dtype=torch.float64)
        self.entropy, self.n_clips = 0.0, 0

    def add(self, p: Tensor) -> None:
        """Take in predictions p (B, K)."""
        p = p.detach().double().cpu()
        self.total = self.total + p.sum(0)
        self.entropy -= torch.special.xlogy(p, p).sum().item()
        self.n_clips += len(p)

    def mean(self) -> Tensor:
        """pi, the mean of p: (K,), sums to 1."""
        return self.total / self.total.sum()

    def weight(self) -> float:
        """omega in [0, 1]; 1 before the first clip, and always where `information` is 0."""
        if self.enough <= 0 or self.n_clips == 0:
            return 1.0
        return (self.n_clips * min(1.0, self.mutual() / self.enough) + self.start) / (self.n_clips + self.start)

    def mutual(self) -> float:
        """I, as a share of log K: at least 0, and 0 before the first clip."""
        if self.n_clips == 0:
            return 0.0
        pi = self.mean()
        spread = -torch.special.xlogy(pi, pi).sum().item() - self.entropy / self.n_clips
        return max(0.0, spread / math.log(self.n_classes))


class Recall(Stateful):
    """How much the source model's answer counts in the picture, beside the adapted model's."""

    def __init__(self, n_classes: int, settings: Settings) -> None:
        self.most, self.prior = settings.recall, settings.information_start * settings.information
        self.adapted, self.source = Information(n_classes, settings), Information(n_classes, settings)

    def weight(self) -> float:
        """`recall` I_source / (I_source + I_adapted) in [0, 1], both from `information` on, so that it starts at half of `recall`."""
        ours, theirs = (found.n_clips * found.mutual() + self.prior for found in (self.adapted, self.source))
        return self.most * (theirs / (ours + theirs) if ours + theirs > 0 else 0.5)

    def mix(self, adapted: Tensor, source: Tensor | None) -> Tensor:
        """(1 - w) log p_adapted + w log p_source as log-probabilities, of (B, K) both; the former where there is no latter."""
        return adapted if source is None else torch.lerp(adapted, source, self.weight()).log_softmax(1)

    def add(self, adapted: Tensor, source: Tensor | None) -> None:
        """Take in what both said of a batch: log-probabilities (B, K)."""
        if source is not None:
            self.adapted.add(adapted.exp())
            self.source.add(source.exp())


class Trust(Stateful):
    """The posterior probability, per class, that its sounds belong to what is seen."""

    running = ("log_likelihoods",)

    def __init__(self, n_classes: int, settings: Settings) -> None:
        self.n_classes, self.settings = n_classes, settings
        self.rho = torch.linspace(settings.trust_share, 1, GRID, dtype=torch.float64)
        self.reset()

    def reset(self) -> None:
        """Back to the prior."""
        self.log_likelihoods = torch.zeros(self.n_classes, GRID, dtype=torch.float64)  # of rho, per class

    def of(self, classes: Tensor, weight: float) -> Tensor:
        """r of class ids (B,) -> (B,) in [0, 1]; `weight` in [0, 1] is how much the evidence counts."""
        s = self.settings
        if s.trust >= 1:
            return torch.ones(len(classes), dtype=torch.float64)
        log_ratio = weight * (self.log_likelihoods.logsumexp(1) - math.log(GRID))  # log L_c
        belongs = math.log(s.trust_class) + log_ratio
        either = torch.logaddexp(belongs, torch.full_like(belongs, math.log1p(-s.trust_class) if s.trust_class < 1 else -math.inf))
        stream = torch.sigmoid(math.log(s.trust) - math.log1p(-s.trust) + either.sum())
        return (stream * (belongs - either).exp())[classes.cpu()]

    def add(self, p: Tensor, q: Tensor, heard: Tensor, pi: Tensor) -> None:
        """Take in the clips that are `heard` (B,) bool: pictures p (B, K), sounds q (B, K), the mean picture pi (K,)."""
        p, q, level = p.detach().double().cpu(), q.double().cpu(), self.settings.trust_doubt
        for picture, sound, audible in zip(p, q, heard.tolist(), strict=True):
            if audible:
                agreement = (((1 - level) * picture + level / self.n_classes) * sound).sum()
                usual = (((1 - level) * pi + level / self.n_classes) * sound).sum()
                self.log_likelihoods[sound.argmax()] += (self.rho * (agreement / usual) + 1 - self.rho).log()

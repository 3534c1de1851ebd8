"""Trusted fusion: how far sound and picture are believed is learned from the stream itself, without labels (ours).

The answer is p^omega (r a + (1 - r) / K) / prior^b, a = (e + s) scaled to sum 1: plain fusion where the sound is
trusted fully (r = 1) and the picture is informative (omega = 1), the picture alone where the sound is not trusted (r =
0).  The division by the running mean of the answers is logit adjustment (Menon et al., ICLR 2021, arXiv 2007.07314) by
a prior that follows the stream.

Trust.  Either the sounds belong to the pictures or they do not, and then a class's sounds may still be mapped to the
wrong class.  A clip whose sound says q and whose picture says p speaks for belonging by the factor b = sum_k p_k q_k /
sum_k pi_k q_k, pi the running mean of p: how much likelier the picture finds this sound's classes than it does on
average.  If class c's sounds belong, a share rho of its clips agrees, so the likelihood ratio of n clips is L_c = mean
over rho of prod_i (rho b_i + 1 - rho); with the prior probabilities that the stream's sounds belong (`trust`) and that
a class's do given that (CLASS), Bayes' rule gives the posterior of both.

Information.  A picture that answers the same to every clip contradicts nothing and nobody.  I = (H(mean p) - mean H(p))
/ log K, the mutual information of clip and answer (Bridle et al. 1991), divided by `information` and cut at 1, is the
weight omega that the picture has against the sound, and the weight of the evidence L_c.

Source mix.  The adapted model has learned the corruption and forgotten some of what the source model knew.  Both look,
and their logarithms are mixed by the information in each: a source that the corruption has made answer the same to
every clip is not listened to.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from adapt.contract import Answer, Batch
from adapt.core.pool import Information, Pool, Pooling
from adapt.core.settings import setting
from adapt.core.state import ClassPrior, Stateful
from adapt.fusion import plain

CLASS = 0.9  # prior probability that a class's sounds belong, if the stream's do
AGREES = 0.2  # the smallest share of clips in which picture and sound agree, if they belong together
GRID = 9  # values of rho between that share and 1
DOUBT = 0.3  # how much uniform is mixed into the picture before it is compared with the sound


@dataclass(frozen=True)
class Settings(plain.Settings, Pooling):
    """Of trusted fusion."""

    trust: float = setting(0.8, unit="probability", above=True, high=1)
    """prior probability that the stream's sounds belong to its pictures; 1 trusts them always"""
    logit_adjustment: float = setting(0.75, unit="exponent", source="Menon et al., ICLR 2021; the running prior ours")
    """exponent of the running class prior that the fused answer is divided by"""
    fusion_views: float = setting(0.67, unit="share", high=1)
    """share in the fused answer's picture of the views, as first seen, beside the centre view"""


class SourceMix(Pool):
    """How much the source model's answer counts in the picture, beside the adapted model's: a pool of these two."""

    def __init__(self, n_classes: int, settings: Settings) -> None:
        super().__init__(n_classes, 2, settings.information, last=settings.source_mix)

    def weight(self) -> float:
        """`source_mix` I_source / (I_source + I_adapted), both from `information` on, so that it starts at half of
        `source_mix`.
        """
        return self.weights()[1]

    def picture(self, adapted: Tensor, source: Tensor | None) -> Tensor:
        """(1 - w) log p_adapted + w log p_source, scaled, of (B, K) both; the former where there is no latter."""
        return adapted if source is None else self.mix([adapted, source])

    def take(self, adapted: Tensor, source: Tensor | None) -> None:
        """Take in what both said of a batch: log-probabilities (B, K)."""
        if source is not None:
            self.add([adapted, source])


class Trust(Stateful):
    """The posterior probability, per class, that its sounds belong to what is seen."""

    running, moves = ("log_likelihoods",), False

    def __init__(self, n_classes: int, prior: float) -> None:
        """`prior` is the probability that the stream's sounds belong."""
        self.n_classes, self.prior = n_classes, prior
        self.rho = torch.linspace(AGREES, 1, GRID, dtype=torch.float64)
        self.reset()

    def reset(self) -> None:
        """Back to the prior."""
        self.log_likelihoods = torch.zeros(self.n_classes, GRID, dtype=torch.float64)  # of rho, per class

    def of(self, classes: Tensor, weight: float) -> Tensor:
        """r of class ids (B,) -> (B,) in [0, 1]; `weight` in [0, 1] is how much the evidence counts."""
        if self.prior >= 1:
            return torch.ones(len(classes), dtype=torch.float64)
        log_ratio = weight * (self.log_likelihoods.logsumexp(1) - math.log(GRID))  # log L_c
        belongs = math.log(CLASS) + log_ratio
        either = torch.logaddexp(belongs, torch.full_like(belongs, math.log1p(-CLASS)))
        stream = torch.sigmoid(math.log(self.prior) - math.log1p(-self.prior) + either.sum())
        return (stream * (belongs - either).exp())[classes.cpu()]

    def add(self, p: Tensor, q: Tensor, heard: Tensor, pi: Tensor) -> None:
        """Take in the clips that are `heard` (B,) bool: pictures p (B, K), sounds q (B, K), the mean picture pi
        (K,).
        """
        p, q = p.detach().double().cpu(), q.double().cpu()
        for picture, sound, audible in zip(p, q, heard.tolist(), strict=True):
            if audible:
                agreement = (((1 - DOUBT) * picture + DOUBT / self.n_classes) * sound).sum()
                usual = (((1 - DOUBT) * pi + DOUBT / self.n_classes) * sound).sum()
                self.log_likelihoods[sound.argmax()] += (self.rho * (agreement / usual) + 1 - self.rho).log()


class Belief(NamedTuple):
    """What is believed of a batch before its first step."""

    picture: Tensor  # log p of the views as first seen and of the source model: (B, K)
    weight: float  # omega, of the picture
    trust: Tensor  # r of the class that each clip's sound speaks for: (B,)
    answer: Tensor  # what picture and sound say together: probabilities (B, K)


class Trusted(Stateful):
    """p^omega (r a + (1 - r) / K) / prior^b."""

    def __init__(self, n_classes: int, settings: Settings) -> None:
        self.settings, self.needs_source = settings, settings.source_mix > 0
        self.trust = Trust(n_classes, settings.trust)
        self.information = Information(n_classes, settings.information)
        self.mix, self.answers = SourceMix(n_classes, settings), ClassPrior(n_classes, settings.logit_adjustment)

    def believed(self, batch: Batch, weight: float) -> Tensor:
        """r of the class that each clip's sound speaks for: (B,) in [0, 1]; `weight` is omega."""
        return self.trust.of(batch.q.argmax(1), weight).to(batch.q)

    def believe(self, before: Tensor, source: Tensor | None, batch: Batch) -> Belief:
        """What to make of a batch as first seen, log p (B, K), and as the source model sees it, by what the clips
        before it taught.
        """
        picture, weight = self.mix.picture(before, source), self.information.weight()
        trust = self.believed(batch, weight)
        return Belief(picture, weight, trust, self.together(picture, batch, trust, weight).exp())

    def together(self, log_p: Tensor, batch: Batch, trust: Tensor, weight: float) -> Tensor:
        """omega log p + log(r a + (1 - r) / K) - b log prior: log p (B, K) -> log-probabilities (B, K)."""
        a = self.settings.fusion_floor + batch.s
        a = a / a.sum(1, keepdim=True)
        r = trust.to(a)[:, None]
        heard = (r * a + (1 - r) / a.shape[1]).clamp_min(torch.finfo(a.dtype).tiny).log()
        return self.answers.balanced((weight * log_p).log_softmax(1) + heard).log_softmax(1)

    def fuse(self, answer: Answer, batch: Batch) -> Tensor:
        """Log-probabilities (B, K); trust, information, source mix and prior take the batch in."""
        return self.finish(answer, batch, self.believe(answer.before, _beside(answer), batch))

    def finish(self, answer: Answer, batch: Batch, belief: Belief) -> Tensor:
        """`fuse`, where `believe` has been asked before the method's first step; NaN teaches nothing."""
        centre = answer.after if answer.unheard is None else answer.unheard
        seen = torch.lerp(centre.exp(), answer.before.exp(), self.settings.fusion_views).clamp_min(1e-12).log()
        seen = seen.masked_fill((centre == -math.inf) & (answer.before == -math.inf), -math.inf)
        scores = self.together(self.mix.picture(seen, _beside(answer)), batch, belief.trust, belief.weight)
        if bool(scores.isnan().any()):
            return scores
        self.answers.add(scores)
        self.mix.take(answer.before, _beside(answer))
        p = belief.picture.exp()
        self.information.add(p)
        self.trust.add(p, batch.q, batch.mass > 0, self.information.mean())
        return scores


def _beside(answer: Answer) -> Tensor | None:
    """The source's answer where it is no part of the picture yet."""
    return None if answer.pooled else answer.source


def build(n_classes: int, settings: Settings) -> Trusted:
    """Trusted fusion."""
    return Trusted(n_classes, settings)

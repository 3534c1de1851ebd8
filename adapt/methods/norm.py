"""NORM: batch norm statistics mixed from the source's and the clip's own (Schneider et al., NeurIPS 2020, arXiv
2006.16971); no gradients.

Each batch norm normalises with mean (1 - r) mu_source + r mu_clip, and its variance likewise; r is `bn_prior`, or n /
(N + n) for n clips a batch where `bn_samples` gives N, the clips that the source's statistics count as (their pseudo
sample size).

As published: --preset norm_published.  What stays different from the authors' code: theirs mixes in BatchNorm2d alone,
ours in every batch norm.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from adapt.contract import Answer, Batch, SourceStatistics
from adapt.core.batch_norm import MixingSettings, batch_norms, own_share, own_statistics
from adapt.core.settings import setting
from adapt.core.state import Stateful
from adapt.errors import MethodError


@dataclass(frozen=True)
class Settings(MixingSettings):
    """Of norm."""

    bn_variance: str = setting(
        "biased", choices=("biased", "unbiased"), source="unbiased: Schneider et al., code; biased: as in training mode"
    )
    """the clip's own variance that is mixed in: divided by the number of values, or by one less"""


class Norm(Stateful):
    """Predict from the centre view with mixed batch norm statistics."""

    def __init__(self, model: nn.Module, settings: Settings) -> None:
        self.model, self.settings = model.eval(), settings
        if not batch_norms(model):
            raise MethodError(f"norm: {model._get_name()} has no batch norm layer to mix: choose another method")

    @torch.inference_mode()
    def adapt(self, batch: Batch) -> Answer:
        """Predict `batch` with the statistics of its own centre view mixed in."""
        before = self.source_answer(batch)
        share, unbiased = own_share(self.settings, len(batch.centre)), self.settings.bn_variance == "unbiased"
        with own_statistics(self.model, share, unbiased):
            after = self.model(batch.centre[:, 0]).log_softmax(1)
        return Answer(before=before, after=after, source=before)

    @torch.inference_mode()
    def source_answer(self, batch: Batch) -> Tensor:
        """Log-probabilities of the centre view with the source's statistics: (B, K)."""
        log_p: Tensor = self.model(batch.centre[:, 0]).log_softmax(1)
        return log_p


def build(model: nn.Module, statistics: SourceStatistics | None, n_classes: int, settings: Settings) -> Norm:
    """Mixed batch norm statistics."""
    return Norm(model, settings)

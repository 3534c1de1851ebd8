"""NORM: batch norm statistics mixed from the source's and the clip's own (Schneider et al., NeurIPS 2020); no gradients.

Each batch norm normalises with mean (1 - r) mu_source + r mu_clip, and its variance likewise; r is `bn_prior`.
"""
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from adapt.alignment import moments
from adapt.checkpoints import Statistics
from adapt.errors import MethodError
from adapt.methods import Answer, Batch, Settings


class Norm:
    """Predict from the centre view with mixed batch norm statistics."""

    def __init__(self, model: nn.Module, bn_prior: float) -> None:
        self.model, self.bn_prior = model.eval(), bn_prior
        self.norms = [m for m in model.modules() if isinstance(m, _BatchNorm)]
        if not self.norms:
            raise MethodError(f"norm: {type(model).__name__} has no batch norm layer to mix: choose another method")

    @torch.inference_mode()
    def adapt(self, batch: Batch) -> Answer:
        """Predict `batch` with the statistics of its own views mixed in."""
        before = self.model(batch.centre[:, 0]).log_softmax(1)
        kept = [(norm.running_mean, norm.running_var) for norm in self.norms]
        handles = [norm.register_forward_pre_hook(self._mix) for norm in self.norms]
        try:
            after = self.model(batch.centre[:, 0]).log_softmax(1)
        finally:
            for handle in handles:
                handle.remove()
            for norm, (mean, variance) in zip(self.norms, kept, strict=True):
                norm.running_mean, norm.running_var = mean, variance
        return Answer(before=before, after=after)

    def _mix(self, norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(norm, _BatchNorm) and norm.running_mean is not None and norm.running_var is not None
        mean, variance = moments(inputs[0], channel_last=False)
        norm.running_mean = torch.lerp(norm.running_mean, mean, self.bn_prior)
        norm.running_var = torch.lerp(norm.running_var, variance, self.bn_prior)

    def reset(self) -> None:
        """Nothing has changed."""


def build(model: nn.Module, statistics: Statistics | None, n_classes: int, settings: Settings) -> Norm:
    """Mixed batch norm statistics."""
    return Norm(model, settings.bn_prior)

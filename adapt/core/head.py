"""The linear head of a model and what comes into it: T3A and SHOT's pseudo-labels work on the features before the last
layer.

A head may be applied to each frame, or to each token, with the logits averaged afterwards: the mean of its inputs is
then the clip's feature, since averaging and a linear layer may change places.  Whether it is so is checked on every
forward.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adapt.core.class_map import ClassMapped
from adapt.errors import MethodError


def find_head(model: nn.Module, n_classes: int) -> nn.Linear:
    """The last linear layer with `n_classes` outputs.  Raises MethodError where there is none, or what it says goes
    through a class map: then its rows are no vectors of the classes that are answered.
    """
    if isinstance(model, ClassMapped):
        raise MethodError(
            f"the head of {model._get_name()} has {model.n_head} classes of its own, which a class map leads to "
            f"{n_classes}: choose a method that needs no head (of shot, shot_labels 0; of ensemble and audio, members "
            "'source')"
        )
    heads = [module for module in model.modules() if isinstance(module, nn.Linear) and module.out_features == n_classes]
    if not heads:
        raise MethodError(
            f"{model._get_name()} has no linear layer with {n_classes} outputs to take as its head: choose a method "
            "that needs none"
        )
    return heads[-1]


@dataclass(frozen=True)
class Seen:
    """One forward of N inputs."""

    features: Tensor  # (N, C)
    logits: Tensor  # (N, K)


def forward_with_features(model: nn.Module, head: nn.Linear, frames: Tensor) -> Seen:
    """Frames (N, C, T, H, W) -> features before the head and logits.

    Raises MethodError where the logits are not the head's outputs, averaged.
    """
    inputs: list[Tensor] = []
    handle = head.register_forward_pre_hook(lambda module, given: inputs.append(given[0]))
    try:
        logits: Tensor = model(frames)
    finally:
        handle.remove()
    n = len(frames)
    if len(inputs) == 1 and inputs[0].numel() % (n * head.in_features) == 0:
        features = inputs[0].reshape(n, -1, head.in_features).mean(1)
        told = logits.detach().isfinite()  # a head may mask classes
        found, expected = logits.detach()[told], F.linear(features.detach(), head.weight, head.bias)[told]
        tolerance = max(1e-3, 4 * torch.finfo(found.dtype).eps)  # of a reduced type in a caller's autocast
        largest = float(found.abs().max()) if len(found) else 0.0
        if torch.allclose(expected.to(found), found, rtol=tolerance, atol=tolerance * largest):
            return Seen(features, logits)
    raise MethodError(
        f"the logits of {model._get_name()} are not its last linear layer's outputs, averaged: choose a method that "
        "needs no head"
    )

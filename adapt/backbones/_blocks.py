"""What the backbones made of blocks share: pixels normalised on the way in, blocks one after the other, logits out."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from adapt.contract import Block
from adapt.core.moments import NORMS
from adapt.errors import MethodError

Described = TypeVar("Described")
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class BlockNetwork(nn.Module):
    """Frames (N, 3, T, H, W) in [0, 1] -> logits (N, K).  A backbone says what its blocks are; its forward is these."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD) -> None:
        """`mean` and `std` are those of the pixels' colours that the published weights were trained with."""
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1, 1), persistent=False)

    def blocks(self) -> list[Block]:
        """The parts of the forward; see adapt.contract.Block."""
        raise NotImplementedError

    def forward(self, frames: Tensor) -> Tensor:
        """(N, 3, T, H, W) -> (N, K)."""
        x = frames
        for block in self.blocks():
            x = block.run(x)
        return x

    def normalised(self, frames: Tensor) -> Tensor:
        """(N, 3, T, H, W) in [0, 1] -> the same with the training pixels' mean 0 and deviation 1."""
        return (frames - self.mean) / self.std

    def norms_under(self, *modules: str) -> list[str]:
        """Names of the norm layers that are one of `modules` or inside one, in order of registration."""
        found = [name for name, module in self.named_modules() if isinstance(module, NORMS)]
        return [name for name in found if any(name == module or name.startswith(f"{module}.") for module in modules)]


def each_frame(run: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """`run`, which maps M images or their features, on clips: (N, T, ...) -> (N, T, ...)."""

    def on_clips(x: Tensor) -> Tensor:
        return run(x.flatten(0, 1)).unflatten(0, x.shape[:2])

    return on_clips


def chosen_variant(backbone: str, variants: Mapping[str, Described], variant: str) -> tuple[str, Described]:
    """The name and description of `variant`, "" for the first.  Raises MethodError for one that the backbone does not
    have.
    """
    name = variant or next(iter(variants))
    if name not in variants:
        raise MethodError(f"unknown variant {variant!r} of {backbone}: choose one of {list(variants)}")
    return name, variants[name]

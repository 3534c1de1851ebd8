"""The smallest video model with everything that methods work on, and clips for it."""

import torch
from torch import Tensor, nn

from adapt.contract import Batch

K = 4


class TinyVideoModel(nn.Module):
    """(N, 3, T, H, W) -> (N, K) through one batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm3d(6)
        self.head = nn.Linear(6, K)

    def forward(self, frames: Tensor) -> Tensor:
        logits: Tensor = self.head(self.norm(self.conv(frames)).relu().mean((2, 3, 4)))
        return logits


def trained() -> TinyVideoModel:
    """A model whose batch norm has seen noise; its weights are random, and the same each time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = TinyVideoModel()
        for _ in range(20):
            made.train()(torch.rand(8, 3, 4, 8, 8))
    return made.eval()


def batch(seed: int = 0, heard: int | None = None, certainty: float = 0.9) -> Batch:
    """A batch of one clip; `heard` is the class that its sound points to, None for silence."""
    random = torch.Generator().manual_seed(seed)
    frames = torch.rand(1, 2, 3, 4, 8, 8, generator=random)
    q, s = torch.full((1, K), 1 / K), torch.zeros(1, K)
    if heard is not None:
        q = torch.full((1, K), (1 - certainty) / (K - 1))
        q[0, heard], s[0, heard] = certainty, certainty
    return Batch(frames, frames[:, :1], q, s, s.amax(1), ("ok" if heard is not None else "silent",), (f"clip {seed}",))


def weights(model: nn.Module) -> dict[str, Tensor]:
    """A copy of every parameter and buffer."""
    return {name: value.clone() for name, value in model.state_dict().items()}


def same_weights(model: nn.Module, before: dict[str, Tensor]) -> bool:
    """Whether every parameter and buffer is bit for bit what it was."""
    return all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

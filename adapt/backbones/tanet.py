"""TANet: a 2D residual network with temporal adaptive modules (Liu et al., TAM, ICCV 2021), here narrow and shallow.

Each residual block starts with a TAM: a local branch that gates every channel and time step, and a global branch that makes one temporal
kernel per clip and channel.  Width 16 and one block a stage train from scratch in minutes on two cores; normalised inside.
"""
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.resnet import BasicBlock, conv1x1

from adapt.errors import CheckpointError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's
WIDTHS = (16, 32, 64, 128)
KERNEL = 3  # time steps of the adaptive kernel


class TemporalAdaptiveModule(nn.Module):
    """Mix time steps with a kernel that the clip itself chooses: (N*T, C, H, W) -> the same shape (TAM, section 3.2)."""

    def __init__(self, channels: int, n_frames: int, hidden_factor: int = 2, squeeze: int = 4) -> None:
        super().__init__()
        self.n_frames = n_frames
        self.kernel = nn.Sequential(
            nn.Linear(n_frames, n_frames * hidden_factor, bias=False),
            nn.BatchNorm1d(n_frames * hidden_factor),
            nn.ReLU(),
            nn.Linear(n_frames * hidden_factor, KERNEL, bias=False),
            nn.Softmax(-1),
        )
        self.gate = nn.Sequential(
            nn.Conv1d(channels, channels // squeeze, KERNEL, padding=KERNEL // 2, bias=False),
            nn.BatchNorm1d(channels // squeeze),
            nn.ReLU(),
            nn.Conv1d(channels // squeeze, channels, 1, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N*T, C, H, W) -> (N*T, C, H, W)."""
        nt, c, h, w = x.shape
        t = self.n_frames
        clips = x.view(nt // t, t, c, h, w)
        pooled = clips.mean((3, 4)).transpose(1, 2)  # (N, C, T)
        weights = self.kernel(pooled.reshape(-1, t)).view(nt // t, c, KERNEL)
        gated = clips * self.gate(pooled).transpose(1, 2)[..., None, None]
        padded = F.pad(gated, (0, 0, 0, 0, 0, 0, KERNEL // 2, KERNEL // 2))
        mixed = sum(padded[:, k : k + t] * weights[:, None, :, k, None, None] for k in range(KERNEL))
        assert isinstance(mixed, Tensor)
        return mixed.reshape(nt, c, h, w)


def _block(inplanes: int, planes: int, stride: int, n_frames: int) -> nn.Sequential:
    shortcut = nn.Sequential(conv1x1(inplanes, planes, stride), nn.BatchNorm2d(planes)) if stride != 1 or inplanes != planes else None
    block = BasicBlock(inplanes, planes, stride, shortcut)
    block.conv1 = nn.Sequential(TemporalAdaptiveModule(inplanes, n_frames), block.conv1)
    return nn.Sequential(block)


class TANet(nn.Module):
    """Frames (N, 3, T, H, W) in [0, 1] -> logits (N, K), averaged over time."""

    mean: Tensor
    std: Tensor

    def __init__(self, n_classes: int, n_frames: int, widths: tuple[int, ...] = WIDTHS, dropout: float = 0.2) -> None:
        super().__init__()
        self.n_frames = n_frames
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1), persistent=False)
        self.stem = nn.Sequential(
            nn.Conv2d(3, widths[0], 7, 2, 3, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)
        )
        pairs = zip((widths[0], *widths[:-1]), widths, strict=True)
        self.stages = nn.ModuleList(_block(a, b, 1 if i == 0 else 2, n_frames) for i, (a, b) in enumerate(pairs))
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(widths[-1], n_classes)

    def forward(self, frames: Tensor) -> Tensor:
        """(N, 3, T, H, W) -> (N, K)."""
        n, c, t, h, w = frames.shape
        x = frames.transpose(1, 2).reshape(n * t, c, h, w)
        x = self.stem((x - self.mean) / self.std)
        for stage in self.stages:
            x = stage(x)
        features = x.mean((2, 3)).view(n, t, -1)
        logits: Tensor = self.head(self.dropout(features)).mean(1)
        return logits

    def alignment_layers(self) -> list[str]:
        """The 2D batch norms of the last two stages (ViTTA's choice for a CNN)."""
        last = [f"stages.{i}." for i in range(len(self.stages) - 2, len(self.stages))]
        return [name for name, m in self.named_modules() if isinstance(m, nn.BatchNorm2d) and any(name.startswith(p) for p in last)]


def build(n_classes: int, n_frames: int, weights: str, variant: str = "") -> TANet:
    """A TANet with random weights.  Raises CheckpointError where `weights` are asked for: none are published at this width."""
    if weights:
        raise CheckpointError(f"tanet has no initial weights to load from {weights!r}: set train.weights to an empty string")
    return TANet(n_classes, n_frames)

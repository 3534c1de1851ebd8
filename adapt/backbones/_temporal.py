"""The temporal adaptive module (TAM; Liu et al., ICCV 2021, arXiv 2005.06803), section 3.2, with its published
parameter names.

A local branch L gates every channel and time step; a global branch G makes one temporal kernel per clip and channel.
Gate and kernel act on the features one after the other in the paper; here their product does, as a few shifted
multiply-adds, where the authors' code runs a convolution of as many groups as there are clips times channels.  The sums
are the same.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

KERNEL = 3  # time steps of the adaptive kernel


class TemporalAdaptiveModule(nn.Module):
    """Mix time steps with a kernel that the clip itself chooses: (N*T, C, H, W) -> the same shape and memory format."""

    def __init__(self, channels: int, n_frames: int) -> None:
        super().__init__()
        self.n_frames = n_frames
        self.G = nn.Sequential(
            nn.Linear(n_frames, n_frames * 2, bias=False),
            nn.BatchNorm1d(n_frames * 2),
            nn.ReLU(),
            nn.Linear(n_frames * 2, KERNEL, bias=False),
            nn.Softmax(-1),
        )
        self.L = nn.Sequential(
            nn.Conv1d(channels, channels // 4, KERNEL, padding=KERNEL // 2, bias=False),
            nn.BatchNorm1d(channels // 4),
            nn.ReLU(),
            nn.Conv1d(channels // 4, channels, 1, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N*T, C, H, W) -> (N*T, C, H, W)."""
        t, c = self.n_frames, x.shape[1]
        pooled = x.mean((2, 3)).view(-1, t, c).transpose(1, 2)  # (N, C, T)
        kernel = self.G(pooled.reshape(-1, t)).view(-1, c, KERNEL)
        gate = F.pad(self.L(pooled), (KERNEL // 2, KERNEL // 2)).unfold(
            2, KERNEL, 1
        )  # (N, C, T, KERNEL): of the frames that a kernel meets
        weights = (kernel[:, :, None] * gate).permute(3, 0, 2, 1)
        mixed: Tensor = _Mix.apply(x, weights)  # type: ignore[no-untyped-call]
        return mixed


class _Mix(torch.autograd.Function):
    """y_t = sum_k w_kt x_(t + k - K // 2): x (N*T, C, H, W), w (K, N, T, C) -> (N*T, C, H, W); frames outside the clip
    are 0.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(x, weights)
        return _mix(x, weights, 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weights = ctx.saved_tensors
        (gradient,) = gradients
        of_x = _mix(gradient, weights, -1) if ctx.needs_input_grad[0] else None
        if not ctx.needs_input_grad[1]:
            return of_x, None
        of_weights = torch.zeros_like(weights)
        theirs, ours = _clips(x, weights), _clips(gradient, weights)
        for k, (to, start) in enumerate(_shifts(weights)):
            of_weights[k, :, to] = (ours[:, to] * theirs[:, start]).sum((3, 4))
        return of_x, of_weights


def _mix(x: Tensor, weights: Tensor, sign: int) -> Tensor:
    """The sum above for `sign` 1; for -1 its transpose, sum_k w_k(t - k + K // 2) x_(t - k + K // 2)."""
    clips, coefficients, middle = _clips(x, weights), weights[..., None, None], len(weights) // 2
    mixed = clips * coefficients[middle]
    for k, (to, start) in enumerate(_shifts(weights)):
        if k == middle:
            continue
        if sign > 0:
            mixed[:, to].addcmul_(clips[:, start], coefficients[k][:, to])
        else:
            mixed[:, start].addcmul_(clips[:, to], coefficients[k][:, to])
    return mixed.view(x.shape)


def _clips(x: Tensor, weights: Tensor) -> Tensor:
    """(N*T, C, H, W) -> (N, T, C, H, W)."""
    return x.view(*weights.shape[1:3], *x.shape[1:])


def _shifts(weights: Tensor) -> list[tuple[slice, slice]]:
    """Per tap of the kernel, the frames that it writes and the frames that it reads."""
    k, t = len(weights), weights.shape[2]
    offsets = range(-(k // 2), k // 2 + 1)
    return [(slice(max(0, -o), t - max(0, o)), slice(max(0, o), t - max(0, -o))) for o in offsets]

"""A convolution and the batch norm behind it as one convolution, where the norm is in eval mode: exact, and
differentiable in all parameters.

w' = w g / sqrt(v + eps), b' = b - m g / sqrt(v + eps) (Jacob et al. 2018, arXiv 1712.05877, section 3.2).  Half of a
network's activations are then never made, and neither are their gradients: a step takes less time and half the memory.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Norm2d(nn.BatchNorm2d):
    """A batch norm that passes on what a folded convolution has normalised already, so that hooks see it as ever."""

    def forward(self, x: Tensor, normalised: bool = False) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        return x if normalised else super().forward(x)


def conv_norm(conv: nn.Conv2d, norm: nn.Module, x: Tensor, *, plus: Tensor | None = None, relu: bool = False) -> Tensor:
    """norm(conv(x)), then + `plus`, then ReLU."""
    seen = False
    if not isinstance(norm, Norm2d) or not _worth_folding(conv, norm):
        y = norm(conv(x))
    else:
        weight, bias = folded(conv, norm)
        y = F.conv2d(x, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups)
        seen = bool(norm._forward_hooks)
        y = norm(y, normalised=True) if seen else y
    if plus is not None:
        y = y + plus if seen else y.add_(plus)  # what a hook has seen, and may need for its gradient, stays
        seen = False
    if not relu:
        return y
    return y.relu() if seen else y.relu_()


def _worth_folding(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> bool:
    """Whether the two are one affine map whose weights are cheap to come by.

    Hooks on the convolution want to see it run, and pre-forward hooks may change what a norm normalises with.  Where
    the norm adapts and the convolution does not, folding would cost the gradient of the convolution's weights, which is
    dearer than the norm.
    """
    if (
        norm.training
        or norm.running_mean is None
        or norm._forward_pre_hooks
        or conv._forward_hooks
        or conv._forward_pre_hooks
    ):
        return False
    adapts = torch.is_grad_enabled() and norm.weight is not None and norm.weight.requires_grad
    return conv.weight.requires_grad or not adapts


def folded(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Weight (O, I, H, W) and bias (O,) of the one convolution."""
    assert norm.running_mean is not None and norm.running_var is not None
    scale = (norm.running_var + norm.eps).rsqrt()
    scale = scale if norm.weight is None else scale * norm.weight
    mean = norm.running_mean if conv.bias is None else norm.running_mean - conv.bias
    bias = -mean * scale if norm.bias is None else torch.addcmul(norm.bias, mean, scale, value=-1)
    return conv.weight * scale[:, None, None, None], bias


def max_pool_relu(pool: nn.MaxPool2d, x: Tensor) -> Tensor:
    """relu(pool(x)), which is pool(relu(x)) with the same gradients, on fewer values; for the gradient only places are
    kept, not x.
    """
    pooled: Tensor = _MaxPool.apply(x, pool.kernel_size, pool.stride, pool.padding)  # type: ignore[no-untyped-call]
    return pooled.relu_()


class _MaxPool(torch.autograd.Function):
    """Max pooling that does not hold on to its input, of which torch's needs no more than the shape."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: int, stride: int, padding: int) -> Tensor:
        pooled, places = F.max_pool2d(x, kernel, stride, padding, return_indices=True)
        ctx.save_for_backward(places)
        ctx.like, ctx.window = (x.shape, x.stride()), ([kernel], [stride], [padding], [1], False)
        return pooled

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,), (places,), (shape, strides) = gradients, ctx.saved_tensors, ctx.like
        untouched = torch.empty_strided(shape, strides, dtype=gradient.dtype, device=gradient.device)
        of_x: Tensor = torch.ops.aten.max_pool2d_with_indices_backward(gradient, untouched, *ctx.window, places)
        return of_x, None, None, None

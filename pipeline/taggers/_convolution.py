"""Convolutional networks ready for inference: batch norms folded into the weights, activations fused into the
convolutions.

A network is a list of steps, each a function of a tensor (B, C, H, W) in channels-last order.  `Builder` makes the
steps out of a checkpoint's tensors by their published names, takes each tensor once, and lets go of it, so that a
network is never in memory twice. Folding and fusing are exact up to rounding (Jacob et al. 2018, arXiv 1712.05877,
section 3.2, for the folding).
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

Step = Callable[[Tensor], Tensor]
# Activation -> (oneDNN's name, its constants), (the same in place).
ACTIVATIONS: dict[str, tuple[tuple[str, list[float]], Step]] = {
    "none": (("none", []), lambda x: x),
    "relu": (("relu", []), torch.relu_),
    "relu6": (("hardtanh", [0.0, 6.0]), lambda x: x.clamp_(0, 6)),
    "hardswish": (("hardswish", []), lambda x: functional.hardswish(x, inplace=True)),
}


class Convolution:
    """A convolution with its activation.  On the CPU its weights are laid out for oneDNN once, at the first batch, not
    at every call.
    """

    def __init__(self, weight: Tensor, bias: Tensor, stride: int, padding: int, groups: int, activation: str) -> None:
        self._weight = weight.contiguous(memory_format=torch.channels_last)
        self._bias = bias
        self._window = ([padding, padding], [stride, stride], [1, 1], groups)
        self._fused, self._activate = ACTIVATIONS[activation]
        self._by_onednn = weight.device.type == "cpu" and _onednn_can(weight.dtype)
        self._laid_out = False

    def __call__(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', H', W')."""
        padding, stride, dilation, groups = self._window
        if not self._by_onednn:
            return self._activate(functional.conv2d(x, self._weight, self._bias, stride, padding, dilation, groups))
        if not self._laid_out:
            layout = torch.ops.mkldnn._reorder_convolution_weight
            self._weight = layout(self._weight, padding, stride, dilation, groups, list(x.shape))
            self._laid_out = True
        name, constants = self._fused
        fused = (
            torch.ops.mkldnn._convolution_pointwise
        )  # what torch.compile emits on the CPU; exact like conv2d and the activation
        y: Tensor = fused(x, self._weight, self._bias, padding, stride, dilation, groups, name, constants, "")
        return y


class Builder:
    """Takes the tensors of a state dict by name and makes the steps of a network.  Raises KeyError or ValueError where
    one does not fit.

    `turned` is for networks published for maps (time, mel), to run on maps (mel, time): with the longer side last
    oneDNN is faster, a sixth over all of Cnn14 in fp32 and a quarter in bf16 (its last maps are 31 x 2).
    """

    def __init__(
        self,
        weights: dict[str, Tensor],
        device: torch.device,
        dtype: torch.dtype,
        epsilon: float,
        *,
        turned: bool = False,
    ) -> None:
        self._weights = weights
        self._device, self._dtype = device, dtype
        self._epsilon = epsilon  # of the batch norms
        self._turned = turned

    def take(self, name: str, *shape: int) -> Tensor:
        """The tensor `name`, in float32, which nothing else then takes."""
        if name not in self._weights:
            raise KeyError(f"no tensor {name}")
        tensor = self._weights.pop(name)
        if tensor.shape != shape:
            raise ValueError(f"{name} is {tuple(tensor.shape)}, not {shape}")
        return tensor.float()

    def finish(self) -> None:
        """Raises ValueError where tensors are left that no step took."""
        left = [name for name in self._weights if not name.endswith(".num_batches_tracked")]
        if left:
            raise ValueError(f"{len(left)} tensors too many: {', '.join(left[:3])}")

    def norm(self, name: str, n_channels: int) -> tuple[Tensor, Tensor]:
        """What the batch norm `name` does in evaluation, y = scale x + shift, in float32 on the CPU."""
        gain, offset, mean, variance = (
            self.take(f"{name}.{part}", n_channels) for part in ("weight", "bias", "running_mean", "running_var")
        )
        scale = gain / torch.sqrt(variance + self._epsilon)
        return scale, offset - mean * scale

    def conv(
        self,
        names: tuple[str, str],
        channels: tuple[int, int],
        kernel: int,
        activation: str,
        *,
        stride: int = 1,
        groups: int = 1,
        average: int = 1,
    ) -> Convolution:
        """The convolution and batch norm `names`, padded to keep the size, and an activation.

        `average` is the side of a mean pooling between convolution and norm: 2 joins it to the kernel (stride is then
        1).
        """
        (conv, norm), (n_in, n_out) = names, channels
        weight = self.take(f"{conv}.weight", n_out, n_in // groups, kernel, kernel)
        scale, shift = self.norm(norm, n_out)
        weight = (weight.transpose(2, 3) if self._turned else weight) * scale[:, None, None, None]
        padding = kernel // 2
        if average == 2:
            weight, stride = averaged(weight), 2
        return Convolution(self.on_device(weight), self.on_device(shift), stride, padding, groups, activation)

    def linear(self, name: str, n_in: int, n_out: int) -> Step:
        """The layer `name`, (B, n_in) -> (B, n_out), in float32: it costs little, and its sums are the logits."""
        weight, bias = (
            self.take(f"{name}.weight", n_out, n_in).to(self._device),
            self.take(f"{name}.bias", n_out).to(self._device),
        )
        return lambda x: functional.linear(x, weight, bias)

    def on_device(self, tensor: Tensor) -> Tensor:
        """`tensor` where and as the network calculates."""
        return tensor.to(self._device, self._dtype)


def averaged(weight: Tensor) -> Tensor:
    """The kernel (O, I, k + 1, k + 1) that at stride 2 equals kernel (O, I, k, k) followed by the mean of 2 x 2: the
    mean of four shifts.
    """
    return functional.avg_pool2d(functional.pad(weight, (1, 1, 1, 1)), 2, stride=1)


def run(steps: Sequence[Step], x: Tensor) -> Tensor:
    """Apply `steps` in turn."""
    for step in steps:
        x = step(x)
    return x


def residual(steps: Sequence[Step]) -> Step:
    """x + steps(x)."""
    return lambda x: run(steps, x).add_(x)


def channels_last(x: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, H, W) -> (B, 1, H, W) of `dtype`.  Strides are set by hand: with one channel torch cannot tell the two orders
    apart.
    """
    x = x.to(dtype).contiguous()
    n_rows, height, width = x.shape
    return x.as_strided((n_rows, 1, height, width), (height * width, 1, width, 1))


def _onednn_can(dtype: torch.dtype) -> bool:
    if not torch.backends.mkldnn.is_available():
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()))

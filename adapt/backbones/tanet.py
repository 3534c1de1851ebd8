"""TANet: a 2D residual network whose blocks hold temporal adaptive modules (Liu et al., ICCV 2021), logits averaged
over frames.

Variants: `narrow`, of width 16 and one block a stage, trains from scratch in minutes on two cores (ours: the module
comes first in its block); `resnet18` and `resnet50` have torchvision's residual blocks with the module behind the first
convolution, as published (for the depth of 18: ours).  Parameters have the names of the published checkpoints, ViTTA's
of UCF101 among them, which `weights` loads.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import resnet18, resnet50
from torchvision.models.resnet import BasicBlock, Bottleneck, conv1x1

from adapt.backbones._folding import Norm2d, conv_norm, max_pool_relu
from adapt.backbones._pretrained import load_inert, without_wrappers
from adapt.backbones._temporal import TemporalAdaptiveModule
from adapt.contract import Block
from adapt.errors import CheckpointError, MethodError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's
WIDTHS = (16, 32, 64, 128)  # of the narrow variant
INPUTS = {
    "narrow": (8, 96, 96),
    "resnet18": (16, 224, 224),
    "resnet50": (16, 224, 224),
}  # variant -> frames, height, width
VARIANTS = tuple(INPUTS)
LAYERS = ("layer1", "layer2", "layer3", "layer4")


class TemporalBlock(nn.Module):
    """A residual block with a temporal adaptive module before its first convolution, or behind it."""

    def __init__(self, net: BasicBlock | Bottleneck, n_frames: int, *, first: bool) -> None:
        super().__init__()
        self.net, self.first = net, first
        self.tam = TemporalAdaptiveModule(net.conv1.in_channels if first else net.conv1.out_channels, n_frames)

    def forward(self, x: Tensor) -> Tensor:
        """(N*T, C, H, W) -> (N*T, C', H', W')."""
        net = self.net
        y = conv_norm(net.conv1, net.bn1, self.tam(x) if self.first else x, relu=True)
        y = y if self.first else self.tam(y)
        last = net.conv2, net.bn2
        if isinstance(net, Bottleneck):
            y = conv_norm(*last, y, relu=True)
            last = net.conv3, net.bn3
        shortcut = x if net.downsample is None else conv_norm(net.downsample[0], net.downsample[1], x)
        return conv_norm(*last, y, plus=shortcut, relu=True)


class _Narrow(nn.Module):
    """torchvision's ResNet, a block a stage, narrow."""

    def __init__(self, n_frames: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTHS[0], 7, 2, 3, bias=False)
        self.bn1 = Norm2d(WIDTHS[0])
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        for layer, inplanes, planes in zip(LAYERS, (WIDTHS[0], *WIDTHS[:-1]), WIDTHS, strict=True):
            stride = 1 if inplanes == planes else 2
            shortcut = nn.Sequential(conv1x1(inplanes, planes, stride), Norm2d(planes)) if stride != 1 else None
            block = BasicBlock(inplanes, planes, stride, shortcut, norm_layer=Norm2d)
            self.add_module(layer, nn.Sequential(TemporalBlock(block, n_frames, first=True)))


class TANet(nn.Module):
    """Frames (N, 3, T, H, W) in [0, 1] -> logits (N, K)."""

    mean: Tensor
    std: Tensor
    base_model: Any  # an nn.Module whose parts torchvision names

    def __init__(self, base_model: nn.Module, width: int, n_classes: int, n_frames: int, dropout: float) -> None:
        """`base_model` has torchvision's names; `width` counts the channels of its last stage."""
        super().__init__()
        self.n_frames = n_frames
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1), persistent=False)
        self.base_model = base_model
        self.base_model.fc = nn.Dropout(dropout)
        self.new_fc = nn.Linear(width, n_classes)

    def forward(self, frames: Tensor) -> Tensor:
        """(N, 3, T, H, W) -> (N, K)."""
        x = frames
        for block in self.blocks():
            x = block.run(x)
        return x

    def blocks(self) -> list[Block]:
        """Stem, four residual stages, head."""
        blocks = [Block((f"base_model.{layer}",), self.base_model.get_submodule(layer)) for layer in LAYERS]
        return [
            Block(("base_model.conv1", "base_model.bn1"), self._stem),
            *blocks,
            Block(("base_model.fc", "new_fc"), self._head),
        ]

    def _stem(self, frames: Tensor) -> Tensor:
        """(N, 3, T, H, W) -> (N*T, C, H / 4, W / 4), channels last in memory.  Raises MethodError for another T than it
        was built for.
        """
        n, c, t, h, w = frames.shape
        if t != self.n_frames:
            raise MethodError(
                f"this tanet takes {self.n_frames} frames a view, the views have {t}: build it with n_frames={t}"
            )
        images = frames.transpose(1, 2).reshape(n * t, c, h, w)
        x = ((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        base = self.base_model
        return max_pool_relu(base.maxpool, conv_norm(base.conv1, base.bn1, x))

    def _head(self, x: Tensor) -> Tensor:
        """(N*T, C, H, W) -> (N, K)."""
        logits: Tensor = self.new_fc(self.base_model.fc(x.mean((2, 3))))
        return logits.view(-1, self.n_frames, logits.shape[1]).mean(1)

    def alignment_layers(self) -> list[str]:
        """The 2D batch norms of the last two stages (ViTTA's choice)."""
        last = tuple(f"base_model.{layer}." for layer in LAYERS[2:])
        return [name for name, m in self.named_modules() if isinstance(m, nn.BatchNorm2d) and name.startswith(last)]


def _resnet(variant: str, n_classes: int, n_frames: int) -> TANet:
    base = {"resnet18": resnet18, "resnet50": resnet50}[variant](norm_layer=Norm2d)
    for name in LAYERS:
        layer = base.get_submodule(name)
        setattr(base, name, nn.Sequential(*(TemporalBlock(block, n_frames, first=False) for block in layer)))
    model = TANet(base, base.fc.in_features, n_classes, n_frames, dropout=0.5)
    nn.init.normal_(model.new_fc.weight, 0, 0.001)  # the authors'
    nn.init.zeros_(model.new_fc.bias)
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def build(n_classes: int, n_frames: int, weights: str = "", variant: str = "") -> TANet:
    """A TANet with random weights, or with those of a published checkpoint at the path `weights`.

    Raises MethodError for an unknown variant, CheckpointError for a file that does not fit.
    """
    variant = variant or VARIANTS[0]
    if variant not in VARIANTS:
        raise MethodError(f"tanet has no variant {variant!r}: choose one of {list(VARIANTS)}")
    if variant != "narrow":
        model = _resnet(variant, n_classes, n_frames)
        return model if not weights else _load(model, Path(weights), variant)
    if weights:
        raise CheckpointError(
            f"tanet's variant narrow has no published weights to load from {weights!r}: choose a variant resnet18 or "
            "resnet50"
        )
    return TANet(_Narrow(n_frames), WIDTHS[-1], n_classes, n_frames, dropout=0.2)


def _load(model: TANet, path: Path, variant: str) -> TANet:
    """Load {"state_dict": ...} with names such as module.base_model.layer1.0.net.conv1.weight, all of them or none.

    Beside it may lie what training scripts save: numbers, numpy's too, and an argparse.Namespace.
    """
    if not path.exists():
        raise CheckpointError(
            f"{path} does not exist: set weights to the file of a published TANet checkpoint, or to an empty string"
        )
    try:
        state = load_inert(path)["state_dict"]
        model.load_state_dict(without_wrappers(path, state))
    except CheckpointError:
        raise
    except Exception as error:  # torch.load raises many kinds for a file that is not its own
        detail = " ".join(str(error).split())[:300]
        wanted = f"TANet {variant} checkpoint with {model.new_fc.out_features} classes and {model.n_frames} frames"
        message = (
            f"{path} is no published {wanted} ({type(error).__name__}: {detail}): choose its variant, classes "
            "and frames"
        )
        raise CheckpointError(message) from error
    return model

"""R(2+1)D: a 3D residual network, each convolution split into space and time (Tran et al., CVPR 2018), torchvision's
r2plus1d_18.

Takes any number of frames of any size; trained on 16 of 112 x 112 (short side 128).
Aligned by default: the batch norms of the last two stages, layer3 and layer4.  Last blocks: layer3, layer4 and the
head; the stem, layer1 and layer2 then run once a clip. Weights: torchvision's published file r2plus1d_18-91a641e6.pth
(Kinetics-400), or any state dict of the same names.
"""

from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torchvision.models.video.resnet import BasicBlock, Conv2Plus1D, R2Plus1dStem, VideoResNet, r2plus1d_18

from adapt.backbones._blocks import BlockNetwork, chosen_variant
from adapt.backbones._pretrained import load_file_into
from adapt.contract import Block

MEAN, STD = (0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)  # torchvision's, of Kinetics-400
INPUTS = {"18": (16, 112, 112), "tiny": (4, 32, 32)}  # variant -> frames, height and width that it is meant for
NARROWER = 16  # times, in "tiny"


class _Narrow(VideoResNet):  # type: ignore[misc]
    """The same network, its layers narrower."""

    def _make_layer(self, block: Any, conv_builder: Any, planes: int, blocks: int, stride: int = 1) -> nn.Sequential:
        made: nn.Sequential = super()._make_layer(block, conv_builder, planes // NARROWER, blocks, stride)
        return made


def _tiny(num_classes: int) -> VideoResNet:
    network = _Narrow(BasicBlock, [Conv2Plus1D] * 4, [1, 1, 1, 1], R2Plus1dStem)
    network.fc = nn.Linear(512 // NARROWER, num_classes)
    return network


NETWORKS = {"18": r2plus1d_18, "tiny": _tiny}


class R2Plus1d(BlockNetwork):
    """The network with its pixels' normalisation."""

    def __init__(self, network: VideoResNet) -> None:
        super().__init__(MEAN, STD)
        self.network = network

    def blocks(self) -> list[Block]:
        """The stem, four layers, and the head."""
        net = self.network

        def stem(frames: Tensor) -> Tensor:
            return net.stem(self.normalised(frames))

        def head(x: Tensor) -> Tensor:
            return net.fc(net.avgpool(x).flatten(1))

        layers = [Block((f"network.layer{i}",), getattr(net, f"layer{i}")) for i in range(1, 5)]
        return [Block(("network.stem",), stem), *layers, Block(("network.fc",), head)]

    def alignment_layers(self) -> list[str]:
        """The batch norms of the last two stages."""
        return self.norms_under("network.layer3", "network.layer4")


def build(n_classes: int, n_frames: int, weights: str, variant: str) -> R2Plus1d:
    """Build variant "18" or "tiny" (random weights, for tests); `weights` is a path, or "" for random ones.

    Raises MethodError for an unknown variant, CheckpointError where the tensors do not fit.
    """
    _, make = chosen_variant("r2plus1d", NETWORKS, variant)
    network = make(num_classes=n_classes)
    if weights:
        load_file_into(network, Path(weights), "fc")
    return R2Plus1d(network)

"""Video Swin: windows of attention that shift in space and time (Liu et al., CVPR 2022), torchvision's swin3d_t, _s and
_b.

Takes any number of frames of any size; trained on 32 of 224 x 224, and compared in the literature on test-time
adaptation at 16. Aligned by default, as in ViTTA: the layer norms of the last two stages, the patch merging between
them included, and the final norm.  Last blocks: these and the head; patch embedding and the first two stages then run
once a clip. Weights: torchvision's published files swin3d_t-7615ae03.pth, swin3d_s-da41c237.pth,
swin3d_b_1k-24f7c7c6.pth, swin3d_b_22k-7c6ae6fa.pth (Kinetics-400), or any state dict of the same names.
"""

from pathlib import Path

from torch import Tensor
from torchvision.models.video.swin_transformer import SwinTransformer3d, swin3d_b, swin3d_s, swin3d_t

from adapt.backbones._blocks import BlockNetwork, chosen_variant
from adapt.backbones._pretrained import load_file_into
from adapt.contract import Block

INPUTS = {
    "t": (16, 224, 224),
    "s": (16, 224, 224),
    "b": (16, 224, 224),
    "tiny": (4, 32, 32),
}  # variant -> frames, height, width
N_STAGES = 4


def _tiny(num_classes: int) -> SwinTransformer3d:
    return SwinTransformer3d([2, 4, 4], 8, [1, 1, 2, 1], [1, 1, 2, 2], [2, 2, 2], num_classes=num_classes)


NETWORKS = {"t": swin3d_t, "s": swin3d_s, "b": swin3d_b, "tiny": _tiny}


class Swin3d(BlockNetwork):
    """The network with its pixels' normalisation.  A stage ends with the patch merging after it, as in the paper's
    code.
    """

    def __init__(self, network: SwinTransformer3d) -> None:
        super().__init__()
        self.network = network

    def _modules_of(self, stage: int) -> tuple[str, ...]:
        """Names of a stage's blocks and of the patch merging after it."""
        n_parts = len(self.network.features)
        return tuple(f"network.features.{i}" for i in (2 * stage, 2 * stage + 1) if i < n_parts)

    def blocks(self) -> list[Block]:
        """The patch embedding, four stages of blocks, and the head."""
        net = self.network

        def embed(frames: Tensor) -> Tensor:
            return net.pos_drop(net.patch_embed(self.normalised(frames)))  # (N, T, H, W, C)

        def head(x: Tensor) -> Tensor:
            pooled = net.avgpool(net.norm(x).permute(0, 4, 1, 2, 3))
            return net.head(pooled.flatten(1))

        blocks = [Block(self._modules_of(i), net.features[2 * i : 2 * i + 2]) for i in range(N_STAGES)]
        return [
            Block(("network.patch_embed", "network.pos_drop"), embed),
            *blocks,
            Block(("network.norm", "network.head"), head),
        ]

    def alignment_layers(self) -> list[str]:
        """The layer norms of the last two stages and the final one."""
        return self.norms_under(*self._modules_of(N_STAGES - 2), *self._modules_of(N_STAGES - 1), "network.norm")


def build(n_classes: int, n_frames: int, weights: str, variant: str) -> Swin3d:
    """Build variant "t", "s", "b" or "tiny" (random weights, for tests); `weights` is a path, or "" for random ones.

    Raises MethodError for an unknown variant, CheckpointError where the tensors do not fit.
    """
    _, make = chosen_variant("swin3d", NETWORKS, variant)
    network = make(num_classes=n_classes)
    if weights:
        load_file_into(network, Path(weights), "head")
    return Swin3d(network)

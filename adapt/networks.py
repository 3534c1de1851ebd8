"""Other libraries' networks for `adapt.wrap`: what lies between our frames and theirs, read from their preprocessing.

    model = adapt.wrap(network, classes=names, **adapt.hugging_face(network, processor))

Each function gives `prepare` and `read`: frames (N, C, T, H, W) in [0, 1] become what the network takes, normalised and
in its order of axes, and its answer becomes logits (N, K).  Pixels are not resized here: frames come cropped to the
size that the preprocessing makes, as many as the network takes, and others are one line of error.  Of the libraries
none is imported: the caller has built the network with one of them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
import torch
from torch import Tensor, nn

from adapt.errors import MethodError

BLACK, GREY, WHITE = 0, 128, 255  # of the frames that say what a preprocessing makes of a pixel
ANY_SIZE = (256, 256)  # of these, where the network has none of its own
TOLERANCE = 1e-3  # of the grey one's values, in units of the range from black to white
Size = tuple[int, int]  # height, width


class Ready(TypedDict):
    """Keyword arguments of `adapt.wrap`; `prepare` is also `adapt.source_statistics`'s."""

    prepare: Callable[[Tensor], Any]
    read: Callable[[Any], Tensor]


@dataclass(frozen=True)
class Prepare:
    """Frames (N, C, T, H, W) in [0, 1] -> what a network takes."""

    name: str  # of the network
    scale: Tensor  # (C,); what a network sees of a pixel x in [0, 1] is scale x + shift
    shift: Tensor  # (C,)
    size: Size | None  # None: any
    n_frames: int | None  # None: any
    min_frames: int = 1
    layout: str = "NCTHW"  # or NTCHW, or images: (N*T, C, H, W)

    def __call__(self, frames: Tensor) -> Tensor:
        """Normalise, and put the axes in order.  Raises MethodError for frames of another number or size."""
        self._check(frames.shape[2], (frames.shape[3], frames.shape[4]))
        shape = (1, -1, 1, 1, 1)
        pixels = torch.addcmul(self.shift.to(frames).view(shape), frames, self.scale.to(frames).view(shape))
        if self.layout == "NCTHW":
            return pixels
        by_time = pixels.transpose(1, 2)
        return by_time.flatten(0, 1) if self.layout == "images" else by_time

    def _check(self, n_frames: int, size: Size) -> None:
        if self.n_frames not in (None, n_frames):
            raise MethodError(
                f"{self.name} takes {self.n_frames} frames, these are {n_frames}: pass so many, or more and "
                f"view_frames={self.n_frames}"
            )
        if n_frames < self.min_frames:
            raise MethodError(f"{self.name} takes {self.min_frames} frames or more, these are {n_frames}: pass more")
        if self.size not in (None, size):
            raise MethodError(
                f"{self.name} takes frames of {_said(self.size)}, these are {_said(size)}: resize and crop them so"
            )


def hugging_face(network: nn.Module, processor: Callable[..., Any]) -> Ready:
    """For a network of transformers' AutoModelForVideoClassification, such as VideoMAE, ViViT or TimeSformer.

    `processor` is its image or video processor: size, mean, deviation and scale of the pixels are what it makes of a
    black and a white frame.  The number of frames is that of the network's configuration.  Raises MethodError for a
    processor that makes frames of another size than the network was built for, or does more than scale pixels.
    """

    def preprocess(level: int) -> Tensor:
        """(C, H, W) of a grey frame."""
        frame = np.full((*(size or ANY_SIZE), 3), level, np.uint8)
        made = processor([frame] * 2, return_tensors="pt")
        return _pixel_values(made, name)[0, 0]

    name, config = network._get_name(), getattr(network, "config", None)
    size = _square(getattr(config, "image_size", None))
    scale, shift, made_size = _probed(preprocess, name)
    _check_sizes(name, made_size, size)
    n_frames = getattr(config, "num_frames", None)
    return Ready(
        prepare=Prepare(name, scale, shift, made_size, n_frames, layout="NTCHW"), read=lambda answer: answer.logits
    )


def torchvision_video(network: nn.Module, weights: Any, *, size: int | None = None) -> Ready:
    """For a network of torchvision.models.video.

    `weights` is a member of its weights enum, such as R3D_18_Weights.KINETICS400_V1, or such a member's transforms().
    `size` is the side of the frames in pixels where it should be another than theirs, for networks that take any.
    Raises MethodError where the network was built for another size, or for transforms that do more than crop and scale.
    """
    name = network._get_name()
    transforms = weights.transforms() if hasattr(weights, "transforms") else weights

    def preprocess(level: int) -> Tensor:
        """(C, H, W) of a grey frame."""
        made: Tensor = transforms(torch.full((1, 1, 3, *ANY_SIZE), level, dtype=torch.uint8))
        return made[0, :, 0]

    scale, shift, made_size = _probed(preprocess, name)
    wanted = made_size if size is None else (size, size)
    n_frames, built_for = _positions(network)
    _check_sizes(name, wanted, built_for)
    least = getattr(weights, "meta", {}).get("min_temporal_size", 1)
    return Ready(
        prepare=Prepare(name, scale, shift, wanted, n_frames, least),
        read=lambda answer: answer,
    )


def timm_images(
    network: nn.Module, n_frames: int, data_config: Mapping[str, Any] | None = None, *, size: int | None = None
) -> Ready:
    """For an image network of timm, whose logits are averaged over the `n_frames` frames of a view.

    `data_config` is that of timm.data.resolve_model_data_config, by default the network's own.  `size` is the side of
    the frames in pixels where it should be another, for networks that take any.  Raises MethodError where the network
    was built for another size, or where nothing says how its pixels are normalised.
    """
    name, own = network._get_name(), getattr(network, "pretrained_cfg", None) or {}
    config = own if data_config is None else data_config
    if n_frames < 1:
        raise MethodError(f"n_frames={n_frames}: a view has 1 frame or more")
    if missing := [key for key in ("input_size", "mean", "std") if key not in config]:
        raise MethodError(
            f"the data_config of {name} has no {missing[0]}: pass timm.data.resolve_model_data_config(network)"
        )
    mean, std = torch.tensor(config["mean"]), torch.tensor(config["std"])
    wanted = tuple(config["input_size"][1:]) if size is None else (size, size)
    embedding = getattr(network, "patch_embed", None)
    is_fixed = getattr(embedding, "strict_img_size", False) and not getattr(embedding, "dynamic_img_pad", False)
    _check_sizes(name, wanted, _square(getattr(embedding, "img_size", None)) if is_fixed else None)
    return Ready(
        prepare=Prepare(name, 1 / std, -mean / std, wanted, n_frames, layout="images"),
        read=lambda answer: answer.unflatten(0, (-1, n_frames)).mean(1),
    )


def _probed(preprocess: Callable[[int], Tensor], name: str) -> tuple[Tensor, Tensor, Size]:
    """(scale (C,), shift (C,), size of the frames) of a preprocessing, by what it makes of frames of one grey (C, H,
    W).

    Raises MethodError where that is no scale and shift a colour.
    """
    black, grey, white = (preprocess(level).detach().double() for level in (BLACK, GREY, WHITE))
    shift, scale = black.mean((1, 2)), (white - black).mean((1, 2))
    expected = shift + scale * GREY / WHITE
    off = (grey - expected[:, None, None]).abs().amax((1, 2)) / scale.abs()
    if not bool((off < TOLERANCE).all()):
        raise MethodError(
            f"the preprocessing of {name} does more than scale and shift colours: pass prepare= and read= of your own"
        )
    return scale.float(), shift.float(), (grey.shape[1], grey.shape[2])


def _pixel_values(made: Mapping[str, Any], name: str) -> Tensor:
    """(1, T, C, H, W) of what a processor of transformers gives.  Raises MethodError for anything else."""
    found = [value for value in made.values() if isinstance(value, Tensor) and value.dim() == 5]
    if len(found) != 1:
        raise MethodError(
            f"the processor makes no clip (N, T, C, H, W) of frames for {name}: pass the video's processor that its "
            "AutoImageProcessor or AutoVideoProcessor loads"
        )
    return found[0]


def _positions(network: nn.Module) -> tuple[int | None, Size | None]:
    """(number of frames, their size) that a torchvision network's table of positions is for; None for any."""
    table, first = getattr(network, "pos_encoding", None), getattr(network, "conv_proj", None)
    if table is None or not isinstance(first, nn.Conv3d):
        return None, None
    along_time, down, across = first.stride
    height, width = table.spatial_size
    return table.temporal_size * along_time, (height * down, width * across)


def _check_sizes(name: str, made: Size, built_for: Size | None) -> None:
    """Raise MethodError where a preprocessing makes frames of another size than the network was built for."""
    if built_for not in (None, made):
        raise MethodError(
            f"{name} was built for frames of {_said(built_for)}, its preprocessing makes {_said(made)}: pass the "
            "preprocessing that belongs to these weights"
        )


def _square(size: int | Sequence[int] | None) -> Size | None:
    """(height, width) of a configuration's image size."""
    if size is None:
        return None
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _said(size: Size | None) -> str:
    return "any size" if size is None else f"{size[0]} x {size[1]}"

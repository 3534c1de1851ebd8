"""A network into service (`python -m adapt.export`): weights in, a file out that torch or onnxruntime alone runs.

Weights are a checkpoint of `train`, or a state dict such as `torch.save(model.save(), path)` keeps of a model that
adapts.  What is written and how it is compared: adapt/service.py.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from adapt import command

if __name__ == "__main__":
    command.begin("adapt.export")  # before what takes time to import
    command.be_passive()  # before torch is imported

import numpy as np
import torch
from torch import Tensor, nn

from adapt import backbones, service
from adapt.errors import AdaptError, CheckpointError
from adapt.source import checkpoints
from adapt.tables import classes
from adapt.video.clips import VideoOptions, count_frames, read_frames
from adapt.video.views import indices_of_views

SEED = 0


@dataclass(frozen=True)
class Options:
    """Write a network, as trained or as adapted, to a file for service."""

    backbone: str  # adapt/backbones/<backbone>.py
    weights: Path  # a checkpoint of train, or a state dict of the network
    out: Path  # the file to write; its ending should say its format: .pt2 or .onnx
    variant: str = ""  # one of the backbone's sizes; empty: its first
    format: Literal["torch_export", "onnx"] = "torch_export"  # for torch, or for onnxruntime
    classes: Path | None = None  # the list of classes, one a line; a checkpoint of train has its own
    frames: int = command.number(0, low=0, high=1024)  # of a clip; 0: as the checkpoint was trained
    size: int = command.number(0, low=0, high=8192)  # side of its frames in pixels; 0: as the checkpoint was trained
    videos: tuple[Path, ...] = ()  # files whose clips are compared, beside those that are made up
    n_clips: int = command.number(4, low=1, high=1024)  # made up and compared: noise, a ramp of grey
    tolerance: float = command.number(service.TOLERANCE, low=0, high=1)
    """largest difference of a logit, as a part of the largest logit"""


def run(options: Options) -> dict[str, object]:
    """Write the file; return what was compared.

    Raises CheckpointError where the weights do not fit, MethodError where the network cannot be written or the file
    answers otherwise, VideoError for a video that cannot be read.
    """
    network, names, n_frames, size = _read(options)
    example = torch.cat(
        [_made_up(options.n_clips, n_frames, size), *(_clip(p, n_frames, size) for p in options.videos)]
    )
    found = service.export(network, example, options.out, names, options.format, options.tolerance)
    return {
        "out": str(found.path),
        "format": found.format,
        "frames": list(found.frames),
        "any_batch": found.any_batch,
        "n_classes": len(names),
        "n_clips": found.n_clips,
        "largest_difference": found.largest_difference,
        "largest_logit": found.largest_logit,
    }


def _read(options: Options) -> tuple[nn.Module, list[str], int, int]:
    """(the network in eval mode, its classes, the frames of a clip, their side)."""
    content = checkpoints.load(options.weights, "train")
    if "state" in content:
        names, size = content.get("labels") or [], options.size or int(content.get("size", 0))
        n_frames = int(content["n_frames"])
        if options.frames not in (0, n_frames):
            raise CheckpointError(f"{options.weights} was trained on {n_frames} frames, --frames is {options.frames}")
        if options.classes is not None and _listed(options.classes) != names:
            raise CheckpointError(f"{options.weights} has other classes than {options.classes}: leave --classes out")
    else:
        names, size, n_frames = _listed(options.classes), options.size, options.frames
    if not (names and size and n_frames):
        raise AdaptError(
            f"{options.weights} does not say everything: give --classes, --frames and --size, of which it is known: "
            f"{len(names)} classes, {n_frames} frames, {size} pixels"
        )
    if "state" in content:
        source = checkpoints.load_model(options.weights, options.backbone, names, n_frames, options.variant)
        return source.model, names, n_frames, size
    return _with_state(options, content, names, n_frames), names, n_frames, size


def _listed(path: Path | None) -> list[str]:
    if path is None:
        return []
    try:
        return classes.read(path, by_hand=True)
    except classes.ClassesError as error:
        raise AdaptError(str(error)) from error


def _with_state(options: Options, state: dict[str, Any], names: list[str], n_frames: int) -> nn.Module:
    model = backbones.build(options.backbone, len(names), n_frames, "", options.variant)
    try:
        model.load_state_dict(state)
    except (RuntimeError, AttributeError) as error:
        why = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{options.weights} does not fit {options.backbone} with these classes: {why}") from error
    return model.eval()


def _made_up(n_clips: int, n_frames: int, size: int) -> Tensor:
    """Clips of noise, every second one over a ramp of grey that moves: (N, 3, T, H, W)."""
    random = torch.Generator().manual_seed(SEED)
    clips = torch.rand(n_clips, 3, n_frames, size, size, generator=random)
    place = torch.linspace(0, 1, size)
    ramp = torch.stack([(place + t / n_frames) % 1 for t in range(n_frames)])[None, :, None, :]
    clips[::2] = 0.2 * clips[::2] + 0.8 * ramp
    return clips


def _clip(path: Path, n_frames: int, size: int) -> Tensor:
    """The frames that a video is predicted from: (1, 3, T, H, W)."""
    places = indices_of_views(count_frames(path), n_frames, 1)[-1]
    order = np.unique(places, return_inverse=True)
    frames = read_frames(path, order[0], VideoOptions(frames=n_frames, resize=size, size=size))[order[1]]
    return torch.from_numpy(frames).permute(3, 0, 1, 2)[None].float() / 255


if __name__ == "__main__":
    command.main(Options, run, prog="adapt.export")

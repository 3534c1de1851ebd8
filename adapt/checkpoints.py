"""The files that hold a source model and its statistics, each checked against the other and against the class list."""
import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from adapt import backbones
from adapt.cache import labels_sha256
from adapt.errors import CheckpointError

Statistics = dict[str, tuple[Tensor, Tensor]]  # layer name -> mean (C,), variance (C,) of its output on clean source clips


@dataclass(frozen=True)
class Source:
    """A source model and the hash of the file it came from."""

    model: nn.Module
    sha256: str


def model_path(dataset: str, backbone: str) -> Path:
    """Where `train` puts the source model."""
    return Path("cache") / dataset / "model" / f"{backbone}.pt"


def statistics_path(dataset: str, backbone: str) -> Path:
    """Where `statistics` puts the per-layer source statistics."""
    return Path("cache") / dataset / "model" / f"{backbone}.statistics.pt"


def save(path: Path, content: dict[str, object]) -> None:
    """Write `content` (tensors, strings, numbers) to a temporary name, then rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    torch.save(content, temporary)
    temporary.replace(path)


def _load(path: Path, stage: str) -> dict[str, object]:
    if not path.exists():
        raise CheckpointError(f"{path} is missing: run `dvc repro {stage}`")
    try:
        content: dict[str, object] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many kinds for a file that is not its own
        raise CheckpointError(f"{path} is not a checkpoint ({type(error).__name__}): delete it and run `dvc repro {stage}`") from error
    return content


def save_model(path: Path, model: nn.Module, backbone: str, labels: list[str], n_frames: int) -> None:
    """Save a source model with what it was trained for."""
    state = {name: value.cpu() for name, value in model.state_dict().items()}
    save(path, {"state": state, "backbone": backbone, "labels_sha256": labels_sha256(labels), "n_frames": n_frames, "n_classes": len(labels)})


def load_model(path: Path, backbone: str, labels: list[str], n_frames: int) -> Source:
    """Load a source model in eval mode.  Raises CheckpointError where backbone, class order or frame count differ."""
    content = _load(path, "train")
    expected = {"backbone": backbone, "labels_sha256": labels_sha256(labels), "n_frames": n_frames}
    for name, value in expected.items():
        if content.get(name) != value:
            raise CheckpointError(f"{path}: {name} is {content.get(name)!r}, {value!r} is wanted: run `dvc repro train`")
    model = backbones.build(backbone, len(labels), n_frames)
    state = content["state"]
    assert isinstance(state, dict)
    model.load_state_dict(state)
    return Source(model.eval(), hashlib.sha256(path.read_bytes()).hexdigest())


def save_statistics(path: Path, statistics: Statistics, model_sha256: str) -> None:
    """Save per-layer statistics with the hash of the checkpoint they belong to."""
    save(path, {"statistics": {name: list(pair) for name, pair in statistics.items()}, "model_sha256": model_sha256})


def load_statistics(path: Path, model_sha256: str) -> Statistics:
    """Load per-layer statistics.  Raises CheckpointError where they were taken of another checkpoint."""
    content = _load(path, "statistics")
    if content.get("model_sha256") != model_sha256:
        raise CheckpointError(f"{path} was taken of another checkpoint than {model_sha256[:12]}: run `dvc repro statistics`")
    statistics = content["statistics"]
    assert isinstance(statistics, dict)
    return {name: (pair[0], pair[1]) for name, pair in statistics.items()}

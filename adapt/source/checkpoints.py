"""The files that hold a source model and its statistics, each checked against the other and against the class list."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from adapt import backbones
from adapt.contract import SourceStatistics
from adapt.errors import CheckpointError
from adapt.tables import classes
from adapt.tables.files import replacing


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


def save(path: Path, content: Mapping[str, object]) -> None:
    """Write `content` (tensors, strings, numbers) to a temporary name, then rename; equal content gives equal bytes."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        torch.save(dict(content), file)  # under a name, its bytes would hold that; and errors are Python's


def load(path: Path, stage: str) -> dict[str, Any]:
    """What `save` wrote.  Raises CheckpointError where `path` is missing or another file; `stage` is the one that makes
    it.
    """
    if not path.exists():
        raise CheckpointError(f"{path} is missing: run `dvc repro {stage}`")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many kinds for a file that is not its own
        raise CheckpointError(
            f"{path} is not a checkpoint ({type(error).__name__}): delete it and run `dvc repro {stage}`"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{path} holds a {type(content).__name__}, no checkpoint of ours: delete it and run `dvc repro {stage}`"
        )
    return content


def counts_of(path: Path, run: Mapping[str, str]) -> dict[str, object] | None:
    """What was said at the end of the run that made the file, if it was of just these options, data and code; None for
    any other file.
    """
    try:
        content = load(path, "train") if path.exists() else {}
    except CheckpointError:
        return None  # what another program left, or half a file: made again
    return dict(content["counts"]) if content.get("run") == dict(run) and content.get("counts") else None


def save_model(
    path: Path, model: nn.Module, backbone: str, labels: list[str], n_frames: int, variant: str = "", size: int = 0,
    run: Mapping[str, str] | None = None, counts: Mapping[str, object] | None = None,
) -> None:  # fmt: skip
    """Save a source model with what it was trained for; `size` is the side of its frames in pixels, 0 for any.

    `run` is all that its weights depend on, by name, which `counts_of` compares; `counts` is what its training said at
    the end.
    """
    state = {name: value.cpu() for name, value in model.state_dict().items()}
    about = {
        "backbone": backbone,
        "variant": variant,
        "n_frames": n_frames,
        "size": size,
        "run": dict(run or {}),
        "counts": dict(counts or {}),
    }
    save(
        path,
        {
            "state": state,
            **about,
            "labels": list(labels),
            "labels_sha256": classes.sha256(labels),
            "n_classes": len(labels),
        },
    )


def load_model(path: Path, backbone: str, labels: list[str], n_frames: int, variant: str = "", size: int = 0) -> Source:
    """Load a source model in eval mode.

    Raises CheckpointError where backbone, variant, class order, frame count, or a `size` other than 0 are not those
    that it was saved with.
    """
    content = load(path, "train")
    known = {"variant": "", "size": size} | content  # files of before these were stored
    expected = {"backbone": backbone, "variant": variant, "labels_sha256": classes.sha256(labels), "n_frames": n_frames}
    for name, value in (expected | ({"size": size} if size else {})).items():
        if known.get(name) != value:
            why = _difference(content.get("labels"), labels) if name == "labels_sha256" else ""
            raise CheckpointError(
                f"{path}: {name} is {known.get(name)!r}, {value!r} is wanted{why}: run `dvc repro train`"
            )
    model = backbones.build(backbone, len(labels), n_frames, "", variant)
    _put(path, model, content.get("state"))
    return Source(model.eval(), hashlib.sha256(path.read_bytes()).hexdigest())


def _difference(theirs: object, ours: Sequence[str]) -> str:
    """How two class lists differ, in brackets; "" where the file has no list."""
    if not isinstance(theirs, list):
        return ""
    if len(theirs) != len(ours):
        return f" ({len(theirs)} classes there, {len(ours)} in labels.txt)"
    place = next((i for i, (a, b) in enumerate(zip(theirs, ours, strict=True)) if a != b), 0)
    return f" (class {place} is {theirs[place]!r} there, {ours[place]!r} in labels.txt)"


def _put(path: Path, model: nn.Module, state: object) -> None:
    """Load `state` into `model`.  Raises CheckpointError where a tensor is missing, unknown or of another shape."""
    ours = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    theirs = {name: tuple(value.shape) for name, value in state.items()} if isinstance(state, dict) else {}
    if wrong := [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]:
        shapes = f"{theirs.get(wrong[0], 'missing')} there, {ours.get(wrong[0], 'missing')} in the model"
        raise CheckpointError(
            f"{path}: tensor {wrong[0]} is {shapes} ({len(wrong)} such tensors): run `dvc repro train`"
        )
    model.load_state_dict(state)  # type: ignore[arg-type]  # a dict: an empty one has no tensor in common


def save_statistics(
    path: Path, statistics: SourceStatistics, model_sha256: str, about: Mapping[str, object] | None = None
) -> None:
    """Save source statistics with the hash of the checkpoint they belong to; `about` says how they were taken."""
    parts = {part: {name: list(pair) for name, pair in found.items()} for part, found in statistics._asdict().items()}
    save(path, {**parts, "model_sha256": model_sha256, **(about or {})})


def fisher_bn_prior(path: Path) -> float:
    """`bn_prior` of the forwards that the Fisher weights in source statistics come from."""
    return float(load(path, "statistics").get("bn_prior", 0.3))  # files of before this was stored


def load_statistics(path: Path, model_sha256: str, labels: Sequence[str] | None = None) -> SourceStatistics:
    """Load source statistics.  Raises CheckpointError where they were taken of another checkpoint, for other classes
    than `labels` (where these are given and the file says), or are of an older form.
    """
    content = load(path, "statistics")
    if labels is not None and content.get("labels_sha256", now := classes.sha256(labels)) != now:
        raise CheckpointError(f"{path} was taken for another list of classes: run `dvc repro statistics`")
    if content.get("model_sha256") != model_sha256:
        raise CheckpointError(
            f"{path} was taken of another checkpoint than {model_sha256[:12]}: run `dvc repro statistics`"
        )
    if missing := [part for part in SourceStatistics._fields if not isinstance(content.get(part), dict)]:
        raise CheckpointError(
            f"{path} has no {missing[0]}: an older version wrote it; delete it and run `dvc repro statistics`"
        )
    return SourceStatistics(
        *({name: (pair[0], pair[1]) for name, pair in content[part].items()} for part in SourceStatistics._fields)
    )

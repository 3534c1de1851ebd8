"""A network as a file for service, which torch or onnxruntime alone loads: no Earshot where it runs.

`torch_export` is a program of torch.export (`torch.export.load(path).module()(frames)`), `onnx` a graph
(`onnxruntime.InferenceSession(path).run(None, {"frames": frames})`).  Both take frames (N, C, T, H, W) float32 in
[0, 1], normalise them as the network does, and give logits (N, K).  What is written is the network as its weights are
now, in eval mode: it does not adapt any more, nor does batch norm look at the clip's own statistics.  A file is kept
only where it answers as the network does.
"""

import copy
import io
import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from adapt.errors import MethodError
from adapt.tables.files import replacing

FORMATS = {".pt2": "torch_export", ".onnx": "onnx"}  # by a file's ending
TOLERANCE = 1e-4  # of the largest logit, or of 1 where that is smaller
ABOUT = "earshot.json"  # torch_export's extra file, and ONNX's metadata under `earshot`
Answer = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Exported:
    """What was written, and how far its answers are from the network's."""

    path: Path
    format: str
    frames: tuple[int, ...]  # (C, T, H, W) of each clip
    any_batch: bool  # whether it takes any number of clips; else as many as the example has
    n_clips: int  # compared
    largest_difference: float  # of a logit
    largest_logit: float


def export(
    network: nn.Module, example: Tensor, path: Path, classes: Sequence[str], format: str = "",
    tolerance: float = TOLERANCE,
) -> Exported:  # fmt: skip
    """Write `network` to `path` and compare both on `example`, clips of the shape that it is to take in service.

    `format` is torch_export or onnx; "": what the path's ending says.  The file carries the names of the classes, in
    the logits' order, and what goes in, as JSON.  Raises MethodError where the network cannot be written so, where the
    file's logits differ by more than `tolerance` of the largest one, or where a package is missing; then no file is
    left.
    """
    format = format or FORMATS.get(path.suffix, "")
    if format not in FORMATS.values():
        raise MethodError(f"{path}: end it in .pt2 for torch_export or .onnx, or give format, which is {format!r}")
    with torch.no_grad():
        copied = copy.deepcopy(network).eval().cpu()  # what is exported must lie where it is compared
        example = example.detach().float().cpu()
        program, any_batch = _program(copied, example)
        about = {
            "classes": list(classes), "frames": list(example.shape[1:]), "clips": "any" if any_batch else len(example),
            "takes": "float32 (N, C, T, H, W) in [0, 1]", "gives": "logits (N, K)",
        }  # fmt: skip
        content = _onnx(program, about) if format == "onnx" else _torch(program, about)
        answer = _run_onnx(content) if format == "onnx" else _run_torch(content)
        batches = [example, example[:1], torch.cat([example, example.flip(0)])] if any_batch else [example]
        difference, largest = _compare(copied, answer, batches)
    if not difference <= tolerance * max(1.0, largest):
        raise MethodError(
            f"{path}: the {format} file's logits differ by up to {difference:.3g} from {network._get_name()}'s, whose "
            f"largest is {largest:.3g}; tolerance is {tolerance:g} of that: no file was written"
        )
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    return Exported(path, format, tuple(example.shape[1:]), any_batch, len(example), difference, largest)


def _program(network: nn.Module, example: Tensor) -> tuple[ExportedProgram, bool]:
    """(the network's graph, whether it takes any number of clips)."""
    several = torch.cat([example, example]) if len(example) == 1 else example  # of one clip torch makes a constant
    try:
        free = torch.export.export(network, (several,), dynamic_shapes=({0: Dim.AUTO},))
        if _takes(free, several[:1]) and _takes(free, torch.cat([several, several])):
            return free, True
        return torch.export.export(network, (example,)), False
    except Exception as error:  # torch.export raises many kinds for what it cannot follow
        raise MethodError(
            f"torch.export cannot follow {network._get_name()} ({type(error).__name__}: {_one_line(error)}): "
            "its forward must not branch on values of tensors"
        ) from error


def _takes(program: ExportedProgram, frames: Tensor) -> bool:
    """Whether the program can be given so many clips: what it was traced with may be a constant of it."""
    try:
        program.module()(frames)
    except (AssertionError, RuntimeError, ValueError):  # AssertionError is that of torch's own guards
        return False
    return True


def _torch(program: ExportedProgram, about: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    torch.export.save(program, file, extra_files={ABOUT: json.dumps(about, ensure_ascii=False)})
    return file.getvalue()


def _run_torch(content: bytes) -> Answer:
    with warnings.catch_warnings(action="ignore"):  # of torch about its own buffers
        loaded: Answer = torch.export.load(io.BytesIO(content)).module()
    return loaded


def _onnx(program: ExportedProgram, about: dict[str, Any]) -> bytes:
    try:
        import onnxscript  # noqa: F401 - torch needs it for this
    except ImportError as error:
        raise MethodError(f"onnx needs the package {error.name}: run `pip install -e '.[export]'`") from error
    with warnings.catch_warnings(action="ignore"):  # of the exporter about its own insides
        made = torch.onnx.export(
            program, (), input_names=["frames"], output_names=["logits"], dynamo=True, verbose=False,
            external_data=False,
        )  # fmt: skip
    if made is None:
        raise MethodError("torch.onnx.export gave no program: give format torch_export")
    graph = made.model_proto
    entry = graph.metadata_props.add()
    entry.key, entry.value = "earshot", json.dumps(about, ensure_ascii=False)
    content: bytes = graph.SerializeToString()
    return content


def _run_onnx(content: bytes) -> Answer:
    try:
        import onnxruntime
    except ImportError as error:
        raise MethodError("onnx is compared by onnxruntime: run `pip install -e '.[export]'`") from error
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return lambda frames: torch.from_numpy(session.run(None, {"frames": frames.numpy()})[0])


def _compare(network: nn.Module, answer: Answer, batches: Sequence[Tensor]) -> tuple[float, float]:
    """(the largest difference of a logit, the largest logit); infinite where one is finite and the other is not."""
    difference = largest = 0.0
    for frames in batches:
        ours, theirs = network(frames), answer(frames)
        finite = ours.isfinite()  # a class may be masked by -inf
        if ours.shape != theirs.shape or not torch.equal(ours[~finite], theirs[~finite]):
            return float("inf"), largest
        if finite.any():
            difference = max(difference, float(torch.nan_to_num((ours - theirs)[finite].abs(), torch.inf).max()))
            largest = max(largest, float(ours[finite].abs().max()))
    return difference, largest


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]

"""What the taggers that run on torch share: the device, the number format, and checkpoints read without running their
code.
"""

import pickle
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from adapt.errors import TaggerError

DTYPES = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}  # of the network; features and logits are float32
ROWS_AT_ONCE = 2  # on the CPU; Cnn14 in fp32, CPU s a clip: 0.34 at 1 or 2 rows, 0.36 at 4 or 8
Floats = npt.NDArray[np.float32]
# Checkpoints of 2019 hold a few numpy arrays beside the weights; making an array runs no code of the file.
ARRAY_PARTS: list[Callable[..., Any]] = [
    np.ndarray,
    np.dtype,
    *{type(np.dtype(kind)) for kind in ("int32", "int64", "float32", "float64", "bool")},
]


def open_device(name: str, precision: str) -> torch.device:
    """The device `name` (cpu, cuda, cuda:1).  Raises TaggerError where it is not there, or cannot do `precision`: it is
    not replaced.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise TaggerError(f"unknown device {name!r}: set tag.args.device to cpu, cuda or cuda:1") from error
    if device.type not in ("cpu", "cuda"):
        raise TaggerError(f"device {name!r} is not one that taggers run on: set tag.args.device to cpu, cuda or cuda:1")
    n_devices = torch.cuda.device_count() if device.type == "cuda" else 1
    if (device.index or 0) >= n_devices:
        raise TaggerError(
            f"device {name!r} is not there (CUDA devices: {n_devices}): set tag.args.device to cpu, or to one there is"
        )
    if device.type == "cpu" and precision == "fp16":
        raise TaggerError(
            "precision fp16 needs a CUDA device, but tag.args.device is cpu: set tag.args.precision to bf16 or fp32"
        )
    return device


def read_checkpoint(path: Path, network: str, published: str) -> dict[str, object]:
    """Read a torch checkpoint, weights only.  Raises TaggerError where it is not one, or holds more than tensors and
    numpy arrays.
    """
    # Numpy's own maker of arrays: files name it by its old place or by its new one.
    rebuild: Callable[..., Any] = np.empty(0).__reduce__()[0]  # type: ignore[assignment]
    allowed: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
        *ARRAY_PARTS,
        rebuild,
        (rebuild, "numpy.core.multiarray._reconstruct"),
    ]
    try:
        with torch.serialization.safe_globals(allowed):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise not_a_checkpoint(path, network, published, f"{type(error).__name__}: {error}") from error
    if not isinstance(checkpoint, dict):
        raise not_a_checkpoint(path, network, published, f"it holds a {type(checkpoint).__name__}")
    return checkpoint


def tensors(state_dict: object) -> dict[str, torch.Tensor]:
    """A copy of `state_dict`.  Raises ValueError where it is not names and tensors."""
    if not isinstance(state_dict, Mapping) or not all(isinstance(value, torch.Tensor) for value in state_dict.values()):
        raise ValueError("it is not a dictionary of tensors")
    return dict(state_dict)


def not_a_checkpoint(path: Path, network: str, published: str, reason: str) -> TaggerError:
    """The error of a file that does not hold the weights of `network`; `published` says where those are."""
    return TaggerError(f"{path} is not a checkpoint of {network} ({' '.join(reason.split())[:200]}): {published}")


def by_length(
    hear: Callable[[torch.Tensor], torch.Tensor],
    waveforms: Floats,
    n_samples: npt.NDArray[np.int64],
    shortest: int,
    device: torch.device,
) -> Floats:
    """Map rows (B, S) to logits with `hear`, which is given rows without padding, of one length at a time, on `device`.

    So a row's answer depends neither on the other rows nor on how far all are padded, and no padding is paid for.
    Sounds below `shortest` samples are padded to it.  The CPU is given few rows at a time: more cost memory, and time
    to get it.
    """
    lengths = np.maximum(n_samples, shortest)
    if waveforms.shape[1] < shortest:
        waveforms = np.pad(waveforms, ((0, 0), (0, shortest - waveforms.shape[1])))
    order = np.argsort(lengths, kind="stable")
    at_once = ROWS_AT_ONCE if device.type == "cpu" else len(order)
    groups = [
        group[i : i + at_once]
        for group in np.split(order, np.flatnonzero(np.diff(lengths[order])) + 1)
        for i in range(0, len(group), at_once)
    ]
    heard = [hear(torch.from_numpy(waveforms[rows, : lengths[rows[0]]]).to(device)) for rows in groups]
    answers: Floats = torch.cat(heard).cpu().numpy()
    return answers[np.argsort(order)]


@contextmanager
def exact(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Inference without gradients; on a GPU, float32 is float32 and not TensorFloat-32, whose 10 bits are torch's
    default in convolutions.
    """
    with torch.inference_mode():
        if device.type == "cuda" and dtype == torch.float32:
            with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
                yield
        else:
            yield

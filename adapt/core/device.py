"""The device that computes, by its name."""

import torch

from adapt.errors import MethodError


def device_of(name: str) -> torch.device:
    """The device of that name; asking for CUDA where there is none is an error, never a fallback."""
    try:
        device = torch.device(name)
    except RuntimeError:
        raise MethodError(f"device {name!r} is unknown: set device to cpu, cuda or cuda:1") from None
    if device.type not in ("cpu", "cuda"):
        raise MethodError(f"device {name!r} is none that is tested here: set device to cpu, cuda or cuda:1")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise MethodError(f"device {name!r} was asked for but torch finds no CUDA: set device to cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise MethodError(
            f"device {name!r} was asked for but there are {torch.cuda.device_count()}, counted from 0: choose another"
        )
    return device

"""Source statistics as ViTTA's authors ship them: list_spatiotemp_mean_*.npy and list_spatiotemp_var_*.npy.

Each is a list with an array (C,) for every layer in the order in which torch names them: all 2D and 3D batch norms, or,
of a network without any, all layer norms but the first (their compute_statistics).  Lists of arrays of different
lengths are pickles inside: only numpy's own arrays and types are read, so that no code of the file's runs.
"""

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from adapt.contract import SourceStatistics
from adapt.errors import CheckpointError

RECONSTRUCT = "_reconstruct"  # of an array: makes an empty one, which is then filled
MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")  # as numpy 1 and numpy 2 name it
HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


class _Arrays(pickle.Unpickler):
    """Reads arrays of numbers, and lists of them."""

    def find_class(self, module: str, name: str) -> Any:
        """Raise UnpicklingError for whatever else the file asks for."""
        if module in MODULES and name == RECONSTRUCT:
            return np.zeros(0).__reduce__()[0]
        if module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def read(files: Sequence[Path], model: nn.Module) -> SourceStatistics:
    """The moments of the layers of `model` from the two files, means first.

    Raises CheckpointError for a file that cannot be read, or is of another network.
    """
    names = layers(model)
    means, variances = (_read(path, model, names) for path in files)
    return SourceStatistics({name: (mean, var) for name, mean, var in zip(names, means, variances, strict=True)})


def layers(model: nn.Module) -> list[str]:
    """The layers that the files hold, in their order."""
    modules = dict(model.named_modules())
    batch_norms = [name for name, module in modules.items() if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d)]
    return batch_norms or [name for name, module in modules.items() if isinstance(module, nn.LayerNorm)][1:]


def _read(path: Path, model: nn.Module, names: Sequence[str]) -> list[torch.Tensor]:
    arrays = [np.asarray(array, np.float32) for array in _list_in(path)]
    if len(arrays) != len(names):
        raise CheckpointError(
            f"{path} is of {len(arrays)} layers, {model._get_name()} has {len(names)}: check the model"
        )
    for name, array in zip(names, arrays, strict=True):
        expected = model.get_parameter(f"{name}.weight").shape
        if array.shape != expected:
            raise CheckpointError(
                f"{path}: layer {name} is {array.shape} there, {tuple(expected)} in the model: check both"
            )
        if not np.isfinite(array).all():
            raise CheckpointError(f"{path}: layer {name} is not finite: download the file again")
    return [torch.from_numpy(array) for array in arrays]


def _list_in(path: Path) -> list[Any]:
    """The entries of a .npy file, one a layer.  Raises CheckpointError where it is none, or holds anything else."""
    try:
        with path.open("rb") as file:
            read_header = HEADERS[np.lib.format.read_magic(file)]  # type: ignore[no-untyped-call]
            dtype = read_header(file)[2]
            if dtype.hasobject:
                return list(_Arrays(file).load())
        return list(np.load(path, allow_pickle=False))
    except Exception as error:  # a broken pickle raises almost anything
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"{path} is no list of ViTTA's statistics ({type(error).__name__}: {reason}): give "
            "list_spatiotemp_mean_*.npy, then list_spatiotemp_var_*.npy"
        ) from error

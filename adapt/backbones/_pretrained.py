"""Published weights for a backbone: a file or folder of this machine, or a name on the Hugging Face hub; all of them,
or an error.

Only the classification head may differ: it stays new where the file has none, or one for another number of classes.
"""

import argparse
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from adapt.errors import CheckpointError, MethodError

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
WRAPPERS = (
    "module.",
    "_orig_mod.",
)  # what DataParallel, DistributedDataParallel and torch.compile put before a network's own names
SMALL_FILES = ["config.json", "*token*", "vocab.json", "merges.txt"]
NUMPY_TYPES = "?bBhHiIlLqQefd"  # booleans, whole and floating numbers
SCALAR = np.float64(0).__reduce__()[0]  # what makes a numpy scalar of its type and bytes
INERT: tuple[Any, ...] = (  # what training scripts save beside weights: made of plain data, and running no code
    argparse.Namespace,
    np.dtype,
    *{type(np.dtype(code)) for code in NUMPY_TYPES},
    (SCALAR, "numpy.core.multiarray.scalar"),  # as numpy 1 named it, and as numpy 2 does
    (SCALAR, "numpy._core.multiarray.scalar"),
)
INSTALL = "install it with `pip install -e '.[backbones]'`"


def missing_package(error: ImportError) -> MethodError:
    """What to raise where an optional package cannot be imported."""
    return MethodError(f"this backbone needs the package {error.name}: {INSTALL}")


def load_inert(path: Path) -> Any:
    """What torch.save wrote, on the CPU: tensors and plain data, and of classes those of INERT alone.

    Raises whatever torch.load does, for a file that names any other class too.
    """
    with torch.serialization.safe_globals(list(INERT)):
        return torch.load(path, map_location="cpu", weights_only=True)


def read_state(path: Path) -> dict[str, Tensor]:
    """Name -> tensor of a safetensors file, or of torch's own format, where a dict may hold them under `state_dict` or
    `model`.

    Prefixes of wrappers are taken off the names.  Raises CheckpointError where it is neither, or some names have such a
    prefix and others not.
    """
    if not path.is_file():
        raise CheckpointError(
            f"{path} is no file: set train.weights to the published state dict (.pth or .safetensors), or to '' for "
            "random weights"
        )
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return without_wrappers(path, load_file(path))
        content: Any = load_inert(path)
    except ImportError as error:
        raise missing_package(error) from error
    except Exception as error:  # both readers raise many kinds for a file that is not theirs
        raise CheckpointError(f"{path} is not a file of weights ({type(error).__name__}): download it again") from error
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()
    ):
        raise CheckpointError(
            f"{path} holds no state dict, but {type(content).__name__}: save the network's state_dict()"
        )
    return without_wrappers(path, content)


def without_wrappers(path: Path, state: Mapping[str, Any]) -> dict[str, Any]:
    """`state` without the prefixes of WRAPPERS, alone or one inside the other, that all its names have.

    Raises CheckpointError where a part of the names has one: then it is not a wrapper's, or two networks lie in one
    file.
    """
    while prefix := next((prefix for prefix in WRAPPERS if any(name.startswith(prefix) for name in state)), None):
        if bare := [name for name in state if not name.startswith(prefix)]:
            n_bare, n = len(bare), len(state)
            raise CheckpointError(
                f"{path}: the prefix {prefix!r} stands before {n - n_bare} of {n} names, not before {bare[0]!r}: "
                "save one network's state_dict()"
            )
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    return dict(state)


def load_file_into(network: nn.Module, path: Path, head: str) -> None:
    """Load the weights in `path` into `network`: every tensor, but those of its layer called `head` where the shapes
    differ.

    Raises CheckpointError, and leaves `network` half loaded, where the tensors are not the network's.
    """
    state, head = read_state(path), f"{head}."
    ours = network.state_dict()
    kept = {
        name: value
        for name, value in state.items()
        if not name.startswith(head) or (name in ours and value.shape == ours[name].shape)
    }
    try:
        found = network.load_state_dict(kept, strict=False)
    except RuntimeError as error:
        raise CheckpointError(
            f"{path} holds another size of {network._get_name()}: {str(error).splitlines()[-1].strip()}"
        ) from error
    check_names(path, [name for name in found.missing_keys if not name.startswith(head)], found.unexpected_keys)


def check_names(path: Path, missing: list[str], strangers: list[str]) -> None:
    """Raise CheckpointError where weights lack or are too many."""
    if missing or strangers:
        example = f"{missing[0]!r} is missing" if missing else f"{strangers[0]!r} is not the network's"
        raise CheckpointError(
            f"{path} holds other weights: {len(missing)} missing, {len(strangers)} too many ({example}): check "
            "model.variant"
        )


def folder_of(weights: str) -> Path:
    """The folder of transformers that `weights` names: one of this machine, else the local copy of one on the hub,
    downloaded if need be.

    Raises CheckpointError where there is none to be had.
    """
    if Path(weights).is_dir():
        return Path(weights)
    if not HUB_NAME.fullmatch(weights):
        raise CheckpointError(
            f"{weights!r} is no folder of transformers and no name on the hub: set train.weights to one, or to '' for "
            "random ones"
        )
    try:
        import huggingface_hub
    except ImportError as error:
        raise missing_package(error) from error
    try:
        folder = Path(huggingface_hub.snapshot_download(weights, allow_patterns=[*SMALL_FILES, "model.safetensors"]))
        if not (folder / "model.safetensors").exists():
            folder = Path(
                huggingface_hub.snapshot_download(weights, allow_patterns=[*SMALL_FILES, "pytorch_model.bin"])
            )
    except (OSError, ValueError) as error:  # the hub's own errors are of these kinds
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
        raise CheckpointError(
            f"there is no folder {weights!r}, and the hub did not answer with one ({reason})"
        ) from error
    return folder


def check_config(folder: Path, kinds: tuple[str, ...], ours: Any, fields: tuple[str, ...]) -> None:
    """Check the configuration in a folder of transformers against `ours`, the variant's.

    Raises CheckpointError where it is missing, of another model type than `kinds`, or differs in one of `fields`.
    """
    try:
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
        if kind not in kinds:
            raise CheckpointError(
                f"{folder} holds a network of type {kind!r}, {kinds[0]!r} is wanted: check model.backbone and "
                "train.weights"
            )
        theirs = type(ours).from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(
            f"{folder} has no config.json of transformers ({type(error).__name__}): set train.weights to another"
        ) from error
    for name in fields:
        stated, wanted = getattr(theirs, name), getattr(ours, name)
        if stated != wanted:
            raise CheckpointError(
                f"{folder}: {name} is {stated}, the variant has {wanted}: set model.variant to the weights' own size"
            )


def load_folder(
    network_class: Any, folder: Path, new: tuple[str, ...], ignored: tuple[str, ...] = (), **config: Any
) -> Any:
    """The network of transformers in `folder`, in fp32, with `config` changed; weights under the names `new` may lack
    or have other shapes.

    Weights in the file under the names `ignored` are another network's, saved along.  Raises CheckpointError where
    others lack or are too many.
    """
    from safetensors import SafetensorError  # comes with transformers, whose class this is

    try:
        network, found = network_class.from_pretrained(
            folder,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            dtype=torch.float32,
            **config,
        )
    except (OSError, RuntimeError, ValueError, TypeError, KeyError, SafetensorError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
        raise CheckpointError(f"{folder} is no folder of transformers with weights ({reason})") from error
    other_shapes = [str(key[0] if isinstance(key, tuple) else key) for key in found["mismatched_keys"]]
    missing = [name for name in [*found["missing_keys"], *other_shapes] if not name.startswith(new)]
    check_names(folder, missing, [name for name in found["unexpected_keys"] if not name.startswith(ignored)])
    return network

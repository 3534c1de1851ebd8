"""What a run's rows depend on, as it stands in their files' metadata: code, options, data, checkpoint, libraries,
device.

Equal fingerprints give equal rows but for milliseconds, so a finished run need not be repeated and a broken-off one can
be gone on with.
"""

import hashlib
import json
import platform
from collections.abc import Collection, Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from adapt.tables import code, files, schema

LIBRARIES = ("torch", "torchvision", "numpy", "av", "decord")
TABLES = ("predictions", "traces")


def code_sha256(modules: Iterable[str], without: Collection[str] = ()) -> str:
    """Hash what `modules` of this package and all that they import mean, and the schema of the tables that a run
    writes.
    """
    schemas = {table: schema.schema_sha256(table) for table in TABLES}
    return hashlib.sha256(
        json.dumps([code.code_sha256(modules, without), schemas], sort_keys=True).encode()
    ).hexdigest()


def files_sha256(paths: Sequence[Path]) -> str:
    """Hash the contents of files, in their order."""
    return hashlib.sha256(json.dumps([files.sha256_file(path) for path in paths]).encode()).hexdigest()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"  # decord, on processors other than x86-64


def environment(device: torch.device) -> dict[str, str]:
    """Libraries and device."""
    libraries = [f"python {platform.python_version()}", *(f"{name} {_version(name)}" for name in LIBRARIES)]
    return {
        "libraries": ", ".join(libraries),
        "device": "cpu" if device.type == "cpu" else torch.cuda.get_device_name(device),
    }


def differences(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """What changed between two fingerprints, in words: names of entries, and of single options."""
    changed = [name for name in sorted({*old, *new} - {"options"}) if old.get(name) != new.get(name)]
    before, after = (_flat(json.loads(one.get("options", "{}"))) for one in (old, new))
    return changed + [name for name in sorted({*before, *after}) if before.get(name) != after.get(name)]


def _flat(options: Mapping[str, object]) -> dict[str, object]:
    """Options without the groups that they come in, as flags have them."""
    flat: dict[str, object] = {}
    for name, value in options.items():
        flat |= _flat(value) if isinstance(value, dict) else {name: value}
    return flat

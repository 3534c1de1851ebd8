"""What a run's rows depend on, as it stands in their files' metadata: code, options, data, checkpoint, libraries, device.

Equal fingerprints give equal rows but for milliseconds, so a finished run need not be repeated and a broken-off one can be gone on with.
"""
import ast
import hashlib
import json
import platform
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from adapt.tables import cache

PACKAGE = Path(__file__).parent
LIBRARIES = ("torch", "torchvision", "numpy", "av", "decord")


def file_sha256(path: Path) -> str:
    """Hash a file's bytes in constant memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _file(module: str) -> Path | None:
    """The file of a module of this package, None for others."""
    room, *parts = module.split(".")
    if room != PACKAGE.name:
        return None
    path = PACKAGE.joinpath(*parts)
    return next((p for p in (path.with_suffix(".py"), path / "__init__.py") if p.is_file()), None)


def _imported(path: Path) -> set[str]:
    """Dotted names that a file imports anywhere, functions included."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def code_sha256(modules: Iterable[str], without: Iterable[str] = ()) -> str:
    """Hash those of this package's files that `modules` import, directly or not, themselves included, and the tables' schema.

    Modules of `without`, which make no rows, are left out with what they alone import.
    """
    todo, found, left_out = [path for path in map(_file, modules) if path is not None], set(), {_file(module) for module in without}
    while todo:
        path = todo.pop()
        if path not in found and path not in left_out:
            found.add(path)
            todo += [p for p in map(_file, _imported(path)) if p is not None]
    files = {str(path.relative_to(PACKAGE)): file_sha256(path) for path in found}
    tables = {table: cache.schema_sha256(table) for table in ("predictions", "traces")}
    return hashlib.sha256(json.dumps([files, tables], sort_keys=True).encode()).hexdigest()


def data_sha256(dataset: str) -> str:
    """Hash what the rows' clips and sounds are read from; `clips` has the hash of every video."""
    names = ("clips.parquet", "labels.txt", "pseudo_labels.parquet")
    return hashlib.sha256(json.dumps([file_sha256(cache.ROOT / dataset / name) for name in names]).encode()).hexdigest()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"  # decord, on processors other than x86-64


def environment(device: torch.device) -> dict[str, str]:
    """Libraries and device."""
    libraries = [f"python {platform.python_version()}", *(f"{name} {_version(name)}" for name in LIBRARIES)]
    return {"libraries": ", ".join(libraries), "device": "cpu" if device.type == "cpu" else torch.cuda.get_device_name(device)}


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

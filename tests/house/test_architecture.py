"""The rules of the house: import directions, stage dependencies, what a method may know."""

import ast
import dataclasses
import functools
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from adapt import methods
from adapt.contract import Answer, Batch
from tests.places import ROOT
from tests.rooms import LIVE

ROOMS = ("pipeline", "adapt")
SHARED = (
    "adapt.errors",
    "adapt.command",
    "adapt.tables",
    "adapt.video.decoding",
)  # what pipeline may import of adapt: no torch in them
SAYS_ONLY = {
    "adapt/errors.py",
    "adapt/command/__init__.py",
    "adapt/command/_environment.py",
    "adapt/command/_printing.py",
    "adapt/command/_ranges.py",
    "adapt/command/_signals.py",
    "adapt/__init__.py",
    "pipeline/__init__.py",
}  # messages, exit codes, a door for Python: no output depends on them


def module_file(name: str) -> Path | None:
    """The file of a module of ours, None for others."""
    if name.split(".")[0] not in ROOMS:
        return None
    path = ROOT.joinpath(*name.split("."))
    return next((p for p in (path.with_suffix(".py"), path / "__init__.py") if p.exists()), None)


@functools.cache
def imported_modules(path: Path) -> frozenset[str]:
    """Dotted names that a file imports anywhere, functions included."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(names)


@functools.cache
def closure(start: Path) -> frozenset[str]:
    """Every file of ours that `start` imports, directly or not, itself and the packages' __init__ included."""
    todo: list[Path] = [start]
    found: set[Path] = set()
    while todo:
        path = todo.pop()
        if path in found:
            continue
        found.add(path)
        todo += [p for p in (module_file(name) for name in imported_modules(path)) if p is not None]
        todo += [p for p in (parent / "__init__.py" for parent in path.parents) if p.exists() and ROOT in p.parents]
    return frozenset(str(path.relative_to(ROOT)) for path in found)


@pytest.mark.parametrize(
    "path", sorted(p for room in ROOMS for p in (ROOT / room).rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT))
)
def test_pipeline_and_adapt_import_nothing_of_each_other_but_what_they_share(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0]
    other = "adapt" if room == "pipeline" else "pipeline"
    imported = {name for name in imported_modules(path) if name.split(".")[0] == other}
    shared = {
        name for name in imported if room == "pipeline" and f"{name}.".startswith(tuple(f"{door}." for door in SHARED))
    }
    live = LIVE.get(".".join(path.relative_to(ROOT).with_suffix("").parts), "")
    imported -= {name for name in imported if live and f"{name}.".startswith(f"{live}.")}
    doors = {
        ".".join(door.split(".")[:n]) for door in SHARED for n in range(1, door.count(".") + 1)
    }  # `from adapt import errors` names both
    assert imported - shared <= (doors if shared else set())


@pytest.mark.parametrize(
    "name", [*SHARED, *(f"adapt.tables.{path.stem}" for path in (ROOT / "adapt/tables").glob("[!_]*.py"))]
)
def test_importing_what_both_share_loads_no_torch(name: str) -> None:
    code = f"import sys\nimport {name}\nassert not {{'torch', 'pipeline', 'tqdm'}} & set(sys.modules)"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_importing_adapt_and_all_its_methods_needs_none_of_the_pipelines_packages() -> None:
    pipelines = [
        "torchaudio",
        "ffmpeg",
        "imageio_ffmpeg",
        "panns_inference",
        "onnx",
        "onnxruntime",
        "openai",
        "transformers",
        "dvc",
        "pipeline",
    ]
    code = (
        f"import sys\nfor name in {pipelines!r}: sys.modules[name] = None\n"
        "import adapt, adapt.__main__, adapt.train, adapt.statistics, adapt.report\n"
        "from adapt import methods, backbones\n"
        "import importlib\n"
        "for n in methods.names(): importlib.import_module(f'adapt.methods.{n}')\n"
        "for n in backbones.names(): importlib.import_module(f'adapt.backbones.{n}')\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def filled(path: Path, params: dict[str, Any]) -> dict[str, dict[str, object]]:
    """Name -> (command, deps) of every stage in a dvc.yaml, templates filled from `params`."""
    text = path.read_text(encoding="utf-8")
    for key, value in {
        "${dataset}": params["dataset"],
        "${scan.recipe}": params["scan"]["recipe"],
        "${tag.tagger}": params["tag"]["tagger"],
        "${map_labels.mapper}": params["map_labels"]["mapper"],
        "${model.backbone}": params["model"]["backbone"],
        "${item}": next(iter(params["render"]), ""),
    }.items():
        text = text.replace(key, value)
    stages: dict[str, dict[str, object]] = yaml.safe_load(text)["stages"]
    return {name: stage.get("do", stage) for name, stage in stages.items()}  # type: ignore[misc]


@functools.cache
def stage_definitions() -> dict[str, dict[str, object]]:
    """The stages of the pipeline, and of the ablation, which takes its parameters from the settings above it."""
    settings = ROOT / "data/settings/photosound"
    stages = filled(ROOT / "dvc.yaml", yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8")))
    own = filled(settings / "ablation/dvc.yaml", yaml.safe_load((settings / "params.yaml").read_text(encoding="utf-8")))
    return stages | {f"ablation {name}": stage for name, stage in own.items()}


@pytest.mark.parametrize("name", sorted(stage_definitions()))
def test_a_stages_deps_are_the_import_closure_of_its_module(name: str) -> None:
    stage = stage_definitions()[name]
    module = shlex.split(str(stage["cmd"]))[2]
    start = ROOT / module / "__main__.py" if module == "adapt" else module_file(module)
    assert start is not None
    deps = stage["deps"]
    assert isinstance(deps, list)
    listed = {str(d) for d in deps if str(d).split("/")[0] in ROOMS}
    folders = {d for d in listed if (ROOT / d).is_dir()}
    plugins = ("pipeline/datasets/", "pipeline/taggers/", "pipeline/mappers/", "adapt/backbones/", "adapt/methods/")
    files = listed - folders
    dynamic = {
        d for d in files if d.startswith(plugins) and not d.endswith("__init__.py")
    }  # chosen by name at run time
    needed = set(closure(start)).union(
        *(closure(ROOT / d) for d in dynamic), *(closure(p) for f in folders for p in (ROOT / f).rglob("*.py"))
    )
    if any(
        d.startswith("adapt/backbones/") for d in dynamic
    ):  # params.yaml may choose any: what they import is listed for all of them
        every = {n for p in (ROOT / "adapt/backbones").glob("[!_]*.py") for n in closure(p)}
        needed |= {n for n in every if not n.startswith("adapt/backbones/")}
    needed = {
        n for n in needed if not any(n.startswith(f"{f}/") for f in folders)
    }  # a folder covers everything below it
    assert files - SAYS_ONLY == {n for n in needed - SAYS_ONLY if not is_a_bare_door(n)}


def is_a_bare_door(name: str) -> bool:
    """Whether a file is a package's `__init__.py` that holds its docstring and nothing else."""
    return name.endswith("__init__.py") and len(ast.parse((ROOT / name).read_text(encoding="utf-8")).body) == 1


def test_a_fusion_is_given_what_a_method_is_and_imports_no_more() -> None:
    for path in (ROOT / "adapt/fusion").glob("*.py"):
        rooms = {name.split(".")[1] for name in imported_modules(path) if name.startswith("adapt.")}
        assert rooms <= {"contract", "core", "errors", "fusion"}, path


def test_a_batch_has_no_field_that_could_hold_a_label_or_a_path() -> None:
    assert {f.name for f in dataclasses.fields(Batch)} == {
        "frames",
        "centre",
        "q",
        "s",
        "mass",
        "status",
        "clip_ids",
        "absent",
    }


@pytest.mark.parametrize("path", sorted((ROOT / "adapt/methods").glob("*.py")), ids=lambda p: p.stem)
def test_a_method_imports_neither_cache_nor_metrics_nor_video(path: Path) -> None:
    assert not imported_modules(path) & {
        "adapt.tables.cache",
        "adapt.report.metrics",
        "adapt.video.clips",
        "adapt.stream.streaming",
        "pathlib",
        "os",
    }


def test_the_door_to_labels_is_open_to_the_method_that_declares_it_and_to_no_other() -> None:
    importing = {
        path.stem for path in (ROOT / "adapt/methods").glob("[!_]*.py") if "adapt.core.oracle" in imported_modules(path)
    }
    assert importing == {name for name in methods.names() if methods.needs_labels(name)} == {"oracle_gate"}


def test_an_answer_carries_no_label() -> None:
    assert not [f.name for f in dataclasses.fields(Answer) if "label" in f.name or "truth" in f.name]

"""The rooms of both packages: who may import whom, and who does, read from the source.

`python -m tests.rooms` prints the drawing of docs/architecture.md.
"""

import ast
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.places import ROOT

Rooms = Mapping[str, set[str]]

# Every room of `pipeline`, a folder or a module on top, and the rooms that it may import; a room comes after those that
# it imports, and what is on neither side is nobody's.  Of `adapt` any room may import the doors of SHARED, and of the
# libraries what it likes.
PIPELINE: Rooms = {
    "audio": set(),
    "demo": {"audio"},
    "labels": set(),
    "workers": set(),
    "sql": {"labels"},
    "taggers": {"workers"},
    "llm": {"labels", "workers"},
    "mappers": {"labels", "llm"},
    "datasets": {"audio", "workers", "demo"},
    "names": set(),
    "lists": set(),
    "seen": set(),
    "scan": {"datasets", "seen", "workers"},
    "decode": {"audio", "taggers", "workers"},
    "tag": {"audio", "taggers", "workers", "decode"},
    "evaluate": {"labels", "mappers"},
    "calibrate": {"labels", "mappers", "evaluate"},
    "pseudo_label": {"labels", "sql"},
    "diff": {"labels", "mappers", "pseudo_label"},
    "map_labels": {"labels", "llm", "mappers", "evaluate", "calibrate", "diff"},
    "map_classes": {"labels", "mappers"},
    "query": {"sql"},
    "listen": {"audio", "taggers", "tag"},
    "listener": {"audio", "decode", "labels", "mappers", "tag", "taggers"},
    "benchmark": set(),
}
# Of `adapt` the doors are: `wrapper`, what `import adapt` gives, and the commands below it, `__main__` (python -m
# adapt) among them.
ADAPT: Rooms = {
    "errors": set(),
    "command": {"errors"},
    "tables": {"errors"},
    "contract": set(),
    "presets": {"errors"},
    "core": {"contract", "errors"},
    "losses": {"contract", "core", "errors"},
    "fusion": {"contract", "core", "errors"},
    "methods": {"contract", "core", "errors", "fusion", "losses"},
    "backbones": {"command", "contract", "core", "errors"},
    "video": {"command", "errors", "tables"},
    "source": {"backbones", "command", "contract", "core", "errors", "methods", "presets", "tables", "video"},
    "report": {"command", "errors", "tables"},
    "stream": {
        "command",
        "contract",
        "core",
        "errors",
        "fusion",
        "methods",
        "presets",
        "report",
        "source",
        "tables",
        "video",
    },
    "service": {"errors", "tables"},
    "networks": {"errors"},
    "wrapper": {"contract", "core", "errors", "fusion", "methods", "networks", "presets", "service", "video"},
    "export": {"backbones", "command", "errors", "service", "source", "tables", "video"},
    "settings": {
        "command",
        "core",
        "errors",
        "export",
        "fusion",
        "methods",
        "presets",
        "report",
        "source",
        "stream",
        "video",
    },
    "archive": {"command", "report"},
    "choose": {"command", "stream"},
    "check": {"command", "stream"},
    "corruptions": {"command", "video"},
    "statistics": {"command", "source"},
    "train": {"command", "source"},
    "__main__": {"command", "stream"},
}
SHARED = (
    "adapt.errors",
    "adapt.command",
    "adapt.tables",
    "adapt.video.decoding",
)  # the last is how `scan` looks into a video; none loads torch
LIVE = {"pipeline.listener": "adapt.wrapper"}  # what it answers is what a wrapped network takes as a clip's sound
TABLES: dict[str, Rooms] = {"pipeline": PIPELINE, "adapt": ADAPT}  # a package's name and its rooms
REGISTRIES = (  # each file of such a folder is a choice
    "adapt.backbones", "adapt.fusion", "adapt.methods", "pipeline.datasets", "pipeline.taggers", "pipeline.mappers",
    "pipeline.llm.forms",
)  # fmt: skip
MAY_IMPORT_THE_DEMO = ("pipeline.demo", "pipeline.datasets.demo")


@functools.cache
def modules(package: str) -> dict[str, Path]:
    """Dotted name -> file of every module of `package`, a package's door under the package's name."""
    files = sorted((ROOT / package).rglob("*.py"))
    return {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in files}


@functools.cache
def imports(package: str) -> dict[str, set[str]]:
    """Module -> the modules of both packages that it imports anywhere, functions included; a door's own name is no
    import of what it names.
    """
    known = {name: None for other in ("pipeline", "adapt") for name in modules(other)}
    return {module: set(_imported(file, module, known)) for module, file in modules(package).items()}


def _imported(file: Path, module: str, known: Mapping[str, None]) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module} imports relatively: name the room"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found = full if full in known else str(node.module)
                if found in known:
                    yield found


def room_of(module: str) -> str:
    """The second part of a dotted name: the folder or the module on top; "" for a package's own door."""
    return (module.split(".") + [""])[1]


def is_within(module: str, *places: str) -> bool:
    """Whether `module` is one of `places` or lies below one."""
    return f"{module}.".startswith(tuple(f"{place}." for place in places))


def crossing(package: str) -> list[tuple[str, str]]:
    """(module, imported) of every import from one room of `package` to another."""
    pairs = [(module, imported) for module, found in imports(package).items() for imported in found]
    return sorted((a, b) for a, b in pairs if is_within(b, package) and room_of(a) != room_of(b))


def drawing(package: str) -> str:
    """The rooms of a package as a Mermaid graph: an arrow from each room to those that it imports, but for those that
    it reaches anyway.
    """
    rooms = TABLES[package]
    reach: dict[str, set[str]] = {}
    for room, others in rooms.items():  # those that it imports stand above it
        reach[room] = set(others).union(*(reach[other] for other in others))
    lines = ["```mermaid", "graph BT"]
    for room, others in rooms.items():
        lines.append(f'    {package}_{room}["{room}"]')
        direct = sorted(other for other in others if not any(other in reach[via] for via in others))
        lines += [f"    {package}_{room} --> {package}_{other}" for other in direct]
    return "\n".join([*lines, "```"])


if __name__ == "__main__":
    print("\n\n".join(f"### {package}\n\n{drawing(package)}" for package in TABLES))

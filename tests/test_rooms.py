"""Who may import whom: the import graph, read from the source, against a table of rooms."""
import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
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
    "lists": set(),
    "scan": {"datasets", "workers"},
    "decode": {"audio", "taggers", "workers"},
    "tag": {"audio", "taggers", "workers", "decode"},
    "evaluate": {"labels", "mappers"},
    "map_labels": {"labels", "llm", "mappers", "evaluate"},
    "pseudo_label": {"labels", "sql"},
    "query": {"sql"},
    "listen": {"audio", "taggers", "tag"},
}
# What `pipeline` may import of `adapt`; the last is how `scan` looks into a video.  None loads torch.
SHARED = ("adapt.errors", "adapt.command", "adapt.tables", "adapt.video.decoding")
TABLES: dict[str, Rooms] = {"pipeline": PIPELINE}  # a package's name and its rooms
# Each file of such a folder is a choice, which the folder's door imports by its name.
REGISTRIES = ("pipeline.datasets", "pipeline.taggers", "pipeline.mappers", "pipeline.llm.forms")
MAY_IMPORT_THE_DEMO = ("pipeline.demo", "pipeline.datasets.demo")


def modules(package: str) -> dict[str, Path]:
    """Dotted name -> file of every module of `package`, a package's door under the package's name."""
    files = sorted((ROOT / package).rglob("*.py"))
    return {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in files}


def imports(package: str) -> dict[str, set[str]]:
    """Module -> the modules of both packages that it imports anywhere, functions included."""
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


@pytest.mark.parametrize("package", TABLES)
def test_the_table_names_every_room_and_no_other(package: str) -> None:
    assert set(TABLES[package]) == {room_of(name) for name in modules(package)} - {""}


@pytest.mark.parametrize("package", TABLES)
def test_a_room_imports_only_rooms_that_stand_above_it_in_the_table(package: str) -> None:
    order = list(TABLES[package])
    upwards = [
        (room, other)
        for room, others in TABLES[package].items()
        for other in others
        if order.index(other) >= order.index(room)
    ]
    assert upwards == []


@pytest.mark.parametrize("package", TABLES)
def test_rooms_import_each_other_exactly_as_the_table_says(package: str) -> None:
    found: dict[str, set[str]] = {room: set() for room in TABLES[package]}
    for module, imported in crossing(package):
        found[room_of(module)].add(room_of(imported))
    assert found == TABLES[package]


@pytest.mark.parametrize("package", TABLES)
def test_no_module_imports_itself_over_others(package: str) -> None:
    graph = imports(package)
    left = dict(graph)
    while ready := [module for module, found in left.items() if not (found & left.keys()) - {module}]:
        for module in ready:
            del left[module]
    assert left == {}  # what is left imports in a circle, or imports such a module


@pytest.mark.parametrize("package", TABLES)
def test_a_helper_is_imported_by_its_own_room_only(package: str) -> None:
    helpers = [
        (module, imported)
        for module, imported in crossing(package)
        if any(part.startswith("_") for part in imported.split("."))
    ]
    assert helpers == []


@pytest.mark.parametrize("package", TABLES)
def test_what_only_its_own_room_imports_is_named_as_a_helper(package: str) -> None:
    """But for a package's door, and for the files of a registry, which it finds by their names."""
    graph = imports(package)
    used_elsewhere = {imported for _, imported in crossing(package)}
    within = {
        name for found in graph.values() for name in found if name in graph and name.count(".") > 1
    } - used_elsewhere
    closed = {
        name
        for name in within
        if modules(package)[name].stem != "__init__" and name.rpartition(".")[0] not in REGISTRIES
    }
    assert {name for name in closed if not name.rpartition(".")[2].startswith("_")} == set()


@pytest.mark.parametrize("package", TABLES)
def test_only_a_registry_imports_by_a_made_up_name_and_only_files_of_its_own(package: str) -> None:
    for module, file in modules(package).items():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr == "import_module"
            ):
                asked = ast.unparse(node.args[0]).lstrip("f").strip("'\"")
                assert not asked.startswith(("pipeline", "adapt")) or (
                    module in REGISTRIES and asked == f"{module}.{{name}}"
                ), (module, asked)


def test_pipeline_imports_of_adapt_what_both_share_and_adapt_imports_nothing_of_pipeline() -> None:
    of_adapt = {
        (module, name) for module, found in imports("pipeline").items() for name in found if is_within(name, "adapt")
    }
    assert {(module, name) for module, name in of_adapt if not is_within(name, *SHARED)} == set()
    assert {name for found in imports("adapt").values() for name in found if is_within(name, "pipeline")} == set()


def test_nothing_but_the_demo_and_its_registry_entry_imports_the_demo() -> None:
    importing = {
        module
        for module, found in imports("pipeline").items()
        if any(is_within(name, "pipeline.demo") for name in found)
    }
    assert {module for module in importing if not is_within(module, *MAY_IMPORT_THE_DEMO)} == set()

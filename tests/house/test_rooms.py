"""Who may import whom: the import graph, read from the source, against the table of rooms (tests/rooms.py), and the
drawing of it.
"""

import ast

import pytest

from tests.places import ROOT
from tests.rooms import (
    LIVE,
    MAY_IMPORT_THE_DEMO,
    REGISTRIES,
    SHARED,
    TABLES,
    crossing,
    drawing,
    imports,
    is_within,
    modules,
    room_of,
)


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
    used_elsewhere |= {
        name for other in TABLES if other != package for found in imports(other).values() for name in found
    }
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
                lazily = (module, asked) in (("adapt", "adapt.wrapper"), ("pipeline", "pipeline.listener"))  # doors
                ours = asked.startswith(("pipeline", "adapt"))
                registry = module.removesuffix(".__main__")
                by_name = registry in REGISTRIES and asked == f"{registry}.{{name}}"
                assert not ours or lazily or by_name, (module, asked)


def test_adapt_imports_nothing_of_pipeline_which_imports_what_both_share() -> None:
    of_adapt = {
        (module, name) for module, found in imports("pipeline").items() for name in found if is_within(name, "adapt")
    }
    assert {(module, name) for module, name in of_adapt if not is_within(name, *SHARED)} == set(LIVE.items())
    assert {name for found in imports("adapt").values() for name in found if is_within(name, "pipeline")} == set()


def test_nothing_but_the_demo_and_its_registry_entry_imports_the_demo() -> None:
    importing = {
        module
        for module, found in imports("pipeline").items()
        if any(is_within(name, "pipeline.demo") for name in found)
    }
    assert {module for module in importing if not is_within(module, *MAY_IMPORT_THE_DEMO)} == set()


@pytest.mark.parametrize("package", TABLES)
def test_the_page_of_the_architecture_has_todays_drawing(package: str) -> None:
    assert drawing(package) in (ROOT / "docs/architecture.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("package", TABLES)
def test_tests_lie_in_the_room_of_what_they_test(package: str) -> None:
    rooms = {file.parent.name for file in (ROOT / "tests" / package).rglob("test_*.py")}
    assert rooms - set(TABLES[package]) == set()
    assert {file.name for file in (ROOT / "tests").glob("test_*.py")} == set()


def test_the_name_of_a_test_has_at_most_80_characters() -> None:
    files = {file: ast.parse(file.read_text(encoding="utf-8")) for file in (ROOT / "tests").rglob("test_*.py")}
    names = [node.name for tree in files.values() for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    assert len(names) > 1000
    assert [name for name in names if len(name) > 80] == []

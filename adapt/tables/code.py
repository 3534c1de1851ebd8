"""What a result depends on in the code: a hash of this package's files that make it, comments and docstrings left
out.
"""

import ast
import hashlib
import json
from collections.abc import Collection, Iterable
from pathlib import Path

PACKAGE = Path(__file__).parent.parent


def _file(module: str) -> Path | None:
    """The file of a module of this package, None for others."""
    room, *parts = module.split(".")
    if room != PACKAGE.name:
        return None
    path = PACKAGE.joinpath(*parts)
    return next((p for p in (path.with_suffix(".py"), path / "__init__.py") if p.is_file()), None)


def _imported(tree: ast.AST) -> set[str]:
    """Dotted names that a file imports anywhere, functions included."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def _is_text(statement: ast.stmt) -> bool:
    """Whether a statement is a string alone: a docstring, or what stands below a field."""
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def meaning(source: str) -> str:
    """A text that is the same for sources that differ in comments, docstrings, blank lines and line breaks alone."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        for name in ("body", "orelse", "finalbody"):
            statements = getattr(node, name, None)
            if isinstance(statements, list):
                setattr(node, name, [one for one in statements if not _is_text(one)])
    return ast.dump(tree)


def code_sha256(modules: Iterable[str], without: Collection[str] = ()) -> str:
    """Hash what those of this package's files mean that `modules` import, directly or not, themselves included.

    Modules of `without`, which make nothing that counts, are left out with what they alone import.
    """
    left_out = {_file(module) for module in without}
    todo, found = [path for path in map(_file, modules) if path is not None], dict[str, str]()
    while todo:
        path = todo.pop()
        name = str(path.relative_to(PACKAGE))
        if name in found or path in left_out:
            continue
        source = path.read_text(encoding="utf-8")
        found[name] = hashlib.sha256(meaning(source).encode()).hexdigest()
        todo += [p for p in map(_file, _imported(ast.parse(source))) if p is not None]
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()

"""Which sounds are one sound: AudioSet's ontology, read for the kinship between the labels of a tagger.

A dog's bark raises "Animal", "Domestic animals, pets" and "Dog" as well: a label and its ancestors are one sound, heard
at several levels of detail, while "Dog" and "Cat" are two.  The ontology is a graph: a sound may have several parents.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from adapt.errors import OntologyError

ONTOLOGY = Path("data/labels/audioset_ontology.json")


def ancestors(path: Path = ONTOLOGY) -> dict[str, frozenset[str]]:
    """Every node's ancestors (by machine id such as /m/0bt9lr), parents of parents included.

    Raises OntologyError where the file is missing, not the ontology, or a node would be its own ancestor.
    """
    children = {node["id"]: node["child_ids"] for node in _nodes(path)}
    parents: dict[str, set[str]] = {node: set() for node in children}
    for node, names in children.items():
        for child in names:
            parents.setdefault(child, set()).add(node)
    found = {node: _above(node, parents) for node in parents}
    if circular := sorted(node for node, above in found.items() if node in above):
        raise OntologyError(f"{path}: {circular[0]} is its own ancestor: restore the file")
    return found


def kinship(mids: Sequence[str], path: Path = ONTOLOGY) -> npt.NDArray[np.bool_]:
    """(A, A): whether one of two sounds is an ancestor of the other; symmetric, a sound is no kin of itself.

    `mids` are the machine ids of a tagger's sounds in its order.  Raises OntologyError where the ontology lacks one.
    """
    above = ancestors(path)
    if strangers := [mid for mid in mids if mid not in above]:
        raise OntologyError(
            f"{path} lacks {len(strangers)} of the tagger's sounds, first {strangers[0]!r}: "
            "set pseudo_label.related to all, which counts every sound by itself"
        )
    index = {mid: i for i, mid in enumerate(mids)}
    kin = np.zeros((len(mids), len(mids)), dtype=np.bool_)
    for i, mid in enumerate(mids):
        kin[i, [index[other] for other in above[mid] if other in index]] = True
    return kin | kin.T


def kinds(names: Sequence[str], path: Path = ONTOLOGY) -> npt.NDArray[np.bool_]:
    """(A, A): whether sound i is a kind of sound j, at any depth; sounds that the ontology does not name have no kin.

    Raises OntologyError where the file is missing or not the ontology.
    """
    above, mids = ancestors(path), {node["name"]: node["id"] for node in _nodes(path)}
    index = {mids[name]: i for i, name in enumerate(names) if name in mids}
    found = np.zeros((len(names), len(names)), dtype=np.bool_)
    for mid, i in index.items():
        found[i, [index[other] for other in above[mid] if other in index]] = True
    return found


def descriptions(path: Path = ONTOLOGY) -> dict[str, str]:
    """What AudioSet says of each sound, by its name.  Raises OntologyError where the file is missing or not the
    ontology.
    """
    return {node["name"]: node["description"] for node in _nodes(path)}


def _nodes(path: Path) -> list[dict[str, Any]]:
    try:
        return [
            {
                "id": str(node["id"]),
                "name": str(node["name"]),
                "description": str(node.get("description") or ""),
                "child_ids": [str(child) for child in node["child_ids"]],
            }
            for node in json.loads(path.read_text(encoding="utf-8"))
        ]
    except FileNotFoundError:
        raise OntologyError(f"{path} is missing: restore it with `git checkout {path.as_posix()}`") from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise OntologyError(
            f"{path} is not AudioSet's ontology, a list of nodes with id, name and child_ids ({error!r}): restore it"
        ) from error


def _above(node: str, parents: dict[str, set[str]]) -> frozenset[str]:
    found: set[str] = set()
    todo = [node]
    while todo:
        new = parents.get(todo.pop(), set()) - found
        found |= new
        todo.extend(new)
    return frozenset(found)

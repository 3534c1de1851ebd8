"""The stage map_classes: a model's classes and a data set's -> cache/<dataset>/class_map.parquet, which lead to which.

A deployed model has a head of its own, such as ImageNet's 1000 classes; `model.classes` names its outputs.  The mappers
that connect sounds with classes connect these, by names alone: `llm` and `combined` replay what
`python -m pipeline.map_labels ask DATASET --classes FILE` recorded, `table` reads data/maps/<dataset>.classes.csv.  A
thing that a camera sees is of one class mostly, so each head class keeps its best alone (`--top_n`).  Without
`model.classes` the table is empty, and nothing reads it.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass

from adapt import command

if __name__ == "__main__":
    command.begin("pipeline.map_classes")  # before what takes time to import

from adapt.tables import cache, classes, lock, parquet
from pipeline import mappers
from pipeline.labels.lists import LabelLists, head_lists
from pipeline.mappers import LabelMap, Pair, Settings

log = logging.getLogger("map_classes")


@dataclass(frozen=True)
class Options:
    """Map the classes of a model's head to those of a data set."""

    dataset: str
    classes: str = ""  # a list that names the head's outputs, one a line; empty: the head has the data set's classes
    mapper: str = "combined"  # pipeline/mappers/<mapper>.py
    min_cosine: float = command.number(0.5, low=-1, high=1)
    """for the mapper embedding: names less near than this are not connected"""
    top_n: int = command.number(1, low=1)  # classes that a head class may lead to: those of the largest weights
    backbone: str = ""  # also of the model, as the next: taken so that DVC can pass all that it is told, and not used
    variant: str = ""


@lock.alone("map_classes")
def run(options: Options) -> dict[str, object]:
    """Write the class map; return counts.  Raises MapperError for an unknown mapper or one that cannot answer."""
    labels, path = cache.read_labels(options.dataset), cache.folder(options.dataset) / "class_map.parquet"
    if not options.classes:
        parquet.write_table(path, "class_map", [], {"classes_sha256": classes.sha256(labels)})
        return {"n_pairs": 0, "n_head_classes": 0, "n_classes": len(labels)}
    lists = head_lists(options.dataset, options.classes, labels)
    found = mappers.build(options.mapper, Settings(min_cosine=options.min_cosine))(lists)
    pairs = best(found.pairs, options.top_n)
    parquet.write_table(path, "class_map", _rows(lists, pairs, found.source), _provenance(options, lists, found))
    reached = {pair.label_id for pair in pairs}
    if unreached := [label for i, label in enumerate(lists.classes) if i not in reached]:
        log.warning("%d classes are led to by none of %s, the first %s", len(unreached), options.classes, unreached[0])
    return {
        "n_pairs": len(pairs),
        "n_head_classes": len(lists.sounds),
        "n_head_classes_mapped": len({pair.audio_id for pair in pairs}),
        "n_classes_reached": len(reached),
        "n_classes": len(labels),
        "source": found.source,
    }


def best(pairs: Iterable[Pair], top_n: int) -> list[Pair]:
    """The `top_n` pairs of the largest weights of each head class; of equals the class that comes first."""
    found: dict[int, list[Pair]] = {}
    for pair in sorted(pairs, key=lambda pair: (pair.audio_id, -pair.weight, pair.label_id)):
        found.setdefault(pair.audio_id, []).append(pair)
    return [pair for of_one in found.values() for pair in of_one[:top_n]]


def _rows(lists: LabelLists, pairs: Iterable[Pair], source: str) -> list[dict[str, object]]:
    return [
        {
            "head_id": pair.audio_id,
            "head_label": lists.sounds[pair.audio_id],
            "label_id": pair.label_id,
            "label": lists.classes[pair.label_id],
            "weight": pair.weight,
            "reason": pair.reason,
            "source": source,
        }
        for pair in pairs
    ]


def _provenance(options: Options, lists: LabelLists, found: LabelMap) -> dict[str, str]:
    known = {"head_sha256": lists.sounds_sha256, "classes_sha256": lists.classes_sha256, "head": options.classes}
    return known | {"mapper": options.mapper, "top_n": str(options.top_n)} | found.provenance


if __name__ == "__main__":
    command.main(Options, run, prog="pipeline.map_classes")

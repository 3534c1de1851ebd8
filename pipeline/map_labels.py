"""The stage map_labels: two label lists -> cache/<dataset>/label_map.parquet, which sound supports which class.

Hangs off label lists only, so new clips never ask again.  Five more commands of this room: `python -m
pipeline.map_labels ask DATASET` asks a language model and records the replies that the mapper `llm` replays; `export`
writes a map as a CSV that a person can correct; `evaluate` compares the mappers with maps that a person made;
`calibrate` learns from these how much each judge counts; `diff` shows what one map says otherwise than another.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from adapt import command

if __name__ == "__main__":
    command.begin("pipeline.map_labels")  # before what takes time to import

import tyro

from adapt.errors import MapperError
from adapt.tables import cache, lock, parquet
from pipeline import mappers
from pipeline.labels.lists import LabelLists, head_lists, label_lists, read_classes
from pipeline.mappers import LabelMap, Settings, table


@dataclass(frozen=True)
class Options:
    """Map the sounds of AudioSet to the classes of a data set.

    With ask, export, evaluate or diff as first word: record a language model's replies, write a map as CSV, compare
    maps with references, or two maps with each other.
    """

    dataset: str
    mapper: str = "llm"  # pipeline/mappers/<mapper>.py
    table: str = Settings.table  # for the mapper table: its CSV; empty: data/maps/<dataset>.csv
    min_cosine: float = command.number(Settings.min_cosine, low=-1, high=1)
    """for the mapper embedding: names less near than this are not connected"""


@lock.alone("map_labels")
def run(options: Options) -> dict[str, object]:
    """Write the label map; return counts.  Raises MapperError for an unknown mapper or one that cannot answer."""
    lists = label_lists(options.dataset, cache.read_labels(options.dataset))
    found = _map(lists, options.mapper, options.table, options.min_cosine)
    rows = [
        {
            "audio_id": pair.audio_id,
            "audio_label": lists.sounds[pair.audio_id],
            "label_id": pair.label_id,
            "label": lists.classes[pair.label_id],
            "weight": pair.weight,
            "necessary": pair.necessary,
            "reason": pair.reason,
            "source": found.source,
        }
        for pair in found.pairs
    ]
    known = {"mapper": options.mapper, "sounds_sha256": lists.sounds_sha256, "classes_sha256": lists.classes_sha256}
    n_pairs = parquet.write_table(
        cache.folder(options.dataset) / "label_map.parquet", "label_map", rows, known | found.provenance
    )
    n_mapped = len({pair.audio_id for pair in found.pairs})
    n_reached = len({pair.label_id for pair in found.pairs})
    return {
        "n_pairs": n_pairs,
        "n_sounds_mapped": n_mapped,
        "n_classes_reached": n_reached,
        "n_classes": len(lists.classes),
        "source": found.source,
    }


def _map(lists: LabelLists, mapper: str, table_path: str, min_cosine: float) -> LabelMap:
    if table_path and mapper != "table":
        raise MapperError(f"--table {table_path} is read by --mapper table, not by {mapper!r}: leave one out")
    return mappers.build(mapper, Settings(table_path, min_cosine))(lists)


@dataclass(frozen=True)
class ExportOptions:
    """Write a label map as a CSV for a person to read and correct."""

    dataset: tyro.conf.Positional[str]
    out: Path  # data/maps/<dataset>.csv is where --mapper table looks
    mapper: str = ""  # whose map; empty: the one in the cache
    classes: str = ""  # a list that names a model's outputs: write the map of these, data/maps/<dataset>.classes.csv
    min_cosine: float = command.number(Settings.min_cosine, low=-1, high=1)  # for the mapper embedding


def export(options: ExportOptions) -> dict[str, object]:
    """Write the CSV; return counts.  Raises MapperError where that would overwrite what a person wrote."""
    if options.classes and not options.mapper:
        raise MapperError("--classes: say with --mapper whose map of the model's classes to write")
    if options.mapper:
        listed = read_classes(options.dataset)
        lists = (
            head_lists(options.dataset, options.classes, listed)
            if options.classes
            else label_lists(options.dataset, listed)
        )
        found = _map(lists, options.mapper, "", options.min_cosine)
        pairs = sorted(found.pairs, key=lambda pair: (pair.audio_id, pair.label_id))
        rows = [
            table.Row(lists.sounds[p.audio_id], lists.classes[p.label_id], p.weight, p.necessary, p.reason)
            for p in pairs
        ]
        source = found.source
    else:
        path = cache.folder(options.dataset) / "label_map.parquet"
        cached = parquet.read_table(path, "label_map").to_pylist()
        rows = [table.Row(r["audio_label"], r["label"], r["weight"], r["necessary"], r["reason"]) for r in cached]
        source = cached[0]["source"] if cached else parquet.provenance(path).get("mapper", "")
    columns = table.OF_CLASSES if options.classes else table.COLUMNS
    table.write(options.out, options.dataset, rows, source, columns)
    return {"n_pairs": len(rows), "out": str(options.out), "source": source}


def main() -> None:
    """Run the stage, or the command that the first word names."""
    prog, args = f"pipeline.map_labels {' '.join(sys.argv[1:2])}", sys.argv[2:]
    match sys.argv[1:2]:
        case ["ask"]:
            from pipeline.llm import ask  # the stage itself must not need what asking needs

            command.main(ask.Options, ask.run, prog=prog, args=args, patient=True)
        case ["export"]:
            command.main(ExportOptions, export, prog=prog, args=args)
        case ["evaluate"]:
            from pipeline import evaluate

            evaluate.main(args)
        case ["calibrate"]:
            from pipeline import calibrate

            command.main(calibrate.Options, calibrate.run, prog=prog, args=args)
        case ["diff"]:
            from pipeline import diff

            diff.main(args)
        case _:
            command.main(Options, run, prog="pipeline.map_labels")


if __name__ == "__main__":
    main()

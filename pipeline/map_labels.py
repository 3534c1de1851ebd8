"""The stage map_labels: two label lists -> cache/<dataset>/label_map.parquet, which sound supports which class.

Hangs off label lists only, so new clips never ask again.  `python -m pipeline.map_labels ask DATASET` is the other command of
this room: it asks a language model and records the replies that the mapper `llm` replays.
"""
import sys
from dataclasses import dataclass

from pipeline import cache, mappers, stage


@dataclass(frozen=True)
class Options:
    """Map the sounds of AudioSet to the classes of a data set."""

    dataset: str
    mapper: str = "llm"  # pipeline/mappers/<mapper>.py


def run(options: Options) -> dict[str, object]:
    """Write the label map; return counts.  Raises MapperError for an unknown mapper or one that cannot answer."""
    lists = mappers.label_lists(options.dataset, cache.read_labels(options.dataset))
    found = mappers.build(options.mapper)(lists)
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
    n_pairs = cache.write_table(cache.folder(options.dataset) / "label_map.parquet", "label_map", rows, known | found.provenance)
    n_mapped = len({pair.audio_id for pair in found.pairs})
    n_reached = len({pair.label_id for pair in found.pairs})
    return {"n_pairs": n_pairs, "n_sounds_mapped": n_mapped, "n_classes_reached": n_reached, "n_classes": len(lists.classes)}


def main() -> None:
    """Run the stage, or with `ask` as first word the recording."""
    if sys.argv[1:2] == ["ask"]:
        from pipeline import ask  # the stage itself must not need what asking needs

        stage.main(ask.Options, ask.run, prog="pipeline.map_labels ask", args=sys.argv[2:])
    else:
        stage.main(Options, run, prog="pipeline.map_labels")


if __name__ == "__main__":
    main()

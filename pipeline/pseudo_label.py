"""The stage pseudo_label: what each clip's sound says about the classes -> cache/<dataset>/pseudo_labels.parquet.

Tags (logits per window) x label map -> evidence s, pseudo-label q, mass m, the sounds that caused them, and the
necessary sounds that were missing.  Every clip gets a row; one without sound says nothing: q uniform, m 0.

Shards of tags come in the order of hashes, the table is written in that of clips, and neither fits in memory: what was
heard of each clip (its few loudest sounds) waits in a scratch file in between.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from adapt import command

if __name__ == "__main__":
    command.begin("pipeline.pseudo_label")  # before what takes time to import

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adapt.errors import CacheError
from adapt.tables import cache, lock, parquet
from adapt.tables.files import sha256_file
from pipeline.labels import meaning, ontology
from pipeline.labels.columns import columns_of
from pipeline.labels.evidence import Floats, Mask, weigh
from pipeline.labels.meaning import Rules, Sounds
from pipeline.labels.scratch import Scratch
from pipeline.sql import tables
from pipeline.sql.tagged import Clips, read_clips, tagged

CLIPS_AT_ONCE = 4096


@dataclass(frozen=True)
class Tags:
    """Whose tags."""

    dataset: str
    tagger: str  # must be the one that made the tags


@dataclass(frozen=True)
class Options(Rules, Tags):
    """Turn tags and the label map into pseudo-labels."""


@lock.alone("pseudo_label")
def run(options: Options) -> dict[str, object]:
    """Write one row a clip; return counts.  Raises CacheError where tables are missing or do not fit each other,
    OptionsError for a number outside its range.

    Memory is that of one block of windows or clips, and the clips' ids.
    """
    options.check()
    folder = cache.folder(options.dataset)
    with duckdb.connect() as connection:
        clips = read_clips(folder, connection)
        classes, sounds, provenance = _read_sounds(options, folder, connection)
    provenance |= {f"{name}_sha256": sha256_file(folder / f"{name}.parquet") for name in ("clips", "label_map")}
    n_heard, total_mass = 0, 0.0
    target = folder / "pseudo_labels.parquet"
    with tempfile.TemporaryFile(dir=folder) as file, parquet.Writer(target, "pseudo_labels", provenance) as writer:
        n_sounds = min(options.top_k, max(1, len(sounds.names)))
        scratch = Scratch(file, folder, len(clips.ids), n_sounds, len(sounds.mentioned))
        _listen(options, folder / "tags", clips, sounds, scratch)
        for start in range(0, len(clips.ids), CLIPS_AT_ONCE):
            stop = min(start + CLIPS_AT_ONCE, len(clips.ids))
            heard, absences = scratch.get(start, stop)
            found, absent = meaning.judge(heard, sounds, options), meaning.spread(absences, sounds)
            said = {"clip_id": pa.array(clips.ids[start:stop]), "status": clips.statuses[start:stop]}
            writer.add(pa.table(said | columns_of(found, absent, sounds.names, classes, writer.schema)))
            n_heard, total_mass = n_heard + int((found.mass > 0).sum()), total_mass + float(found.mass.sum())
    n_status = {f"n_{row['values']}": row["counts"] for row in pc.value_counts(clips.statuses).to_pylist()}
    return {
        "n_clips": len(clips.ids),
        "n_heard": n_heard,
        "mean_mass": round(total_mass / max(1, len(clips.ids)), 4),
        **n_status,
    }


def _read_sounds(
    options: Options, folder: Path, connection: duckdb.DuckDBPyConnection
) -> tuple[list[str], Sounds, dict[str, str]]:
    """(the classes, what the tagger's sounds mean for them, what the result depends on).

    Without any tags, no sounds.
    """
    (map_path,) = tables.needed(folder, "label_map")
    made_by = tables.check("label_map", [map_path], connection)
    of_clips = tables.check("clips", tables.needed(folder, "clips"), connection)
    classes, classes_sha256 = tables.read_classes(folder, {"clips": of_clips, "label_map": made_by})
    provenance = {
        "classes_sha256": classes_sha256,
        "tagger": options.tagger,
        "mapper": "".join(made_by.get("mapper", ())),
    }
    provenance |= {rule.name: str(getattr(options, rule.name)) for rule in fields(Rules)}
    labels = _read_tagger(options, folder, connection)
    if labels is None:
        nothing = np.zeros((0, len(classes)))
        return classes, Sounds([], nothing, nothing > 0, None), provenance
    provenance["labels_sha256"] = sha256_file(labels.path)
    weights, necessary = _matrices(map_path, labels, classes)
    if options.related == "strongest":
        provenance["ontology_sha256"] = sha256_file(ontology.ONTOLOGY)
    return classes, Sounds(labels.sounds, weights, necessary, meaning.kin(options, labels.mids)), provenance


def _read_tagger(options: Options, folder: Path, connection: duckdb.DuckDBPyConnection) -> tables.TaggerLabels | None:
    """The sounds of the tags, None where there are no tags.  Raises CacheError where another tagger made them."""
    files = tables.needed(folder, "tags")
    if not files:
        return None
    known = tables.check("tags", files, connection)
    if (by := known.get("tagger", {"of no name"})) != {options.tagger}:
        names = " and ".join(map(repr, sorted(by)))
        raise CacheError(
            f"{folder / 'tags'} was made by the tagger {names}, not {options.tagger!r}: {tables.repair('tags')}"
        )
    return tables.read_tagger_labels(folder / "tags", known)


def recorded_options(dataset: str) -> Options | None:
    """The options that the cached pseudo-labels of `dataset` were made with, None where there are none.

    Raises CacheError where the file does not say.
    """
    path = cache.folder(dataset) / "pseudo_labels.parquet"
    if not path.exists():
        return None
    said = parquet.check_version(path, "pseudo_labels")
    kinds = {"threshold": float, "top_k": int, "temperature": float}
    names = ("tagger", "combine", "related", "reduce", *kinds)
    try:
        return Options(dataset, **{name: kinds.get(name, str)(said[name]) for name in names})  # type: ignore[arg-type]
    except (KeyError, ValueError) as error:
        raise CacheError(f"{path} does not say how it was made ({error!r}): run `dvc repro pseudo_label`") from None


def top_labels(
    options: Options, classes: Sequence[str], maps: Sequence[Mapping[tuple[str, int], float]]
) -> Iterator[tuple[str, list[str | None]]]:
    """(clip_id, its sound's top class under each of `maps`, None where no sound of the map is heard), clips by id.

    A map: (sound, label_id) -> weight.  The tags are read once.  Raises CacheError as `run` does.
    """
    options.check()
    folder = cache.folder(options.dataset)
    with duckdb.connect() as connection:
        clips = read_clips(folder, connection)
        labels = _read_tagger(options, folder, connection)
    names = labels.sounds if labels else []
    sounds = Sounds(names, np.zeros((len(names), 0)), np.zeros((len(names), 0), np.bool_), None)
    kin = meaning.kin(options, labels.mids) if labels else None
    weights = [np.array([[m.get((name, i), 0.0) for i in range(len(classes))] for name in names]) for m in maps]
    with tempfile.TemporaryFile(dir=folder) as file:
        scratch = Scratch(file, folder, len(clips.ids), min(options.top_k, max(1, len(names))), 0)
        _listen(options, folder / "tags", clips, sounds, scratch)
        for start in range(0, len(clips.ids), CLIPS_AT_ONCE):
            ids = clips.ids[start : start + CLIPS_AT_ONCE]
            heard, _ = scratch.get(start, start + len(ids))
            found = [
                weigh(heard, w.reshape(len(names), len(classes)), combine=options.combine, kin=kin) for w in weights
            ]
            for n, clip_id in enumerate(ids):
                yield clip_id, [classes[e.top[n]] if e.mass[n] > 0 else None for e in found]


def _matrices(map_path: Path, labels: tables.TaggerLabels, classes: Sequence[str]) -> tuple[Floats, Mask]:
    """The label map's (weights, necessary), both (A, K), in the order of the tagger's sounds."""
    pairs = parquet.read_table(map_path, "label_map").to_pylist()
    for pair in pairs:
        if classes[pair["label_id"] : pair["label_id"] + 1] != [pair["label"]]:
            raise CacheError(
                f"{map_path}: class {pair['label_id']} is {pair['label']!r} there, and another one in labels.txt: "
                f"{tables.repair('label_map')}"
            )
    said = ((pair["audio_label"], pair["label_id"], pair["weight"], pair["necessary"]) for pair in pairs)
    weights, necessary = meaning.matrices(said, labels.sounds, len(classes))
    if pairs and not weights.any():
        raise CacheError(
            f"{map_path}: none of its sounds is in {labels.path}, the tagger's list: {tables.repair('label_map')}"
        )
    return weights, necessary


def _listen(options: Options, tags: Path, clips: Clips, sounds: Sounds, scratch: Scratch) -> None:
    """Put the loudest sounds of every tagged clip into `scratch`."""
    for some in tagged(tags, clips, len(sounds.names)):
        scratch.put(some.ranks, *meaning.hear(some.logits, some.starts, sounds, options))


if __name__ == "__main__":
    command.main(Options, run, prog="pipeline.pseudo_label")

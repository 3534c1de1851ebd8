"""The stage pseudo_label: what each clip's sound says about the classes -> cache/<dataset>/pseudo_labels.parquet.

Tags (logits per window) x label map -> evidence s, pseudo-label q, mass m, the sounds that caused them, and the
necessary sounds that were missing.  Every clip gets a row; one without sound says nothing: q uniform, m 0.

Shards of tags come in the order of hashes, the table is written in that of clips, and neither fits in memory: what was
heard of each clip (its few loudest sounds) waits in a scratch file in between.
"""

import math
import tempfile
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from adapt import command

if __name__ == "__main__":
    command.begin("pipeline.pseudo_label")  # before what takes time to import

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from adapt.errors import CacheError, OptionsError
from adapt.tables import cache, lock, parquet
from adapt.tables.files import sha256_file, sha256_text
from pipeline.labels import ontology
from pipeline.labels.evidence import Causes, Evidence, Floats, Mask, absence, clip_probabilities, loudest, weigh
from pipeline.labels.scratch import Scratch
from pipeline.sql import tables

WITH_SOUND = ("ok", "truncated")
WINDOWS_AT_ONCE = 2048
CLIPS_AT_ONCE = 4096


@dataclass(frozen=True)
class Options:
    """Turn tags and the label map into pseudo-labels."""

    dataset: str
    tagger: str  # must be the one that made the tags
    combine: Literal["noisy_or", "max", "sum"] = "noisy_or"  # how a class's sounds add up
    related: Literal["strongest", "all"] = "strongest"
    """of a sound and its parents in the ontology: which count for a class"""
    reduce: Literal["max", "mean"] = "max"  # over a clip's windows, on probabilities
    threshold: float = command.number(0.1, low=0, high=1)  # sounds below this probability are not heard
    top_k: int = command.number(10, low=1)  # the loudest sounds that count
    temperature: float = command.number(1.0, low=0, above=True)  # tau of q = s^(1/tau) / sum


@dataclass(frozen=True)
class Clips:
    """The clips of a data set, sorted by id."""

    ids: list[str]
    statuses: pa.Array  # of their sound
    keys: list[str | None]  # of their rows of `audio`

    def ranks(self, clip_ids: Sequence[str]) -> npt.NDArray[np.int64]:
        """Where each of `clip_ids` stands in `ids`, -1 for those that are not clips of today."""
        found = [bisect_left(self.ids, clip_id) for clip_id in clip_ids]
        return np.array(
            [r if r < len(self.ids) and self.ids[r] == c else -1 for r, c in zip(found, clip_ids, strict=True)],
            dtype=np.int64,
        )


@dataclass(frozen=True)
class Sounds:
    """What the tagger's A sounds mean for the K classes."""

    names: list[str]  # in the order of the logits
    weights: Floats  # (A, K) of the label map
    necessary: Mask  # (A, K)
    kin: Mask | None  # (A, A); None: every sound counts by itself


@lock.alone("pseudo_label")
def run(options: Options) -> dict[str, object]:
    """Write one row a clip; return counts.  Raises CacheError where tables are missing or do not fit each other.

    Memory is that of one block of windows or clips, and the clips' ids.
    """
    _check(options)
    folder = cache.folder(options.dataset)
    with duckdb.connect() as connection:
        clips = _read_clips(folder, connection)
        classes, sounds, provenance = _read_sounds(options, folder, connection)
    provenance |= {f"{name}_sha256": sha256_file(folder / f"{name}.parquet") for name in ("clips", "label_map")}
    mentioned = np.flatnonzero(sounds.necessary.any(axis=0))  # the classes that have a necessary sound
    n_heard, total_mass = 0, 0.0
    target = folder / "pseudo_labels.parquet"
    with tempfile.TemporaryFile(dir=folder) as file, parquet.Writer(target, "pseudo_labels", provenance) as writer:
        scratch = Scratch(file, folder, len(clips.ids), min(options.top_k, max(1, len(sounds.names))), len(mentioned))
        _listen(options, folder / "tags", clips, sounds, mentioned, scratch)
        for start in range(0, len(clips.ids), CLIPS_AT_ONCE):
            stop = min(start + CLIPS_AT_ONCE, len(clips.ids))
            heard, absences = scratch.get(start, stop)
            found = weigh(
                heard, sounds.weights, combine=options.combine, temperature=options.temperature, kin=sounds.kin
            )
            absent = np.zeros((stop - start, len(classes)), np.float32)
            absent[:, mentioned] = absences
            said = {"clip_id": pa.array(clips.ids[start:stop]), "status": clips.statuses[start:stop]}
            writer.add(pa.table(said | _columns(found, absent, sounds.names, classes, writer.schema)))
            n_heard, total_mass = n_heard + int((found.mass > 0).sum()), total_mass + float(found.mass.sum())
    n_status = {f"n_{row['values']}": row["counts"] for row in pc.value_counts(clips.statuses).to_pylist()}
    return {
        "n_clips": len(clips.ids),
        "n_heard": n_heard,
        "mean_mass": round(total_mass / max(1, len(clips.ids)), 4),
        **n_status,
    }


def _check(options: Options) -> None:
    if not (options.temperature > 0 and math.isfinite(options.temperature)):
        raise OptionsError(f"pseudo_label.temperature is {options.temperature}: choose a number above 0")
    if not 0 <= options.threshold <= 1:
        raise OptionsError(f"pseudo_label.threshold is {options.threshold}: choose a probability, 0 to 1")
    if options.top_k < 1:
        raise OptionsError(f"pseudo_label.top_k is {options.top_k}: choose at least 1")


def _read_clips(folder: Path, connection: duckdb.DuckDBPyConnection) -> Clips:
    """Every clip with the status of its sound.  Raises CacheError where `audio` is not about these clips."""
    for table in ("clips", "audio"):
        files = tables.needed(folder, table)
        tables.check(table, files, connection)
        tables.add(table, files, connection)
    joined = (
        "SELECT clip_id, audio.status, audio.cache_key, clips.clip_id IS NOT NULL AS is_listed FROM clips "
        "FULL JOIN audio USING (clip_id) ORDER BY clip_id"
    )
    try:
        found = connection.sql(joined).to_arrow_table()
    except duckdb.Error as error:
        raise CacheError(
            f"{folder}: clips and audio have rows that cannot be read ({tables.one_line(error)}): "
            f"{tables.repair('audio')}"
        ) from error
    is_odd = pc.or_(pc.is_null(found.column("status")), pc.invert(found.column("is_listed")))
    if odd := found.column("clip_id").filter(is_odd).to_pylist():
        raise CacheError(
            f"{folder / 'audio'} was made of other clips than clips.parquet lists: {len(odd)} differ, first "
            f"{odd[0]!r}: {tables.repair('audio')}"
        )
    keys = found.column("cache_key").to_pylist()
    return Clips(found.column("clip_id").to_pylist(), found.column("status").combine_chunks(), keys)


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
    provenance |= {
        name: str(getattr(options, name))
        for name in ("combine", "related", "reduce", "threshold", "top_k", "temperature")
    }
    labels = _read_tagger(options, folder, connection)
    if labels is None:
        nothing = np.zeros((0, len(classes)))
        return classes, Sounds([], nothing, nothing > 0, None), provenance
    provenance["labels_sha256"] = sha256_file(labels.path)
    weights, necessary = _matrices(map_path, labels, classes)
    if options.related == "strongest":
        provenance["ontology_sha256"] = sha256_file(ontology.ONTOLOGY)
    return classes, Sounds(labels.sounds, weights, necessary, _kin(options, labels)), provenance


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


def _kin(options: Options, labels: tables.TaggerLabels) -> Mask | None:
    return ontology.kinship(labels.mids) if options.related == "strongest" else None


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
    _check(options)
    folder = cache.folder(options.dataset)
    with duckdb.connect() as connection:
        clips = _read_clips(folder, connection)
        labels = _read_tagger(options, folder, connection)
    names = labels.sounds if labels else []
    sounds = Sounds(names, np.zeros((len(names), 0)), np.zeros((len(names), 0), np.bool_), None)
    kin = _kin(options, labels) if labels else None
    weights = [np.array([[m.get((name, i), 0.0) for i in range(len(classes))] for name in names]) for m in maps]
    with tempfile.TemporaryFile(dir=folder) as file:
        scratch = Scratch(file, folder, len(clips.ids), min(options.top_k, max(1, len(names))), 0)
        _listen(options, folder / "tags", clips, sounds, np.zeros(0, np.int64), scratch)
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
    index = {sound: i for i, sound in enumerate(labels.sounds)}
    weights, necessary = np.zeros((len(index), len(classes))), np.zeros((len(index), len(classes)), np.bool_)
    pairs = parquet.read_table(map_path, "label_map").to_pylist()
    for pair in pairs:
        if classes[pair["label_id"] : pair["label_id"] + 1] != [pair["label"]]:
            raise CacheError(
                f"{map_path}: class {pair['label_id']} is {pair['label']!r} there, and another one in labels.txt: "
                f"{tables.repair('label_map')}"
            )
        if pair["audio_label"] in index:  # a tagger may lack a few of AudioSet's sounds: YAMNet lacks six
            place = index[pair["audio_label"]], pair["label_id"]
            weights[place], necessary[place] = pair["weight"], pair["necessary"]
    if pairs and not weights.any():
        raise CacheError(
            f"{map_path}: none of its sounds is in {labels.path}, the tagger's list: {tables.repair('label_map')}"
        )
    return weights, necessary


def _listen(
    options: Options, tags: Path, clips: Clips, sounds: Sounds, mentioned: npt.NDArray[np.int64], scratch: Scratch
) -> None:
    """Put the loudest sounds of every tagged clip into `scratch`.  Raises CacheError where a clip with sound was never
    tagged.
    """
    tagged = np.zeros(len(clips.ids), np.bool_)
    for block, tagging in _blocks(sorted(tags.glob("part-*.parquet"))):
        if pc.any(pc.not_equal(pc.list_value_length(block.column("logits")), len(sounds.names))).as_py():
            raise CacheError(
                f"{tags} has rows without {len(sounds.names)} logits, one a sound of its label list: "
                f"{tables.repair('tags')}"
            )
        logits = block.column("logits").combine_chunks().flatten().to_numpy().reshape(-1, len(sounds.names))
        ranks = clips.ranks(block.column("clip_id").to_pylist())
        _check_keys(tags, clips, ranks, block.column("cache_key").to_pylist(), tagging)
        order = np.argsort(ranks, kind="stable")[(ranks < 0).sum() :]
        ranks = ranks[order]
        starts = np.flatnonzero(np.diff(ranks, prepend=-1))
        if tagged[ranks[starts]].any():
            raise CacheError(
                f"{tags}: clip {clips.ids[ranks[starts][tagged[ranks[starts]]][0]]!r} has rows in two shards: "
                f"{tables.repair('tags')}"
            )
        tagged[ranks[starts]] = True
        probabilities = clip_probabilities(logits[order], starts, options.reduce)
        absent = absence(probabilities, sounds.necessary[:, mentioned])
        scratch.put(
            ranks[starts], loudest(probabilities, options.threshold, min(options.top_k, len(sounds.names))), absent
        )
    sounding = pc.is_in(clips.statuses, pa.array(WITH_SOUND)).to_numpy(zero_copy_only=False)
    if (untagged := np.flatnonzero(sounding & ~tagged)).size:
        raise CacheError(
            f"{tags} lacks {untagged.size} clips that have sound, first {clips.ids[untagged[0]]!r}: "
            f"{tables.repair('tags')}"
        )


def _check_keys(
    tags: Path, clips: Clips, ranks: npt.NDArray[np.int64], keys: Sequence[str], tagging: Sequence[str]
) -> None:
    """Raise CacheError where rows were made of other sound than `audio` describes.

    Row i is of the clip at ranks[i]; tagging[i] says how its shard was tagged.
    """
    wanted: dict[tuple[int, str], str] = {}
    for rank, key, how in zip(ranks.tolist(), keys, tagging, strict=True):
        if rank < 0:
            continue
        if (rank, how) not in wanted:
            wanted[rank, how] = sha256_text(how, clips.keys[rank])
        if wanted[rank, how] != key:
            raise CacheError(
                f"{tags}: clip {clips.ids[rank]!r} was tagged from other sound than {tags.parent / 'audio'} describes: "
                f"{tables.repair('tags')}"
            )


def _blocks(files: Sequence[Path]) -> Iterator[tuple[pa.Table, list[str]]]:
    """(rows of some shards at a time, for each row how its shard was tagged)."""
    parts: list[pa.Table] = []
    tagging: list[str] = []
    for i, path in enumerate(files):
        parts.append(parquet.read_file(path, "tags", ["clip_id", "cache_key", "logits"]))
        how = parquet.provenance(path).get("tagging")
        if how is None:
            raise CacheError(f"{path} does not say how it was tagged: {tables.repair('tags')}")
        tagging += [how] * parts[-1].num_rows
        if len(tagging) >= WINDOWS_AT_ONCE or i + 1 == len(files):
            yield pa.concat_tables(parts), tagging
            parts, tagging = [], []


def _columns(
    found: Evidence, absent: npt.NDArray[np.float32], sounds: Sequence[str], classes: Sequence[str], schema: pa.Schema
) -> dict[str, pa.Array]:
    """What the table says of each clip after its id and status."""
    lists = {"probs": found.q.astype(np.float32), "evidence": found.s.astype(np.float32), "absent": absent}
    columns = {name: _list_column(values, schema.field(name).type) for name, values in lists.items()}
    top = pa.array(classes, pa.string()).take(pa.array(found.top, mask=found.mass == 0))
    causes = _causes_column(found.causes, len(absent), sounds, schema.field("causes").type)
    return columns | {"mass": pa.array(found.mass), "top_label": top, "causes": causes}


def _list_column(values: npt.NDArray[np.float32], type_: pa.ListType) -> pa.Array:
    offsets = np.arange(len(values) + 1, dtype=np.int32) * values.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(values.ravel()), type=type_)


def _causes_column(causes: Causes, n_clips: int, sounds: Sequence[str], type_: pa.ListType) -> pa.Array:
    names = pa.array(sounds, pa.string()).take(pa.array(causes.sounds))
    values = pa.StructArray.from_arrays(
        [names, pa.array(causes.probabilities), pa.array(causes.weights)], fields=list(type_.value_type)
    )
    offsets = np.concatenate([[0], np.cumsum(np.bincount(causes.clips, minlength=n_clips))])
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values, type=type_)


if __name__ == "__main__":
    command.main(Options, run, prog="pipeline.pseudo_label")

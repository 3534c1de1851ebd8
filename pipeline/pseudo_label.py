"""The stage pseudo_label: what each clip's sound says about the classes -> cache/<dataset>/pseudo_labels.parquet.

Tags (logits per window) x label map -> evidence s, pseudo-label q, mass m, the sounds that caused them, and the
necessary sounds that were missing.  Every clip gets a row; one without sound says nothing: q uniform, m 0.

Shards of tags come in the order of hashes, the table is written in that of clips, and neither fits in memory: what was
heard of each clip (its few loudest sounds) waits in a scratch file in between.
"""

import math
import tempfile
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from adapt import command

if __name__ == "__main__":
    command.begin("pipeline.pseudo_label")  # before what takes time to import

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from adapt.errors import CacheError, OptionsError
from adapt.tables import cache, parquet
from adapt.tables.files import sha256_file
from pipeline.labels import ontology
from pipeline.labels.evidence import Causes, Evidence, Floats, Heard, Mask, absence, clip_probabilities, loudest, weigh
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


class Scratch:
    """What was heard in each clip, in a file and in the order of clips; zero where nothing was put."""

    def __init__(self, file: IO[bytes], folder: Path, n_clips: int, n_sounds: int, n_classes: int) -> None:
        """Lay out `n_clips` records of up to `n_sounds` sounds and the absences of `n_classes` classes, in a file of
        `folder`.  Raises NoSpaceError where they have no room there.
        """
        self._file, self._n_clips = file, n_clips
        self._record = np.dtype(
            [("sounds", "<i4", (n_sounds,)), ("probabilities", "<f8", (n_sounds,)), ("absent", "<f4", (n_classes,))]
        )
        command.reserve(file, n_clips * self._record.itemsize, folder)

    def put(self, ranks: npt.NDArray[np.int64], heard: Heard, absent: npt.NDArray[np.float32]) -> None:
        """Keep what was heard in the clips that stand at `ranks`."""
        rows = self._rows()
        rows["sounds"][ranks], rows["probabilities"][ranks], rows["absent"][ranks] = (
            heard.sounds,
            heard.probabilities,
            absent,
        )

    def get(self, start: int, stop: int) -> tuple[Heard, npt.NDArray[np.float32]]:
        """(what was heard, the absences) of the clips from `start` to `stop`."""
        rows = np.array(self._rows()[start:stop])
        return Heard(rows["sounds"], rows["probabilities"]), rows["absent"]

    def _rows(self) -> npt.NDArray[np.void]:
        return np.memmap(
            self._file, self._record, "r+", shape=(self._n_clips,)
        )  # mapped for one block only: pages seen must not pile up


def run(options: Options) -> dict[str, object]:
    """Write one row a clip; return counts.  Raises CacheError where tables are missing or do not fit each other.

    Memory is that of one block of windows or clips, and the clips' ids.
    """
    _check(options)
    folder = cache.folder(options.dataset)
    with duckdb.connect() as connection:
        clips = _read_clips(folder, connection)
        classes, sounds, provenance = _read_sounds(options, folder, connection)
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
    """Every clip with the status of its sound; failed where `decode` has not seen it."""
    for table in ("clips", "audio"):
        files = tables.needed(folder, table)
        tables.check(table, files, connection)
        tables.add(table, files, connection)
    joined = (
        "SELECT clip_id, coalesce(audio.status, 'failed') AS status FROM clips LEFT JOIN audio USING (clip_id) "
        "ORDER BY clip_id"
    )
    try:
        found = connection.sql(joined).to_arrow_table()
    except duckdb.Error as error:
        raise CacheError(
            f"{folder}: clips and audio have rows that cannot be read ({tables.one_line(error)}): run `dvc repro "
            "decode`"
        ) from error
    return Clips(found.column("clip_id").to_pylist(), found.column("status").combine_chunks())


def _read_sounds(
    options: Options, folder: Path, connection: duckdb.DuckDBPyConnection
) -> tuple[list[str], Sounds, dict[str, str]]:
    """(the classes, what the tagger's sounds mean for them, what the result depends on).

    Without any tags, no sounds.
    """
    (map_path,) = tables.needed(folder, "label_map")
    made_by = tables.check("label_map", [map_path], connection)
    classes, classes_sha256 = tables.read_classes(folder, {"label_map": made_by})
    provenance = {
        "classes_sha256": classes_sha256,
        "tagger": options.tagger,
        "mapper": "".join(made_by.get("mapper", ())),
    }
    provenance |= {
        name: str(getattr(options, name))
        for name in ("combine", "related", "reduce", "threshold", "top_k", "temperature")
    }
    files = tables.needed(folder, "tags")
    if not files:
        nothing = np.zeros((0, len(classes)))
        return classes, Sounds([], nothing, nothing > 0, None), provenance
    known = tables.check("tags", files, connection)
    if (by := known.get("tagger", {options.tagger})) != {options.tagger}:
        names = " and ".join(map(repr, sorted(by)))
        raise CacheError(
            f"{folder / 'tags'} was made by the tagger {names}, not {options.tagger!r}: {tables.repair('tags')}"
        )
    labels = tables.read_tagger_labels(folder / "tags", known)
    provenance["labels_sha256"] = sha256_file(labels.path)
    weights, necessary = _matrices(map_path, labels, len(classes))
    kin = None
    if options.related == "strongest":
        kin = ontology.kinship(labels.mids)
        provenance["ontology_sha256"] = sha256_file(ontology.ONTOLOGY)
    return classes, Sounds(labels.sounds, weights, necessary, kin), provenance


def _matrices(map_path: Path, labels: tables.TaggerLabels, n_classes: int) -> tuple[Floats, Mask]:
    """The label map's (weights, necessary), both (A, K), in the order of the tagger's sounds."""
    index = {sound: i for i, sound in enumerate(labels.sounds)}
    weights, necessary = np.zeros((len(index), n_classes)), np.zeros((len(index), n_classes), np.bool_)
    pairs = parquet.read_table(map_path, "label_map").to_pylist()
    for pair in pairs:
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
    for block in _blocks(sorted(tags.glob("part-*.parquet"))):
        if pc.any(pc.not_equal(pc.list_value_length(block.column("logits")), len(sounds.names))).as_py():
            raise CacheError(
                f"{tags} has rows without {len(sounds.names)} logits, one a sound of its label list: "
                f"{tables.repair('tags')}"
            )
        logits = block.column("logits").combine_chunks().flatten().to_numpy().reshape(-1, len(sounds.names))
        ranks = clips.ranks(block.column("clip_id").to_pylist())
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


def _blocks(files: Sequence[Path]) -> Iterator[pa.Table]:
    """The rows of the shards, some shards at a time."""
    parts: list[pa.Table] = []
    for i, path in enumerate(files):
        try:
            with pq.ParquetFile(path) as file:
                parts.append(file.read(columns=["clip_id", "logits"]).replace_schema_metadata(None))
        except (OSError, pa.ArrowException) as error:
            raise CacheError(
                f"{path} has rows that cannot be read ({tables.one_line(error)}): {tables.repair('tags')}"
            ) from error
        if sum(part.num_rows for part in parts) >= WINDOWS_AT_ONCE or i + 1 == len(files):
            yield pa.concat_tables(parts)
            parts = []


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

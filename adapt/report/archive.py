"""Put finished runs into an archive (`python -m adapt.archive`): a small folder for git, from which
`python -m adapt.report --results` makes tables when the cache is gone.

In: runs of the cache.  Out: the folder that adapt/report/_archive.py describes, or more in one that is there.  An
archive is of one checkpoint and one set of clips.  A run in it may come from several sittings, which add streams to one
another where settings, code and statistics are the same.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapt.errors import CacheError
from adapt.report._archive import SAME, Archive, check_same
from adapt.report._condensed import LABELS, Key, Row, by_stream
from adapt.report._places import Cache
from adapt.tables import cache, classes, lock, parquet
from adapt.tables.files import write_text

log = logging.getLogger("adapt")
NEEDED = ("options", "code_sha256", "data_sha256", "checkpoint_sha256")  # of a run's fingerprint
OF_STREAMS = ("corruptions", "order_seeds", "severity")  # options in which sittings of a run may differ


@dataclass(frozen=True)
class Options:
    """Keep what finished runs answered in a small folder for git, which `python -m adapt.report` makes tables of."""

    dataset: str
    out: str  # the folder, such as data/results/photosound; what is there stays
    methods: tuple[str, ...] = ()  # runs to keep, by name; none for all that are finished
    folder: str = ""  # for runs named FOLDER/NAME
    replace: bool = False  # put a run's stream in the place of the same one of another sitting


@dataclass(frozen=True)
class Sitting:
    """What one call of `python -m adapt` answered."""

    made: dict[str, Any]  # its fingerprint, options as an object
    streams: dict[Key, list[Row]]

    def settings(self) -> dict[str, object]:
        """What a run's sittings have in common: options but for those of streams, and hashes but for that of orders."""
        options = {name: value for name, value in self.made["options"].items() if name not in OF_STREAMS}
        hashes = {
            name: value for name, value in self.made.items() if name.endswith("_sha256") and name != "orders_sha256"
        }
        return options | hashes

    def machine(self) -> dict[str, object]:
        """The rest: libraries and device."""
        return {name: value for name, value in self.made.items() if name != "options" and not name.endswith("_sha256")}


@dataclass(frozen=True)
class Merged:
    """A run as it will be in the archive."""

    sittings: list[Sitting]
    sees_labels: bool
    n_added: int  # streams; 0: it is there already
    n_there: int  # streams of the run of the cache that are


def _read(name: str, place: Cache) -> Sitting:
    """A run of the cache.  Raises CacheError where it is missing, or does not say what it was made of."""
    rows, path = place.rows(name), place.path(name)
    made: dict[str, Any] = {
        name: value for name, value in parquet.provenance(path).items() if name not in ("table", "schema")
    }
    if missing := [name for name in NEEDED if name not in made]:
        raise CacheError(f"{path} does not say of which {missing[0]} it was made: run it again by `python -m adapt`")
    if odd := {str(row["run"]) for row in rows} - {place.full(name)}:
        raise CacheError(f"{path} holds rows of run {min(odd)}: give the name that it was run under")
    made["options"] = json.loads(made["options"])
    return Sitting(made, _streams(rows))


def _streams(rows: Sequence[Row]) -> dict[Key, list[Row]]:
    return {key: [dict(row) for row in stream] for key, stream in by_stream(rows).items()}


def _archived(name: str, archive: Archive | None) -> list[Sitting]:
    """The sittings of a run that the archive has already."""
    if archive is None or not archive.exists(name):
        return []
    rows, known = archive.read(name)
    streams, said = _streams(rows), json.loads(known["sittings"])
    return [Sitting(one["made"], {(c, s, o): streams[c, s, o] for c, s, o in one["streams"]}) for one in said]


def _merged(place: Cache, name: str, ours: Sitting, archive: Archive | None, options: Options) -> Merged:
    """A run with another sitting's streams.  Raises CacheError where they do not go together."""
    there, path = _archived(name, archive), Path(options.out) / "runs" / f"{place.full(name)}.parquet"
    known = {key: rows for one in there for key, rows in one.streams.items()}
    fresh = {key: rows for key, rows in ours.streams.items() if known.get(key) != rows}
    if (again := sorted(fresh.keys() & known.keys())) and not options.replace:
        corruption, severity, order_seed = again[0]
        raise CacheError(
            f"{path} has a stream of {corruption} at severity {severity} in order {order_seed} already, of another "
            "sitting: give --replace to put this one in its place, or another --out"
        )
    left = [Sitting(one.made, {key: rows for key, rows in one.streams.items() if key not in fresh}) for one in there]
    left = [one for one in left if one.streams]
    for other in left if fresh else ():
        if changed := _differences(other.settings(), ours.settings()):
            raise CacheError(
                f"{path} has streams that were made otherwise ({', '.join(changed)}): give another --out, or run these "
                "again too and --replace them"
            )
        if changed := _differences(other.machine(), ours.machine()):
            log.warning("%s: its streams are of sittings that differ in %s", path, ", ".join(changed))
    sittings = [*left, *([Sitting(ours.made, fresh)] if fresh else [])]
    return Merged(sittings, place.sees_labels(name), len(fresh), len(ours.streams) - len(fresh))


def _differences(old: Mapping[str, object], new: Mapping[str, object]) -> list[str]:
    """Names of entries, and of single ones of a group such as settings.lr, that differ."""
    flat_old, flat_new = _flat(old), _flat(new)
    return [name for name in sorted({*flat_old, *flat_new}) if flat_old.get(name) != flat_new.get(name)]


def _flat(options: Mapping[str, Any], group: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for name, value in options.items():
        flat |= _flat(value, f"{group}{name}.") if isinstance(value, dict) else {f"{group}{name}": value}
    return flat


def _clips(place: Cache, splits: Sequence[str]) -> list[Row]:
    """The rows of `archived_clips` of these splits."""
    result: list[Row] = []
    for split in splits:
        clips, sounds = place.truth(split)
        result += [
            {
                "clip_id": clip.clip_id, "split": split, "label_id": clip.label_id,
                "label_ids": list(clip.label_ids) or None, "sound_status": sounds[clip.clip_id].status,
            }
            for clip in clips
        ]  # fmt: skip
    return result


def _without_labels(name: str, rows: Sequence[Row], clips: Sequence[Row]) -> list[Row]:
    """Rows of a run as `archived_predictions` has them.  Raises CacheError where their labels are not those of the
    clips.
    """
    truth = {clip["clip_id"]: tuple(clip[one] for one in LABELS) for clip in clips}
    for row in rows:
        if truth.get(row["clip_id"]) != tuple(row[one] for one in LABELS):
            raise CacheError(
                f"run {name} scores clip {row['clip_id']} as of class {row['label_id']}, which clips.parquet does not: "
                "run it again by `python -m adapt`"
            )
    return [{name: value for name, value in row.items() if name not in LABELS} for row in rows]


def _write(path: Path, merged: Merged, shared: Mapping[str, str]) -> None:
    said = [{"streams": sorted(one.streams), "made": one.made} for one in merged.sittings]
    rows = [row for one in merged.sittings for stream in one.streams.values() for row in stream]
    metadata = {"sees_labels": json.dumps(merged.sees_labels), "sittings": json.dumps(said, sort_keys=True)}
    parquet.write_table(path, "archived_predictions", rows, dict(shared) | metadata)


@lock.alone(lambda options: f"archive.{options.out}")
def run(options: Options) -> dict[str, object]:
    """Add runs to the archive; return how many streams are new, how many were there, and the bytes of all its files.

    Raises CacheError, and changes nothing, where a run is missing or does not fit the archive.
    """
    out, place = Path(options.out), Cache(options.dataset, options.folder)
    names = options.methods or tuple(place.finished())
    if not names:
        raise CacheError(f"{cache.folder(options.dataset) / 'adapt'} has no finished run: run `dvc repro adapt`")
    labels = cache.read_labels(options.dataset)
    given = {"dataset": options.dataset, "classes_sha256": classes.sha256(labels)}
    read = {name: _read(name, place) for name in names}
    is_there = (out / "clips.parquet").exists() or (out / "runs").exists()
    archive = Archive(out, options.dataset, options.folder) if is_there else None
    said = {name: one.made | given for name, one in read.items()}
    shared = archive.known if archive else {name: said[names[0]][name] for name in SAME}
    for name in read:
        check_same(f"run {name} is", said[name], shared, out)
    before = {clip.split for clip in archive.clips.values()} if archive else set()
    splits = before | {str(one.made["options"]["split"]) for one in read.values()}
    clips = _clips(place, sorted(splits))
    merged = {}
    for name, one in read.items():
        bare = {key: _without_labels(name, rows, clips) for key, rows in one.streams.items()}
        merged[name] = _merged(place, name, Sitting(one.made, bare), archive, options)
    if archive is None:
        write_text(out / "labels.txt", classes.text_of(labels))
    if splits != before:
        parquet.write_table(out / "clips.parquet", "archived_clips", clips, shared)
    for name, one_run in merged.items():
        if one_run.n_added:
            _write(out / "runs" / f"{place.full(name)}.parquet", one_run, shared)
    files = [file for file in out.rglob("*") if file.is_file()]
    return {
        "n_runs": len(merged),
        "n_streams_added": sum(one.n_added for one in merged.values()),
        "n_streams_there": sum(one.n_there for one in merged.values()),
        "bytes": sum(file.stat().st_size for file in files),
    }

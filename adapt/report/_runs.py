"""What runs of `python -m adapt` answered, right or wrong, read so that they can be compared clip by clip.

In: cache/<dataset>/adapt/<run>/predictions.parquet, cache/metrics/<dataset>/<run>.json for whether the run saw labels,
and the clips and their sound for which classes are sounding.  Runs that are compared answer the same clips in the same
streams, or it is an error.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from adapt.errors import CacheError
from adapt.report import metrics
from adapt.tables import cache, parquet

METRICS = Path("cache/metrics")
GROUPS = ("all", "sounding", "silent")  # of classes
Stream = tuple[int, str]  # (order seed, corruption)


@dataclass(frozen=True)
class Run:
    """What one run answered in some streams."""

    name: str
    method: str
    fusion: str
    clip_ids: tuple[str, ...]  # sorted
    label_ids: tuple[int, ...]  # of each clip the first
    order_seeds: tuple[int, ...]
    right: dict[str, np.ndarray]  # kind of answer -> bool (orders, corruptions, clips)
    mean_ap: dict[
        str, float | None
    ]  # kind of answer -> mean average precision of clips of several classes; None without such clips
    failed: frozenset[str]  # clip ids without an answer somewhere
    mean_steps: float
    ms_per_clip: float
    sees_labels: bool  # an upper bound

    def has_own_name(self) -> bool:
        """Whether it was given a name, beside those of its method and fusion."""
        return self.name not in (self.method, f"{self.method}+{self.fusion}")

    def row_name(self, answer: str) -> str:
        """What an answer of it is called: `vitta` alone, `vitta + plain` fused; a run that was given a name of its own
        goes by that.
        """
        alone = self.name if self.has_own_name() else self.method
        return alone if answer == "alone" else f"{alone} + {self.fusion}"


@dataclass(frozen=True)
class Wanted:
    """Which streams of a run to read."""

    dataset: str
    corruptions: tuple[str, ...]
    severity: int  # of all but clean
    order_seeds: tuple[int, ...]  # none for all that the run has
    folder: str  # below cache/<dataset>/adapt and cache/metrics/<dataset>


def _streams(path: Path, wanted: Wanted) -> dict[Stream, list[dict[str, object]]]:
    """The rows of each stream in the order of clip ids, orders outermost.  Raises CacheError where a stream is not
    there.
    """
    found: dict[Stream, list[dict[str, object]]] = {}
    for row in cache.read_predictions(path):
        corruption = str(row["corruption"])
        if row["severity"] == (0 if corruption == "clean" else wanted.severity):
            found.setdefault((int(str(row["order_seed"])), corruption), []).append(row)
    order_seeds = wanted.order_seeds or sorted({order_seed for order_seed, _ in found}) or [0]
    streams = [(order_seed, corruption) for order_seed in order_seeds for corruption in wanted.corruptions]
    if missing := [stream for stream in streams if stream not in found]:
        there = ", ".join(f"{corruption} {order_seed}" for order_seed, corruption in sorted(found)) or "none"
        raise CacheError(
            f"{path} has no stream of {missing[0][1]} at severity {wanted.severity} in order {missing[0][0]} (it has "
            f"{there}): "
            "choose other --corruptions, --severity or --order_seeds, or run it again with these"
        )
    result = {stream: sorted(found[stream], key=lambda row: str(row["clip_id"])) for stream in streams}
    clips = {stream: [row["clip_id"] for row in rows] for stream, rows in result.items()}
    if odd := [stream for stream in streams if clips[stream] != clips[streams[0]]]:
        raise CacheError(
            f"{path} has other clips in its streams of {odd[0][1]} and {streams[0][1]}: delete its folder and run it "
            "again"
        )
    return result


def _files(name: str, wanted: Wanted) -> tuple[Path, Path]:
    full = Path(wanted.folder) / name
    return (
        cache.ROOT / wanted.dataset / "adapt" / full / "predictions.parquet",
        METRICS / wanted.dataset / f"{full}.json",
    )


def exists(name: str, wanted: Wanted) -> bool:
    """Whether there is a finished run of that name."""
    return all(path.exists() for path in _files(name, wanted))


def read(name: str, wanted: Wanted) -> Run:
    """Read what the run called `name` answered in these streams.  Raises CacheError where it, or one of them, is
    missing.
    """
    full = Path(wanted.folder) / name
    path, scores = _files(name, wanted)
    for needed in (path, scores):
        if not needed.exists():
            stage = "" if wanted.folder else f"`dvc repro adapt@{name}`, or "
            raise CacheError(f"{needed} is missing: run {stage}`python -m adapt` as its stage does, with --name {full}")
    streams = _streams(path, wanted)
    stage = f"adapt@{name}" if not wanted.folder else "adapt"
    now, place = cache.data_sha256(wanted.dataset), cache.folder(wanted.dataset)
    cache.check_stated(
        path, parquet.provenance(path), "data_sha256", now, place / "{clips,pseudo_labels}.parquet", stage
    )
    rows = [row for stream in streams.values() for row in stream]
    answered = [row for row in rows if row["stop_reason"] != "failed"]
    first, n_corruptions = next(iter(streams.values())), len(wanted.corruptions)
    return Run(
        name,
        str(first[0]["method"]),
        str(first[0]["fusion"]),
        tuple(str(row["clip_id"]) for row in first),
        tuple(int(str(row["label_id"])) for row in first),
        tuple(dict.fromkeys(order_seed for order_seed, _ in streams)),
        {
            answer: np.array([metrics.is_right(row, column) for row in rows]).reshape(-1, n_corruptions, len(first))
            for answer, column in metrics.ANSWERS.items()
            if answer == "alone" or any(row[column] is not None for row in rows)
        },
        {answer: metrics.multi_label_map(rows, column) for answer, column in metrics.PROBS.items()},
        frozenset(str(row["clip_id"]) for row in rows if row["stop_reason"] == "failed"),
        metrics.mean(answered, "steps"),
        metrics.mean(answered, "ms"),
        bool(json.loads(scores.read_text(encoding="utf-8")).get("sees_labels", False)),
    )


def check_paired(runs: Sequence[Run]) -> None:
    """Raise CacheError where two runs answered other clips, or the same in other orders."""
    for run in runs[1:]:
        both = f"runs {runs[0].name} and {run.name} cannot be compared:"
        if run.order_seeds != runs[0].order_seeds:
            ours, theirs = (" ".join(map(str, r.order_seeds)) for r in (runs[0], run))
            raise CacheError(
                f"{both} they have orders {ours} and {theirs}: choose --order_seeds, or run both in the same"
            )
        if (run.clip_ids, run.label_ids) != (runs[0].clip_ids, runs[0].label_ids):
            odd = sorted(set(run.clip_ids) ^ set(runs[0].clip_ids))
            what = (
                f"{len(odd)} clips are in one of them alone ({odd[0]}...)" if odd else "their clips have other labels"
            )
            raise CacheError(f"{both} {what}: run both on the same clips")


def class_groups(run: Run, dataset: str, split: str) -> dict[str, np.ndarray]:
    """Group of classes -> which of the run's clips are in it, bool (clips); groups without clips are left out."""
    sounds = cache.read_sounds(dataset, cache.read_labels(dataset))
    clips = [clip for clip in cache.read_clips(dataset, split) if clip.clip_id in sounds]
    if missing := sorted(set(run.clip_ids) - {clip.clip_id for clip in clips}):
        raise CacheError(
            f"run {run.name} has {len(missing)} clips that split {split} of {dataset} has not, or not with a "
            "pseudo-label "
            f"({missing[0]}...): choose another --split, or run `dvc repro`"
        )
    sounding = np.isin(run.label_ids, sorted(metrics.sounding_classes(clips, sounds)))
    masks = zip(GROUPS, (np.ones_like(sounding), sounding, ~sounding), strict=True)
    return {group: mask for group, mask in masks if mask.any()}

"""What runs of `python -m adapt` answered, right or wrong, read so that they can be compared clip by clip.

In: runs of the cache or of an archive (adapt/report/_places.py), and the clips and their sound for which classes are
sounding.  Runs that are compared answer the same clips in the same streams, or it is an error.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from adapt.errors import CacheError
from adapt.report import metrics
from adapt.report._condensed import MEAN_AP, Row, by_stream
from adapt.report._places import Place

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
    left_out: (
        float | None
    )  # mean probability of the model's classes that lead to none of these; None without a class map
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

    corruptions: tuple[str, ...]
    severity: int  # of all but clean
    order_seeds: tuple[int, ...]  # none for all that the run has


def _streams(name: str, wanted: Wanted, place: Place) -> dict[Stream, list[Row]]:
    """The rows of each stream in the order of clip ids, orders outermost.  Raises CacheError where a stream is not
    there.
    """
    path, found = place.path(name), dict[Stream, list[Row]]()
    for (corruption, severity, order_seed), rows in by_stream(place.rows(name)).items():
        if severity == (0 if corruption == "clean" else wanted.severity):
            found[order_seed, corruption] = [dict(row) for row in rows]
    order_seeds = wanted.order_seeds or sorted({order_seed for order_seed, _ in found}) or [0]
    streams = [(order_seed, corruption) for order_seed in order_seeds for corruption in wanted.corruptions]
    if missing := [stream for stream in streams if stream not in found]:
        there = ", ".join(f"{corruption} {order_seed}" for order_seed, corruption in sorted(found)) or "none"
        raise CacheError(
            f"{path} has no stream of {missing[0][1]} at severity {wanted.severity} in order {missing[0][0]} (it has "
            f"{there}): "
            "choose other --corruptions, --severity or --order_seeds, or run it again with these"
        )
    result = {stream: found[stream] for stream in streams}
    clips = {stream: [row["clip_id"] for row in rows] for stream, rows in result.items()}
    if odd := [stream for stream in streams if clips[stream] != clips[streams[0]]]:
        raise CacheError(
            f"{path} has other clips in its streams of {odd[0][1]} and {streams[0][1]}: delete its folder and run it "
            "again"
        )
    return result


def _mean_ap(firsts: Sequence[Row], column: str) -> float | None:
    """Mean over streams, given by a row of each, of their mean average precisions; clean only where it is all there
    is.
    """
    counted = metrics.averaged(dict.fromkeys(str(row["corruption"]) for row in firsts))
    values = [row[column] for row in firsts if row["corruption"] in counted and row[column] is not None]
    return sum(values) / len(values) if values else None


def _ms_per_clip(streams: Sequence[Sequence[Row]]) -> float:
    """Over the clips that were read."""
    n_read = [sum(row["stop_reason"] != "failed" for row in rows) for rows in streams]
    spent = math.fsum(n * rows[0]["mean_ms"] for n, rows in zip(n_read, streams, strict=True))
    return round(spent / max(1, sum(n_read)), 2)


def read(name: str, wanted: Wanted, place: Place) -> Run:
    """Read what the run called `name` answered in these streams.  Raises CacheError where it, or one of them, is
    missing.
    """
    streams = _streams(name, wanted, place)
    rows = [row for stream in streams.values() for row in stream]
    answered = [row for row in rows if row["stop_reason"] != "failed"]
    first, n_corruptions = next(iter(streams.values())), len(wanted.corruptions)
    firsts = [stream[0] for stream in streams.values()]
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
        {answer: _mean_ap(firsts, column) for answer, column in zip(metrics.ANSWERS, MEAN_AP, strict=True)},
        frozenset(str(row["clip_id"]) for row in rows if row["stop_reason"] == "failed"),
        metrics.mean(answered, "steps"),
        _ms_per_clip([*streams.values()]),
        metrics.mean_left_out(rows),
        place.sees_labels(name),
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


def class_groups(run: Run, place: Place, split: str) -> dict[str, np.ndarray]:
    """Group of classes -> which of the run's clips are in it, bool (clips); groups without clips are left out."""
    clips, sounds = place.truth(split)
    if missing := sorted(set(run.clip_ids) - {clip.clip_id for clip in clips}):
        raise CacheError(
            f"run {run.name} has {len(missing)} clips that split {split} of {place.dataset} has not, or not with a "
            "pseudo-label "
            f"({missing[0]}...): choose another --split, or run `dvc repro`"
        )
    sounding = np.isin(run.label_ids, sorted(metrics.sounding_classes(clips, sounds)))
    masks = zip(GROUPS, (np.ones_like(sounding), sounding, ~sounding), strict=True)
    return {group: mask for group, mask in masks if mask.any()}

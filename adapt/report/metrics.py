"""Scores of predictions against ground truth: top-1 is correct / all clips, those that failed included.

A clip of several classes (`label_ids`) is right where the answer is any of them; such sets also have a mean average
precision.

Classes are told apart by whether they sound: a class is *sounding* when more than half of its test clips have a usable
sound track (status ok or truncated).  This looks at labels, for scoring only.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from adapt.tables.files import write_text

Rows = Sequence[Mapping[str, Any]]
ANSWERS = {"alone": "after_id", "fused": "fused_id"}
PROBS = {"alone": "probs", "fused": "fused_probs"}


def is_right(row: Mapping[str, Any], column: str) -> bool:
    """Whether the answer in `column` is the label, or one of them; none is wrong."""
    return row[column] in (row.get("label_ids") or [row["label_id"]])


def top1(rows: Rows, column: str = "after_id") -> float:
    """Share of rows whose `column` is the label; 0 for no rows."""
    return sum(is_right(row, column) for row in rows) / len(rows) if rows else 0.0


def averaged(corruptions: Iterable[str]) -> list[str]:
    """Those that a mean over corruptions is over: clean is none of them, unless it is all there is."""
    given = list(corruptions)
    return [c for c in given if c != "clean"] or given


def mean_average_precision(scores: np.ndarray, truth: np.ndarray) -> float:
    """Mean over classes of the average precision of ranking clips by `scores` (n, K), `truth` (n, K) saying which
    classes each has.

    Average precision is the mean, over the clips of the class, of the precision at each one's rank; clips of equal
    scores rank in the given order.  Classes without a clip do not count; 0 without any.
    """
    order = np.argsort(-scores, axis=0, kind="stable")
    hits = np.take_along_axis(truth.astype(bool), order, axis=0)
    precision = hits.cumsum(axis=0) / np.arange(1, len(hits) + 1)[:, None]
    n_clips = hits.sum(axis=0)
    return float(((precision * hits).sum(axis=0)[n_clips > 0] / n_clips[n_clips > 0]).mean()) if n_clips.any() else 0.0


def multi_label_map(rows: Rows, column: str = "probs") -> float | None:
    """Mean over streams of the mean average precision of rows with `label_ids`; None where no row has several classes.

    `column` is probs or fused_probs; None as well where no row has it.  A clip without an answer scores 0 for every
    class.  Clean counts only where it is all there is.
    """
    counted = averaged(dict.fromkeys(str(row["corruption"]) for row in rows))
    streams: dict[tuple[object, object], list[Mapping[str, Any]]] = {}
    for row in rows:
        if row.get("label_ids") and row["corruption"] in counted:
            streams.setdefault((row["corruption"], row["order_seed"]), []).append(row)
    n_classes = widest((row for stream in streams.values() for row in stream), column)
    values = [stream_map(stream, column, n_classes) for stream in streams.values()] if n_classes else []
    return sum(values) / len(values) if values else None


def widest(rows: Iterable[Mapping[str, Any]], column: str) -> int:
    """How many classes the probabilities in `column` are of; 0 where no row has any."""
    return max((len(row[column] or ()) for row in rows), default=0)


def stream_map(rows: Rows, column: str, n_classes: int) -> float:
    """Mean average precision of the rows of a stream, all with `label_ids`, by the probabilities in `column`."""
    scores, truth = np.zeros((2, len(rows), n_classes))
    for place, row in enumerate(rows):
        truth[place, row["label_ids"]] = 1
        scores[place] = row[column] or 0
    return mean_average_precision(scores, truth)


class Labelled(Protocol):
    """What scores take from a clip: a row of `clips`, or of `archived_clips`."""

    @property
    def clip_id(self) -> str:
        """Which it is."""

    @property
    def label_id(self) -> int:
        """Its class; of a clip of several, one."""

    @property
    def label_ids(self) -> tuple[int, ...]:
        """Of a clip of several classes all, else none."""


class Heard(Protocol):
    """What scores take from a clip's sound."""

    @property
    def status(self) -> str:
        """As in `pseudo_labels`."""


def sounding_classes(clips: Iterable[Labelled], sounds: Mapping[str, Heard]) -> set[int]:
    """The label ids whose clips mostly have a usable sound track."""
    usable: dict[int, list[bool]] = {}
    for clip in clips:
        usable.setdefault(clip.label_id, []).append(sounds[clip.clip_id].status in ("ok", "truncated"))
    return {label_id for label_id, flags in usable.items() if 2 * sum(flags) > len(flags)}


def summary(rows: Rows, sounding: set[int], sees_labels: bool = False) -> dict[str, object]:
    """Top-1 per corruption and their mean, over all, sounding and silent classes, for each kind of answer; mean steps
    and ms per clip.

    Clean, if there beside corruptions, is not in the means.  `sees_labels` marks an upper bound.  Where a class map
    lies between the model's classes and these, `left_out` is the probability, in per cent, that it leaves out.
    """
    result: dict[str, object] = {"n": len(rows), "n_failed": sum(row["stop_reason"] == "failed" for row in rows)}
    if sees_labels:
        result["sees_labels"] = True
    for name, column in ANSWERS.items():
        if any(row[column] is not None for row in rows):
            result[name] = _scores(rows, sounding, column)
    for name, column in PROBS.items():
        if (map_ := multi_label_map(rows, column)) is not None:
            result[f"map_{name}"] = round(100 * map_, 2)
    answered = [row for row in rows if row["stop_reason"] != "failed"]
    result["mean_steps"] = mean(answered, "steps")
    result["ms_per_clip"] = mean(answered, "ms")
    if (share := mean_left_out(rows)) is not None:
        result["left_out"] = round(100 * share, 2)
    return result


def mean(rows: Rows, column: str) -> float:
    """Mean of a column of numbers; 0 for no rows."""
    return round(sum(float(str(row[column])) for row in rows) / max(1, len(rows)), 2)


def mean_left_out(rows: Rows) -> float | None:
    """Mean of `left_out` over rows with an answer, clean only where it is all there is; None without a class map."""
    counted = averaged(dict.fromkeys(str(row["corruption"]) for row in rows))
    told = [row["left_out"] for row in rows if row.get("left_out") is not None and row["corruption"] in counted]
    return sum(told) / len(told) if told else None


def _scores(rows: Rows, sounding: set[int], column: str) -> dict[str, float]:
    corruptions = list(dict.fromkeys(str(row["corruption"]) for row in rows))
    groups = {
        "all": rows,
        "sounding": [row for row in rows if row["label_id"] in sounding],
        "silent": [row for row in rows if row["label_id"] not in sounding],
    }
    per = {c: top1([row for row in rows if row["corruption"] == c], column) for c in corruptions}
    counted = averaged(corruptions)
    means = {
        group: sum(top1([r for r in chosen if r["corruption"] == c], column) for c in counted) / len(counted)
        for group, chosen in groups.items()
        if chosen
    }
    return {name: round(100 * value, 2) for name, value in {**means, **per}.items()}


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """Write sorted, indented JSON to a temporary name, then rename."""
    write_text(path, json.dumps(content, indent=1) + "\n")

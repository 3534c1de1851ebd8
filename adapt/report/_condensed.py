"""A run's rows without what no table needs: the form that an archive holds them in (adapt/report/_archive.py).

Rows of the cache are condensed too before a table is made of them, so both places give the same numbers, to the byte.
What cannot be told from the rest, milliseconds and mean average precisions, becomes one value a stream.
"""

import math
from collections.abc import Mapping
from typing import Any

from adapt.report import metrics
from adapt.report.metrics import Rows

Row = dict[str, Any]
Key = tuple[str, int, int]  # a stream's corruption, severity and order seed
KEPT = (
    "run", "method", "fusion", "corruption", "severity", "order_seed", "clip_id", "position", "after_id", "fused_id",
    "steps", "stop_reason", "left_out",
)  # fmt: skip
LABELS = ("label_id", "label_ids")  # which an archive has by clip
MEAN_AP = {"mean_ap": "probs", "fused_mean_ap": "fused_probs"}


def key(row: Mapping[str, Any]) -> Key:
    """Which stream of its run a row is of."""
    return str(row["corruption"]), int(row["severity"]), int(row["order_seed"])


def by_stream(rows: Rows) -> dict[Key, list[Mapping[str, Any]]]:
    """The rows of each stream, as they come."""
    streams: dict[Key, list[Mapping[str, Any]]] = {}
    for row in rows:
        streams.setdefault(key(row), []).append(row)
    return streams


def condensed(rows: Rows) -> list[Row]:
    """Rows of `predictions`, of a whole run, as rows of `archived_predictions` with their labels; streams in order,
    then clip ids.
    """
    n_classes = {column: metrics.widest(rows, column) for column in MEAN_AP.values()}
    result: list[Row] = []
    for _, stream in sorted(by_stream(rows).items()):
        stream.sort(key=lambda row: str(row["clip_id"]))
        answered = [float(row["ms"]) for row in stream if row["stop_reason"] != "failed"]
        several = [row for row in stream if row["label_ids"]]
        of_stream: Row = {"mean_ms": math.fsum(answered) / max(1, len(answered))}
        of_stream |= {
            name: metrics.stream_map(several, column, n_classes[column]) if several and n_classes[column] else None
            for name, column in MEAN_AP.items()
        }
        result += [{name: row[name] for name in KEPT + LABELS} | of_stream for row in stream]
    return result

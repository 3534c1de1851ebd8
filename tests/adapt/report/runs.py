"""Runs as `python -m adapt` leaves them behind, of answers that are given: what the tests of the report read."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from adapt.report import metrics
from adapt.tables import cache, classes, files
from tests.places import ROOT

LABELS = ["bell", "chess"]  # bells sound, chess is silent
TRUTH = {"test/bell/0": 0, "test/bell/1": 0, "test/chess/0": 1, "test/chess/1": 1}
Streams = Mapping[tuple[int, str], Sequence[int | None]]  # (order seed, corruption) -> an answer a clip of TRUTH


def write_clips(truth: Mapping[str, int], sounding: Sequence[int] = (0,)) -> None:
    """cache/tiny with its clips, one of the train split too, and what their sound says."""
    folder = Path("cache/tiny")
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "cache/schema.sql", "cache/schema.sql")
    (folder / "labels.txt").write_text("\n".join(LABELS) + "\n")
    clips, sounds = [], []
    for clip_id, label_id in [*truth.items(), ("train/bell/9", 0)]:
        row: dict[str, object] = {
            "clip_id": clip_id,
            "path": f"{clip_id}.mp4",
            "split": clip_id.split("/")[0],
            "label_id": label_id,
        }
        row |= {"label": LABELS[label_id], "status": "ok", "duration_s": 1.0, "n_frames": 8, "content_sha256": "0" * 64}
        clips.append(row)
        heard = label_id in sounding
        sound: dict[str, object] = {
            "clip_id": clip_id,
            "status": "ok" if heard else "silent",
            "probs": [0.5, 0.5],
            "evidence": [0.0, 0.0],
        }
        sounds.append(sound | {"absent": [0.0, 0.0], "mass": 0.0, "top_label": None, "causes": []})
    known = {"classes_sha256": classes.sha256(LABELS)}
    cache.write_table(folder / "clips.parquet", "clips", clips, known)
    known |= {"clips_sha256": files.sha256_file(folder / "clips.parquet")}
    cache.write_table(folder / "pseudo_labels.parquet", "pseudo_labels", sounds, known)


def probabilities(answer: int | None) -> list[float] | None:
    """Of a model that is sure of `answer`."""
    return None if answer is None else [float(label_id == answer) for label_id in range(len(LABELS))]


def write_run(
    name: str, streams: Streams, fused: Streams | None = None, truth: Mapping[str, int] = TRUTH, severity: int = 5,
    sees_labels: bool = False,
    several: bool = False, method: str = "", fusion: str = "", left_out: float | None = None,
) -> None:  # fmt: skip
    """What `python -m adapt` leaves behind; an answer of None is a clip that could not be read.  `several`: clips may
    have several classes.

    Without `method` the run is called as one of that name is: a method, its answers fused by trusted, or method+fusion.
    """
    made_by = (method, fusion or "trusted") if method else (*name.split("+"), "trusted")[:2]
    rows: list[dict[str, object]] = []
    for (order_seed, corruption), answers in streams.items():
        for i, (clip_id, answer) in enumerate(zip(truth, answers, strict=True)):
            read = answer is not None
            rows.append({
                "dataset": "tiny", "backbone": "tanet", "run": name, "method": made_by[0], "fusion": made_by[1],
                "corruption": corruption, "order_seed": order_seed,
                "severity": 0 if corruption == "clean" else severity, "position": (i + order_seed) % len(truth),
                "clip_id": clip_id,
                "label_id": truth[clip_id], "label_ids": [truth[clip_id]] if several else None,
                "probs": probabilities(answer) if several else None, "fused_probs": None, "before_id": answer,
                "after_id": answer,
                "fused_id": fused[order_seed, corruption][i] if fused and read else None, "steps": 2 if read else 0,
                "stop_reason": "none" if read else "failed", "gate": None, "ms": 10.0 if read else 0.0,
                "left_out": left_out,
            })  # fmt: skip
    path, known = Path("cache/tiny/adapt") / name / "predictions.parquet", {"data_sha256": cache.data_sha256("tiny")}
    cache.write_table(path, "predictions", rows, known)
    metrics.write_json(Path("cache/metrics/tiny") / f"{name}.json", metrics.summary(rows, {0}, sees_labels))

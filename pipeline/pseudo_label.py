"""The stage pseudo_label: what each clip's sound says about the classes -> cache/<dataset>/pseudo_labels.parquet.

Tags (logits per window) x label map -> evidence s, pseudo-label q, mass m, and the sounds that caused them.  Every clip gets a
row; one without sound says nothing: q uniform, m 0.  AudioSet's parents sound along with their children (Animal, Domestic
animals, Dog) and are not discounted here: a map that connects all three with one class counts one bark three times.
"""
import csv
import hashlib
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa

from pipeline import cache, stage
from pipeline.errors import CacheError, MapperError

N_CAUSES = 5
WITH_SOUND = ("ok", "truncated")
COMBINE: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "noisy_or": lambda s, support: 1 - (1 - s) * (1 - support),  # at least one supporting sound
    "max": np.maximum,
    "sum": np.add,
}


@dataclass(frozen=True)
class Options:
    """Turn tags and the label map into pseudo-labels."""

    dataset: str
    tagger: str  # must be the one that made the tags
    combine: Literal["noisy_or", "max", "sum"] = "noisy_or"  # how a class's sounds add up
    reduce: Literal["max", "mean"] = "max"  # over a clip's windows, on probabilities
    threshold: float = 0.1  # sounds below this probability are not heard
    top_k: int = 10  # the loudest sounds that count
    temperature: float = 1.0  # tau of q = s^(1/tau) / sum


@dataclass(frozen=True)
class Evidence:
    """What N clips' sounds say about K classes; row n is clip n."""

    s: np.ndarray  # (N, K) in [0, 1]
    q: np.ndarray  # (N, K), rows sum to 1
    mass: np.ndarray  # (N,) in [0, 1]
    loudest: np.ndarray  # (N, k) indices of the sounds that count, loudest first
    heard: np.ndarray  # (N, k) their probabilities, 0 where under the threshold


def evidence(
    probabilities: np.ndarray,
    weights: np.ndarray,
    *,
    combine: str = "noisy_or",
    threshold: float = 0.1,
    top_k: int = 10,
    temperature: float = 1.0,
) -> Evidence:
    """Combine sound probabilities (N, A) with a label map's weights (A, K), both in [0, 1], over each clip's `top_k` loudest sounds.

    s_c = 1 - prod_i (1 - a_i M_ic) for `noisy_or`; `max` and `sum` (cut at 1) of a_i M_ic otherwise.  m = 1 - prod_i (1 - a_i max_c
    M_ic) whatever `combine` is.  q = s^(1/tau) / sum, uniform where no sound supports any class.  Ours (adapt/METHOD.md, section 2).
    """
    loudest = np.argsort(-probabilities, axis=1, kind="stable")[:, :top_k]
    heard = np.take_along_axis(probabilities, loudest, axis=1).astype(np.float64)
    heard[heard < threshold] = 0.0
    n_clips, n_classes = len(probabilities), weights.shape[1]
    s = np.zeros((n_clips, n_classes))
    silence = np.ones(n_clips)
    for rank in range(loudest.shape[1]):
        support = heard[:, rank, None] * weights[loudest[:, rank]]
        silence *= 1 - support.max(axis=1)
        s = COMBINE[combine](s, support)
    s = np.minimum(s, 1.0)
    top = s.max(axis=1, keepdims=True)
    sharpened = np.where(top > 0, s / np.where(top > 0, top, 1), 1.0) ** (1 / temperature)  # scaled first: tiny s must not underflow
    return Evidence(s, sharpened / sharpened.sum(axis=1, keepdims=True), 1 - silence, loudest, heard)


def clip_probabilities(logits: np.ndarray, clip_index: np.ndarray, n_clips: int, reduce: str) -> np.ndarray:
    """Sigmoid of window logits (W, A), reduced over each clip's windows: (n_clips, A).  `clip_index` (W,) is sorted, no clip missing."""
    if n_clips == 0:
        return np.zeros((0, logits.shape[1]))
    probabilities = 1 / (1 + np.exp(-logits.astype(np.float64)))
    starts = np.searchsorted(clip_index, np.arange(n_clips))
    if reduce == "max":
        return np.asarray(np.maximum.reduceat(probabilities, starts, axis=0))
    counts = np.bincount(clip_index, minlength=n_clips)
    return np.asarray(np.add.reduceat(probabilities, starts, axis=0) / counts[:, None])


def run(options: Options) -> dict[str, object]:
    """Write one row a clip; return counts.  Raises CacheError where tables are missing or do not fit each other."""
    _check(options)
    folder = cache.folder(options.dataset)
    classes = cache.read_labels(options.dataset)
    clip_ids = cache.read_table(folder / "clips.parquet", "clips", ["clip_id"]).column("clip_id").to_pylist()
    audio = cache.read_table(folder / "audio", "audio", ["clip_id", "status"]).to_pylist()
    statuses = {row["clip_id"]: row["status"] for row in audio}
    tags = _tags_of(cache.read_table(folder / "tags", "tags"), clip_ids, statuses, folder / "tags")
    weights, sounds, known = _weights(options, folder, classes, tags.num_rows)
    heard_ids, found = _hear(options, tags, weights)
    rows = [
        {"clip_id": clip_id, "status": statuses.get(clip_id, "failed")}
        | (_heard_row(heard_ids[clip_id], found, weights, sounds, classes) if clip_id in heard_ids else _unheard_row(len(classes)))
        for clip_id in clip_ids
    ]
    settings = {name: str(getattr(options, name)) for name in ("combine", "reduce", "threshold", "top_k", "temperature")}
    cache.write_table(folder / "pseudo_labels.parquet", "pseudo_labels", rows, known | settings)
    n_heard = int((found.mass > 0).sum())
    n_status = Counter(f"n_{row['status']}" for row in rows)
    return {"n_clips": len(rows), "n_heard": n_heard, "mean_mass": round(float(found.mass.sum()) / max(1, len(rows)), 4), **n_status}


def _check(options: Options) -> None:
    if not (options.temperature > 0 and math.isfinite(options.temperature)):
        raise MapperError(f"pseudo_label.temperature is {options.temperature}: choose a number above 0")
    if not 0 <= options.threshold <= 1 or options.top_k < 1:
        raise MapperError(f"pseudo_label.threshold is {options.threshold}, top_k {options.top_k}: choose 0 to 1, and at least 1")


def _tags_of(tags: pa.Table, clip_ids: Sequence[str], statuses: Mapping[str, str], path: Path) -> pa.Table:
    """The rows of today's clips.  Raises CacheError where a clip with sound was never tagged."""
    tagged = set(tags.column("clip_id").to_pylist())
    untagged = [clip_id for clip_id in clip_ids if statuses.get(clip_id) in WITH_SOUND and clip_id not in tagged]
    if untagged:
        raise CacheError(f"{path} lacks {len(untagged)} clips that have sound, first {untagged[0]!r}: run `dvc repro tag`")
    wanted = set(clip_ids)
    return tags.filter(pa.array([clip_id in wanted for clip_id in tags.column("clip_id").to_pylist()], pa.bool_()))


def _hear(options: Options, tags: pa.Table, weights: np.ndarray) -> tuple[dict[str, int], Evidence]:
    """(clip_id -> row of the evidence, the evidence) of the clips that have tags."""
    ids, clip_index = np.unique(np.array(tags.column("clip_id").to_pylist(), dtype=str), return_inverse=True)
    logits = np.array(tags.column("logits").combine_chunks().flatten()).reshape(tags.num_rows, -1) if tags.num_rows else np.zeros((0, len(weights)))
    if logits.shape[1] != len(weights):
        raise CacheError(f"tags have {logits.shape[1]} logits a window, their label list has {len(weights)} names: run `dvc repro tag`")
    order = np.argsort(clip_index, kind="stable")
    found = evidence(
        clip_probabilities(logits[order], clip_index[order], len(ids), options.reduce),
        weights,
        combine=options.combine,
        threshold=options.threshold,
        top_k=options.top_k,
        temperature=options.temperature,
    )
    return {str(clip_id): i for i, clip_id in enumerate(ids)}, found


def _weights(options: Options, folder: Path, classes: Sequence[str], n_windows: int) -> tuple[np.ndarray, list[str], dict[str, str]]:
    """(the label map in the tagger's label order (A, K), the tagger's sounds, what the result depends on)."""
    map_path = folder / "label_map.parquet"
    pairs = cache.read_table(map_path, "label_map").to_pylist()
    made_by = cache.provenance(map_path)
    classes_sha256 = hashlib.sha256("\n".join(classes).encode()).hexdigest()
    if made_by.get("classes_sha256") != classes_sha256:
        raise CacheError(f"{map_path} was made for another list of classes than {folder / 'labels.txt'}: run `dvc repro map_labels`")
    known = {"classes_sha256": classes_sha256, "tagger": options.tagger, "mapper": made_by.get("mapper", "")}
    if n_windows == 0:
        return np.zeros((0, len(classes))), [], known
    sounds = _tagger_sounds(folder / "tags", options.tagger)
    index = {sound: i for i, sound in enumerate(sounds)}
    weights = np.zeros((len(sounds), len(classes)))
    for pair in pairs:
        if pair["audio_label"] in index:  # a tagger may lack a few of AudioSet's sounds: YAMNet lacks six
            weights[index[pair["audio_label"]], pair["label_id"]] = pair["weight"]
    if pairs and not weights.any():
        raise CacheError(f"{map_path}: none of its sounds is a label of the tagger {options.tagger!r}: the lists do not fit")
    return weights, sounds, known


def _tagger_sounds(tags: Path, tagger: str) -> list[str]:
    """The sounds of the tags, in the order of their logits, from the list that their metadata names."""
    made_by = cache.provenance(sorted(tags.glob("part-*.parquet"))[0])
    if made_by.get("tagger", tagger) != tagger:
        raise CacheError(f"{tags} was made by the tagger {made_by['tagger']!r}, not {tagger!r}: run `dvc repro tag`")
    path = Path(made_by.get("labels_file", ""))
    if not path.is_file() or cache.sha256_file(path) != made_by.get("labels_sha256"):
        raise CacheError(f"{tags} was made with another list of sounds than {path} holds now: restore it or run `dvc repro tag`")
    with path.open(encoding="utf-8", newline="") as file:
        return [row["display_name"] for row in csv.DictReader(file)]


def _heard_row(n: int, found: Evidence, weights: np.ndarray, sounds: Sequence[str], classes: Sequence[str]) -> dict[str, object]:
    """What the table says of clip `n` of `found`: the columns after clip_id and status."""
    if found.mass[n] == 0:
        return _unheard_row(len(classes))
    top = int(found.s[n].argmax())
    causes = [
        {"sound": sounds[i], "probability": float(probability), "weight": float(weights[i, top])}
        for i, probability in zip(found.loudest[n], found.heard[n], strict=True)
        if probability * weights[i, top] > 0
    ]
    causes.sort(key=lambda cause: -cause["probability"] * cause["weight"])
    said = {"probs": found.q[n], "evidence": found.s[n], "mass": float(found.mass[n])}
    return said | {"top_label": classes[top], "causes": causes[:N_CAUSES]}


def _unheard_row(n_classes: int) -> dict[str, object]:
    uniform, nothing = np.full(n_classes, 1 / n_classes), np.zeros(n_classes)
    return {"probs": uniform, "evidence": nothing, "mass": 0.0, "top_label": None, "causes": []}


if __name__ == "__main__":
    stage.main(Options, run, prog="pipeline.pseudo_label")

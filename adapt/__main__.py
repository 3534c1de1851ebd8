"""The adapter's stage (`python -m adapt`): stream the test clips, adapt and predict each, and score the answers.

In: videos, cache/<dataset>/pseudo_labels.parquet, the source model and its statistics.  Out: predictions and traces in Parquet, metrics as JSON.
Online protocol: one pass, batch 1, adapt on a clip and then predict it; weights are reset between corruptions and orders.  This is the room
where ground truth enters, after the method has answered; a method that declares NEEDS_LABELS, an upper bound, is handed it through an Oracle.
"""
import dataclasses
import json
import logging
import platform
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from adapt import cache, checkpoints, methods, metrics, stage
from adapt.cache import Clip, Sound
from adapt.errors import AdaptError, VideoError
from adapt.methods import Answer, Batch, Method, Settings
from adapt.oracle import Oracle
from adapt.video import ClipFrames, VideoOptions, stream

log = logging.getLogger("adapt")
Rows = list[dict[str, object]]


@dataclass(frozen=True)
class Options:
    """Which model adapts how, on which stream."""

    dataset: str
    backbone: str
    method: str
    corruptions: tuple[str, ...]  # each its own stream; "clean" for none
    video: VideoOptions = field(default_factory=VideoOptions)
    settings: Settings = field(default_factory=Settings)
    severity: int = 5  # 1 to 5
    order_seeds: tuple[int, ...] = (0,)  # a stream per seed
    split: str = "test"
    source_free: bool = False  # take the source statistics from batch norm buffers
    device: str = "cpu"
    workers: int = 1  # decoding threads beside the model


def make_batch(clip_id: str, frames: ClipFrames, sound: Sound, device: torch.device) -> Batch:
    """A batch of one clip: everything that a method may know of it."""
    def tensor(values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(values).to(device)[None]

    return Batch(
        frames=frames.views.to(device).float().div(255)[None],
        centre=frames.centre.to(device).float().div(255)[None],
        q=tensor(sound.q),
        s=tensor(sound.s),
        mass=torch.tensor([sound.mass], dtype=torch.float32, device=device),
        status=(sound.status,),
        clip_ids=(clip_id,),
        absent=tensor(sound.absent),
    )


def _answer_columns(answer: Answer, ms: float) -> dict[str, object]:
    return {
        "before_id": int(answer.before.argmax()),
        "after_id": int(answer.after.argmax()),
        "fused_id": None if answer.fused is None else int(answer.fused.argmax()),
        "steps": answer.steps,
        "stop_reason": answer.stop_reason,
        "gate": answer.gate,
        "ms": ms,
    }


NO_ANSWER = {"before_id": None, "after_id": None, "fused_id": None, "probs": None, "steps": 0, "stop_reason": "failed", "gate": None, "ms": 0.0}


def adapt_stream(
    method: Method, clips: list[Clip], sounds: dict[str, Sound], options: Options, corruption: str, order_seed: int
) -> tuple[Rows, Rows]:
    """One stream from the source weights: (rows of predictions, rows of traces).  Clips that cannot be read become rows without answer."""
    method.reset()
    torch.manual_seed(order_seed)
    device = stage.device_of(options.device)
    order = [clips[i] for i in np.random.default_rng(order_seed).permutation(len(clips))]
    key: dict[str, object] = {"dataset": options.dataset, "backbone": options.backbone, "method": options.method, "corruption": corruption}
    key |= {"severity": 0 if corruption == "clean" else options.severity, "order_seed": order_seed}
    predictions: Rows = []
    traces: Rows = []
    for position, (clip, frames) in enumerate(stream(order, options.video, corruption, options.severity, options.workers)):
        row = key | {"position": position, "clip_id": clip.clip_id, "label_id": clip.label_id, "label_ids": list(clip.label_ids) or None}
        if isinstance(frames, VideoError):
            log.warning("%s", frames)
            predictions.append(row | NO_ANSWER)
            continue
        batch = make_batch(clip.clip_id, frames, sounds[clip.clip_id], device)
        started = time.perf_counter()
        answer = method.adapt(batch)
        predictions.append(row | _answer_columns(answer, 1000 * (time.perf_counter() - started)))
        if clip.label_ids:
            predictions[-1]["probs"] = answer.after.flatten().float().softmax(0).tolist()
        traces.extend(key | {"position": position, "step": i + 1} | dataclasses.asdict(s) for i, s in enumerate(answer.trace))
    return predictions, traces


def fingerprint(options: Options, source: checkpoints.Source) -> dict[str, str]:
    """What a result depends on besides the code: parameters, checkpoint, libraries, device."""
    return {
        "options": json.dumps(dataclasses.asdict(options), sort_keys=True),
        "checkpoint_sha256": source.sha256,
        "libraries": f"python {platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}",
        "device": options.device if options.device == "cpu" else torch.cuda.get_device_name(options.device),
    }


def run(options: Options) -> dict[str, object]:
    """Run every stream of `options`, write predictions, traces and metrics."""
    device = stage.device_of(options.device)
    labels = cache.read_labels(options.dataset)
    clips = cache.read_clips(options.dataset, options.split)
    sounds = cache.read_sounds(options.dataset, labels)
    if missing := [clip.clip_id for clip in clips if clip.clip_id not in sounds]:
        raise AdaptError(f"{len(missing)} clips have no pseudo-label ({missing[0]}...): run `dvc repro pseudo_label`")
    source = checkpoints.load_model(checkpoints.model_path(options.dataset, options.backbone), options.backbone, labels, options.video.frames)
    statistics = None
    if not options.source_free:
        statistics = checkpoints.load_statistics(checkpoints.statistics_path(options.dataset, options.backbone), source.sha256)
    sees_labels = methods.needs_labels(options.method)
    oracle = Oracle({clip.clip_id: clip.label_ids or (clip.label_id,) for clip in clips}) if sees_labels else None
    method = methods.build(options.method, source.model.to(device), statistics, len(labels), options.settings, oracle)
    predictions: Rows = []
    traces: Rows = []
    for corruption in options.corruptions:
        for order_seed in options.order_seeds:
            rows, steps = adapt_stream(method, clips, sounds, options, corruption, order_seed)
            predictions, traces = predictions + rows, traces + steps
            log.info("%s, %s, order %d: top-1 %.3f", options.method, corruption, order_seed, metrics.top1(rows))
    folder = cache.ROOT / options.dataset / "adapt" / options.method
    provenance = fingerprint(options, source)
    cache.write_table(folder / "predictions.parquet", "predictions", predictions, provenance)
    cache.write_table(folder / "traces.parquet", "traces", traces, provenance)
    sounding = metrics.sounding_classes(clips, sounds)
    path = Path("cache/metrics") / options.dataset / f"{options.method}.json"
    metrics.write_json(path, metrics.summary(predictions, sounding, sees_labels))
    n_failed = sum(row["stop_reason"] == "failed" for row in predictions)
    return {"n_predictions": len(predictions), "n_failed": n_failed, "top1": round(metrics.top1(predictions), 4)}


if __name__ == "__main__":
    stage.main(Options, run, prog="adapt")

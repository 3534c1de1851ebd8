"""Train a source model on the clean train split (`python -m adapt.train`): AdamW, cosine, best epoch by validation accuracy, seeded.

In: cache/<dataset>/clips.parquet and the videos.  Out: cache/<dataset>/model/<backbone>.pt with the hash of the class list.
Clips are decoded again each epoch, so memory does not grow with the data set.
"""
import copy
import dataclasses
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as tv

from adapt import backbones, cache, checkpoints, stage
from adapt.cache import Clip
from adapt.errors import VideoError
from adapt.video import VideoOptions, count_frames, read_frames, view_indices

log = logging.getLogger("train")


@dataclass(frozen=True)
class Options:
    """How the source model is trained."""

    dataset: str
    backbone: str
    video: VideoOptions = field(default_factory=VideoOptions)
    weights: str = ""  # initial weights: a path, "packaged", or "" for random ones
    frames_per_step: int = 0  # frames of a clip in a training step, for networks that take any number; 0 for as many as a view has
    epochs: int = 30
    batch_size: int = 16
    lr: float = 2e-3  # the peak of the cosine
    head_lr_factor: float = 1.0  # the head's learning rate over the others'
    weight_decay: float = 0.02
    label_smoothing: float = 0.1
    augment: bool = True  # mild contrast, brightness, blur and noise, besides crops
    flip: bool = True  # mirror half of the clips
    seed: int = 0
    device: str = "cpu"
    workers: int = 2  # decoding threads


def _read(clip: Clip, video: VideoOptions, offset: float) -> Tensor | None:
    try:
        indices = view_indices(count_frames(clip.path), video.frames, offset)
        return torch.from_numpy(read_frames(clip.path, indices, video)).permute(3, 0, 1, 2)
    except VideoError as error:
        log.warning("left out: %s", error)
        return None


def batches(clips: Sequence[Clip], options: Options, video: VideoOptions, offsets: Sequence[float]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (frames uint8 (B, C, T, H, W), label ids (B,)) in the given order; clips without a readable picture are left out."""
    size = options.batch_size
    with ThreadPoolExecutor(options.workers) as pool:
        def start(first: int) -> list[tuple[Clip, object]]:
            chosen = range(first, min(first + size, len(clips)))
            return [(clips[i], pool.submit(_read, clips[i], video, offsets[i])) for i in chosen]

        waiting = start(0)
        for first in range(size, len(clips) + size, size):
            ahead = start(first)
            read = [(clip, future.result()) for clip, future in waiting]  # type: ignore[attr-defined]
            kept = [(clip, frames) for clip, frames in read if frames is not None]
            if kept:
                yield torch.stack([frames for _, frames in kept]), torch.tensor([clip.label_id for clip, _ in kept])
            waiting = ahead


def augmented(frames: Tensor, options: Options, random: np.random.Generator) -> Tensor:
    """Float frames (B, C, T, H, W) in [0, 1] after mild random changes, the same for all frames of a clip (ours).

    They are far milder than the test corruptions: without any, a source model falls to chance under severity 5.
    """
    out = []
    for clip in frames:
        x = clip.float() / 255
        if options.flip and random.random() < 0.5:
            x = x.flip(-1)
        if options.augment:
            pad = clip.shape[-1] // 12
            dy, dx = random.integers(0, 2 * pad + 1, 2)
            x = F.pad(x, (pad, pad, pad, pad), mode="replicate")[..., dy : dy + clip.shape[-2], dx : dx + clip.shape[-1]]
            if random.random() < 0.5:
                mean = x.mean((2, 3), keepdim=True)
                x = (x - mean) * random.uniform(0.4, 1.2) + mean * random.uniform(0.8, 1.2)
            if random.random() < 0.3:
                x = tv.gaussian_blur(x.transpose(0, 1), [5, 5], [random.uniform(0.3, 1.5)]).transpose(0, 1)
            if random.random() < 0.3:
                noise = torch.from_numpy(random.standard_normal(tuple(x.shape), np.float32))
                x = x + noise * random.uniform(0, 0.1)
        out.append(x.clamp(0, 1))
    return torch.stack(out)


@torch.inference_mode()
def accuracy(model: nn.Module, clips: Sequence[Clip], options: Options) -> float:
    """Share of `clips` that the model's centre view gets right; clips that cannot be read count as wrong."""
    model.eval()
    right = 0
    for frames, labels in batches(clips, options, options.video, [0.5] * len(clips)):
        logits = model(frames.to(options.device).float() / 255).cpu()
        right += int((logits.argmax(1) == labels).sum())
    return right / len(clips)


def _optimiser(model: nn.Module, options: Options) -> torch.optim.Optimizer:
    head = {id(p) for p in [*model.parameters()][-2:]}
    decayed = [p for p in model.parameters() if p.dim() > 1 and id(p) not in head]
    plain = [p for p in model.parameters() if p.dim() <= 1 and id(p) not in head]
    last = [p for p in model.parameters() if id(p) in head]
    groups = [
        {"params": decayed, "weight_decay": options.weight_decay},
        {"params": plain, "weight_decay": 0.0},
        {"params": last, "weight_decay": options.weight_decay, "lr": options.lr * options.head_lr_factor},
    ]
    return torch.optim.AdamW(groups, lr=options.lr)


def fit(model: nn.Module, train: Sequence[Clip], val: Sequence[Clip], options: Options) -> float:
    """Train `model` in place, leave the weights of its best epoch in it, and return that validation accuracy."""
    random = np.random.default_rng(options.seed)
    optimiser = _optimiser(model, options)
    steps = options.epochs * -(-len(train) // options.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, [g["lr"] for g in optimiser.param_groups], total_steps=steps + 1, pct_start=0.15, cycle_momentum=False
    )
    best, best_state = -1.0, copy.deepcopy(model.state_dict())
    for epoch in range(options.epochs):
        model.train()
        order = [train[i] for i in random.permutation(len(train))]
        total, n_clips = 0.0, 0
        for frames, labels in batches(order, options, _training_video(options), random.random(len(order)).tolist()):
            logits = model(augmented(frames, options, random).to(options.device))
            loss = F.cross_entropy(logits, labels.to(options.device), label_smoothing=options.label_smoothing)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            schedule.step()
            total, n_clips = total + loss.item() * len(labels), n_clips + len(labels)
        score = accuracy(model, val, options)
        log.info("epoch %d of %d: loss %.3f, validation accuracy %.3f", epoch + 1, options.epochs, total / max(1, n_clips), score)
        if score >= best:  # of equals the later one, trained at the lower rate
            best, best_state = score, copy.deepcopy(model.state_dict())
    model.load_state_dict(best_state)
    return best


def _training_video(options: Options) -> VideoOptions:
    return dataclasses.replace(options.video, frames=options.frames_per_step or options.video.frames)


def run(options: Options) -> dict[str, object]:
    """Train on the train split, choose by the val split, save."""
    stage.device_of(options.device)
    labels = cache.read_labels(options.dataset)
    train, val = (cache.read_clips(options.dataset, split) for split in ("train", "val"))
    torch.manual_seed(options.seed)
    model = backbones.build(options.backbone, len(labels), options.video.frames, options.weights).to(options.device)
    score = fit(model, train, val, options)
    path = checkpoints.model_path(options.dataset, options.backbone)
    checkpoints.save_model(path, model, options.backbone, labels, options.video.frames)
    return {"n_train": len(train), "n_val": len(val), "val_accuracy": round(score, 4), "checkpoint": str(path)}


if __name__ == "__main__":
    stage.main(Options, run, prog="adapt.train")

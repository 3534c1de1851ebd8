"""Train a source model on the clean train split (`python -m adapt.train`): AdamW, cosine, best epoch by validation
accuracy, seeded.

In: cache/<dataset>/clips.parquet and the videos.  Out: cache/<dataset>/model/<backbone>.pt, with the class list and
what it was trained for. `epochs` 0 takes published `weights` as they are instead.  A run that was killed goes on where
it was (adapt/source/_resume.py).

A clip of several classes is trained by cross-entropy to the first of them, `label_id`: what is trained is the one
answer of top-1, which counts as right where it is any of them.
"""

import copy
import dataclasses
import importlib
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from adapt import backbones, command
from adapt.core.device import device_of
from adapt.errors import AdaptError, CheckpointError
from adapt.source import _loader, checkpoints
from adapt.source._augment import augmented
from adapt.source._loader import Loaded
from adapt.source._resume import Progress
from adapt.source._trainer import Trainer, check_precision
from adapt.source.options import ModelOptions
from adapt.tables import cache, classes, code, files, lock
from adapt.tables.cache import Clip
from adapt.video.clips import VideoOptions

log = logging.getLogger("train")


@dataclass(frozen=True)
class Options(ModelOptions):
    """How the source model is trained."""

    weights: str = ""  # initial weights: a path, "packaged", or "" for random ones
    frames_per_step: int = command.number(0, low=0, high=1024)
    """frames of a clip in a training step, for networks that take any number; 0 for as many as a view has"""
    scope: str = "all"  # what is trained: all, or head, the rest staying as `weights` has it
    epochs: int = command.number(30, low=0, high=100_000)  # 0 to take `weights` as they are
    batch_size: int = command.number(16, low=1, high=4096)
    lr: float = command.number(2e-3, low=0, above=True)  # the peak of the cosine
    head_lr_factor: float = command.number(1.0, low=0)  # the head's learning rate over the others'
    weight_decay: float = command.number(0.02, low=0)
    label_smoothing: float = command.number(0.1, low=0, high=1)
    augment: bool = True  # mild contrast, brightness, blur and noise, besides crops
    flip: bool = True  # mirror half of the clips
    precision: str = "fp32"  # of training steps: fp32, bf16, or fp16 on a GPU; validation is fp32, as the model is used
    seed: int = command.number(0, low=0)
    workers: int = command.number(2, low=1, high=1024)  # decoding threads
    save_every: int = command.number(0, low=0)
    """steps between saves of the progress within an epoch; 0 for after each epoch only"""


WITHOUT_EFFECT = ("workers", "save_every")  # on the result


def load(clips: Sequence[Clip], offsets: Sequence[float], video: VideoOptions, options: Options) -> Iterator[Loaded]:
    """Batches as `options` say."""
    device = torch.device(options.device)
    return _loader.batches(clips, offsets, video, batch_size=options.batch_size, workers=options.workers, device=device)


@torch.inference_mode()
def accuracy(model: nn.Module, clips: Sequence[Clip], options: Options) -> float:
    """Share of `clips` whose centre view gives a class of theirs; clips that cannot be read count as wrong."""
    model.eval()
    right = 0
    for batch in load(clips, [0.5] * len(clips), options.video, options):
        answers = model(batch.frames.float() / 255).argmax(1).tolist()
        right += sum(
            answer in (clip.label_ids or (clip.label_id,)) for answer, clip in zip(answers, batch.clips, strict=True)
        )
    return right / len(clips)


@dataclass
class Position:
    """How far a run has come."""

    epoch: int = 0  # the one that is being trained
    n_behind: int = 0  # clips of its order
    loss: float = 0.0  # sum over those of them that could be read
    n_read: int = 0
    best: float = -1.0  # validation accuracy


class Run:
    """Training from the first or any later step to the last."""

    def __init__(
        self, model: nn.Module, train: Sequence[Clip], val: Sequence[Clip], options: Options, progress: Progress | None
    ) -> None:
        self.model, self.train, self.val, self.options, self.progress = model, train, val, options, progress
        self.trainer = Trainer(
            model, options.epochs * -(-len(train) // options.batch_size), lr=options.lr,
            head_lr_factor=options.head_lr_factor,
            weight_decay=options.weight_decay, label_smoothing=options.label_smoothing, precision=options.precision,
            scope=options.scope,
        )  # fmt: skip
        self.at, self.best_state = Position(), copy.deepcopy(model.state_dict())
        self.random = np.random.default_rng(options.seed)
        self.epoch_random = self.random.bit_generator.state  # as the epoch begins, where its order is drawn

    def finish(self) -> float:
        """Train what is left to train; the validation accuracy of the best epoch, whose weights the model then has."""
        while self.at.epoch < self.options.epochs:
            self._train_epoch()
            score = accuracy(self.model, self.val, self.options)
            mean = self.at.loss / self.at.n_read
            log.info(
                "epoch %d of %d: loss %.3f, validation accuracy %.3f",
                self.at.epoch + 1,
                self.options.epochs,
                mean,
                score,
            )
            if score >= self.at.best:  # of equals the later one, trained at the lower rate
                self.at.best, self.best_state = score, copy.deepcopy(self.model.state_dict())
            self.at = Position(self.at.epoch + 1, best=self.at.best)
            self.epoch_random = self.random.bit_generator.state
            self.save()
        self.model.load_state_dict(self.best_state)
        return self.at.best

    def _train_epoch(self) -> None:
        """All steps of the epoch, or those that are left.  Raises AdaptError without a readable clip, or for a loss
        that is no number.
        """
        options, first = self.options, self.at.n_behind
        within = self.random.bit_generator.state
        self.random.bit_generator.state = self.epoch_random
        order, offsets = self.random.permutation(len(self.train)), self.random.random(len(self.train))
        if first:
            self.random.bit_generator.state = within
        video = dataclasses.replace(options.video, frames=options.frames_per_step or options.video.frames)
        total = torch.tensor(self.at.loss, dtype=torch.float64, device=self.trainer.device)
        self.trainer.begin()
        for n_steps, batch in enumerate(
            load([self.train[i] for i in order[first:]], offsets[first:].tolist(), video, options), 1
        ):
            label_ids = _loader.to_device(torch.tensor([clip.label_id for clip in batch.clips]), self.trainer.device)
            frames = augmented(batch.frames, self.random, change=options.augment, flip=options.flip)
            total += self.trainer.step(frames, label_ids) * len(batch.clips)
            self.at.n_behind, self.at.n_read = first + batch.n_behind, self.at.n_read + len(batch.clips)
            if options.save_every and n_steps % options.save_every == 0:
                self.at.loss = total.item()
                self.save()
        self.at.loss = total.item()
        if not self.at.n_read:
            raise AdaptError(
                f"none of the {len(self.train)} train clips of {options.dataset} could be read: see the warnings above"
            )
        if not np.isfinite(self.at.loss):
            raise AdaptError(
                f"the loss is {self.at.loss} in epoch {self.at.epoch + 1}: lower train.lr ({options.lr}), or set "
                "train.precision fp32"
            )

    def save(self) -> None:
        """Keep all that the rest of the run depends on."""
        if self.progress is not None:
            numpy_random = {"epoch_random": self.epoch_random, "random": self.random.bit_generator.state}
            state = {
                "position": dataclasses.asdict(self.at),
                "best_state": self.best_state,
                "trainer": self.trainer.state(),
            }
            self.progress.write(state | numpy_random)

    def resume(self, saved: dict[str, Any]) -> None:
        """Go on where `save` was called."""
        self.at, self.best_state, self.epoch_random = (
            Position(**saved["position"]),
            saved["best_state"],
            saved["epoch_random"],
        )
        self.random.bit_generator.state = saved["random"]
        self.trainer.load_state(saved["trainer"])
        log.info(
            "going on in epoch %d of %d, %d of its clips behind",
            self.at.epoch + 1,
            self.options.epochs,
            self.at.n_behind,
        )


def fit(
    model: nn.Module, train: Sequence[Clip], val: Sequence[Clip], options: Options, progress: Progress | None = None
) -> float:
    """Train `model` in place, leave the weights of its best epoch in it, and return that validation accuracy.

    Goes on from what `progress` holds of this run, and keeps it up to date.
    """
    training = Run(model, train, val, options, progress)
    if progress is not None and (saved := progress.read()) is not None:
        training.resume(saved)
    return training.finish()


def build(options: Options, labels: list[str], seed: int) -> nn.Module:
    """The backbone on its device, whatever of it is random drawn by `seed`.  With `epochs` 0 its module may have its
    own way to a head.
    """
    torch.manual_seed(seed)
    model = backbones.build(options.backbone, len(labels), options.video.frames, options.weights, options.variant)
    initialise = getattr(importlib.import_module(f"{backbones.__name__}.{options.backbone}"), "initialise_head", None)
    if initialise is not None and options.epochs == 0:  # such as clip, whose head are the class names' embeddings
        initialise(model, labels, options.weights)
    return model.to(options.device)


@torch.inference_mode()
def published(options: Options, labels: list[str]) -> nn.Module:
    """The backbone with `weights` as they are.  Raises CheckpointError where any of what it answers by is random."""
    if not options.weights:
        raise CheckpointError(
            "epochs 0 takes weights as they are, and there are none: a random network is no source model; set "
            "train.weights, "
            "or train.epochs above 0"
        )
    model, other = (build(options, labels, options.seed + i).eval() for i in range(2))
    frames = torch.rand(1, 3, options.video.frames, options.video.size, options.video.size).to(options.device)
    if not torch.allclose(model(frames), other(frames), rtol=1e-3, atol=1e-3):
        theirs = other.state_dict()
        random = [name for name, value in model.state_dict().items() if not torch.equal(value, theirs[name])]
        raise CheckpointError(
            f"{options.weights} leaves {random[0] if random else 'something'} of {options.backbone} random: set "
            "train.epochs "
            f"above 0, or train.weights to a checkpoint whose head has {len(labels)} classes"
        )
    return model


def identity(options: Options, labels: list[str]) -> dict[str, str]:
    """All that decides what a run ends with, by name: options, data, code and torch."""
    paths = {
        "clips.parquet": cache.ROOT / options.dataset / "clips.parquet",
        "the file of weights": Path(options.weights),
    }
    hashes = {name: files.sha256_file(path)[:12] for name, path in paths.items() if path.is_file()}
    options_by_name = dataclasses.asdict(options)
    del options_by_name["video"]["decode_timeout_s"]
    chosen = {name: json.dumps(value) for name, value in options_by_name.items() if name not in WITHOUT_EFFECT}
    made_by = code.code_sha256(["adapt.source.train", f"adapt.backbones.{options.backbone}"])
    return (
        chosen
        | hashes
        | {"labels_sha256": classes.sha256(labels), "torch": str(torch.__version__), "code": made_by[:12]}
    )


@lock.alone(lambda options: f"train.{options.backbone}")
def run(options: Options) -> dict[str, object]:
    """Train on the train split and choose by the val split, or take what is published; save.

    Raises OptionsError for a number outside its range, AdaptError for what else cannot be.
    """
    command.check_numbers(options)
    device = device_of(options.device)
    check_precision(options.precision, device)
    if options.scope == "head" and not options.weights:
        raise AdaptError(
            "scope is 'head', but the rest of the network is random: set train.weights, or train.scope to all"
        )
    labels = cache.read_head(options.classes, cache.read_labels(options.dataset))
    if options.classes and options.epochs:
        raise AdaptError(
            f"classes {options.classes} names the outputs of a head that is there already, and epochs is "
            f"{options.epochs}: set train.epochs 0, or model.classes '' to train a head of the data set's classes"
        )
    score = None
    path = checkpoints.model_path(options.dataset, options.backbone)
    known = identity(options, labels)
    if (kept := checkpoints.counts_of(path, known)) is not None:
        log.info("%s is made already, of the same options, data and code: kept", path)
        return kept
    progress = Progress(path.with_name(f".{options.backbone}.progress.pt"), known)
    val = [] if options.classes else cache.read_clips(options.dataset, "val", needed=options.epochs > 0)
    n_train = 0
    if device.type == "cuda":
        torch.backends.cudnn.deterministic = True  # the same seed, the same weights
    if options.epochs == 0:
        model = published(options, labels)
        score = accuracy(model, val, options) if val else None
        said = "there is no validation split to see how good" if score is None else f"validation accuracy {score:.3f}"
        log.info("%s as published: %s", options.weights, said)
    else:
        train = [clip for clip in cache.read_clips(options.dataset, "train") if clip.status == "ok"]
        if not train:
            raise AdaptError(
                f"no train clip of {options.dataset} can be read: see the status of its rows in clips.parquet"
            )
        model, n_train = build(options, labels, options.seed), len(train)
        score = fit(model, train, val, options, progress)
    counts: dict[str, object] = {
        "n_train": n_train,
        "n_val": len(val),
        "val_accuracy": None if score is None else round(score, 4),
        "checkpoint": str(path),
    }
    video = options.video
    checkpoints.save_model(
        path, model, options.backbone, labels, video.frames, options.variant, video.size, known, counts
    )
    progress.remove()
    return counts

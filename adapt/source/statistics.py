"""Per-layer source statistics of a trained model (`python -m adapt.statistics`), as ViTTA's alignment needs them.

In: the checkpoint and the clean train split.  Out: cache/<dataset>/model/<backbone>.statistics.pt: mean and variance of
each aligned norm layer's output over clips, time, height and width, with the checkpoint's hash.

With `fisher` there are also EATA's weights of the regulariser, by parameter name (adapt/methods/eata.py); they cost a
backward a clip, and belong to runs with the same `scope` and `bn_prior`.
"""

import argparse
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adapt import command, presets
from adapt.contract import Moments, SourceStatistics
from adapt.core import moments
from adapt.core.device import device_of
from adapt.errors import AdaptError, VideoError
from adapt.methods import eata
from adapt.source import checkpoints
from adapt.source._loader import to_device
from adapt.source.options import ModelOptions
from adapt.tables import cache, classes, code, files, lock
from adapt.tables.cache import Clip
from adapt.video.clips import stream

log = logging.getLogger("statistics")


@dataclass(frozen=True)
class Options(ModelOptions):
    """Where the statistics come from."""

    max_clips: int = command.number(0, low=0)  # take so many clips, evenly spread over the train split; 0 for all
    source_free: bool = False  # take the moments from batch norm buffers, and look at no clip
    preset: str = ""  # eata_published: its authors' fisher, fisher_batch, bn_prior and max_clips, as defaults
    fisher: bool = False  # EATA's weights as well
    fisher_batch: int = command.number(1, low=1, high=65536)
    """clips whose mean gradient is squared; the authors' code takes 64"""
    bn_prior: float = command.number(0.3, low=0, high=1)
    """of the forwards that EATA's weights come from: adapt's setting of that name"""
    scope: str = "norm"  # which weights EATA will adapt: adapt's setting of that name
    workers: int = command.number(2, low=1, high=1024)  # decoding threads


def options_for(words: Sequence[str]) -> type[Options]:
    """The options, whose defaults are those of the preset named on a command line.  Raises MethodError for an unknown
    one.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--preset", default="")
    name = parser.parse_known_args(list(words))[0].preset
    if not name:
        return Options
    return presets.applied(Options, name, presets.get(name).statistics)


def spread(clips: Sequence[Clip], n: int) -> list[Clip]:
    """`n` of `clips` evenly spread, since they come sorted by class; all for n = 0 or more than there are."""
    n = min(n, len(clips)) or len(clips)
    return [clips[i * len(clips) // n] for i in range(n)]


class Frames:
    """The centre views of clips, on the device; may be gone through more than once."""

    def __init__(self, clips: Sequence[Clip], options: Options, device: torch.device) -> None:
        self.clips, self.options, self.device = clips, options, device
        self.n_failed = 0  # clips of the last time that could not be read

    def __iter__(self) -> Iterator[Tensor]:
        self.n_failed = 0
        for _, frames in stream(self.clips, self.options.video, "clean", 0, self.options.workers):
            if isinstance(frames, VideoError):
                self.n_failed += 1
            else:
                yield to_device(frames.centre, self.device).float() / 255


def identity(options: Options, model_sha256: str) -> dict[str, str]:
    """All that the statistics depend on, by name: options, data, model, code and torch."""
    chosen = {name: value for name, value in vars(options).items() if name not in ("workers", "video", "preset")}
    chosen |= {name: value for name, value in vars(options.video).items() if name != "decode_timeout_s"}
    return {name: json.dumps(value) for name, value in chosen.items()} | {
        "clips.parquet": files.sha256_file(cache.ROOT / options.dataset / "clips.parquet")[:12],
        "model": model_sha256[:12],
        "code": code.code_sha256(
            ["adapt.source.statistics", f"adapt.backbones.{options.backbone}"], without=["adapt.presets"]
        )[:12],
        "torch": str(torch.__version__),
    }


@lock.alone(lambda options: f"statistics.{options.backbone}")
def run(options: Options) -> dict[str, object]:
    """Stream the clean train split through the source model.

    Raises OptionsError for a number outside its range, AdaptError for what else cannot be.
    """
    command.check_numbers(options)
    device = device_of(options.device)
    if options.source_free and options.fisher:
        raise AdaptError("source_free looks at no clip, and EATA's weights are taken from clips: leave one of them out")
    presets.check_applied(options)
    labels = cache.read_head(options.classes, cache.read_labels(options.dataset))
    path = checkpoints.model_path(options.dataset, options.backbone)
    source = checkpoints.load_model(
        path, options.backbone, labels, options.video.frames, options.variant, options.video.size
    )
    known = identity(options, source.sha256)
    path = checkpoints.statistics_path(options.dataset, options.backbone)
    if (kept := checkpoints.counts_of(path, known)) is not None:
        log.info("%s is made already, of the same options, data and code: kept", path)
        return kept
    clips = [] if options.source_free else spread(cache.read_clips(options.dataset, "train"), options.max_clips)
    names, frames = moments.norm_layers(source.model), Frames(clips, options, device)
    model = source.model.to(device)
    found = moments.from_buffers(model, names) if options.source_free else moments.collect(model, names, frames)
    importance: Moments = {}
    if options.fisher:
        of_run = eata.Settings(scope=options.scope, bn_prior=options.bn_prior)
        importance = eata.importance(model, frames, of_run, options.fisher_batch)
    found = {name: (mean.cpu(), variance.cpu()) for name, (mean, variance) in found.items()}
    fisher = {name: (omega.cpu(), value.cpu()) for name, (omega, value) in importance.items()}
    counts: dict[str, object] = {
        "n_clips": len(clips), "n_failed": frames.n_failed, "n_layers": len(names), "n_fisher": len(fisher),
    }  # fmt: skip
    about = {"backbone": options.backbone, "variant": options.variant, "n_clips": len(clips) - frames.n_failed}
    about |= {"labels_sha256": classes.sha256(labels), "bn_prior": options.bn_prior}
    checkpoints.save_statistics(
        path, SourceStatistics(found, fisher), source.sha256, {**about, "run": known, "counts": counts}
    )
    return counts

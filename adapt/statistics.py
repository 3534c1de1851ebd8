"""Per-layer source statistics of a trained model (`python -m adapt.statistics`), as ViTTA's alignment needs them.

In: the checkpoint and the clean train split.  Out: cache/<dataset>/model/<backbone>.statistics.pt: mean and variance of each aligned
norm layer's output over clips, time, height and width, with the checkpoint's hash.
"""
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from adapt import alignment, cache, checkpoints, stage
from adapt.cache import Clip
from adapt.checkpoints import Statistics
from adapt.errors import CheckpointError, VideoError
from adapt.video import VideoOptions, stream


@dataclass(frozen=True)
class Options:
    """Where the statistics come from."""

    dataset: str
    backbone: str
    video: VideoOptions = field(default_factory=VideoOptions)
    device: str = "cpu"
    workers: int = 2  # decoding threads


class Running:
    """Mean and variance over clips of equal size, merged one clip at a time in float64 (Chan et al. 1983), so nothing cancels."""

    def __init__(self) -> None:
        self.n_clips = 0
        self.mean: dict[str, Tensor] = {}
        self.variance: dict[str, Tensor] = {}

    def add(self, seen: Statistics) -> None:
        """Take in the moments (mean (C,), biased variance (C,)) of one clip per layer."""
        self.n_clips += 1
        share = 1 / self.n_clips
        for name, (mean, variance) in seen.items():
            mean, variance = mean.double().cpu(), variance.double().cpu()
            old_mean = self.mean.get(name, torch.zeros_like(mean))
            old_variance = self.variance.get(name, torch.zeros_like(variance))
            delta = mean - old_mean
            self.mean[name] = old_mean + share * delta
            self.variance[name] = (1 - share) * old_variance + share * variance + share * (1 - share) * delta.square()

    def result(self) -> Statistics:
        """The moments over all clips taken in, as float32."""
        return {name: (self.mean[name].float(), self.variance[name].float()) for name in self.mean}


@torch.inference_mode()
def collect(model: nn.Module, names: list[str], clips: Iterable[Tensor]) -> Statistics:
    """Moments of the named layers' outputs over `clips` of frames (1, C, T, H, W) in [0, 1], the model in eval mode."""
    running = Running()
    with alignment.recorded(model, names) as seen:
        for frames in clips:
            model(frames)
            running.add(dict(seen))
    return running.result()


def run(options: Options) -> dict[str, object]:
    """Stream the clean train split through the source model."""
    device = stage.device_of(options.device)
    labels = cache.read_labels(options.dataset)
    source = checkpoints.load_model(
        checkpoints.model_path(options.dataset, options.backbone), options.backbone, labels, options.video.frames
    )
    clips: list[Clip] = cache.read_clips(options.dataset, "train")
    failed = 0

    def centres() -> Iterable[Tensor]:
        nonlocal failed
        for _, frames in stream(clips, options.video, "clean", 0, options.workers):
            if isinstance(frames, VideoError):
                failed += 1
            else:
                yield frames.centre.to(device).float() / 255

    names = alignment.norm_layers(source.model)
    statistics = collect(source.model.to(device), names, centres())
    if not statistics:
        raise CheckpointError(f"no clip of {options.dataset}'s train split could be read: statistics need at least one")
    checkpoints.save_statistics(checkpoints.statistics_path(options.dataset, options.backbone), statistics, source.sha256)
    return {"n_clips": len(clips), "n_failed": failed, "n_layers": len(statistics)}


if __name__ == "__main__":
    stage.main(Options, run, prog="adapt.statistics")

"""Per-layer source statistics of a trained model (`python -m adapt.statistics`), as ViTTA's alignment needs them.

In: the checkpoint and the clean train split.  Out: cache/<dataset>/model/<backbone>.statistics.pt: mean and variance of each aligned
norm layer's output over clips, time, height and width, with the checkpoint's hash.
"""
from collections.abc import Iterable
from dataclasses import dataclass, field

from torch import Tensor

from adapt import alignment, cache, checkpoints, stage
from adapt.cache import Clip
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
    statistics = alignment.collect(source.model.to(device), names, centres())
    if not statistics:
        raise CheckpointError(f"no clip of {options.dataset}'s train split could be read: statistics need at least one")
    checkpoints.save_statistics(checkpoints.statistics_path(options.dataset, options.backbone), statistics, source.sha256)
    return {"n_clips": len(clips), "n_failed": failed, "n_layers": len(statistics)}


if __name__ == "__main__":
    stage.main(Options, run, prog="adapt.statistics")

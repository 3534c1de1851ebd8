"""The stages of a benchmark's run, each a command of its own: videos laid out, scanned, heard, and adapted on.

Nothing of a stage is done here: what is there already is kept or gone on with by the stages themselves, so the same
command goes on after a kill.
"""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from adapt.errors import DatasetError, StageError

VIDEOS = Path("data/videos")
ORIGINALS = "UCF-101"  # where the recipe ucf101_c looks for the clean videos
LISTS = "list_video_perturbations*"  # beside ready-made corrupted videos
STATISTICS = ("list_spatiotemp_mean_*.npy", "list_spatiotemp_var_*.npy")  # ViTTA's, of the source model
SAMPLING = "vitta"  # of every run, so that all of them answer from the same frames

log = logging.getLogger("benchmark")


@dataclass(frozen=True)
class Model:
    """The source model and what it is shown: flags of train, statistics and adapt."""

    dataset: str
    backbone: str
    variant: str
    frames: int
    resize: int
    size: int
    device: str

    def flags(self) -> list[str]:
        """As typed."""
        return [word for name, value in vars(self).items() for word in (f"--{name}", str(value))]


@dataclass(frozen=True)
class Streams:
    """The streams, and where source statistics come from: flags of adapt."""

    corruptions: tuple[str, ...]
    severity: int
    order_file: str  # "" for the order of seed 0
    ready_made: str  # "" where clips are corrupted here
    statistics_files: tuple[str, ...]
    source_free: bool
    max_clips: int
    jobs: int

    def flags(self) -> list[str]:
        """As typed."""
        words = ["--corruptions", *self.corruptions, "--severity", str(self.severity)]
        words += ["--max_clips", str(self.max_clips), "--jobs", str(self.jobs), "--sampling", SAMPLING]
        words += ["--order_file", self.order_file] if self.order_file else []
        words += ["--ready_made", self.ready_made] if self.ready_made else []
        words += ["--statistics_files", *self.statistics_files] if self.statistics_files else []
        return words + (["--source_free"] if self.source_free else [])


def lay_out(dataset: str, videos: Path, originals: Path | None) -> Path:
    """Make data/videos/<dataset> a folder of links to what lies in `videos`, with `originals` beside it.

    Does nothing where that folder is `videos` itself.  Raises DatasetError where `videos` is no folder, or something
    else is there already.
    """
    for path in (videos, originals):
        if path is not None and not path.is_dir():
            raise DatasetError(f"{path} is no folder: give the one that holds the videos")
    folder = VIDEOS / dataset
    entries = {path.name: path for path in sorted(videos.iterdir()) if not path.name.startswith(".")}
    if originals is not None:
        entries[ORIGINALS] = originals
    if folder.exists() and folder.resolve() == videos.resolve():
        entries = {name: path for name, path in entries.items() if path.parent.resolve() != folder.resolve()}
    folder.mkdir(parents=True, exist_ok=True)
    for name, target in entries.items():
        place = folder / name
        if not os.path.lexists(place):
            place.symlink_to(target.resolve())
        elif place.resolve() != target.resolve():
            raise DatasetError(f"{place} is there already and is not {target}: move it away")
    return folder


def ready_made(folder: Path) -> str:
    """`folder` where it holds ready-made corrupted videos in ViTTA's layout, else ""."""
    return str(folder) if any(folder.glob(LISTS)) else ""


def order_file(folder: Path, corruptions: Sequence[str]) -> str:
    """The lists whose order the streams take, {} for the corruption: the shuffled ones, else the plain ones; "" where
    there is not one for each corruption.
    """
    for lists in sorted(folder.glob(LISTS)):
        for name in ("{}_shuffled.txt", "{}.txt"):
            if all((lists / name.format(corruption)).is_file() for corruption in corruptions):
                return str(lists / name)
    return ""


def statistics_in(videos: Path) -> tuple[str, ...]:
    """ViTTA's files of source statistics of TANet in `videos` or a folder of it; () where there are none.

    Raises DatasetError where there are several.
    """
    found = [sorted({*videos.glob(name), *videos.glob(f"*tanet*/{name}")}) for name in STATISTICS]
    if any(len(paths) > 1 for paths in found):
        several = next(paths for paths in found if len(paths) > 1)
        raise DatasetError(f"{several[0]} and {several[1]} would both do: name one by --statistics_files MEAN VARIANCE")
    return tuple(str(path) for paths in found for path in paths) if all(found) else ()


def stage(module: str, *words: str) -> Mapping[str, object]:
    """Run `python -m module words`, whose messages go where ours go; the counts that it prints.

    Raises StageError where it fails, which it has said why.
    """
    log.info("python -m %s %s", module, " ".join(words))
    done = subprocess.run([sys.executable, "-m", module, *words], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise StageError(
            f"python -m {module} ended with {done.returncode}, as it says above: the same command goes on from there"
        )
    lines = done.stdout.splitlines()
    try:
        counts: dict[str, object] = json.loads(lines[-1])
    except (IndexError, ValueError) as error:
        raise StageError(f"python -m {module} printed no counts, but {done.stdout[-200:]!r}") from error
    return counts


def hear(dataset: str, tagger: str) -> None:
    """What the sounds of the clips say: decode to pseudo_label."""
    stage("pipeline.decode", "--dataset", dataset, "--tagger", tagger)
    stage("pipeline.tag", "--dataset", dataset, "--tagger", tagger)
    stage("pipeline.map_labels", "--dataset", dataset, "--mapper", "combined")
    stage("pipeline.pseudo_label", "--dataset", dataset, "--tagger", tagger)


def adapt(model: Model, streams: Streams, method: str) -> str:
    """Adapt by a method, a preset, or one of them with +fusion; the run's name."""
    stage("adapt", *model.flags(), "--method", method, "--name", method, *streams.flags())
    return method

"""A published benchmark in one command: `python -m pipeline.benchmark ucf101-c --videos DIR --weights FILE`.

In: the benchmark's videos in the layout in which they are published, and a published checkpoint of TANet.  Out: a page
with our rows beside the published ones and with what differs, printed and kept as
cache/metrics/<dataset>/benchmark.md.  The stages are run one after the other as the commands that they are (scan,
decode, tag, map_labels, pseudo_label, train with 0 epochs, statistics where there is a train split, adapt once a
method); the same command goes on after a kill.
"""

import json
from dataclasses import dataclass, fields
from pathlib import Path

from adapt import command

if __name__ == "__main__":
    command.begin("pipeline.benchmark")  # before what takes time to import

import tyro

from adapt.command import printable
from adapt.errors import DatasetError, OptionsError
from adapt.tables.files import write_text
from pipeline.benchmark import _page, _stages
from pipeline.benchmark._page import Ours
from pipeline.benchmark._published import TWELVE, Benchmark, benchmark

UNADAPTED = "source+none"


@dataclass(frozen=True)
class Options:
    """Run a published benchmark on its videos, and print our rows beside the published ones."""

    name: tyro.conf.Positional[str]  # ucf101-c, kinetics-sounds-c, ave-c or avmit-c: data/benchmarks.json
    videos: Path  # the folder that holds the videos (and lists) in the layout that pipeline/datasets/<recipe>.py says
    weights: str  # the published checkpoint
    preset: str = "vitta_published"  # the baseline as published (adapt/presets.py), by the picture alone
    methods: tuple[str, ...] = ()
    """run besides, with the same frames: methods or presets, each alone or with +fusion, such as sar_published+none"""
    originals: Path | None = None  # of ucf101-c: the folder UCF-101, for the sound of the clips and a clean stream
    statistics_files: tuple[str, ...] = ()
    """ViTTA's means and variances of the source model; else those that lie with the videos, else of the train split,
    else the batch norm buffers"""
    corruptions: tuple[str, ...] = TWELVE
    severity: int = command.number(5, low=1, high=5)  # 1 to 5
    backbone: str = "tanet"  # adapt/backbones/<backbone>.py
    variant: str = "resnet50"  # one of the backbone's sizes
    frames: int = command.number(16, low=1, high=1024)  # a view
    resize: int = command.number(256, low=1, high=8192)  # the short side, in pixels
    size: int = command.number(224, low=1, high=8192)  # the crop, in pixels
    tagger: str = "yamnet"  # who listens: pipeline/taggers/<tagger>.py
    max_clips: int = command.number(0, low=0)  # of every stream, the first so many, for trials; 0 for all
    device: str = "cpu"  # cpu, cuda, cuda:1
    jobs: int = command.number(0, low=0, high=1024)  # streams side by side; 0 for as many as cores, 1 on a GPU


def run(options: Options) -> None:
    """Bring the runs up to date and print the page.

    Raises OptionsError for options that do not go together, and whatever a stage ends with.
    """
    chosen = benchmark(options.name)
    _check(options)
    folder = _stages.lay_out(chosen.dataset, options.videos, options.originals)
    ready_made = _stages.ready_made(folder)
    if "clean" in options.corruptions and ready_made and not (folder / _stages.ORIGINALS).is_dir():
        raise OptionsError(
            "corruptions name clean, and the clean videos are not here: give --originals, or leave it out"
        )
    scanned = _stages.stage("pipeline.scan", "--dataset", chosen.dataset, "--recipe", chosen.recipe)
    _stages.hear(chosen.dataset, options.tagger)
    model = _stages.Model(
        chosen.dataset, options.backbone, options.variant, options.frames, options.resize, options.size, options.device
    )
    _stages.stage("adapt.train", *model.flags(), "--weights", options.weights, "--epochs", "0")
    streams = _streams(options, folder, ready_made, has_train_split=bool(scanned["n_train"]))
    if not streams.statistics_files and not streams.source_free:
        _stages.stage("adapt.statistics", *model.flags())
    names = [_stages.adapt(model, streams, method) for method in _methods(options)]
    ours = [one for name in names for one in _scores(chosen.dataset, name)]
    text = _page.page(chosen, ours, _differs(options, chosen, streams, ours))
    write_text(Path("cache/metrics") / chosen.dataset / "benchmark.md", text)
    print(printable(text, lines=True), end="")


def _check(options: Options) -> None:
    """Raise OptionsError for options that do not go together."""
    if not Path(options.weights).is_file():
        raise OptionsError(f"weights {options.weights} is no file: give the published checkpoint")
    if strangers := [one for one in options.corruptions if one not in (*TWELVE, "clean")]:
        raise OptionsError(f"corruptions name {strangers[0]!r}: choose among {', '.join(TWELVE)} and clean")
    if not options.corruptions or len(set(options.corruptions)) < len(options.corruptions):
        raise OptionsError(f"corruptions are {list(options.corruptions)}: give at least one, each once")
    if len(options.statistics_files) not in (0, 2):
        raise OptionsError(f"statistics_files are {list(options.statistics_files)}: give two: means, variances")
    if options.originals is not None and options.name != "ucf101-c":
        raise OptionsError(f"originals are of ucf101-c, whose files have no sound: {options.name} has its own")


def _methods(options: Options) -> list[str]:
    """What is run: the source model, the preset, and the methods besides, each once."""
    preset = options.preset if "+" in options.preset else f"{options.preset}+none"
    return list(dict.fromkeys([UNADAPTED, preset, *options.methods]))


def _streams(options: Options, folder: Path, ready_made: str, *, has_train_split: bool) -> _stages.Streams:
    """The streams, and the first of the sources of statistics that there is."""
    found = options.statistics_files or _stages.statistics_in(folder)
    corrupted = [one for one in options.corruptions if one != "clean"]
    order = _stages.order_file(folder, corrupted) if "clean" not in options.corruptions else ""
    return _stages.Streams(
        options.corruptions, options.severity, order, ready_made, found,
        source_free=not found and not has_train_split, max_clips=options.max_clips, jobs=options.jobs,
    )  # fmt: skip


def _scores(dataset: str, name: str) -> list[Ours]:
    """A run's rows: by the picture alone, and with the sound where it has a fusion."""
    path = Path("cache/metrics") / dataset / f"{name}.json"
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        rows = []
        for answer in ("alone", "fused"):
            per = {key: value for key, value in said.get(answer, {}).items() if key in (*TWELVE, "clean")}
            if per:
                rows.append(Ours(name, answer, said["n"] // len(per), said["n_failed"], per))
    except (OSError, ValueError, KeyError) as error:
        raise DatasetError(f"{path} is not what adapt writes ({error}): delete it and run this again") from error
    return rows


def _differs(options: Options, chosen: Benchmark, streams: _stages.Streams, ours: list[Ours]) -> list[str]:
    """In what this run differs from the published protocol, by its options and by what was there."""
    said = []
    for field in fields(Options):
        if field.name in ("backbone", "variant", "frames", "resize", "size", "severity"):
            value = getattr(options, field.name)
            if value != field.default:
                said.append(f"This run has {field.name} {value}, the published protocol {field.default}.")
    if missing := [one for one in TWELVE if one not in options.corruptions]:
        said.append(f"This run leaves out {', '.join(missing)}.")
    n_clips = ours[0].n_clips
    if options.max_clips:
        said.append(f"This run is a trial on the first {n_clips} clips of every stream.")
    elif chosen.n_clips not in (None, n_clips):
        said.append(f"This run has {n_clips:,} clips a stream, the published test set {chosen.n_clips:,}.")
    if n_failed := max(one.n_failed for one in ours):
        said.append(f"{n_failed} answers are of clips that could not be read: they count as wrong.")
    said.append(_of_statistics(options, streams))
    said.append(_of_order(streams))
    if not streams.ready_made:
        said.append("The clips are corrupted here, by adapt/video/corruptions; the published files are not at hand.")
    return said


def _of_statistics(options: Options, streams: _stages.Streams) -> str:
    if streams.statistics_files:
        return f"Source statistics are those of {Path(streams.statistics_files[0]).name} and its variances."
    if streams.source_free:
        return (
            "Source statistics are read from batch norm buffers (source-free): the authors took theirs of the train "
            "split."
        )
    return "Source statistics were taken here, of the centre views of the train split."


def _of_order(streams: _stages.Streams) -> str:
    if not streams.order_file:
        return "The order of the clips is that of seed 0: the published ones are in lists that are not at hand."
    return (
        f"Each corruption's stream is in the order of its own {Path(streams.order_file).name}. ViTTA's script "
        "tta_tanet_ucf101.py fills the first corruption's name into the path of the list for good, so that, run as it "
        "is, all corruptions read the first list."
    )


if __name__ == "__main__":
    command.main(Options, run, prog="pipeline.benchmark")

"""Will sound help on a data set?  What can be said before any run, and without a label (`python -m adapt.check`).

In: the label map, what the sounds say, the source model and some clean clips of the split that is to be the stream.
Out: a page of text, or JSON: which classes have a sound in the map, how many clips are heard, how often picture and
sound agree on clean clips, what a clip costs, and which of the methods to run (adapt/stream/_recommended.py has the
rule).  The clips' labels are taken off before anything is done with them; whether the sounds are *right* is therefore
not known, only whether the pictures speak for them.
"""

import dataclasses
import json
import logging
import statistics
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from torch import arange

from adapt import command, methods
from adapt.command import printable, printable_json
from adapt.contract import Batch, SourceStatistics
from adapt.core.device import device_of
from adapt.errors import CacheError, CheckpointError, MethodError, VideoError
from adapt.fusion import Fused
from adapt.source import checkpoints
from adapt.stream._batches import make_batch
from adapt.stream._check_page import page
from adapt.stream._recommended import COMMANDS, Advice, Findings, recommend
from adapt.stream._streams import order
from adapt.tables import cache
from adapt.tables.cache import Clip, Sound
from adapt.tables.parquet import read_table
from adapt.video.clips import VideoOptions, stream

log = logging.getLogger("check")
TIMED = 5  # clips on which the full method is timed, the first left out
DOUBTED = 0.5  # trust of a class below which the pictures contradict its sound
SOME = 3  # heard clips of a class before it may be called so


@dataclass(frozen=True)
class Options:
    """Say, before any run and without labels, whether sound will help on a data set, and what to run."""

    dataset: tyro.conf.Positional[str]  # names cache/<dataset>
    split: str = "test"  # whose clips are the stream to come: train, val or test
    max_clips: int = command.number(200, low=1)  # clean clips to look at, drawn by seed 0
    backbone: str = ""  # of the source model; "" for the one that cache/<dataset>/model holds
    resize: int = command.number(0, low=0, high=8192)  # the short side of the frames, in pixels; 0 for the model's size
    budget_ms: float = command.number(0.0, low=0)  # what a clip may take; 0 for anything
    device: str = "cpu"  # cpu, cuda, cuda:1
    workers: int = command.number(2, low=1, high=1024)  # decoding threads
    json: bool = False  # one JSON object in place of the page


@dataclass(frozen=True)
class Seen:
    """What the source model and the sounds say of the clean clips."""

    fused: Fused  # the source model with trusted fusion, after these clips
    batches: list[Batch]  # the first of them, to be timed on
    answers: list[int]  # class of each clip by the picture
    sounds: list[int | None]  # by its sound; None where nothing is heard
    n_failed: int
    ms: float  # of a clip, the median


def run(options: Options) -> None:
    """Print the page, or JSON.

    Raises CacheError or CheckpointError where tables or model are missing or do not fit each other.
    """
    labels = cache.read_labels(options.dataset)
    sounds = cache.read_sounds(options.dataset, labels)
    clips = [_without_label(clip) for clip in cache.read_clips(options.dataset, options.split)]
    if missing := [clip.clip_id for clip in clips if clip.clip_id not in sounds]:
        raise CacheError(f"{len(missing)} clips have no pseudo-label ({missing[0]}...): run `dvc repro pseudo_label`")
    mapped = _mapped(options.dataset, labels)
    path = _model_path(options)
    source, video, backbone = _source(path, labels, options)
    statistics_ = _statistics(path, source, labels)
    seen = look(clips, sounds, source, len(labels), video, options)
    trust = _trust(seen, len(labels))
    doubted = _doubted(seen, trust, labels)
    ms, can_align = cost(source, statistics_, seen, len(labels))
    heard = [label for label in seen.sounds if label is not None]
    found = Findings(
        len(labels), len(mapped), len(clips), sum(sounds[clip.clip_id].mass > 0 for clip in clips), len(seen.answers),
        len(heard), _mutual(seen), sum(trust[label] for label in heard) / len(heard) if heard else 0.0,
        _n_agree(seen) / len(heard) if heard else 0.0, _by_chance(seen), doubted,
        can_align, ms, options.budget_ms,
    )  # fmt: skip
    said = report(options, labels, mapped, clips, sounds, seen, found, recommend(found), backbone)
    print(printable_json(json.dumps(said, indent=1)) if options.json else printable(page(said), lines=True))


def _without_label(clip: Clip) -> Clip:
    return dataclasses.replace(clip, label_id=-1, label_ids=())


def _mapped(dataset: str, labels: Sequence[str]) -> dict[str, int]:
    """Class -> number of its sounds in the map, for classes that have some."""
    rows = read_table(cache.folder(dataset) / "label_map.parquet", "label_map").to_pylist()
    counts = Counter(row["label"] for row in rows)
    if strangers := [label for label in counts if label not in labels]:
        raise CacheError(
            f"the label map of {dataset} names {strangers[0]!r}, which is no class: run `dvc repro map_labels`"
        )
    return {label: counts[label] for label in labels if label in counts}


def _model_path(options: Options) -> Path:
    if options.backbone:
        return checkpoints.model_path(options.dataset, options.backbone)
    folder = cache.folder(options.dataset) / "model"
    found = [path for path in sorted(folder.glob("[!.]*.pt")) if not path.name.endswith(".statistics.pt")]
    if len(found) != 1:
        names = [path.stem for path in found]
        what = f"the models {names}: name one by --backbone" if names else "no model: run `dvc repro train`"
        raise CheckpointError(f"{folder} holds {what}")
    return found[0]


def _source(
    path: Path, labels: Sequence[str], options: Options
) -> tuple[checkpoints.Source, VideoOptions, Mapping[str, Any]]:
    """(the source model, how clips become its frames, what its file says of itself)."""
    said = checkpoints.load(path, "train")
    backbone, frames, size = said.get("backbone", path.stem), int(said.get("n_frames", 0)), int(said.get("size", 0))
    if frames < 1 or size < 1:
        raise CheckpointError(f"{path} does not say which frames it takes: run `dvc repro train`")
    source = checkpoints.load_model(path, backbone, list(labels), frames, said.get("variant", ""), size)
    source.model.to(device_of(options.device))
    return source, VideoOptions(frames=frames, resize=options.resize or size, size=size), said


def _statistics(path: Path, source: checkpoints.Source, labels: Sequence[str]) -> SourceStatistics | None:
    """The source statistics beside the model; None where they were not taken."""
    beside = path.with_name(f"{path.stem}.statistics.pt")
    return checkpoints.load_statistics(beside, source.sha256, labels) if beside.exists() else None


def look(
    clips: Sequence[Clip], sounds: Mapping[str, Sound], source: checkpoints.Source, n_classes: int, video: VideoOptions,
    options: Options,
) -> Seen:  # fmt: skip
    """Show clean clips to the source model, and let trusted fusion learn from its answers and the sounds.

    Raises VideoError where none of them can be read.
    """
    device, chosen = device_of(options.device), order(clips, 0, "online", options.max_clips)
    fused = methods.build("source", "trusted", source.model, None, n_classes, {})
    batches: list[Batch] = []
    answers: list[int] = []
    heard: list[int | None] = []
    times: list[float] = []
    for clip, frames in stream(chosen, video, "clean", 0, options.workers):
        if isinstance(frames, VideoError):
            log.warning("%s", frames)
            continue
        batch = make_batch([clip], [frames], sounds, device)
        started = time.perf_counter()
        answer = fused.adapt(batch)
        times.append(1000 * (time.perf_counter() - started))
        answers.append(int(answer.after.argmax(1)))
        heard.append(int(batch.q.argmax(1)) if float(batch.mass) > 0 else None)
        if len(batches) < TIMED:
            batches.append(batch)
    if not answers:
        raise VideoError(f"none of the {len(chosen)} clips looked at can be read: see the warnings above")
    return Seen(fused, batches, answers, heard, len(chosen) - len(answers), statistics.median(times))


def _trust(seen: Seen, n_classes: int) -> list[float]:
    """How far each class's sound is trusted after the clips."""
    fusion: Any = seen.fused.fusion
    found: list[float] = fusion.trust.of(arange(n_classes), fusion.information.weight()).tolist()
    return found


def _mutual(seen: Seen) -> float:
    fusion: Any = seen.fused.fusion
    found: float = fusion.information.mutual()
    return found


def _doubted(seen: Seen, trust: Sequence[float], labels: Sequence[str]) -> tuple[str, ...]:
    """The classes whose sound was heard a few times, and is not trusted."""
    counts = Counter(label for label in seen.sounds if label is not None)
    return tuple(labels[k] for k, n in sorted(counts.items()) if n >= SOME and trust[k] < DOUBTED)


def cost(
    source: checkpoints.Source, statistics_: SourceStatistics | None, seen: Seen, n_classes: int
) -> tuple[float | None, bool]:
    """(median milliseconds of the full method on the first clips, whether it can adapt the network at all).

    The network is left adapted.
    """
    try:
        fused = methods.build("audio", "trusted", source.model, statistics_, n_classes, {})
    except MethodError as error:
        log.info("audio cannot adapt this network: %s", error)
        return None, False
    times = []
    for batch in seen.batches:
        started = time.perf_counter()
        fused.adapt(batch)
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times[1:] or times), True


def _n_agree(seen: Seen) -> int:
    """Clips whose picture and sound say the same class."""
    return sum(answer == sound for answer, sound in zip(seen.answers, seen.sounds, strict=True))


def _by_chance(seen: Seen) -> float:
    """Share of heard clips that would agree if pictures and sounds had nothing to do with each other."""
    heard = Counter(label for label in seen.sounds if label is not None)
    pictures, n = Counter(seen.answers), sum(heard.values())
    return sum(n_heard * pictures[k] for k, n_heard in heard.items()) / (n * len(seen.answers)) if n else 0.0


def report(
    options: Options, labels: Sequence[str], mapped: Mapping[str, int], clips: Sequence[Clip],
    sounds: Mapping[str, Sound], seen: Seen, found: Findings, advice: Advice, about: Mapping[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """All that is said, by name: of the page and of the JSON."""
    trust = _trust(seen, len(labels))
    heard = Counter(labels[label] for label in seen.sounds if label is not None)
    return {
        "dataset": options.dataset,
        "split": options.split,
        "classes": {"n": len(labels), "with_sound": dict(mapped), "without": [x for x in labels if x not in mapped]},
        "clips": {
            "n": found.n_clips,
            "n_heard": found.n_heard,
            "status": dict(sorted(Counter(sounds[clip.clip_id].status for clip in clips).items())),
        },
        "clean": {
            "n_seen": found.n_seen,
            "n_failed": seen.n_failed,
            "n_heard": found.n_seen_heard,
            "n_agree": _n_agree(seen),
            "agree_by_chance": round(found.by_chance, 4),
            "trust": round(found.trust, 4),
            "trust_by_class": {name: round(trust[k], 4) for k, name in enumerate(labels) if heard[name]},
            "contradicted": list(found.contradicted),
            "information": round(found.information, 4),
        },
        "cost": {
            "source_ms": round(seen.ms, 1),
            "full_ms": None if found.ms is None else round(found.ms, 1),
            "budget_ms": options.budget_ms,
            "device": options.device,
        },
        "recommendation": advice.run,
        "why": advice.why,
        "command": _command(options, about, advice),
    }


def _command(options: Options, about: Mapping[str, Any], advice: Advice) -> str:
    """What to run next; "" for none."""
    if advice.run == "none":
        return ""
    size = about["size"]
    words = f"--frames {about['n_frames']} --resize {options.resize or size} --size {size}"
    variant = f" --variant {about['variant']}" if about.get("variant") else ""
    return (
        f"python -m adapt --dataset {options.dataset} --backbone {about['backbone']}{variant} {words} "
        f"--method {COMMANDS[advice.run]} --split {options.split} --corruptions clean"
    )

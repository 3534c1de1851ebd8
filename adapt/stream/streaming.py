"""The adapter's stage: stream the test clips, adapt and predict each, and score the answers.

In: videos, cache/<dataset>/pseudo_labels.parquet, the source model and its statistics.  Out, by the run's name:
predictions and traces in Parquet, metrics as JSON.  A killed run is gone on with by the same command, a finished one is
kept.  This is the room where ground truth enters, after the method has answered; a method that declares NEEDS_LABELS,
an upper bound, is handed it through an Oracle.
"""

import dataclasses
import json
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from adapt import command, methods
from adapt.contract import SourceStatistics
from adapt.core.class_map import ClassMapped
from adapt.core.device import device_of
from adapt.core.network import inside
from adapt.core.oracle import Oracle
from adapt.errors import AdaptError, TooManyFailedError
from adapt.fusion import Fused
from adapt.report import metrics
from adapt.source import checkpoints, vitta_statistics
from adapt.stream import _fingerprint, _progress
from adapt.stream._batches import Row
from adapt.stream._class_map import Counted
from adapt.stream._lanes import cores, each
from adapt.stream._order import order_file, read_order
from adapt.stream._pace import News, Pace
from adapt.stream._profile import Profile
from adapt.stream._progress import Progress
from adapt.stream._streams import Reading, Rows, Stream, adapt_batches, order, start, starts_anew
from adapt.stream.options import (
    WITHOUT_EFFECT,
    Options,
    check,
    given_settings,
    method_and_fusion,
    options_for,
    run_name,
)
from adapt.tables import cache, files
from adapt.tables.cache import Clip, Sound

log = logging.getLogger("adapt")
WITHOUT_ROWS = (  # modules that make none; a preset's settings stand in the fingerprint themselves
    "adapt.report.metrics", "adapt.stream._pace", "adapt.stream._profile", "adapt.presets",
)  # fmt: skip
NAMED = 5  # clips that could not be read
SAID_OTHERWISE = (  # options that the fingerprint holds as what they come to
    "settings", "settings_file", "preset", "order_file", "statistics_files", "classes",
)  # fmt: skip


def plan(options: Options) -> list[Stream]:
    """Every stream of a run, all corruptions of an order before the next order."""

    def severity(corruption: str) -> int:
        return 0 if corruption == "clean" else options.severity

    name, made_by = run_name(options), method_and_fusion(options)
    pairs = [(seed, corruption) for seed in options.order_seeds for corruption in options.corruptions]
    return [
        Stream(options.dataset, options.backbone, name, corruption, severity(corruption), seed, *made_by)
        for seed, corruption in pairs
    ]


def ordered(options: Options, clips: Sequence[Clip], corruption: str, order_seed: int) -> list[Clip]:
    """The clips of a stream in their order: that of `order_file`, or of the seed.  Raises AdaptError for a file that is
    no order of these clips.
    """
    if not options.order_file:
        return order(clips, order_seed, options.setting, options.max_clips)
    return read_order(order_file(options.order_file, corruption), clips)[: options.max_clips or None]


def reading(options: Options) -> Reading:
    """How the options say that clips become batches."""
    return Reading(
        options.video, options.batch_size, options.workers, device_of(options.device), options.setting == "episodic"
    )


def adapt_stream(
    method: Fused,
    clips: Sequence[Clip],
    sounds: Mapping[str, Sound],
    options: Options,
    corruption: str,
    order_seed: int,
) -> Rows:
    """One stream from the source weights, in memory: (rows of predictions, rows of traces)."""
    which = plan(dataclasses.replace(options, corruptions=(corruption,), order_seeds=(order_seed,)))[0]
    start(method, order_seed)
    rows: Rows = ([], [])
    for predictions, traces in adapt_batches(
        method, ordered(options, clips, corruption, order_seed), sounds, which, reading(options)
    ):
        rows = (rows[0] + predictions, rows[1] + traces)
    return rows


def lanes(streams: Sequence[Stream], setting: str) -> list[range]:
    """The numbers of the streams that follow one another: each alone, but for those of an order of the continual
    setting.
    """
    firsts = [number for number in range(len(streams)) if starts_anew(streams, number, setting)]
    return [range(first, end) for first, end in zip(firsts, [*firsts[1:], len(streams)], strict=True)]


def jobs(options: Options) -> int:
    """How many processes: as many as cores where the options leave it open, one on a GPU or under the profiler.

    Raises AdaptError where several are asked for and cannot be.
    """
    alone = (
        "a GPU takes one stream at a time"
        if options.device != "cpu"
        else "--profile looks at one process"
        if options.profile
        else ""
    )
    if alone and options.jobs > 1:
        raise AdaptError(f"jobs is {options.jobs}, but {alone}: give --jobs 1")
    return 1 if alone else options.jobs or cores()


def adapt_streams(
    method: Fused,
    clips: Sequence[Clip],
    sounds: Mapping[str, Sound],
    options: Options,
    kept: Progress,
    profile: Profile | None,
) -> None:
    """Adapt on every stream that `kept` does not hold yet, lanes side by side, and write the run's tables."""
    streams = plan(options)
    n_clips = min(len(clips), options.max_clips or len(clips))
    pace = Pace(n_clips * len(streams))
    try:
        each(
            partial(_adapt_lane, method, clips, sounds, options, kept, profile),
            lanes(streams, options.setting),
            jobs(options),
            pace.hear,
        )
    except TooManyFailedError:
        kept.drop()
        raise
    kept.finish(streams)


def _adapt_lane(
    method: Fused, clips: Sequence[Clip], sounds: Mapping[str, Sound], options: Options, kept: Progress,
    profile: Profile | None,
    numbers: range, tell: Callable[[News], None],
) -> None:  # fmt: skip
    """Adapt on those streams of a lane that are not on disk yet, from the source weights on."""
    streams, how, lane = plan(options), reading(options), kept.lane(numbers)
    n_clips = min(len(clips), options.max_clips or len(clips))
    lane.restore(method, n_clips, how.device)
    tell(News(lane.n_done(n_clips), "", anew=False))
    for number in range(lane.number, numbers.stop):
        which = streams[number]
        if lane.position == 0 and starts_anew(streams, number, options.setting):
            start(method, which.order_seed)
        stream = ordered(options, clips, which.corruption, which.order_seed)
        for rows in adapt_batches(method, stream, sounds, which, how, lane.position, profile):
            lane.add(rows, len(rows[0]))
            tell(News(len(rows[0]), str(which)))
            if lane.is_due():
                lane.save(method, how.device)
        lane.end_stream()
        lane.save(method, how.device)
        done = lane.predictions(number)
        log.info("%s: top-1 %.3f", which, metrics.top1(done))
        _check_failures(done, which, options.max_failed_share)


def _check_failures(rows: Sequence[Row], which: Stream, share: float) -> None:
    """Raise TooManyFailedError where more than that share of a stream's clips could not be read."""
    failed = [str(row["clip_id"]) for row in rows if row["stop_reason"] == "failed"]
    if len(failed) > share * len(rows):
        named = ", ".join(failed[:NAMED])
        raise TooManyFailedError(
            f"{which}: {len(failed)} of {len(rows)} clips cannot be read, more than max_failed_share={share}: {named}"
        )


def identify(options: Options, source: checkpoints.Source) -> dict[str, str]:
    """The run's fingerprint."""
    method, fusion = method_and_fusion(options)
    chosen = {name: value for name, value in vars(options).items() if name not in SAID_OTHERWISE}
    chosen |= {
        "video": dataclasses.asdict(options.video),
        "name": run_name(options),
        "method": method,
        "fusion": fusion,
    }
    of_method, of_fusion = methods.choose(method, fusion, given_settings(options))
    chosen["settings"] = dataclasses.asdict(of_method) | ({} if of_fusion is None else dataclasses.asdict(of_fusion))
    del chosen["video"]["decode_timeout_s"]
    modules = ["stream.streaming", f"methods.{method}", f"backbones.{options.backbone}"] + [f"fusion.{fusion}"] * (
        fusion != "none"
    )
    class_map = cache.folder(options.dataset) / "class_map.parquet"  # whose provenance names the head's classes
    orders = [order_file(options.order_file, corruption) for corruption in options.corruptions]
    return {
        "options": json.dumps(
            {name: value for name, value in chosen.items() if name not in WITHOUT_EFFECT}, sort_keys=True
        ),
        "code_sha256": _fingerprint.code_sha256([f"adapt.{name}" for name in modules], without=WITHOUT_ROWS),
        "data_sha256": cache.data_sha256(options.dataset),
        "checkpoint_sha256": source.sha256,
        "statistics_sha256": _statistics_sha256(options),
        **({"orders_sha256": _fingerprint.files_sha256(orders)} if options.order_file else {}),
        **({"class_map_sha256": files.sha256_file(class_map)} if options.classes else {}),
        **_fingerprint.environment(device_of(options.device)),
    }


def _statistics_sha256(options: Options) -> str:
    if options.source_free:
        return "none: source_free"
    if options.statistics_files:
        return _fingerprint.files_sha256([Path(name) for name in options.statistics_files])
    return files.sha256_file(checkpoints.statistics_path(options.dataset, options.backbone))


@dataclass(frozen=True)
class Given:
    """All that a run reads before it looks at videos."""

    labels: list[str]
    clips: list[Clip]  # of the split, in clip_id order
    sounds: dict[str, Sound]
    source: checkpoints.Source
    statistics: SourceStatistics | None  # None: source-free
    head: list[str]  # classes of the model
    pairs: list[tuple[int, int, float]]  # the class map, where these are not `labels`


def read(options: Options) -> Given:
    """Read tables and model.  Raises AdaptError where they do not fit each other."""
    labels = cache.read_labels(options.dataset)
    clips = cache.read_clips(options.dataset, options.split)
    sounds = cache.read_sounds(options.dataset, labels)
    if missing := [clip.clip_id for clip in clips if clip.clip_id not in sounds]:
        raise AdaptError(f"{len(missing)} clips have no pseudo-label ({missing[0]}...): run `dvc repro pseudo_label`")
    path = checkpoints.model_path(options.dataset, options.backbone)
    head = cache.read_head(options.classes, labels)
    source = checkpoints.load_model(
        path, options.backbone, head, options.video.frames, options.variant, options.video.size
    )
    pairs = cache.read_class_map(options.dataset, head, labels) if options.classes else []
    if unreached := sorted(set(range(len(labels))) - {label_id for _, label_id, _ in pairs}) if pairs else []:
        log.warning("no class of %s leads to %s: no picture is one", options.classes, labels[unreached[0]])
    for corruption in options.corruptions if options.order_file else ():
        read_order(order_file(options.order_file, corruption), clips)  # raises
    return Given(labels, clips, sounds, source, _statistics(options, source, head), head, pairs)


def _statistics(options: Options, source: checkpoints.Source, head: list[str]) -> SourceStatistics | None:
    """The source statistics that the options name; None: source-free.  Raises AdaptError where they are not of this
    model, or their Fisher weights of forwards with another `bn_prior` than the run's.
    """
    if options.source_free:
        return None
    if options.statistics_files:
        return vitta_statistics.read([Path(name) for name in options.statistics_files], source.model)
    path = checkpoints.statistics_path(options.dataset, options.backbone)
    found = checkpoints.load_statistics(path, source.sha256, head)
    method, fusion = method_and_fusion(options)
    if found.fisher and "eata_fisher" in methods.settings_of(method):
        wanted = methods.choose(method, fusion, given_settings(options))[0].bn_prior
        if (taken := checkpoints.fisher_bn_prior(path)) != wanted:
            raise AdaptError(
                f"{path}: its Fisher weights were taken with bn_prior {taken:g}, the run has {wanted:g}: run "
                f"`python -m adapt.statistics` with --fisher --bn_prior {wanted:g}"
            )
    return found


def build(options: Options, given: Given) -> Fused:
    """The method around the source model with its fusion; an upper bound is handed an Oracle."""
    method, fusion = method_and_fusion(options)
    seen = (
        {clip.clip_id: clip.label_ids or (clip.label_id,) for clip in given.clips}
        if methods.needs_labels(method)
        else None
    )
    model = given.source.model.to(device_of(options.device))
    oracle = None if seen is None else Oracle(seen)
    n_classes, settings = len(given.labels), given_settings(options)
    if not given.pairs:
        return methods.build(method, fusion, model, given.statistics, n_classes, settings, oracle)
    network = ClassMapped(model, len(given.head), n_classes, given.pairs)
    built = methods.build(
        method, fusion, network, inside(network, model, given.statistics), n_classes, settings, oracle
    )
    return Counted(built, network)


def run(options: Options) -> dict[str, object]:
    """Bring the run's tables and metrics up to date; return its counts."""
    check(options)
    device = device_of(options.device)
    jobs(options)  # raises
    given = read(options)
    known = identify(options, given.source)
    folder = cache.ROOT / options.dataset / "adapt" / run_name(options)
    if not options.force and _progress.is_finished(folder, known):
        log.info("%s is finished, of the same options, data and code: kept (--force runs it again)", folder)
    else:
        profile = Profile(device) if options.profile else None
        with Progress(folder, known, options.save_every) as kept:
            adapt_streams(build(options, given), given.clips, given.sounds, options, kept, profile)
        if profile is not None:
            print(profile.table(), file=sys.stderr)
    rows = cache.read_predictions(_progress.output(folder, "predictions"))
    sounding = metrics.sounding_classes(given.clips, given.sounds)
    path = Path("cache/metrics") / options.dataset / f"{run_name(options)}.json"
    metrics.write_json(path, metrics.summary(rows, sounding, methods.needs_labels(method_and_fusion(options)[0])))
    n_failed = sum(row["stop_reason"] == "failed" for row in rows)
    return {"n_predictions": len(rows), "n_failed": n_failed, "top1": round(metrics.top1(rows), 4)}


def main(args: Sequence[str] | None = None) -> None:
    """The command `python -m adapt`."""
    command.main(options_for, run, prog="adapt", args=args)

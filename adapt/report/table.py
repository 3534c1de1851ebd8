"""The result table (`python -m adapt.report`): one row a run and kind of answer, and how far each is from runs of
reference.

In: what each run answered (adapt/report/_runs.py), in the cache or in an archive.  Out, in cache/metrics/<dataset>/:
report.md for people, report.json for programs, accuracy.csv for `dvc plots show`.  Rows such as `vitta + plain` are the
same run with the sound fused in when predicting; they are never passed off as the adapted model's own answer.  Upper
bounds are marked as such.  Every mean has an interval, every difference an interval and a p
(adapt/report/_significance.py).
"""

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from adapt import command
from adapt.errors import MethodError
from adapt.report import _runs, _significance, metrics
from adapt.report._archive import Archive
from adapt.report._places import METRICS, Cache, Place
from adapt.report._rows import MACRO, Row, distinct, make_row, reference
from adapt.report._runs import GROUPS
from adapt.report._significance import Estimate
from adapt.tables import lock
from adapt.tables.files import replacing, write_text


@dataclass(frozen=True)
class Options:
    """What to tabulate."""

    dataset: str
    methods: tuple[str, ...]  # rows, in this order: a method, or the name that its run was given
    corruptions: tuple[str, ...]  # columns, in this order; clean is not in the mean
    severity: int = command.number(5, low=1, high=5)  # 1 to 5
    against: tuple[str, ...] = ()  # runs that the rows are compared with
    order_seeds: tuple[int, ...] = command.number((), low=0)
    """which orders of the stream count; none for all that the runs have"""
    split: str = "test"  # that the runs were made on: train, val or test
    folder: str = ""  # for runs named FOLDER/NAME: below cache/<dataset>/adapt and cache/metrics/<dataset>
    results: str = ""  # a folder made by `python -m adapt.archive`: the runs in it, in place of those of the cache
    out: str = "report"  # files are called OUT.md, OUT.json and, unless it is report, OUT.csv


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _points(estimate: Estimate | None) -> str:
    return (
        "-"
        if estimate is None
        else f"{100 * estimate.value:+.1f} ({100 * estimate.low:+.1f} to {100 * estimate.high:+.1f})"
    )


def _times(estimate: Estimate | None) -> str:
    return "-" if estimate is None else f"{estimate.value:.2f} ({estimate.low:.2f} to {estimate.high:.2f})"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [
        "| " + " | ".join(head) + " |",
        "|" + "|".join(["---"] + ["---:"] * (len(head) - 1)) + "|",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


def _optional(rows: Sequence[Row]) -> dict[str, Callable[[Row], float | None]]:
    """The columns that some tables have: head -> a row's share."""
    known: dict[str, Callable[[Row], float | None]] = {
        MACRO: lambda row: row.scores.get(MACRO),
        "mAP": lambda row: row.mean_ap,
        "left out": lambda row: row.run.left_out,
    }
    return {name: get for name, get in known.items() if any(get(row) is not None for row in rows)}


ABOUT = {  # such a column
    MACRO: " *macro* is the mean over classes, which have unequal numbers of clips.",
    "mAP": " A clip of several classes is right where the answer is any of them; *mAP* is the mean average precision.",
    "left out": " *left out* is the probability that the model gives to classes of its own that lead to none of these.",
}


def _protocol(rows: Sequence[Row], options: Options) -> str:
    first, n_failed = rows[0].run, len(frozenset().union(*(row.run.failed for row in rows)))
    n_orders, n_corruptions = len(first.order_seeds), len(metrics.averaged(options.corruptions))
    orders = (
        f"and {n_orders} orders of the stream, ± the standard deviation between these"
        if n_orders > 1
        else "in one order of the stream"
    )
    return (
        f"{len(first.clip_ids)} clips, {n_failed} of them unreadable (counted as wrong). *mean* is over "
        f"{n_corruptions} corruptions {orders}; "
        f"*95 %* is its bootstrap interval over clips ({_significance.N_RESAMPLES:,} resamples). "
        "Online, one pass, batch 1; reset between corruptions. "
        "*sounding* and *silent* are means over the classes with and without a usable sound track."
        + "".join(ABOUT[name] for name in _optional(rows))
    )


def _scores(row: Row, corruptions: Sequence[str], optional: Mapping[str, Callable[[Row], float | None]]) -> list[str]:
    mean = _percent(row.scores["all"]) + ("" if row.spread is None else f" ± {_percent(row.spread)}")
    interval = f"{_percent(row.interval.low)} to {_percent(row.interval.high)}"
    groups = [_percent(row.scores.get(group)) for group in GROUPS[1:]] + [
        _percent(get(row)) for get in optional.values()
    ]
    cost = [f"{row.run.mean_steps:.2f}", f"{row.run.ms_per_clip:.0f}"]
    return [row.name, *(_percent(row.scores[c]) for c in corruptions), mean, interval, *groups, *cost]


def _differences(rows: Sequence[Row], reference: str) -> list[str]:
    compared = [(row.name, row.against[reference]) for row in rows if reference in row.against]
    parts = list(dict.fromkeys(part for _, comparison in compared for part in comparison.differences if part != "all"))
    lines = []
    for name, comparison in compared:
        points = {part: _points(estimate) for part, estimate in comparison.differences.items()}
        p = "<0.001" if comparison.p < 0.001 else f"{comparison.p:.3f}"
        lines.append([name, points["all"], _times(comparison.ratio), *(points[part] for part in parts), p])
    return (
        ["", f"## Against {reference}", "", *_table(["method", "mean", "ratio", *parts, "p"], lines)] if lines else []
    )


def markdown(rows: Sequence[Row], options: Options) -> str:
    """The tables, top-1 in per cent."""
    optional = _optional(rows)
    lines = [
        f"# {options.dataset}: top-1 under corruption, severity {options.severity}",
        "",
        _protocol(rows, options),
        "",
    ]
    head = [
        "method",
        *options.corruptions,
        "mean",
        "95 %",
        *GROUPS[1:],
        *optional,
        "steps",
        "ms/clip",
    ]
    lines += _table(head, [_scores(row, options.corruptions, optional) for row in rows])
    if differences := [line for reference in options.against for line in _differences(rows, reference)]:
        lines += [
            "",
            "Differences in points, paired, and ratios of means, with 95 % bootstrap intervals over clips. *p* is "
            "McNemar's, exact, over all corruptions of the first order: a clip counts once a corruption there, so "
            "trust the interval more.",
            *differences,
        ]
    return "\n".join(lines) + "\n"


def _ends(estimate: Estimate, name: str, scale: float = 100.0) -> dict[str, float]:
    values = {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
    return {key: round(scale * value, 2) for key, value in values.items()}


def _numbers(row: Row) -> dict[str, object]:
    """A row as report.json has it, in per cent and points."""
    content: dict[str, object] = {name: round(100 * value, 2) for name, value in row.scores.items()}
    content |= _ends(row.interval, "all")
    if row.mean_ap is not None:
        content["map"] = round(100 * row.mean_ap, 2)
    if row.run.left_out is not None:
        content["left_out"] = round(100 * row.run.left_out, 2)
    if row.spread is not None:
        content["all_sd"] = round(100 * row.spread, 2)
    against: dict[str, dict[str, float]] = {}
    for name, comparison in row.against.items():
        against[name] = {
            key: value
            for part, estimate in comparison.differences.items()
            for key, value in _ends(estimate, part).items()
        }
        against[name] |= {} if comparison.ratio is None else _ends(comparison.ratio, "ratio", scale=1.0)
        against[name]["p"] = float(f"{comparison.p:.3g}")
    return content | ({"against": against} if against else {})


def _write_csv(path: Path, rows: Sequence[Row], corruptions: Sequence[str]) -> None:
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["method", "corruption", "top1"])
        for row in rows:
            writer.writerows((row.name, column, round(100 * row.scores[column], 2)) for column in ("all", *corruptions))


@lock.alone(lambda options: f"report.{options.out}")
def run(options: Options) -> dict[str, object]:
    """Write the three files; return the means in per cent by row.  Raises CacheError for runs that are missing or
    cannot be compared.
    """
    for name, values in {"methods": options.methods, "corruptions": options.corruptions}.items():
        if not 0 < len(set(values)) == len(values):
            raise MethodError(f"--{name} is {' '.join(values) or 'empty'}: give at least one, each once")
    place: Place = Cache(options.dataset, options.folder)
    if options.results:
        place = Archive(Path(options.results), options.dataset, options.folder)
    wanted = _runs.Wanted(options.corruptions, options.severity, options.order_seeds)
    found = {name: _runs.read(name, wanted, place) for name in options.methods}
    found |= {
        name: _runs.read(name, wanted, place) for name in options.against if name not in found and place.exists(name)
    }
    _runs.check_paired(list(found.values()))
    groups = _runs.class_groups(found[options.methods[0]], place, options.split)
    references = [reference(name, found) for name in options.against]
    rows = distinct(
        [
            make_row(found[name], answer, references, groups, options.corruptions)
            for name in options.methods
            for answer in found[name].right
        ]
    )
    folder = METRICS / options.dataset
    metrics.write_json(folder / f"{options.out}.json", {row.run.row_name(row.answer): _numbers(row) for row in rows})
    _write_csv(
        folder / ("accuracy.csv" if options.out == "report" else f"{options.out}.csv"), rows, options.corruptions
    )
    path = folder / f"{options.out}.md"
    write_text(path, markdown(rows, options))
    return {
        "n_rows": len(rows),
        "report": str(path),
        "top1": {row.name: round(100 * row.scores["all"], 2) for row in rows},
    }

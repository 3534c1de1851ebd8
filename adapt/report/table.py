"""The result table (`python -m adapt.report`): one row a run and kind of answer, and how far each is from runs of
reference.

In: what each run answered (adapt/report/_runs.py).  Out, in cache/metrics/<dataset>/: report.md for people, report.json
for programs, accuracy.csv for `dvc plots show`.  Rows such as `vitta + plain` are the same run with the sound fused in
when predicting; they are never passed off as the adapted model's own answer.  Upper bounds are marked as such.  Every
mean has an interval, every difference an interval and a p (adapt/report/_significance.py).
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from adapt import command
from adapt.errors import MethodError
from adapt.report import _runs, _significance, metrics
from adapt.report._runs import GROUPS, METRICS, Run
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
    out: str = "report"  # files are called OUT.md, OUT.json and, unless it is report, OUT.csv


@dataclass(frozen=True)
class Comparison:
    """How far a row is from a run of reference; shares, not per cent."""

    differences: dict[str, Estimate]  # of each group of classes, and of clean
    ratio: Estimate | None  # of the two means
    p: float  # McNemar's


@dataclass(frozen=True)
class Row:
    """A row of the table; shares, not per cent.  A group of classes without clips has no score."""

    run: Run
    answer: str  # alone or fused
    scores: dict[str, float]  # of each group of classes and each corruption
    interval: Estimate
    spread: float | None  # standard deviation from order to order
    against: dict[str, Comparison]  # by the name of the reference

    @property
    def name(self) -> str:
        """What the row is called; an upper bound says so."""
        return f"{self.run.row_name(self.answer)}{' (sees labels)' if self.run.sees_labels else ''}"

    @property
    def mean_ap(self) -> float | None:
        """Mean average precision, where clips have several classes."""
        return self.run.mean_ap[self.answer]


def compare(
    right: np.ndarray, other: np.ndarray, corruptions: Sequence[str], groups: dict[str, np.ndarray]
) -> Comparison:
    """Compare two runs' answers, bool (orders, corruptions, clips); p is of the first order."""
    counted = [corruptions.index(c) for c in metrics.averaged(corruptions)]
    parts = {group: (counted, mask) for group, mask in groups.items()}
    if "clean" in corruptions and len(corruptions) > 1:
        parts["clean"] = ([corruptions.index("clean")], groups["all"])
    differences = {
        p: _significance.difference(right[:, columns][..., mask], other[:, columns][..., mask])
        for p, (columns, mask) in parts.items()
    }
    ours, theirs = right[:, counted], other[:, counted]
    return Comparison(differences, _significance.ratio(ours, theirs), _significance.mcnemar(ours[0], theirs[0]))


@dataclass(frozen=True)
class Reference:
    """What rows are compared with."""

    name: str  # as it was asked for
    run: Run
    answer: str  # alone or fused; "" for the same kind as the row's, where the run has it

    def right(self, answer: str) -> np.ndarray:
        """Its answers for a row of that kind: bool (orders, corruptions, clips)."""
        return self.run.right.get(self.answer or answer, self.run.right["alone"])

    def is_row(self, run: Run, answer: str) -> bool:
        """Whether that row is the reference itself."""
        same = run.name == self.run.name or (
            self.answer == "alone" and run.row_name("alone") == self.run.row_name("alone")
        )
        return same and answer == (self.answer or answer)


def reference(name: str, found: Mapping[str, Run]) -> Reference:
    """The reference of that name among runs by name: the fused answer of vitta+plain, the answer alone of a method, or
    a run by its own name.

    Raises MethodError where there is none.
    """
    if name in found and found[name].has_own_name():
        return Reference(name, found[name], "")
    for run in found.values():
        if not run.has_own_name() and name in (run.method, f"{run.method}+{run.fusion}"):
            return Reference(name, run, "alone" if name == run.method else "fused")
    raise MethodError(f"--against {name}: no run is called so, and none is of that method; there are {sorted(found)}")


def make_row(
    run: Run, answer: str, references: Sequence[Reference], groups: dict[str, np.ndarray], corruptions: Sequence[str]
) -> Row:
    """Score one kind of answer, and compare it with each reference."""
    right = run.right[answer]
    counted = right[:, [corruptions.index(c) for c in metrics.averaged(corruptions)]]
    means = {group: float(counted[..., mask].mean()) for group, mask in groups.items()}
    singles = {corruption: float(right[:, i].mean()) for i, corruption in enumerate(corruptions)}
    others = [other for other in references if not other.is_row(run, answer)]
    against = {other.name: compare(right, other.right(answer), corruptions, groups) for other in others}
    return Row(run, answer, means | singles, _significance.mean(counted), _significance.spread(counted), against)


def _distinct(rows: Sequence[Row]) -> list[Row]:
    """Without the rows of a method alone that another run of it has shown already: its fusion does not change that.

    Raises MethodError for two runs whose rows are called the same and say something else.
    """
    kept: dict[str, Row] = {}
    for row in rows:
        first = kept.setdefault(row.name, row)
        if first is not row and not np.array_equal(first.run.right[row.answer], row.run.right[row.answer]):
            raise MethodError(
                f"runs {first.run.name} and {row.run.name} both give a row {row.name!r}, of other answers: give one "
                "another --name"
            )
    return list(kept.values())


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


def _protocol(rows: Sequence[Row], options: Options, *, has_map: bool) -> str:
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
        + (
            " A clip of several classes is right where the answer is any of them; *mAP* is the mean average precision."
            if has_map
            else ""
        )
    )


def _scores(row: Row, corruptions: Sequence[str], *, has_map: bool) -> list[str]:
    mean = _percent(row.scores["all"]) + ("" if row.spread is None else f" ± {_percent(row.spread)}")
    interval = f"{_percent(row.interval.low)} to {_percent(row.interval.high)}"
    groups = [_percent(row.scores.get(group)) for group in GROUPS[1:]] + ([_percent(row.mean_ap)] if has_map else [])
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
    has_map = any(row.mean_ap is not None for row in rows)
    lines = [
        f"# {options.dataset}: top-1 under corruption, severity {options.severity}",
        "",
        _protocol(rows, options, has_map=has_map),
        "",
    ]
    head = [
        "method",
        *options.corruptions,
        "mean",
        "95 %",
        *GROUPS[1:],
        *(["mAP"] if has_map else []),
        "steps",
        "ms/clip",
    ]
    lines += _table(head, [_scores(row, options.corruptions, has_map=has_map) for row in rows])
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
    if row.spread is not None:
        content["all_sd"] = round(100 * row.spread, 2)
    against: dict[str, dict[str, float]] = {}
    for reference, comparison in row.against.items():
        against[reference] = {
            key: value
            for part, estimate in comparison.differences.items()
            for key, value in _ends(estimate, part).items()
        }
        against[reference] |= {} if comparison.ratio is None else _ends(comparison.ratio, "ratio", scale=1.0)
        against[reference]["p"] = float(f"{comparison.p:.3g}")
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
    wanted = _runs.Wanted(options.dataset, options.corruptions, options.severity, options.order_seeds, options.folder)
    found = {name: _runs.read(name, wanted) for name in options.methods}
    found |= {
        name: _runs.read(name, wanted) for name in options.against if name not in found and _runs.exists(name, wanted)
    }
    _runs.check_paired(list(found.values()))
    groups = _runs.class_groups(found[options.methods[0]], options.dataset, options.split)
    references = [reference(name, found) for name in options.against]
    rows = _distinct(
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

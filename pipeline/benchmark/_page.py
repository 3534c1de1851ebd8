"""Our rows beside the published ones, and what differs between them, as a page of Markdown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.benchmark._published import Benchmark

STATED = 0.02  # per cent that a stated mean may be off that of its columns before the page says so


@dataclass(frozen=True)
class Ours:
    """A run's top-1 in per cent."""

    method: str
    answer: str  # alone, or fused
    n_clips: int  # of a stream
    n_failed: int  # clips of all streams that could not be read
    top1: Mapping[str, float]  # by corruption

    def __str__(self) -> str:
        return f"{self.method}, with its sound" if self.answer == "fused" else self.method


def shared(benchmark: Benchmark, ours: Sequence[Ours]) -> list[str]:
    """The corruptions that all rows have, ours and the published."""
    rows = [*(one.top1 for one in ours), *(row.top1 for row in benchmark.rows)]
    return [corruption for corruption in ours[0].top1 if all(corruption in row for row in rows)]


def mean(top1: Mapping[str, float], corruptions: Sequence[str]) -> float:
    """Over these corruptions."""
    return sum(top1[one] for one in corruptions) / len(corruptions)


def page(benchmark: Benchmark, ours: Sequence[Ours], differs: Sequence[str]) -> str:
    """The table, a line for every source, and what differs."""
    columns, counted = list(ours[0].top1), shared(benchmark, ours)
    n_counted = f"mean of {len(counted)}"
    lines = [
        f"# {benchmark.title}: top-1 in per cent",
        "",
        f"{benchmark.about[0].upper()}{benchmark.about[1:]}.",
        "",
        f"| method | of | {' | '.join(columns)} | {n_counted} |",
        f"|---|---|{'---:|' * (len(columns) + 1)}",
    ]
    for one in ours:
        lines.append(_row(str(one), "this run", one.top1, columns, counted))
    for row in benchmark.rows:
        lines.append(_row(row.method, row.source, row.top1, columns, counted))
    lines += ["", *[f"{name}: {source.where}." for name, source in benchmark.sources.items()]]
    if not benchmark.rows:
        lines.append("No figures of this benchmark are public to us: the rows are ours alone.")
    lines += ["", "## What differs", "", *[f"- {one}" for one in [*differs, *_of_sources(benchmark)]]]
    return "\n".join(lines).rstrip("\n") + "\n"


def _row(method: str, source: str, top1: Mapping[str, float], columns: Sequence[str], counted: Sequence[str]) -> str:
    cells = [f"{top1[one]:.1f}" if one in top1 else "-" for one in columns]
    cells.append(f"{mean(top1, counted):.1f}" if counted else "-")
    return f"| {method} | {source} | {' | '.join(cells)} |"


def _of_sources(benchmark: Benchmark) -> list[str]:
    said = [f"{name}: {one}" for name, source in benchmark.sources.items() for one in source.differs]
    for row in benchmark.rows:
        found = sum(row.top1.values()) / len(row.top1)
        if abs(found - row.mean) > STATED:
            stated = f"{row.mean:.2f}, its columns have {found:.2f}"
            said.append(f"{row.source}: the mean of {row.method} is stated as {stated}.")
    return said

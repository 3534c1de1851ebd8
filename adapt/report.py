"""The result table (`python -m adapt.report`): one row a method and kind of answer, from cache/metrics/<dataset>/<method>.json.

Out, in cache/metrics/<dataset>/: report.md for people, report.json for programs, accuracy.csv for `dvc plots show`.  `fused` rows are the same
run with the sound fused in when predicting; they are never passed off as the adapted model's own answer.  Upper bounds are marked as such.
"""
import csv
import json
from dataclasses import dataclass
from pathlib import Path

from adapt import metrics, stage
from adapt.errors import CacheError


@dataclass(frozen=True)
class Options:
    """What to tabulate."""

    dataset: str
    methods: tuple[str, ...]  # rows, in this order
    corruptions: tuple[str, ...]  # columns, in this order
    severity: int = 5


@dataclass(frozen=True)
class Row:
    """A row of the table; accuracies in per cent."""

    method: str
    answer: str  # alone or fused
    scores: dict[str, float]
    mean_steps: float
    ms_per_clip: float
    sees_labels: bool  # an upper bound

    @property
    def name(self) -> str:
        """What the row is called; an upper bound says so."""
        fused = ", fused" if self.answer == "fused" else ""
        return f"{self.method}{fused}{' (sees labels)' if self.sees_labels else ''}"


def collect(folder: Path, options: Options) -> list[Row]:
    """Read every method's metrics.  Raises CacheError where one is missing."""
    rows = []
    for method in options.methods:
        path = folder / f"{method}.json"
        if not path.exists():
            raise CacheError(f"{path} is missing: run `dvc repro adapt@{method}`")
        content = json.loads(path.read_text(encoding="utf-8"))
        for answer in metrics.ANSWERS:
            if answer in content:
                scores, marked = content[answer], content.get("sees_labels", False)
                rows.append(Row(method, answer, scores, content["mean_steps"], content["ms_per_clip"], marked))
    return rows


def markdown(rows: list[Row], options: Options, n_clips: int, n_failed: int) -> str:
    """The table, top-1 in per cent."""
    groups = ("all", "sounding", "silent")
    head = ["method", *options.corruptions, "mean", "sounding", "silent", "steps", "ms/clip"]
    lines = [
        f"# {options.dataset}: top-1 under corruption, severity {options.severity}",
        "",
        f"{n_clips} clips a method over {len(options.corruptions)} corruptions, {n_failed} of them unreadable (counted as wrong). "
        "Online, one pass, batch 1; reset between corruptions. "
        "*sounding* and *silent* are means over the classes with and without a usable sound track.",
        "",
        "| " + " | ".join(head) + " |",
        "|" + "|".join(["---"] + ["---:"] * (len(head) - 1)) + "|",
    ]
    for row in rows:
        cells = [f"{row.scores.get(c, float('nan')):.1f}" for c in (*options.corruptions, *groups)]
        lines.append(f"| {row.name} | " + " | ".join([*cells, f"{row.mean_steps:.2f}", f"{row.ms_per_clip:.0f}"]) + " |")
    return "\n".join(lines) + "\n"


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def run(options: Options) -> dict[str, object]:
    """Write the three reports."""
    folder = Path("cache/metrics") / options.dataset
    rows = collect(folder, options)
    first = json.loads((folder / f"{options.methods[0]}.json").read_text(encoding="utf-8"))
    _write(folder / "report.md", markdown(rows, options, first["n"], first["n_failed"]))
    metrics.write_json(folder / "report.json", {f"{row.method}/{row.answer}": row.scores for row in rows})
    temporary = folder / ".accuracy.csv.tmp"
    with temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["method", "corruption", "top1"])
        marks = {True: " (sees labels)", False: ""}
        columns = ("all", *options.corruptions)
        writer.writerows((f"{r.method} ({r.answer}){marks[r.sees_labels]}", c, r.scores[c]) for r in rows for c in columns if c in r.scores)
    temporary.replace(folder / "accuracy.csv")
    return {"n_rows": len(rows), "report": str(folder / "report.md")}


if __name__ == "__main__":
    stage.main(Options, run, prog="adapt.report")

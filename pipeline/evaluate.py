"""Compare label maps with maps that a person made: `python -m pipeline.map_labels evaluate [DATASET ...]`.

Runs from data/ alone.  A pair of sound and class is right where data/maps/reference/<dataset>.csv has it, whatever its
weight. Precision: right pairs of those that the mapper has.  Recall: right pairs of those that the reference has.
Coverage: classes with at least one right pair, of those that the reference gives any sound (a class that makes none
cannot be covered).  Where data/labels/<dataset>_with_sound.txt lists the classes whose videos carry sound, only these
count.
"""

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated

import tyro

from adapt import command
from adapt.errors import MapperError
from pipeline import mappers
from pipeline.labels.lists import LabelLists, classes_with_sound, label_lists, listed_classes
from pipeline.mappers import Settings, table

REFERENCES = table.MAPS / "reference"
SECOND_PASS = REFERENCES / "second_pass"  # pairs of each set that were judged again, shuffled, without the first answer


@dataclass(frozen=True)
class Options:
    """Compare the mappers with the reference maps."""

    datasets: tyro.conf.Positional[tuple[str, ...]] = ()  # empty: all that have a reference
    mappers: tuple[str, ...] = ("llm", "combined", "embedding", "lexical")
    min_cosine: float = command.number(Settings.min_cosine, low=-1, high=1)  # for the mapper embedding
    agreement: bool = False  # instead: how the references agree with their second pass
    json: Annotated[bool, tyro.conf.arg(name="json")] = False  # print JSON instead of a table


@dataclass(frozen=True)
class Quality:
    """How well a map agrees with a reference; the three shares are None where their whole is empty."""

    dataset: str
    mapper: str
    source: str
    n_pairs: int
    n_right: int
    n_reference: int  # pairs
    n_covered: int  # classes
    n_classes: int  # that the reference gives any sound

    @property
    def precision(self) -> float | None:
        """Right pairs of the map's."""
        return self.n_right / self.n_pairs if self.n_pairs else None

    @property
    def recall(self) -> float | None:
        """Right pairs of the reference's."""
        return self.n_right / self.n_reference if self.n_reference else None

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        return 2 * self.n_right / (self.n_pairs + self.n_reference) if self.n_pairs + self.n_reference else 0.0

    @property
    def coverage(self) -> float | None:
        """Classes with a right pair of those that have one in the reference."""
        return self.n_covered / self.n_classes if self.n_classes else None


def reference(lists: LabelLists) -> set[tuple[int, int]]:
    """The (audio_id, label_id) of the reference map, of the classes that count.  Raises MapperError where there is
    none.
    """
    path = REFERENCES / f"{lists.dataset}.csv"
    if not path.exists():
        known = sorted(file.stem for file in REFERENCES.glob("*.csv"))
        raise MapperError(f"{path} is missing: write it without looking at any mapper's map, or choose one of {known}")
    found = mappers.build("table", Settings(table=str(path)))(lists)
    counted = counted_classes(lists)
    return {(pair.audio_id, pair.label_id) for pair in found.pairs if pair.label_id in counted}


def counted_classes(lists: LabelLists) -> set[int]:
    """The label_ids of the classes whose videos carry sound."""
    return {lists.classes.index(label) for label in classes_with_sound(lists.dataset, lists.classes)}


def compare(lists: LabelLists, mapper: str, settings: Settings, right: set[tuple[int, int]]) -> Quality:
    """Build one map and count.  Raises MapperError where the mapper cannot answer."""
    found = mappers.build(mapper, settings)(lists)
    counted = counted_classes(lists)
    pairs = {(pair.audio_id, pair.label_id) for pair in found.pairs if pair.label_id in counted}
    covered = {label_id for _, label_id in pairs & right}
    n_classes = len({label_id for _, label_id in right})
    return Quality(
        lists.dataset, mapper, found.source, len(pairs), len(pairs & right), len(right), len(covered), n_classes
    )


@dataclass(frozen=True)
class Agreement:
    """How two passes over the same pairs agree."""

    dataset: str
    n_pairs: int
    n_agreed: int
    kappa: float | None  # Cohen's: 1 is agreement throughout, 0 what chance gives; None where both always say the same


def agreement(dataset: str) -> Agreement:
    """Compare the reference with data/maps/reference/second_pass/<dataset>.csv.  Raises MapperError where that is
    missing or names what is no sound or class.
    """
    path = SECOND_PASS / f"{dataset}.csv"
    if not path.exists():
        raise MapperError(f"{path} is missing: no second pass was made over {dataset}")
    lists = label_lists(dataset, listed_classes(dataset))
    right = {(lists.sounds[i], lists.classes[j]) for i, j in reference(lists)}
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    first = [(row["audio_label"], row["label"]) in right for row in rows]
    second = [row["points"] == "true" for row in rows]
    strangers = [r for r in rows if r["audio_label"] not in lists.sounds or r["label"] not in lists.classes]
    if not rows or strangers:
        raise MapperError(f"{path}: {strangers[:1] or 'no pairs'}: restore the file")
    return Agreement(dataset, len(rows), sum(a == b for a, b in zip(first, second, strict=True)), kappa(first, second))


def kappa(first: Sequence[bool], second: Sequence[bool]) -> float | None:
    """Cohen's kappa of two yes-or-no judgements of the same things; None where both always say the same."""
    n = len(first)
    agreed = sum(a == b for a, b in zip(first, second, strict=True)) / n
    yes, yes_again = sum(first) / n, sum(second) / n
    by_chance = yes * yes_again + (1 - yes) * (1 - yes_again)
    return (agreed - by_chance) / (1 - by_chance) if by_chance < 1 else None


def run(options: Options) -> list[Quality]:
    """Compare every mapper on every data set.  Raises MapperError where a reference or a map is missing."""
    rows = []
    for dataset in options.datasets or sorted(file.stem for file in REFERENCES.glob("*.csv")):
        lists = label_lists(dataset, listed_classes(dataset))
        right = reference(lists)
        rows += [compare(lists, mapper, Settings(min_cosine=options.min_cosine), right) for mapper in options.mappers]
    return rows


def markdown(rows: Sequence[Quality]) -> str:
    """A table of shares in per cent."""
    head = "| data set | mapper | pairs | precision | recall | F1 | coverage |\n|---|---|---:|---:|---:|---:|---:|\n"
    return head + "".join(
        f"| {r.dataset} | {r.mapper} | {r.n_pairs} | {_percent(r.precision)} | {_percent(r.recall)} | "
        f"{_percent(r.f1)} | {_percent(r.coverage)} |\n"
        for r in rows
    )


def agreement_table(rows: Sequence[Agreement]) -> str:
    """A table of the two passes."""
    head = "| data set | pairs | agreed | kappa |\n|---|---:|---:|---:|\n"
    return head + "".join(
        f"| {r.dataset} | {r.n_pairs} | {r.n_agreed} | {'-' if r.kappa is None else f'{r.kappa:.2f}'} |\n" for r in rows
    )


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f}"


def main(args: list[str] | None = None) -> None:
    """Run as a command."""
    command.main(Options, report, prog="pipeline.map_labels evaluate", args=args)


def report(options: Options) -> None:
    """Print what `run` finds, or the references' agreement: a table, or JSON."""
    if options.agreement:
        found = [
            agreement(name) for name in options.datasets or sorted(file.stem for file in SECOND_PASS.glob("*.csv"))
        ]
        told = json.dumps([asdict(one) for one in found]) if options.json else agreement_table(found)
        print(command.printable(told, lines=True), end="")
        return
    rows = run(options)
    if options.json:
        shares = ("precision", "recall", "f1", "coverage")
        print(
            command.printable_json(
                json.dumps([asdict(row) | {name: getattr(row, name) for name in shares} for row in rows])
            )
        )
    else:
        print(command.printable(markdown(rows), lines=True), end="")

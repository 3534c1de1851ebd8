"""Compare label maps with maps that a person made: `python -m pipeline.map_labels evaluate [DATASET ...]`.

Runs from data/ alone.  A pair of sound and class is right where data/maps/reference/<dataset>.csv has it, whatever its
weight. Precision: right pairs of those that the mapper has.  Recall: right pairs of those that the reference has.
Coverage: classes with at least one right pair, of those that the reference gives any sound (a class that makes none
cannot be covered).
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated

import tyro

from adapt import command
from adapt.errors import MapperError
from pipeline import mappers
from pipeline.labels.lists import LabelLists, label_lists, listed_classes
from pipeline.mappers import Settings, table

REFERENCES = table.MAPS / "reference"


@dataclass(frozen=True)
class Options:
    """Compare the mappers with the reference maps."""

    datasets: tyro.conf.Positional[tuple[str, ...]] = ()  # empty: all that have a reference
    mappers: tuple[str, ...] = ("llm", "embedding", "lexical")
    min_cosine: float = command.number(Settings.min_cosine, low=-1, high=1)  # for the mapper embedding
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
    def coverage(self) -> float | None:
        """Classes with a right pair of those that have one in the reference."""
        return self.n_covered / self.n_classes if self.n_classes else None


def reference(lists: LabelLists) -> set[tuple[int, int]]:
    """The (audio_id, label_id) of the reference map.  Raises MapperError where there is none."""
    path = REFERENCES / f"{lists.dataset}.csv"
    if not path.exists():
        known = sorted(file.stem for file in REFERENCES.glob("*.csv"))
        raise MapperError(f"{path} is missing: write it without looking at any mapper's map, or choose one of {known}")
    found = mappers.build("table", Settings(table=str(path)))(lists)
    return {(pair.audio_id, pair.label_id) for pair in found.pairs}


def compare(lists: LabelLists, mapper: str, settings: Settings, right: set[tuple[int, int]]) -> Quality:
    """Build one map and count.  Raises MapperError where the mapper cannot answer."""
    found = mappers.build(mapper, settings)(lists)
    pairs = {(pair.audio_id, pair.label_id) for pair in found.pairs}
    covered = {label_id for _, label_id in pairs & right}
    n_classes = len({label_id for _, label_id in right})
    return Quality(
        lists.dataset, mapper, found.source, len(pairs), len(pairs & right), len(right), len(covered), n_classes
    )


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
    head = "| data set | mapper | pairs | precision | recall | coverage |\n|---|---|---:|---:|---:|---:|\n"
    return head + "".join(
        f"| {r.dataset} | {r.mapper} | {r.n_pairs} | {_percent(r.precision)} | {_percent(r.recall)} | "
        f"{_percent(r.coverage)} |\n"
        for r in rows
    )


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f}"


def main(args: list[str] | None = None) -> None:
    """Run as a command."""
    command.main(Options, report, prog="pipeline.map_labels evaluate", args=args)


def report(options: Options) -> None:
    """Print what `run` finds: the table, or JSON."""
    rows = run(options)
    if options.json:
        shares = ("precision", "recall", "coverage")
        print(
            command.printable_json(
                json.dumps([asdict(row) | {name: getattr(row, name) for name in shares} for row in rows])
            )
        )
    else:
        print(command.printable(markdown(rows), lines=True), end="")

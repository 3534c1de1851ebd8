"""The rows of the result table: what a run answered, its scores, and how far it is from runs of reference."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from adapt.errors import MethodError
from adapt.report import _significance, metrics
from adapt.report._runs import Run
from adapt.report._significance import Estimate

MACRO = "macro"  # the mean over classes, which the mean over clips is not where classes have unequal numbers of clips


@dataclass(frozen=True)
class Comparison:
    """How far a row is from a run of reference; shares, not per cent."""

    differences: dict[str, Estimate]  # of each group of classes, of the macro mean where it differs, and of clean
    ratio: Estimate | None  # of the two means
    p: float  # McNemar's


@dataclass(frozen=True)
class Row:
    """A row of the table; shares, not per cent.  A group of classes without clips has no score, nor has the macro mean
    where each class has as many clips.
    """

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


def is_unbalanced(label_ids: Sequence[int]) -> bool:
    """Whether some class has more clips than another: then micro and macro means differ."""
    return len(set(Counter(label_ids).values())) > 1


def compare(
    right: np.ndarray, other: np.ndarray, corruptions: Sequence[str], groups: dict[str, np.ndarray],
    label_ids: Sequence[int] = (),
) -> Comparison:  # fmt: skip
    """Compare two runs' answers to clips of `label_ids`, bool (orders, corruptions, clips); p is of the first order."""
    counted = [corruptions.index(c) for c in metrics.averaged(corruptions)]
    parts = {group: (counted, mask) for group, mask in groups.items()}
    if "clean" in corruptions and len(corruptions) > 1:
        parts["clean"] = ([corruptions.index("clean")], groups["all"])
    differences = {
        p: _significance.difference(right[:, columns][..., mask], other[:, columns][..., mask])
        for p, (columns, mask) in parts.items()
    }
    ours, theirs = right[:, counted], other[:, counted]
    if is_unbalanced(label_ids):
        differences[MACRO] = _significance.macro(ours, label_ids, theirs)
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
    if is_unbalanced(run.label_ids):
        means[MACRO] = _significance.macro(counted, run.label_ids).value
    singles = {corruption: float(right[:, i].mean()) for i, corruption in enumerate(corruptions)}
    others = [other for other in references if not other.is_row(run, answer)]
    against = {other.name: compare(right, other.right(answer), corruptions, groups, run.label_ids) for other in others}
    return Row(run, answer, means | singles, _significance.mean(counted), _significance.spread(counted), against)


def distinct(rows: Sequence[Row]) -> list[Row]:
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

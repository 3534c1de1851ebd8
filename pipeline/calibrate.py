"""Learn how much each judge of a label map counts: `python -m pipeline.map_labels calibrate`.

Reads the reference maps, the recorded replies and the names, and writes data/maps/calibration.json.  A data set that
has a reference gets weights that were learned on the others, so that the table of `evaluate` measures what a new data
set would get; every other set gets those learned on all of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from adapt.tables.files import write_text
from pipeline.evaluate import REFERENCES, counted_classes, reference
from pipeline.labels import pool
from pipeline.labels.lists import LabelLists, label_lists, listed_classes
from pipeline.labels.pool import Mask, Opinions, Weights
from pipeline.mappers import combined, llm

SCORE = "score"
POOLS = {  # name of a pool -> the opinions in it
    SCORE: llm.OPINIONS,
    combined.WITH: (*llm.OPINIONS, *combined.OPINIONS),
    combined.WITHOUT: combined.OPINIONS,
}


@dataclass(frozen=True)
class Options:
    """Learn the weights of the judges on the reference maps."""

    precision: float = 0.75  # the least mean precision over the sets learned on; of such thresholds the best mean F1


def run(options: Options) -> dict[str, object]:
    """Write data/maps/calibration.json; return counts.  Raises MapperError where replies or references are missing."""
    learned = learn(tuple(POOLS), options)
    write_text(pool.CALIBRATION, pool.to_json(learned))
    return {"n_sets": len(learned[SCORE]) - 1, "out": str(pool.CALIBRATION)}


def learn(pools: Sequence[str], options: Options) -> dict[str, dict[str, Weights]]:
    """The weights of each pool, by data set.  Raises MapperError where replies or references are missing."""
    known: dict[str, dict[str, tuple[Opinions, Mask]]] = {name: {} for name in pools}
    for dataset in sorted(file.stem for file in REFERENCES.glob("*.csv")):
        lists = label_lists(dataset, listed_classes(dataset))
        right = np.zeros((len(lists.sounds), len(lists.classes)), np.bool_)
        for place in reference(lists):
            right[place] = True
        counted = np.isin(np.arange(len(lists.classes)), sorted(counted_classes(lists)))
        for name in pools:
            found = _opinions(name, lists)
            known[name][dataset] = Opinions(found.asked & counted, found.values), right
    return {name: _leave_one_out(POOLS[name], sets, options.precision) for name, sets in known.items()}


def _opinions(pool_name: str, lists: LabelLists) -> Opinions:
    if pool_name == combined.WITHOUT:
        return combined.by_names(lists)
    said = llm.replay(lists).opinions(lists)
    return said if pool_name == SCORE else combined.with_names(lists, said)


def _leave_one_out(
    names: Sequence[str], sets: Mapping[str, tuple[Opinions, Mask]], precision: float
) -> dict[str, Weights]:
    """For each set the weights learned on the others, and for sets without a reference those learned on all."""
    found = {
        left_out: pool.learn(names, {name: one for name, one in sets.items() if name != left_out}, precision)
        for left_out in sets
    }
    return found | {pool.OTHERS: pool.learn(names, sets, precision)}

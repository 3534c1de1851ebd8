"""The mapper `combined`: three judges, a language model, sentence embeddings and words, pooled to one probability.

The pool is a product of experts whose weights were learned on reference maps (pipeline/labels/pool.py).  The model's
part is recorded replies in the form `score`; where none are recorded for a data set the two other judges decide, with
weights of their own, and the log says so: who chose this mapper asked for the best map that there is.
"""

import logging

import numpy as np

from adapt.errors import MapperError
from pipeline.labels import pool, shortlist
from pipeline.labels.lists import GENERIC, LabelLists, read_list, shown
from pipeline.labels.pool import Floats, Opinions
from pipeline.llm.forms import Cut
from pipeline.llm.recording import ask_command, finished_path
from pipeline.mappers import LabelMap, Settings, _scores, lexical, llm

log = logging.getLogger(__name__)
OPINIONS = ("cosine", "described", "words")
WITH, WITHOUT = "combined", "combined_without_llm"  # pools of data/maps/calibration.json


def map_labels(lists: LabelLists, settings: Settings) -> LabelMap:
    """Pool the judges; weight: the probability, to three digits.

    Raises MapperError where recorded replies are stale or of another form, or the calibration is missing.
    """
    replies = llm.replay(lists) if finished_path(lists.dataset).exists() else None
    if replies is not None and replies.plan["form"] != "score":
        raise MapperError(
            f"{finished_path(lists.dataset)} was recorded in the form {replies.plan['form']!r}: `combined` pools "
            f"probabilities: run `{ask_command(lists, replies.plan['model'])}`, or choose the mapper llm"
        )
    if replies is None:
        log.info("no replies are recorded for %s: names alone decide", lists.dataset)
    name = WITHOUT if replies is None else WITH
    found = by_names(lists) if replies is None else with_names(lists, replies.opinions(lists))
    weights, sha256 = pool.read(name, lists.dataset)
    known = {"calibration_sha256": sha256, "weights_sha256": shortlist.WEIGHTS_SHA256}
    source = name if replies is None else f"{name}:{replies.plan['model']}"
    return LabelMap(
        _scores.pairs(lists, found, weights), source, known | ({} if replies is None else replies.provenance)
    )


def with_names(lists: LabelLists, said: Opinions) -> Opinions:
    """A model's opinions and those on the names, for the pairs on which the model has one."""
    return Opinions(said.asked, {**said.values, **_of_names(lists)})


def by_names(lists: LabelLists) -> Opinions:
    """Opinions on names alone, for the pairs that a model would be asked about; of a model's classes for all pairs,
    since hundreds of these may lead to the same class.
    """
    if lists.head:
        return Opinions(np.ones((len(lists.sounds), len(lists.classes)), dtype=np.bool_), _of_names(lists))
    near = shortlist.near_pairs(lists.sounds, [shown(c) for c in lists.classes], read_list(GENERIC), Cut.n_per_class)
    asked = np.zeros((len(lists.sounds), len(lists.classes)), dtype=np.bool_)
    for label_id, audio_ids in enumerate(near):
        asked[audio_ids, label_id] = True
    return Opinions(asked, _of_names(lists))


def _of_names(lists: LabelLists) -> dict[str, Floats]:
    """cosine: of the names; described: of AudioSet's description with the class; words: the share that `lexical`
    gives.
    """
    names, described = shortlist.cosines(lists.sounds, [shown(label) for label in lists.classes])
    described = names if lists.head else described  # by AudioSet, sounds alone
    words = np.zeros(names.shape)
    for pair in lexical.map_labels(lists, Settings()).pairs:
        words[pair.audio_id, pair.label_id] = pair.weight
    return {"cosine": names.round(3), "described": described.round(3), "words": words}

"""The mapper `llm`: replays what a language model answered when a person asked it.

`python -m pipeline.map_labels ask` writes data/replies/<dataset>.jsonl.  Here the file is only read: no network, no
key, no model, the same pairs every time.  A file that answers other questions than today's prompt and lists would ask
is an error.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from adapt.errors import MapperError
from adapt.tables.files import sha256_file
from pipeline.labels import pool
from pipeline.labels.lists import GENERIC, LabelLists, read_list
from pipeline.llm import forms
from pipeline.llm.forms import Match, Question, Record, ReplyError, read_prompt
from pipeline.llm.forms.score import Heard, Which, scores
from pipeline.llm.recording import (
    ask_command,
    finished_path,
    last_plan,
    question_sha256,
    read_records,
    stale,
    unfinished_path,
)
from pipeline.mappers import LabelMap, Pair, Settings, _scores

log = logging.getLogger(__name__)
OPINIONS = _scores.OPINIONS  # of the form score


def map_labels(lists: LabelLists, settings: Settings) -> LabelMap:
    """Replay data/replies/<dataset>.jsonl.  Of `pick` and `block`, sounds that the plan does not ask, and generic ones
    that no class needs, map to nothing; of `score`, pairs that are less likely than the threshold that was learned.

    Raises MapperError, naming the file or the sound and the command to run, where the file is missing, was recorded for
    another prompt or label list, or has no valid reply to a question of its plan.
    """
    replies = replay(lists)
    if replies.plan["form"] == "score":
        weights, sha256 = pool.read("score", lists.dataset)
        pairs = _scores.pairs(lists, replies.opinions(lists), weights)
        known = {"calibration_sha256": sha256}
    else:
        pairs = _pairs([match for _, matches in replies.answered for match in matches], lists)
        known = {"generic_sha256": sha256_file(GENERIC)}
    return LabelMap(pairs, f"llm:{replies.plan['model']}", replies.provenance | known)


@dataclass(frozen=True)
class Replies:
    """A recording as it is replayed: its plan, and each question with what its valid reply says."""

    plan: Record
    answered: list[tuple[Question, Sequence[Match]]]
    prompt_sha256: str

    @property
    def provenance(self) -> dict[str, str]:
        """What the map's file says of them."""
        return {"model": self.plan["model"], "form": self.plan["form"], "prompt_sha256": self.prompt_sha256}

    def opinions(self, lists: LabelLists) -> pool.Opinions:
        """Of a recording in the form `score`."""
        said = scores(lists, cast(list[tuple[Which | Heard, Sequence[Match]]], self.answered))
        return _scores.opinions(lists, said)


def replay(lists: LabelLists) -> Replies:
    """Read data/replies/<dataset>.jsonl.  Raises MapperError as `map_labels` does."""
    path = finished_path(lists.dataset)
    records = _read(path, lists)
    plan = last_plan(records[:1])
    if plan.get("form") not in forms.names():
        raise MapperError(f"{path} does not start with the plan of a form {forms.names()}: run `{ask_command(lists)}`")
    prompt = read_prompt(plan["form"], bool(lists.head))
    command = ask_command(lists, plan["model"], plan["form"])
    if what := stale(plan, lists, prompt):
        raise MapperError(
            f"{path} is stale: {what} has changed since it was recorded: run `{command}`{_begun(lists.dataset)}"
        )
    given = {r["question_sha256"]: r for r in records if r["kind"] == "reply" and r["error"] is None}
    answered: list[tuple[Question, Sequence[Match]]] = []
    for question in forms.build(plan["form"]).questions(plan):
        record = given.get(question_sha256(plan, prompt, question))
        if record is None:
            raise MapperError(
                f"{path} has no valid reply for the sound {question.sound!r}: run `{command}`{_begun(lists.dataset)}"
            )
        answered.append((question, _replayed(record, question, path, command)))
    if _begun(lists.dataset):
        log.info("%s is replayed%s", path, _begun(lists.dataset))
    return Replies(plan, answered, prompt.sha256)


def _read(path: Path, lists: LabelLists) -> list[Record]:
    if not path.exists():
        raise MapperError(f"{path} is missing: run `{ask_command(lists)}`{_begun(lists.dataset)}")
    return read_records(path)


def _begun(dataset: str) -> str:
    """What an interrupted recording adds to a message."""
    path = unfinished_path(dataset)
    if not path.exists():
        return ""
    n = path.read_bytes().count(b"\n")
    return f"; {path} holds a recording that was begun ({n} lines): the same `ask` command as then goes on with it"


def _replayed(record: Mapping[str, Any], question: Question, path: Path, command: str) -> Sequence[Match]:
    try:
        return question.read(record)
    except ReplyError as error:
        raise MapperError(
            f"{path}: the recorded reply for the sound {question.sound!r} is not valid: {error}: run `{command}`"
        ) from error


def _pairs(matches: Sequence[Match], lists: LabelLists) -> list[Pair]:
    """The matches that weigh something; of a generic sound only those that the model calls necessary, which says why in
    its reason.
    """
    generic = set(read_list(GENERIC))
    label_ids = {label: i for i, label in enumerate(lists.classes)}
    weighing = [match for match in matches if match.weight > 0]
    kept = [match for match in weighing if match.necessary or lists.sounds[match.audio_id] not in generic]
    if len(kept) < len(weighing):
        first = next(match for match in weighing if match not in kept)
        names = f"{lists.sounds[first.audio_id]!r} -> {first.label!r}"
        log.info(
            "left out %d pairs of generic sounds that no class needs, the first %s", len(weighing) - len(kept), names
        )
    return [Pair(match.audio_id, label_ids[match.label], match.weight, match.necessary, match.reason) for match in kept]

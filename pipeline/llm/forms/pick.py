"""The form for a small model: one sound, a few candidate classes that are near in a sentence embedding, or none of
these.

Candidates are shuffled (a small model likes to copy the first) and "none of these" stands among them: a small model
hardly ever leaves a list empty, but it can choose this.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import Template
from typing import Any

from adapt.errors import MapperError
from adapt.tables.files import sha256_text
from pipeline.labels import shortlist
from pipeline.labels.lists import LabelLists, shown
from pipeline.llm.forms import Cut, Match, Prompt, Record, each_once, match_schema, parse, quoted, read_match

SETTINGS: Record = {"temperature": 0, "seed": 0, "max_tokens": 400}
TOKENS_OUT = 50  # measured on data/replies: 41 to 63 a question
N_NEAR = 2  # sounds before the one asked about that the model is shown
NONE = "none of these"


@dataclass(frozen=True)
class Question:
    """One sound and the classes among which the model picks, in the order in which it sees them."""

    audio_id: int
    sound: str
    near: tuple[
        str, ...
    ]  # the sounds listed before it: AudioSet lists kinds after their kin, which tells homonyms apart
    candidates: tuple[str, ...]
    n_sounds: int = 1

    def messages(self, prompt: Prompt) -> list[Record]:
        """The two messages of a first attempt."""
        user = Template(prompt.user).substitute(
            sound=quoted(self.sound), near=quoted(list(self.near)), classes=quoted(self._choices())
        )
        return [{"role": "system", "content": prompt.system}, {"role": "user", "content": user}]

    def schema(self) -> Record:
        """The JSON schema of a reply: only the candidates can be named.

        `made_by` comes first so that a small model has said what it hears before it picks: without it, it hardly ever
        picks nothing.
        """
        matches = match_schema(self._choices(), len(self.candidates))
        reply = {"made_by": {"type": "string", "maxLength": 60}, "matches": matches}
        return {"type": "object", "properties": reply, "required": list(reply), "additionalProperties": False}

    def read(self, reply: Mapping[str, Any]) -> list[Match]:
        """The classes that a reply picks, "none of these" left out.  Raises ReplyError with the rule that it breaks."""
        names = {shown(label): label for label in self.candidates} | {NONE: NONE}
        found = [
            read_match(item, self.audio_id, names) for item in parse(reply["raw"], reply["finish_reason"], "matches")
        ]
        return each_once([match for match in found if match.label != NONE])

    def _choices(self) -> list[str]:
        return [*(shown(label) for label in self.candidates), NONE]


def cut(size: Cut) -> Record:
    """What decides which sounds are asked with which candidates."""
    settings = {"method": shortlist.METHOD, "reach": shortlist.REACH, "decay": shortlist.DECAY}
    return {"shortlist": settings | {"floor": size.floor, "top_n": size.top_n}}


def asked(lists: LabelLists, size: Cut) -> list[Record]:
    """The sounds that have a class near them, each with its candidates.  Raises MapperError where a class is called
    "none of these".
    """
    if NONE in map(shown, lists.classes):
        raise MapperError(
            f"a class of {lists.dataset} is called {NONE!r}, which the form pick says itself: rename it or use --form "
            "block"
        )
    found = shortlist.shortlist(lists.sounds, [shown(label) for label in lists.classes], size.floor, size.top_n)
    return [
        {
            "audio_id": i,
            "sound": sound,
            "near": list(lists.sounds[max(0, i - N_NEAR) : i]),
            "candidates": _shuffled(sound, lists, found[i]),
        }
        for i, sound in enumerate(lists.sounds)
        if found[i]
    ]


def _shuffled(sound: str, lists: LabelLists, label_ids: Sequence[int]) -> list[str]:
    """The candidates in an order that only the names decide."""
    names = sorted(lists.classes[i] for i in label_ids)
    random.Random(sha256_text(sound, names)).shuffle(names)
    return names


def questions(plan: Mapping[str, Any]) -> list[Question]:
    """The questions that a plan holds, in sound order."""
    return [Question(q["audio_id"], q["sound"], tuple(q["near"]), tuple(q["candidates"])) for q in plan["asked"]]

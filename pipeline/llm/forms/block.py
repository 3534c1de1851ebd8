"""The form for a strong model: a block of sounds against all classes in one request, every sound answered, most with an
empty list.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from string import Template
from typing import Any

from adapt.errors import MapperError
from pipeline.labels.lists import LabelLists, shown
from pipeline.llm.forms import (
    Cut,
    Match,
    Prompt,
    Record,
    ReplyError,
    each_once,
    match_schema,
    parse,
    quoted,
    read_match,
)

SETTINGS: Record = {"temperature": 0, "seed": 0, "max_tokens": 8000}
TOKENS_OUT = 30  # a sound: an empty list takes about 15, a match about 40
MAX_MATCHES = 8  # a sound that fits more classes tells nothing
N_NAMED = 5  # faults that one message tells


@dataclass(frozen=True)
class Question:
    """A block of sounds and all classes, both in list order."""

    audio_ids: tuple[int, ...]
    sounds: tuple[str, ...]
    classes: tuple[str, ...]

    @property
    def audio_id(self) -> int:
        """Of the block's first sound."""
        return self.audio_ids[0]

    @property
    def sound(self) -> str:
        """What a message calls the block."""
        return self.sounds[0] if len(self.sounds) == 1 else f"{self.sounds[0]} ... {self.sounds[-1]}"

    @property
    def n_sounds(self) -> int:
        """How many sounds the block has."""
        return len(self.sounds)

    def messages(self, prompt: Prompt) -> list[Record]:
        """The two messages of a first attempt."""
        classes = [shown(label) for label in self.classes]
        user = Template(prompt.user).substitute(
            n=len(self.sounds), sounds=quoted(list(self.sounds)), classes=quoted(classes)
        )
        return [{"role": "system", "content": prompt.system}, {"role": "user", "content": user}]

    def schema(self) -> Record:
        """The JSON schema of a reply: every sound, each with classes of the list only."""
        matches = match_schema([shown(label) for label in self.classes], min(MAX_MATCHES, len(self.classes)))
        entry = {"sound": {"type": "string", "enum": list(self.sounds)}, "matches": matches}
        item = {"type": "object", "properties": entry, "required": list(entry), "additionalProperties": False}
        sounds = {"type": "array", "items": item, "minItems": len(self.sounds), "maxItems": len(self.sounds)}
        return {
            "type": "object",
            "properties": {"sounds": sounds},
            "required": ["sounds"],
            "additionalProperties": False,
        }

    def read(self, reply: Mapping[str, Any]) -> list[Match]:
        """The matches of all sounds.  Raises ReplyError naming the first sounds that are missing, not asked, or
        answered wrongly.
        """
        given: dict[str, list[Any]] = {}
        faults = []
        for entry in parse(reply["raw"], reply["finish_reason"], "sounds"):
            if (
                not isinstance(entry, dict)
                or not isinstance(entry.get("sound"), str)
                or not isinstance(entry.get("matches"), list)
            ):
                raise ReplyError('an item of "sounds" is not an object with a string "sound" and a list "matches"')
            if entry["sound"] not in self.sounds:
                faults.append(f"the sound {entry['sound']!r} was not asked")
            elif given.setdefault(entry["sound"], entry["matches"]) is not entry["matches"]:
                faults.append(f"the sound {entry['sound']!r} is answered twice")
        if missing := [sound for sound in self.sounds if sound not in given]:
            first = ", ".join(map(repr, missing[:N_NAMED]))
            faults.append(f"{len(given)} of {len(self.sounds)} sounds are answered, missing: {first}")
        names = {shown(label): label for label in self.classes}
        found = []
        for audio_id, sound in zip(self.audio_ids, self.sounds, strict=True):
            try:
                found += each_once([read_match(item, audio_id, names) for item in given.get(sound, [])])
            except ReplyError as error:
                faults.append(f"the sound {sound!r}: {error}")
        if faults:
            raise ReplyError("; ".join(faults[:N_NAMED]))
        return found


def cut(size: Cut) -> Record:
    """What decides which sounds share a question."""
    return {"block_size": size.block_size}


def asked(lists: LabelLists, size: Cut) -> list[Record]:
    """All sounds, `block_size` at a time.  Raises MapperError where that is less than one."""
    if size.block_size < 1:
        raise MapperError(f"--block_size {size.block_size}: a block needs at least one sound")
    starts = range(0, len(lists.sounds), size.block_size)
    return [
        {"audio_id": i, "sounds": list(lists.sounds[i : i + size.block_size]), "classes": list(lists.classes)}
        for i in starts
    ]


def questions(plan: Mapping[str, Any]) -> list[Question]:
    """The questions that a plan holds, in sound order."""
    return [
        Question(tuple(range(q["audio_id"], q["audio_id"] + len(q["sounds"]))), tuple(q["sounds"]), tuple(q["classes"]))
        for q in plan["asked"]
    ]

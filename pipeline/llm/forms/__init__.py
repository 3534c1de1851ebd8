"""The door of the question forms: how sounds and classes are put to a language model, and what counts as an answer.

Three forms: `score` asks for one token at a time and reads its probability, which makes the best map of a small model
and needs an endpoint that gives logprobs; `pick` asks about one sound and a few candidate classes and reads what the
model writes; `block` asks about a block of sounds and all classes at once, which takes a strong model and a fiftieth of
the requests.  A form has prompt files of its own in data/prompts, and every name that it shows is untrusted text:
quoted as JSON, and an answer can only name what was asked.
"""

import importlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

from adapt.errors import MapperError
from adapt.tables.files import sha256_text
from pipeline.labels.lists import LabelLists, shown
from pipeline.llm.forms._reading import objects
from pipeline.llm.forms._reading import without_reasoning as without_reasoning

PROMPTS = Path("data/prompts")
OF_CLASSES = ("score",)  # forms with a prompt about the classes of a model's head in the sounds' place
MAX_REASON = 200  # characters
Record = dict[str, Any]


class ReplyError(MapperError):
    """A reply breaks a rule; the message is what the model is told when it is asked again."""


@dataclass(frozen=True)
class Prompt:
    """The two files of data/prompts of one form: a system and a user turn; of `score` a script for each question."""

    system: str
    user: str

    @property
    def sha256(self) -> str:
        """Hash of both texts: recorded with the replies."""
        return sha256_text(self.system, self.user)


@dataclass(frozen=True)
class Match:
    """One class that a valid reply gives to one sound."""

    audio_id: int
    label: str  # as the class list has it
    weight: float  # in [0, 1]
    necessary: bool
    reason: str


@dataclass(frozen=True)
class Cut:
    """How the work is cut into questions; each form reads what concerns it."""

    floor: float = 0.42  # pick: cosine under which no class is near enough to ask about the sound
    top_n: int = 5  # pick: candidate classes a sound
    block_size: int = 30  # block: sounds a question
    n_per_class: int = 12  # score: sounds that are asked about, of a class on average
    n_orders: int = 1  # score: shuffled orders of the options


class Question(Protocol):
    """What one request asks."""

    @property
    def audio_id(self) -> int:
        """Of its first sound: recordings stand in this order."""
        ...

    @property
    def sound(self) -> str:
        """What a message calls it."""
        ...

    @property
    def n_sounds(self) -> int:
        """How many sounds it asks about."""
        ...

    def messages(self, prompt: Prompt) -> list[Record]:
        """The messages of a first attempt."""
        ...

    def schema(self) -> Record | None:
        """The JSON schema of a reply; None where it is plain text."""
        ...

    def read(self, reply: Mapping[str, Any]) -> list[Match]:
        """Check a recorded reply (raw, finish_reason, top_logprobs).  Raises ReplyError with the rule that it
        breaks.
        """
        ...


class Form(Protocol):
    """What each file of this folder has."""

    SETTINGS: Record  # of sampling, sent with every request
    TOKENS_OUT: int  # a sound, about; for estimates

    def cut(self, size: Cut) -> Record:
        """What the plan says of how the work was cut: where it differs, the questions do."""
        ...

    def asked(self, lists: LabelLists, size: Cut) -> list[Record]:
        """The questions as the plan holds them."""
        ...

    def questions(self, plan: Mapping[str, Any]) -> Sequence[Question]:
        """The questions that a plan holds, in sound order."""
        ...


def names() -> list[str]:
    """The forms there are: the files of this folder."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if not path.stem.startswith("_"))


def build(name: str) -> Form:
    """Import the form `name`, one of `names()`."""
    return cast(Form, importlib.import_module(f"pipeline.llm.forms.{name}"))


def read_prompt(form: str, head: bool = False) -> Prompt:
    """Read the prompt of `form`, about a model's classes where `head`.  Raises MapperError where a file is missing, or
    the form asks about sounds alone.
    """
    if head and form not in OF_CLASSES:
        raise MapperError(f"the form {form!r} asks about sounds: of a model's classes ask with --form {OF_CLASSES[0]}")
    paths = [PROMPTS / name for name in prompt_files(form, head)]
    if missing := [str(path) for path in paths if not path.exists()]:
        raise MapperError(f"{' and '.join(missing)} missing: run from the project's root")
    try:
        return Prompt(*(path.read_text(encoding="utf-8") for path in paths))
    except UnicodeDecodeError as error:
        raise MapperError(f"{paths[0].parent}: a prompt is not UTF-8 ({error}): save it as UTF-8") from error


def prompt_files(form: str, head: bool = False) -> tuple[str, str]:
    """The names of a form's two files in data/prompts."""
    first, second = ("which", "heard") if form == "score" else ("system", "user")
    about = "classes_" if head else ""
    return f"{about}{form}_{first}.txt", f"{about}{form}_{second}.txt"


def quoted(names: object) -> str:
    """A name, or a list of names, as JSON on one line: it cannot leave its place in the prompt."""
    return json.dumps(names, ensure_ascii=False)


def is_cut(finish_reason: str | None) -> bool:
    """Whether a reply ended at the token limit, in the words of OpenAI or of those behind a proxy."""
    return str(finish_reason).lower() in ("length", "max_tokens")


def is_refusal(finish_reason: str | None) -> bool:
    """Whether the model, or a filter, would not answer."""
    return finish_reason in ("refusal", "content_filter")


def parse(raw: str, finish_reason: str | None, member: str) -> list[Any]:
    """The list `member` of a reply, which may stand after reasoning, in fences, or between sentences.

    Raises ReplyError where the reply was cut off, refused, is empty, or has no such list, or two that differ.
    """
    if is_cut(finish_reason):
        raise ReplyError("the reply was cut off at the token limit: answer shorter")
    if is_refusal(finish_reason):
        raise ReplyError(
            f"the model refused to answer ({finish_reason}): {_one_line(raw)!r}: the question is only about names of "
            "sounds"
        )
    answer = without_reasoning(raw)
    if not answer.strip():
        raise ReplyError("the reply is empty" if not raw.strip() else "the reply holds reasoning and no answer")
    values = objects(answer)
    if not values:
        raise ReplyError(f"the reply is not JSON: {_one_line(answer)[:80]!r}")
    found: list[list[Any]] = [
        value[member] for value in values if isinstance(value, dict) and isinstance(value.get(member), list)
    ]
    if not found:
        raise ReplyError(f'the reply is not an object with a list "{member}"')
    if len(found) > 1:
        raise ReplyError(f'the reply holds {len(found)} different objects with a list "{member}": give one')
    return found[0]


def match_schema(shown_classes: Sequence[str], max_items: int) -> Record:
    """The JSON schema of the list of a sound's matches."""
    match = {
        "class": {"type": "string", "enum": list(shown_classes)},
        "reason": {"type": "string", "maxLength": MAX_REASON},
        "necessary": {"type": "boolean"},
        "weight": {"type": "number", "minimum": 0, "maximum": 1},
    }
    item = {"type": "object", "properties": match, "required": list(match), "additionalProperties": False}
    return {"type": "array", "items": item, "maxItems": max_items}


def read_match(item: object, audio_id: int, names: Mapping[str, str]) -> Match:
    """Check one match; `names`: shown class -> class.  Raises ReplyError with the rule that it breaks."""
    if not isinstance(item, dict) or not {"class", "weight", "necessary", "reason"} <= item.keys():
        raise ReplyError('an item of "matches" lacks one of "class", "weight", "necessary", "reason"')
    label, weight, necessary, reason = item["class"], item["weight"], item["necessary"], item["reason"]
    if not isinstance(label, str) or label not in names:
        raise ReplyError(f"class {label!r} is not one of {list(names)}")
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight <= 1:
        raise ReplyError(f"the weight of {label!r} is {weight!r}, not a number from 0 to 1")
    if not isinstance(necessary, bool):
        raise ReplyError(f'"necessary" of {label!r} is {necessary!r}, not true or false')
    if not isinstance(reason, str) or not reason.strip():
        raise ReplyError(f"the reason for {label!r} is empty")
    return Match(audio_id, names[label], float(weight), necessary, _one_line(reason))


def each_once(matches: list[Match]) -> list[Match]:
    """The matches of one sound as they are.  Raises ReplyError where two name the same class."""
    labels = [match.label for match in matches]
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        raise ReplyError(f"class {shown(twice[0])!r} is named twice")
    return matches


def _one_line(text: str) -> str:
    """At most MAX_REASON characters without line breaks and terminal codes."""
    return re.sub(r"[\s\x00-\x1f\x7f-\x9f]+", " ", text).strip()[:MAX_REASON].rstrip()

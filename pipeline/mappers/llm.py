"""The mapper `llm`: replays what a language model answered, once per sound, when a person asked it.

`python -m pipeline.map_labels ask` writes data/replies/<dataset>.jsonl: first the plan (label list hashes, prompt hash, which
sounds are asked with which candidate classes), then every reply as it came.  Here the file is only read: no network, no key, no
model, the same pairs every time.  A file that answers other questions than today's prompt and lists would ask is an error.
"""
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

from pipeline.cache import sha256_text
from pipeline.errors import MapperError
from pipeline.mappers import LabelLists, LabelMap, Pair

PROMPTS = Path("data/prompts")
REPLIES = Path("data/replies")
SYSTEM_PROMPT, USER_PROMPT = "pick_system.txt", "pick_user.txt"
MAX_REASON = 200  # characters
NONE = "none of these"  # listed among the candidates: a small model hardly ever leaves a list empty, but it can choose this
Record = dict[str, Any]


class ReplyError(MapperError):
    """A reply breaks a rule; the message is what the model is told when it is asked again."""


@dataclass(frozen=True)
class Prompt:
    """The two files of data/prompts that make a question."""

    system: str
    user: str

    @property
    def sha256(self) -> str:
        """Hash of both texts: recorded with the replies."""
        return sha256_text(self.system, self.user)


@dataclass(frozen=True)
class Question:
    """One sound and the classes among which the model picks, in the order in which it sees them."""

    audio_id: int
    sound: str
    near: tuple[str, ...]  # the sounds listed around it: AudioSet lists kinds after their kin, which tells homonyms apart
    candidates: tuple[str, ...]


@dataclass(frozen=True)
class Match:
    """One class of a valid reply."""

    label: str
    weight: float  # in [0, 1]
    necessary: bool
    reason: str


def read_prompt() -> Prompt:
    """Read data/prompts.  Raises MapperError where a file is missing."""
    missing = [str(PROMPTS / name) for name in (SYSTEM_PROMPT, USER_PROMPT) if not (PROMPTS / name).exists()]
    if missing:
        raise MapperError(f"{' and '.join(missing)} missing: run from the project's root")
    return Prompt((PROMPTS / SYSTEM_PROMPT).read_text(encoding="utf-8"), (PROMPTS / USER_PROMPT).read_text(encoding="utf-8"))


def shown(label: str) -> str:
    """A class name as the model sees it: `drum_kit` is `drum kit`."""
    return label.replace("_", " ")


def messages(prompt: Prompt, question: Question) -> list[Record]:
    """The two messages of a first attempt.  Names are untrusted text: they go in as JSON strings."""
    user = Template(prompt.user).substitute(
        sound=json.dumps(question.sound, ensure_ascii=False),
        near=json.dumps(list(question.near), ensure_ascii=False),
        classes=json.dumps([*(shown(label) for label in question.candidates), NONE], ensure_ascii=False),
    )
    return [{"role": "system", "content": prompt.system}, {"role": "user", "content": user}]


def schema(question: Question) -> Record:
    """The JSON schema of a reply: only the candidates can be named.

    `made_by` comes first so that a small model has said what it hears before it picks: without it, it hardly ever picks nothing.
    """
    match = {
        "class": {"type": "string", "enum": [*(shown(label) for label in question.candidates), NONE]},
        "reason": {"type": "string", "maxLength": MAX_REASON},
        "necessary": {"type": "boolean"},
        "weight": {"type": "number", "minimum": 0, "maximum": 1},
    }
    item = {"type": "object", "properties": match, "required": list(match), "additionalProperties": False}
    matches = {"type": "array", "items": item, "maxItems": len(question.candidates)}
    reply = {"made_by": {"type": "string", "maxLength": 60}, "matches": matches}
    return {"type": "object", "properties": reply, "required": list(reply), "additionalProperties": False}


def question_sha256(plan: Mapping[str, Any], prompt: Prompt, question: Question) -> str:
    """The key of a reply: it answers this question, asked of the plan's model with its settings, and no other."""
    return sha256_text(plan["model"], plan["settings"], messages(prompt, question), schema(question))


def read_reply(raw: str, finish_reason: str | None, question: Question) -> list[Match]:
    """Parse and check one reply.  Raises ReplyError with the rule that it breaks."""
    if finish_reason == "length":
        raise ReplyError("the reply was cut off at the token limit: answer shorter")
    try:
        reply = json.loads(raw)
    except json.JSONDecodeError as error:
        raise ReplyError(f"the reply is not JSON ({error})") from None
    if not isinstance(reply, dict) or not isinstance(reply.get("matches"), list):
        raise ReplyError('the reply is not an object with a list "matches"')
    found = [match for item in reply["matches"] if (match := _read_match(item, question)).label != NONE]
    twice = sorted({match.label for match in found if sum(other.label == match.label for other in found) > 1})
    if twice:
        raise ReplyError(f"class {shown(twice[0])!r} is named twice")
    return found


def _read_match(item: object, question: Question) -> Match:
    if not isinstance(item, dict) or not {"class", "weight", "necessary", "reason"} <= item.keys():
        raise ReplyError('an item of "matches" lacks one of "class", "weight", "necessary", "reason"')
    label, weight, necessary, reason = item["class"], item["weight"], item["necessary"], item["reason"]
    names = {shown(name): name for name in question.candidates} | {NONE: NONE}
    if not isinstance(label, str) or label not in names:
        raise ReplyError(f"class {label!r} is not one of {list(names)}")
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight <= 1:
        raise ReplyError(f"the weight of {label!r} is {weight!r}, not a number from 0 to 1")
    if not isinstance(necessary, bool):
        raise ReplyError(f'"necessary" of {label!r} is {necessary!r}, not true or false')
    if not isinstance(reason, str) or not reason.strip():
        raise ReplyError(f"the reason for {label!r} is empty")
    return Match(names[label], float(weight), necessary, re.sub(r"\s+", " ", reason).strip()[:MAX_REASON])


def ask_command(dataset: str, model: str = "MODEL") -> str:
    """The command that brings data/replies/<dataset>.jsonl up to date."""
    return f"python -m pipeline.map_labels ask {dataset} --base_url URL --model {model}"


def read_records(path: Path) -> list[Record]:
    """The lines of a replies file.  Raises MapperError for a line that is no JSON object, the last one excepted.

    A kill may tear the last line; that reply was never finished and counts as not given.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines):
                break
            raise MapperError(f"{path}, line {number}: not JSON ({error}): restore the file, replies are never edited") from None
        if not isinstance(record, dict):
            raise MapperError(f"{path}, line {number}: not a JSON object: restore the file, replies are never edited")
        records.append(record)
    return records


def questions(plan: Mapping[str, Any]) -> list[Question]:
    """The questions that a plan line holds, in sound order."""
    return [Question(q["audio_id"], q["sound"], tuple(q["near"]), tuple(q["candidates"])) for q in plan["asked"]]


def stale(plan: Mapping[str, Any], lists: LabelLists, prompt: Prompt) -> str | None:
    """What has changed since `plan` was recorded, or None."""
    today = {
        "sounds_sha256": ("data/labels/audioset.csv", lists.sounds_sha256),
        "classes_sha256": (f"the class list of {lists.dataset}", lists.classes_sha256),
        "prompt_sha256": (f"{PROMPTS}/{SYSTEM_PROMPT} or {USER_PROMPT}", prompt.sha256),
    }
    return next((what for name, (what, sha256) in today.items() if plan.get(name) != sha256), None)


def map_labels(lists: LabelLists) -> LabelMap:
    """Replay data/replies/<dataset>.jsonl.  Sounds that the plan does not ask map to nothing.

    Raises MapperError, naming the file or the sound and the command to run, where the file is missing, was recorded for another
    prompt or label list, or has no valid reply to a question of its plan.
    """
    path = REPLIES / f"{lists.dataset}.jsonl"
    if not path.exists():
        raise MapperError(f"{path} is missing: run `{ask_command(lists.dataset)}`")
    records = read_records(path)
    plan = records[0] if records else {}
    if plan.get("kind") != "plan":
        raise MapperError(f"{path} does not start with a plan: run `{ask_command(lists.dataset)}`")
    prompt, command = read_prompt(), ask_command(lists.dataset, plan["model"])
    if what := stale(plan, lists, prompt):
        raise MapperError(f"{path} is stale: {what} has changed since it was recorded: run `{command}`")
    given = {r["question_sha256"]: r for r in records[1:] if r["error"] is None}
    label_ids = {label: i for i, label in enumerate(lists.classes)}
    pairs = []
    for question in questions(plan):
        record = given.get(question_sha256(plan, prompt, question))
        if record is None:
            raise MapperError(f"{path} has no valid reply for the sound {question.sound!r}: run `{command}`")
        for match in _replayed(record, question, path, command):
            if match.weight > 0:
                pairs.append(Pair(question.audio_id, label_ids[match.label], match.weight, match.necessary, match.reason))
    return LabelMap(pairs, f"llm:{plan['model']}", {"model": plan["model"], "prompt_sha256": prompt.sha256})


def _replayed(record: Mapping[str, Any], question: Question, path: Path, command: str) -> Sequence[Match]:
    try:
        return read_reply(record["raw"], record["finish_reason"], question)
    except ReplyError as error:
        raise MapperError(f"{path}: the recorded reply for the sound {question.sound!r} is not valid: {error}: run `{command}`") from error

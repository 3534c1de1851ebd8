"""The form for any model behind an endpoint that gives logprobs: one token is asked for, its probability is read.

Two questions.  *Which*: one sound, the classes as lettered options and "none of these"; the probability of each letter.
The options stand in shuffled orders that only the names decide, so that no class gains by its place.  *Heard*, the
reverse: one sound, one class, is it made by what the video shows; the probability of yes.  The first knows what else a
sound could be, the second that it may be nothing at all.  The part that is the same for many questions comes first, so
that a server which keeps the last prompt reads only a few tokens a question.
"""

import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import Template
from typing import Any

import numpy as np
import numpy.typing as npt

from adapt.errors import MapperError
from adapt.tables.files import sha256_text
from pipeline.labels import shortlist
from pipeline.labels.lists import GENERIC, LabelLists, classes_with_sound, read_list, shown
from pipeline.llm.forms import Cut, Match, Prompt, Record, ReplyError, quoted

SETTINGS: Record = {"temperature": 0, "seed": 0, "max_tokens": 1, "logprobs": True, "top_logprobs": 20}
TOKENS_OUT = 1
LETTERS = "ABCDEFGHIJKLMNOPQRS"  # 18 classes and none: an endpoint tells the 20 likeliest tokens
NONE = "none of these"
LEAST = 1e-4  # probabilities under it say the same
MIN_SEEN = 0.05  # probability of all possible answers together, under which the model was not answering the question


class NoLogprobsError(MapperError):
    """The endpoint answers without logprobs: this form cannot be asked there."""


@dataclass(frozen=True)
class Which:
    """One sound, and the lettered classes in the order in which the model sees them."""

    audio_id: int
    sound: str
    classes: tuple[str, ...]
    n_sounds: int = 1

    def messages(self, prompt: Prompt) -> list[Record]:
        """The turns of data/prompts/score_which.txt; two classes answer for their own names as examples."""
        options = [*map(shown, self.classes), NONE]
        lines = "\n".join(f"{LETTERS[i]}) {quoted(option)}" for i, option in enumerate(options))
        known = {"options": lines, "none": LETTERS[len(self.classes)], "sound": quoted(self.sound)}
        for n, i in enumerate((len(self.classes) // 3, (2 * len(self.classes)) // 3), start=1):
            known |= {f"example_{n}": quoted(shown(self.classes[i])), f"letter_{n}": LETTERS[i]}
        return _turns(prompt.system, known)

    def schema(self) -> None:
        """None: the answer is one token of plain text."""

    def read(self, reply: Mapping[str, Any]) -> list[Match]:
        """For each class the probability of its letter.  Raises ReplyError where hardly any letter is likely, and
        NoLogprobsError.
        """
        names = {letter.lower(): i for i, letter in enumerate(LETTERS[: len(self.classes) + 1])}
        shares = _shares(reply, names | {"none": len(self.classes)}, len(self.classes) + 1)
        return [Match(self.audio_id, label, shares[i], False, "") for i, label in enumerate(self.classes)]


@dataclass(frozen=True)
class Heard:
    """One sound and one class: yes or no."""

    audio_id: int
    sound: str
    label: str
    n_sounds: int = 1

    def messages(self, prompt: Prompt) -> list[Record]:
        """The turns of data/prompts/score_heard.txt."""
        return _turns(prompt.user, {"video": quoted(shown(self.label)), "sound": quoted(self.sound)})

    def schema(self) -> None:
        """None: the answer is one token of plain text."""

    def read(self, reply: Mapping[str, Any]) -> list[Match]:
        """The probability of yes.  Raises ReplyError where neither yes nor no is likely, and NoLogprobsError."""
        return [Match(self.audio_id, self.label, _shares(reply, {"yes": 0, "no": 1}, 2)[0], False, "")]


def _turns(script: str, known: Mapping[str, str]) -> list[Record]:
    """The messages of a script whose turns begin with `## role`; the turns are told apart before a name comes in."""
    parts = re.split(r"^## (system|user|assistant)\n", script, flags=re.MULTILINE)[1:]
    return [
        {"role": role, "content": Template(text.strip()).substitute(known)}
        for role, text in zip(parts[::2], parts[1::2], strict=True)
    ]


def _shares(reply: Mapping[str, Any], names: Mapping[str, int], n: int) -> list[float]:
    """How likely each of `n` answers is, of all of them together; `names`: lower-case token -> answer.

    An answer that is not among the tokens told is taken as likely as the least likely of these.
    """
    told = reply.get("top_logprobs")
    if not told:
        raise NoLogprobsError(
            "the endpoint tells no logprobs of its answer, which the form score reads: turn them on there "
            "(llama-cpp-python: --logits_all true), or ask with --form pick or --form block"
        )
    seen = [0.0] * n
    for token, logprob in told:
        answer = names.get(token.strip(" \t\n().:\"'*").lower())
        if answer is not None:
            seen[answer] += math.exp(min(logprob, 0.0))
    if sum(seen) < MIN_SEEN:
        raise ReplyError(f"answer with one of {', '.join(names)} alone: {told[0][0]!r} is none")
    least = min(math.exp(min(logprob, 0.0)) for _, logprob in told)
    filled = [share or least for share in seen]
    return [share / sum(filled) for share in filled]


def cut(size: Cut) -> Record:
    """What decides which pairs are asked about, and in how many orders."""
    return {"shortlist": {"method": shortlist.PER_CLASS, "n_per_class": size.n_per_class}, "n_orders": size.n_orders}


def asked(lists: LabelLists, size: Cut) -> list[Record]:
    """Each order's lists of at most 18 classes with the sounds asked, then each sound with its classes.

    Raises MapperError where a class is called "none of these".
    """
    if NONE in map(shown, lists.classes):
        raise MapperError(
            f"a class of {lists.dataset} is called {NONE!r}, which the form score says itself: rename it or use --form "
            "block"
        )
    classes = classes_with_sound(lists.dataset, lists.classes)
    generic = [] if lists.head else read_list(GENERIC)
    near = shortlist.near_pairs(
        lists.sounds, [shown(label) for label in classes], generic, size.n_per_class, bool(lists.head)
    )
    nearest = dict(zip(classes, near, strict=True))
    found: list[Record] = []
    for order in range(size.n_orders):
        for options in _lists(classes, order):
            ids = sorted({i for label in options for i in nearest[label]})
            found.append({"classes": options, "audio_ids": ids, "sounds": [lists.sounds[i] for i in ids]})
    for i, sound in enumerate(lists.sounds):
        heard = [label for label in classes if i in nearest[label]]
        found.append({"audio_id": i, "sound": sound, "heard": heard})
    return [entry for entry in found if entry.get("audio_ids") or entry.get("heard")]


def _lists(classes: Sequence[str], order: int) -> list[list[str]]:
    """The classes in an order that only their names and its number decide, in lists of about the same length."""
    names = sorted(classes)
    random.Random(sha256_text(order, names)).shuffle(names)
    n_lists = -(-len(names) // (len(LETTERS) - 1))
    return [names[i * len(names) // n_lists : (i + 1) * len(names) // n_lists] for i in range(n_lists)]


def questions(plan: Mapping[str, Any]) -> list[Which | Heard]:
    """The questions that a plan holds: those with the same beginning follow one another."""
    found: list[Which | Heard] = []
    for entry in plan["asked"]:
        if "heard" in entry:
            found += [Heard(entry["audio_id"], entry["sound"], label) for label in entry["heard"]]
        else:
            classes = tuple(entry["classes"])
            found += [Which(i, sound, classes) for i, sound in zip(entry["audio_ids"], entry["sounds"], strict=True)]
    return found


@dataclass(frozen=True)
class Scores:
    """What the replies of one recording say, (A, K): log-probabilities of the letter, log-odds of yes; NaN where it was
    not asked.
    """

    which: npt.NDArray[np.float64]
    heard: npt.NDArray[np.float64]


def scores(lists: LabelLists, answered: Sequence[tuple[Which | Heard, Sequence[Match]]]) -> Scores:
    """Gather valid replies, each as `read` gives it.  A class's letters in several orders count by their mean."""
    shape = (len(lists.sounds), len(lists.classes))
    label_ids = {label: i for i, label in enumerate(lists.classes)}
    letters, n_orders, heard = np.zeros(shape), np.zeros(shape), np.full(shape, np.nan)
    for question, matches in answered:
        for match in matches:
            place = match.audio_id, label_ids[match.label]
            if isinstance(question, Which):
                letters[place] += math.log(max(match.weight, LEAST))
                n_orders[place] += 1
            else:
                heard[place] = math.log(max(match.weight, LEAST)) - math.log(max(1 - match.weight, LEAST))
    return Scores(np.where(n_orders > 0, letters / np.maximum(n_orders, 1), np.nan), heard)

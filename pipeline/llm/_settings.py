"""Sampling settings, what a person may give as JSON; and how many tokens a request takes under them."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from adapt.errors import MapperError
from pipeline.llm.forms import Record

OURS = ("messages", "model", "n", "response_format", "stream", "tools")  # what the questions set
LIMITS = ("max_tokens", "max_completion_tokens")
CHARACTERS_PER_TOKEN = 3.4  # of the recorded prompts, by Qwen2.5's tokenizer: 850 tokens a question of 2,880 characters
ROOM_TO_REASON = 8  # times the tokens, where a model reasoned until they were used up


def read_settings(text: str, default: Record) -> Record:
    """Sampling settings from a flag: `default` where it is empty, else the JSON object that it holds, whole.

    Raises MapperError where it is none, or sets what the questions set.
    """
    if not text:
        return default
    try:
        settings = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise MapperError(f"--settings {text!r} is not JSON ({error}): write it like '{json.dumps(default)}'") from None
    if not isinstance(settings, dict) or not settings.keys().isdisjoint(OURS):
        raise MapperError(f"--settings {text!r}: write a JSON object without {[*OURS]}, like '{json.dumps(default)}'")
    for name in LIMITS:
        value = settings.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise MapperError(f"--settings: {name} is {value!r}: give a whole number of at least 1")
    return settings


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no number")


def token_limit(settings: Mapping[str, Any]) -> int:
    """The most tokens that a reply may have, 0 where nothing limits it."""
    return max(int(settings.get(name) or 0) for name in LIMITS)


def with_more_tokens(settings: Mapping[str, Any]) -> str:
    """A value for --settings under which a model has room to reason."""
    name = next((limit for limit in LIMITS if settings.get(limit)), LIMITS[0])
    return json.dumps(dict(settings) | {name: ROOM_TO_REASON * (token_limit(settings) or 1000)})


def about_tokens(messages: Sequence[Record]) -> int:
    """About how many tokens messages take."""
    return round(sum(len(message["content"]) for message in messages) / CHARACTERS_PER_TOKEN)

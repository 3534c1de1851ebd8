"""What a chat completion holds: servers put the model's words into different places.

Hosted and plain: `message.content` is text.  Mistral: a list of parts, thinking among them.  vLLM, SGLang, llama.cpp,
DeepSeek and Ollama set reasoning apart in `reasoning` or `reasoning_content`; with some models and formats the answer
ends up there too, and `content` is empty.  Nothing is parsed here: what the words say is `forms.parse`'s to find.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

from pipeline.llm.forms import Record

REASONING = ("reasoning_content", "reasoning", "thinking")  # fields of a message
KINDS = {"thinking": "reasoning", "reasoning": "reasoning", "refusal": "refusal"}  # of parts by type; others are text
MAX_DEPTH = 8  # of parts within parts
N_TOLD = 20  # of the likeliest tokens: what OpenAI's API gives at most


class NoCompletionError(ValueError):
    """A body is no chat completion; the message says what it is instead."""


def read_completion(body: str) -> Record:
    """The fields of a record that the server's reply decides: raw text and where it stood, finish reason, tokens.

    Raises NoCompletionError.
    """
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        start = body.lstrip("\ufeff \r\n\t")[:80]
        what = "a stream of events" if start.startswith(("data:", "event:", ":")) else "not JSON"
        raise NoCompletionError(f"{what}, {start!r}" if start else "empty") from None
    try:
        choice = said["choices"][0]
        message = choice["message"]
        if not isinstance(message, Mapping):
            raise TypeError("choices[0].message is no object")
    except (LookupError, TypeError):
        raise NoCompletionError(f"JSON without choices[0].message, {body.strip()[:80]!r}") from None
    found_in, raw = _words(message)
    finish_reason = choice.get("finish_reason")
    usage = said.get("usage")
    counts = usage if isinstance(usage, Mapping) else {}
    return {
        "raw": raw,
        "found_in": found_in,
        "finish_reason": "refusal" if found_in == "refusal" else finish_reason and str(finish_reason),
        "prompt_tokens": _count(counts.get("prompt_tokens")),
        "completion_tokens": _count(counts.get("completion_tokens")),
    } | _first_token(choice.get("logprobs"))


def _first_token(logprobs: Any) -> Record:
    """{"top_logprobs": [[token, logprob], ...]} of the first token, likeliest first; {} where the server tells none."""
    try:
        told = [
            (str(one["token"])[:80], float(one["logprob"])) for one in logprobs["content"][0]["top_logprobs"][:N_TOLD]
        ]
    except (LookupError, TypeError, ValueError):
        return {}
    kept = [[token, round(logprob, 4)] for token, logprob in told if math.isfinite(logprob)]
    return {"top_logprobs": sorted(kept, key=lambda pair: -float(pair[1]))} if kept else {}


def _words(message: Mapping[str, Any]) -> tuple[str, str]:
    """(where it stands, the text) of the first place that says something."""
    content = message.get("content")
    places = [("content", _text(content, "text"))]
    places += [("refusal", _text(message.get("refusal"))), ("refusal", _text(content, "refusal"))]
    places += [(name, _text(message.get(name))) for name in REASONING]
    places.append(("content's reasoning", _text(content, "reasoning")))
    return next((place for place in places if place[1].strip()), places[0])


def _text(value: object, kind: str | None = None, depth: int = 0) -> str:
    """The text of a field, of parts those of `kind` (None: all).  An object that is no part is the answer itself: its
    JSON.
    """
    if value is None or depth > MAX_DEPTH:
        return ""
    if isinstance(value, str):
        return value if kind in (None, "text") else ""
    parts: list[Any] = value if isinstance(value, list) else [value]
    if not all(isinstance(part, str) or _is_part(part) for part in parts):
        return json.dumps(value, ensure_ascii=False) if kind in (None, "text") else ""
    kept = [part for part in parts if kind in (None, _kind(part))]
    return "".join(part if isinstance(part, str) else _text(_inner(part), None, depth + 1) for part in kept)


def _is_part(value: object) -> bool:
    return isinstance(value, Mapping) and (isinstance(value.get("type"), str) or value.keys() <= {"text", "value"})


def _kind(part: str | Mapping[str, Any]) -> str:
    type_ = "text" if isinstance(part, str) else str(part.get("type", "text"))
    return KINDS.get(type_.partition(".")[0], "text")


def _inner(part: Mapping[str, Any]) -> object:
    return next((part[name] for name in ("text", "content", "value", *KINDS) if part.get(name)), None)


def _count(value: object) -> int | None:
    """A count of tokens as servers give it, None where that is no count."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None

"""Where the answer stands in what a model wrote.

The recorded text stays as it came; what is cut away here is cut away each time that it is read, so a replay reads what
the first reading read.  An answer is found, never mended or guessed: broken JSON, or two different answers, are faults.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

# how models mark their reasoning where the server leaves it in the text: DeepSeek, Qwen and most; Seed; Magistral; Kimi
OPENING = r"<(?:seed:)?(?:think(?:ing)?|reasoning|thought)>|\[THINK\]|◁think▷"
CLOSING = r"</(?:seed:)?(?:think(?:ing)?|reasoning|thought)>|\[/THINK\]|◁/think▷"
FINAL = r"<\|channel\|>final(?:[^<]*)<\|message\|>"  # gpt-oss: what follows is meant for the reader
ANALYSIS = r"<\|channel\|>(?:analysis|commentary)"
MAX_STARTS, MAX_TEXT = 1000, 2**18  # of objects that are tried, of characters: a text of braces must not take minutes


def without_reasoning(raw: str) -> str:
    """A reply without the reasoning before the answer, "" where it holds nothing else.

    A template may have written the opening mark into the prompt, so the closing one counts alone.
    """
    if is_json(raw):
        return raw  # marks within are part of the answer
    finals = list(re.finditer(FINAL, raw))
    if finals:
        raw = re.sub(r"<\|(?:end|return)\|>.*", "", raw[finals[-1].end() :], flags=re.DOTALL)
    elif re.search(ANALYSIS, raw):
        return ""
    closings = list(re.finditer(CLOSING, raw, re.IGNORECASE))
    rest = raw[closings[-1].end() :] if closings else raw
    opened = re.match(rf"\s*(?:{OPENING})", rest, re.IGNORECASE)
    return "" if opened else rest


def is_json(text: str) -> bool:
    """Whether the whole text is JSON."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def objects(text: str) -> list[Any]:
    """The JSON values of a text: the whole, or where it is no JSON the outermost objects within (in fences, after or
    before a sentence); each different one once.
    """
    try:
        whole = json.loads(text)
        return [json.loads(whole)] if isinstance(whole, str) else [whole]  # some servers quote the JSON once more
    except (ValueError, RecursionError):
        pass
    found: dict[str, Any] = {}
    for value in _within(text) if len(text) <= MAX_TEXT else ():
        found.setdefault(json.dumps(value, sort_keys=True), value)
    return list(found.values())


def _within(text: str) -> Iterator[Any]:
    decoder = json.JSONDecoder()
    place = text.find("{")
    for _ in range(MAX_STARTS):
        if place < 0:
            return
        try:
            value, end = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            end = place + 1
        else:
            yield value
        place = text.find("{", end)

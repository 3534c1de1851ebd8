"""Which structured-output format an endpoint takes, found out by the first questions.

Endpoints differ: some refuse a format with 400, some crash over it with 500, some accept it and do as they like.  A
format is settled when the endpoint has obeyed it; one that it refused in words is not asked for again; an error that
says nothing of formats may be a passing fault, so only a second question that ends so as well refuses a format.
"""

import json
import logging
import re
from collections.abc import Sequence
from threading import Lock

from pipeline.llm.forms import Record, is_cut, is_refusal, without_reasoning

log = logging.getLogger(__name__)
FORMATS = ("json_schema", "json_object", "json_object_plain", "text")  # strictest first; json_object holds the schema
REFUSES_FORMAT = {400, 404, 415, 422, 500, 501}  # answers to a response_format that is not known; 500: llama-cpp-python
IN_WORDS = re.compile(r"response_format|json.?(schema|object|mode)|grammar|structured|guided", re.IGNORECASE)


def response_format(name: str, schema: Record | None) -> Record:
    """What a request in that format says beside its messages."""
    formats: dict[str, Record] = {
        "json_schema": {"type": "json_schema", "json_schema": {"name": "matches", "schema": schema, "strict": True}},
        "json_object": {"type": "json_object", "schema": schema},
        "json_object_plain": {"type": "json_object"},
    }
    return {"response_format": formats[name]} if name in formats else {}


def obeys(name: str, reply: Record) -> bool:
    """Whether a reply is what the format promises: one JSON object after the reasoning, and nothing else.

    Text promises nothing; a reply that was cut off or refused proves nothing.
    """
    if name == "text" or is_cut(reply["finish_reason"]) or is_refusal(reply["finish_reason"]):
        return True
    try:
        return isinstance(json.loads(without_reasoning(reply["raw"])), dict)
    except (ValueError, RecursionError):
        return False


class Formats:
    """What an endpoint has shown so far; threads may share it."""

    def __init__(self) -> None:
        self._left = list(FORMATS)  # those that may be settled yet; one that is alone is settled
        self._doubted: set[str] = set()  # an error to a question that was then answered in another format
        self._lock = Lock()

    def to_try(self) -> list[str]:
        """The formats for one question, in order: each where those before it are refused."""
        with self._lock:
            return list(self._left)

    def is_doubted(self, name: str) -> bool:
        """Whether it was an error before: then one try tells."""
        with self._lock:
            return name in self._doubted

    def refused(self, name: str, status: int, words: str) -> bool:
        """Take note of an error and the server's words; return whether the next format may be tried."""
        with self._lock:
            if status not in REFUSES_FORMAT or name == self._left[-1]:
                return False
            if name in self._doubted or IN_WORDS.search(words):
                self._drop(name)
        log.info("the endpoint answered %d to the format %s: trying the next", status, name)
        return True

    def answered(self, name: str, reply: Record, turned_away: Sequence[str]) -> None:
        """Take note of a reply in this format; the formats `turned_away` were answered with an error just before."""
        with self._lock:
            if len(self._left) == 1 or name not in self._left:
                return
            self._doubted.update(turned_away)
            if not obeys(name, reply):
                log.info("the endpoint accepted the format %s and did not keep to it: trying the next", name)
                self._drop(name)
            elif name == self._left[0] and not is_cut(reply["finish_reason"]):  # no stricter one is in doubt
                self._left = [name]

    def _drop(self, name: str) -> None:
        self._left = [left for left in self._left if left != name]

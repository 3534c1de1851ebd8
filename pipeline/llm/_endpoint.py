"""An OpenAI-compatible chat endpoint: one request at a time in, what it said out, with tokens and seconds.

The `openai` client waits and tries again on 429, 5xx and timeouts (Retry-After is honoured up to its limit of two
minutes, else the wait doubles).  Endpoints differ in the structured output that they take, so the first request finds
out.  The key comes from OPENAI_API_KEY, goes into the request's header and nowhere else: it is cut out of everything
that the endpoint says.
"""

import json
import logging
import os
import time
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from adapt.errors import MapperError
from pipeline.llm.forms import Record

log = logging.getLogger(__name__)
KEY = "OPENAI_API_KEY"
REFUSES_FORMAT = {400, 404, 415, 422, 500, 501}  # what endpoints answer to a response_format that they do not know
FORMATS = (
    "json_schema",
    "json_object",
    "json_object_plain",
    "text",
)  # strictest first; json_object carries the schema inside


class Endpoint:
    """A chat endpoint, and the structured-output format that it turned out to take.  Threads may share it after the
    first request.
    """

    def __init__(self, base_url: str, model: str, settings: Record, timeout_s: float, max_retries: int) -> None:
        import openai

        for name in ("httpx2", "openai"):  # or the client and its transport log a line a request, the client a retry
            logging.getLogger(name).setLevel(logging.WARNING)
        if not _is_address(base_url):
            raise MapperError(
                f"--base_url {_public(base_url)!r} is no http(s) address: give the part before /chat/completions"
            )
        self._openai, self._model, self._settings = openai, model, settings
        self._where, self._key = _public(base_url), _read_key()
        key = self._key or "none"  # local servers want no key, the client wants one
        self._client = openai.OpenAI(base_url=base_url, api_key=key, timeout=timeout_s, max_retries=max_retries)
        self._format: str | None = None

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def ask(self, messages: list[Record], schema: Record, name: str) -> Record:
        """Send one request about `name`; return raw text, finish reason, format, tokens, seconds and date.

        Raises MapperError where no answer comes, in one line that holds no key.
        """
        start = time.monotonic()
        try:
            completion = self._complete(messages, schema)
            message, finish_reason = completion.choices[0].message, completion.choices[0].finish_reason
        except self._openai.OpenAIError as error:
            raise self._failure(name, f"{type(error).__name__}: {error}") from None
        except (AttributeError, IndexError, TypeError, ValueError) as error:  # 200, but no chat completion
            raise self._failure(name, f"its answer is no chat completion: {error}") from None
        refusal = getattr(message, "refusal", None)
        usage = completion.usage
        return {
            "endpoint": "chat.completions",
            "form": self._format,
            "raw": self._clean(message.content or refusal or ""),
            "finish_reason": "refusal" if refusal and not message.content else finish_reason,
            "prompt_tokens": usage.prompt_tokens if usage else None,
            "completion_tokens": usage.completion_tokens if usage else None,
            "seconds": round(time.monotonic() - start, 2),
            "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }

    def _failure(self, name: str, what: str) -> MapperError:
        told = "".join(character if character.isprintable() else " " for character in self._clean(what))[:300]
        return MapperError(
            f"{self._where} did not answer for {name!r} ({told}): check --base_url, --model, --settings and {KEY}, "
            "then run the same command again: it goes on where it stopped"
        )

    def _clean(self, text: str) -> str:
        """Text of the endpoint's without the key, and without halves of characters, which no file takes."""
        told = text.replace(self._key, "[key]") if self._key else text
        return told.encode("utf-8", "replace").decode()

    def _complete(self, messages: list[Record], schema: Record) -> Any:
        if self._format is not None:
            return self._create(self._client, self._format, messages, schema)
        for format_ in FORMATS:
            try:
                # one retry: an endpoint that answers 500 to a format does so each time
                completion = self._create(self._client.with_options(max_retries=1), format_, messages, schema)
            except self._openai.APIStatusError as error:
                if error.status_code not in REFUSES_FORMAT or format_ == FORMATS[-1]:
                    raise
                log.info(
                    "the endpoint answered %d to %s: trying %s",
                    error.status_code,
                    format_,
                    FORMATS[FORMATS.index(format_) + 1],
                )
            else:
                self._format = format_
                return completion
        raise AssertionError("the last format returns or raises")

    def _create(self, client: Any, format_: str, messages: list[Record], schema: Record) -> Any:
        formats: dict[str, Record] = {
            "json_schema": {
                "type": "json_schema",
                "json_schema": {"name": "matches", "schema": schema, "strict": True},
            },
            "json_object": {"type": "json_object", "schema": schema},
            "json_object_plain": {"type": "json_object"},
        }
        wanted = {"response_format": formats[format_]} if format_ in formats else {}
        # as extra_body: endpoints know settings that the client does not
        return client.chat.completions.create(model=self._model, messages=messages, extra_body=self._settings, **wanted)


def _read_key() -> str:
    key = os.environ.get(KEY, "").strip()
    if not key.isascii() or not key.isprintable():
        raise MapperError(f"{KEY} holds characters that no header can carry: set it again")
    return key


def _is_address(base_url: str) -> bool:
    try:
        parts = urlsplit(base_url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a bracket without its other half, a port that is no number
        return False


def _public(base_url: str) -> str:
    """The address without user, password, query and fragment, which may be secrets; "" for what is none."""
    try:
        parts = urlsplit(base_url)
    except ValueError:  # such as http://[::1
        return ""
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def read_settings(text: str, default: Record) -> Record:
    """Sampling settings from a flag: `default` where it is empty, else the JSON object that it holds, whole.

    Raises MapperError where it is none, or sets what the questions set.
    """
    if not text:
        return default
    try:
        settings = json.loads(text)
    except json.JSONDecodeError as error:
        raise MapperError(f"--settings {text!r} is not JSON ({error}): write it like '{json.dumps(default)}'") from None
    ours = {"model", "messages", "response_format", "stream", "n", "tools"}
    if not isinstance(settings, dict) or ours & settings.keys():
        raise MapperError(
            f"--settings {text!r}: write a JSON object without {sorted(ours)}, like '{json.dumps(default)}'"
        )
    return settings

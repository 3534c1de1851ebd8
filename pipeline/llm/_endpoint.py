"""An OpenAI-compatible chat endpoint: one request at a time in, what it said out, with tokens and seconds.

The `openai` client waits and tries again on 429, 5xx and timeouts (Retry-After is honoured up to its limit of two
minutes, else the wait doubles).  The first questions find out what the endpoint takes: which structured output
(`_formats`), and whether its model has a system role.  The key goes into the request's header and nowhere else: it is
cut out of everything that the endpoint says.
"""

import logging
import time
from collections.abc import Sequence
from datetime import UTC, datetime

import openai

from adapt.errors import MapperError
from pipeline.llm import _faults
from pipeline.llm._answer import NoCompletionError, read_completion
from pipeline.llm._connection import KEY as KEY
from pipeline.llm._connection import RedirectError, TooLargeError, check_address, open_client, public, read_key
from pipeline.llm._formats import FORMATS, Formats, response_format
from pipeline.llm.forms import Record

log = logging.getLogger(__name__)


class Endpoint:
    """A chat endpoint, and what it turned out to take.  Threads may share it."""

    def __init__(self, base_url: str, model: str, settings: Record, timeout_s: float, max_retries: int) -> None:
        for name in ("httpx2", "openai"):  # or the client and its transport log a line a request, the client a retry
            logging.getLogger(name).setLevel(logging.WARNING)
        check_address(base_url)
        self._model, self._settings = model, settings
        self._where, self._key = public(base_url), read_key()
        key = self._key or "none"  # local servers want no key, the client wants one
        http = open_client(base_url, timeout_s)
        self._client = openai.OpenAI(
            base_url=base_url, api_key=key, timeout=timeout_s, max_retries=max_retries, http_client=http
        )
        self._formats = Formats()
        self._has_system_role = True

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def takes(self, format_: str | None) -> bool:
        """Whether it may be asked in this format (again): nothing has shown otherwise."""
        return format_ in self._formats.to_try()

    def ask(self, messages: Sequence[Record], schema: Record | None, name: str) -> Record:
        """Send one request about `name`; return raw text, where it stood, finish reason, format, tokens, seconds, date.

        Raises MapperError where no answer comes, in one line that holds no key.
        """
        start = time.monotonic()
        try:
            reply = self._ask(messages, schema)
        except (openai.OpenAIError, NoCompletionError, TooLargeError, RedirectError) as error:
            what, to_do = _faults.told(error)
            raise MapperError(
                f"{self._where} did not answer for {name!r} ({_faults.one_line(self._clean(what))}): {to_do}, "
                "then run the same command again: it goes on where it stopped"
            ) from None
        told = {"top_logprobs": [[self._clean(token), logprob] for token, logprob in reply.get("top_logprobs", [])]}
        return reply | {
            "endpoint": "chat.completions",
            "raw": self._clean(reply["raw"]),
            **(told if told["top_logprobs"] else {}),
            "seconds": round(time.monotonic() - start, 2),
            "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }

    def _clean(self, text: str) -> str:
        """Text of the endpoint's without the key, and without halves of characters, which no file takes."""
        told = text.replace(self._key, "[key]") if self._key else text
        return told.encode("utf-8", "replace").decode()

    def _ask(self, messages: Sequence[Record], schema: Record | None) -> Record:
        """The reply in the first format that the endpoint does not refuse."""
        if schema is None:
            return read_completion(self._send(FORMATS[-1], messages, None)) | {
                "form": FORMATS[-1],
                "system_role": self._has_system_role,
            }
        turned_away: list[str] = []
        for format_ in self._formats.to_try():
            try:
                reply = read_completion(self._send(format_, messages, schema))
            except openai.APIStatusError as error:
                if not self._formats.refused(format_, error.status_code, _faults.words(error)):
                    raise
                turned_away.append(format_)
            else:
                self._formats.answered(format_, reply, turned_away)
                return reply | {"form": format_, "system_role": self._has_system_role}
        raise AssertionError("the last format returns or raises")

    def _send(self, format_: str, messages: Sequence[Record], schema: Record | None) -> str:
        if self._has_system_role:
            try:
                return self._create(format_, messages, schema)
            except openai.APIStatusError as error:
                if not _faults.knows_no_system_role(error):
                    raise
            log.info("the endpoint's model takes no system role: the user's turn says it all")
            self._has_system_role = False
        return self._create(format_, without_system_role(messages), schema)

    def _create(self, format_: str, messages: Sequence[Record], schema: Record | None) -> str:
        client = self._client.with_options(max_retries=0) if self._formats.is_doubted(format_) else self._client
        response = client.chat.completions.with_raw_response.create(
            model=self._model,
            messages=list(messages),  # type: ignore[arg-type]  # roles and texts; the client's types name each role
            stream=False,
            extra_body=self._settings,  # endpoints know settings that the client does not
            **response_format(format_, schema),
        )
        return response.text


def without_system_role(messages: Sequence[Record]) -> list[Record]:
    """The messages with the system's text at the head of the first user's turn."""
    system = [message["content"] for message in messages if message["role"] == "system"]
    others = [message for message in messages if message["role"] != "system"]
    return [others[0] | {"content": "\n\n".join([*system, others[0]["content"]])}, *others[1:]]

"""One line for every way in which an endpoint does not answer: what happened, in the server's own words, and what to
do about it.
"""

import json
import re
from collections.abc import Iterator, Mapping

import openai

from pipeline.llm._answer import NoCompletionError
from pipeline.llm._connection import KEY, RedirectError, TooLargeError

MAX_TOLD = 300  # characters of a server's words
# A chat template that knows no system role, or wants user and assistant in turns: Gemma's and Mistral's words, and
# those of the engines that run such templates
NO_SYSTEM_ROLE = re.compile(
    r"system role|system (message|prompt)s? (is|are) not|not support(ed)? system|roles? must alternate"
    r"|only user and assistant roles|raise_exception|jinja",
    re.IGNORECASE,
)
ADVICE = (  # the first whose words are told
    (
        r"context (length|size|window)|maximum context|n_ctx|too large",
        "give --settings a smaller max_tokens, cut the questions smaller (--top_n, --block_size), or start the server "
        "with a larger context",
    ),
    (
        r"max_tokens|max_completion_tokens|temperature|\bseed\b|unsupported (parameter|value)|extra inputs"
        r"|unrecognized",
        "give --settings what this model takes",
    ),
    (
        r"model.{0,200}(not found|does not exist|not exist|no such|not available|unknown|invalid)"
        r"|(no|unknown|invalid) model|no endpoints found",
        "check --model: the endpoint's /models lists its names",
    ),
    (r"certificate", "install the issuer's certificate and set SSL_CERT_FILE to it, or check --base_url"),
    (r"wrong.version.number|record.layer|http request", "check whether --base_url is http:// or https://"),
    (r"name or service not known|getaddrinfo|name resolution|nodename nor servname", "check the host in --base_url"),
    (r"proxy", "check HTTPS_PROXY, HTTP_PROXY and ALL_PROXY, or set NO_PROXY to the endpoint's host"),
    (r"refused", "start the server, or check --base_url"),
)  # fmt: skip
BY_STATUS = {
    401: f"check {KEY}",
    402: "add credit there, or choose another --model",
    403: f"check {KEY}, and whether it may use --model",
    404: "check --base_url, which often ends in /v1, and --model",
    429: "wait, or lower --concurrency, or raise --max_retries",
}


def words(error: openai.APIStatusError) -> str:
    """What the server says in the body of an error, whichever form it has."""
    said = error.body
    text = error.response.text.strip()
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return " ".join(dict.fromkeys(_messages(said))) or text


def _messages(said: object, depth: int = 0) -> Iterator[str]:
    """The texts of {"error": {"message": ...}}, {"error": "..."}, {"message": ...}, {"detail": ...}, and of an upstream
    provider's within.
    """
    if depth > 5:
        return
    if isinstance(said, str):
        yield said
    elif isinstance(said, list):
        for item in said[:3]:
            yield from _messages(item, depth + 1)
    elif isinstance(said, Mapping):
        for name in ("error", "message", "msg", "detail", "metadata", "provider_name", "raw", "choices"):
            if said.get(name) and not (name == "message" and isinstance(said[name], Mapping)):
                yield from _messages(said[name], depth + 1)


def knows_no_system_role(error: openai.APIStatusError) -> bool:
    """Whether the server could not put the messages into its model's template."""
    return error.status_code < 600 and bool(NO_SYSTEM_ROLE.search(words(error)))


def told(error: Exception) -> tuple[str, str]:
    """(what happened, what to do about it)."""
    match error:
        case openai.APIStatusError():
            said = words(error)
            otherwise = (
                "wait, or see its log" if error.status_code >= 500 else "check --base_url, --model and --settings"
            )
            advice = BY_STATUS.get(error.status_code, otherwise)
            return f"{type(error).__name__} {error.status_code}: {said or 'no words'}", _advice(said) or advice
        case openai.APITimeoutError():
            cause = _first_cause(error)
            return f"APITimeoutError: {cause or error}", "raise --timeout_s, or check --base_url"
        case RedirectError():
            return f"it redirects to {error}", "where you trust that address, give it as --base_url"
        case TooLargeError():
            return f"its reply has {error}", "check --base_url, and max_tokens in --settings"
        case NoCompletionError():
            return f"its answer is no chat completion but {error}", "check --base_url, which often ends in /v1"
        case _:
            said = f"{type(error).__name__}: {_first_cause(error) or error}"
            return said, _advice(said) or f"check --base_url, --model, --settings and {KEY}"


def _first_cause(error: BaseException) -> str:
    """What started it: a client wraps a socket's error in one of its transport's, and that in one of its own."""
    seen = [error]
    while (cause := seen[-1].__cause__ or seen[-1].__context__) is not None and cause not in seen:
        seen.append(cause)
    said = [f"{type(cause).__name__}: {cause}" for cause in seen[1:] if str(cause)]
    return said[-1] if said else ""


def _advice(said: str) -> str:
    return next((what for pattern, what in ADVICE if re.search(pattern, said, re.IGNORECASE | re.DOTALL)), "")


def one_line(text: str) -> str:
    """At most MAX_TOLD characters, printable, on one line."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:MAX_TOLD]

"""The HTTP under the chat client: where requests go, how long a reply may take and how large it may be.

The `openai` client waits for as long as bytes keep coming, takes a reply of any size, and believes the status.  Here
each try ends at a deadline whatever the server does, a reply is at most MAX_BYTES after unpacking, no other host is
followed to, and an error object under status 200 gets the status that it names, so that the client treats it as one.
"""

import json
import os
import threading
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx2

from adapt.errors import MapperError

KEY = "OPENAI_API_KEY"
MAX_BYTES = 2**24  # of a reply: 100,000 tokens are half a megabyte, a token with 20 log-probabilities 3 kilobytes
MAX_REDIRECTS = 3
UNKNOWN_ERROR = 400  # the status of an error that names none: not tried again


class TooLargeError(Exception):
    """The reply was larger than MAX_BYTES."""


class RedirectError(Exception):
    """The server sends requests to another host."""


class Client(httpx2.Client):
    """What the `openai` client sends its requests with."""

    def __init__(self, timeout_s: float, direct: bool) -> None:
        """`direct`: past the proxies of the environment."""
        super().__init__(
            timeout=timeout_s, follow_redirects=False, transport=httpx2.HTTPTransport() if direct else None
        )
        self._timeout_s = timeout_s

    def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        """One try, in a thread of its own: no timeout of a socket bounds a name that is not found, or a server that
        sends a byte a second.

        Raises ReadTimeout at the deadline; the thread ends with the next byte.
        """
        found: list[httpx2.Response | BaseException] = []
        done, late = threading.Event(), threading.Event()

        def work() -> None:
            try:
                found.append(self._receive(request, late, options))
            except BaseException as error:  # handed to the caller's thread, which raises it
                found.append(error)
            done.set()

        threading.Thread(target=work, daemon=True).start()
        if not done.wait(self._timeout_s):
            late.set()
            raise httpx2.ReadTimeout(f"no whole reply within {self._timeout_s:g} s", request=request)
        if isinstance(found[0], BaseException):
            raise found[0]
        return found[0]

    def _receive(self, request: httpx2.Request, late: threading.Event, options: Any) -> httpx2.Response:
        options = dict(options) | {"stream": True, "follow_redirects": False}
        response = super().send(request, **options)
        for _ in range(MAX_REDIRECTS):
            if response.next_request is None:
                break
            response.close()
            if response.next_request.url.origin != request.url.origin:
                raise RedirectError(public(str(response.next_request.url)))
            response = super().send(response.next_request, **options)
        body = bytearray()
        try:
            for chunk in response.iter_bytes():
                body += chunk
                if late.is_set() or len(body) > MAX_BYTES:
                    raise TooLargeError(f"more than {MAX_BYTES:,} bytes")
        finally:
            response.close()
        unpacked = ("content-encoding", "content-length", "transfer-encoding")
        headers = [(name, value) for name, value in response.headers.multi_items() if name.lower() not in unpacked]
        status = response.status_code if response.is_error else status_within(bytes(body)) or response.status_code
        return httpx2.Response(status, headers=headers, content=bytes(body), request=response.request)


def status_within(body: bytes) -> int | None:
    """The status that an error object in a body of status 200 names, None where the body is no error.

    OpenRouter answers 200 and `{"error": {"code": 502, ...}}` where a provider fails, or puts that into the choice;
    others name no code, or a word.
    """
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(said, dict):
        return None
    choices = said.get("choices")
    first = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    if said.get("error") or first.get("error"):
        error = said.get("error") or first.get("error")
    elif said.get("object") == "error":
        error = said
    elif first.get("finish_reason") == "error":
        return 502
    else:
        return None
    code = str(error.get("code") or error.get("status") or "") if isinstance(error, dict) else ""
    return int(code) if code.isdecimal() and 400 <= int(code) < 600 else UNKNOWN_ERROR


def open_client(base_url: str, timeout_s: float) -> Client:
    """A client with the proxies of the environment, or without them where NO_PROXY says so of the address.

    Raises MapperError where one of them is none that it can use.
    """
    try:
        return Client(timeout_s, direct=bool(proxy_bypass(urlsplit(base_url).hostname or "")))
    except (ValueError, ImportError, httpx2.InvalidURL) as error:
        proxies = getproxies()
        names = {"http": "HTTP_PROXY", "https": "HTTPS_PROXY", "all": "ALL_PROXY"}
        said = " ".join(f"{name}={public(proxies[scheme])}" for scheme, name in names.items() if proxies.get(scheme))
        raise MapperError(
            f"the proxy that the environment names cannot be used ({said or error}): it must be http:// or https://, "
            "or socks5:// with the package `httpx2[socks]`; unset it, or set NO_PROXY to the endpoint's host"
        ) from None


def read_key() -> str:
    """The key in the environment, "" where there is none.  Raises MapperError where no header could carry it."""
    key = os.environ.get(KEY, "").strip()
    if not key.isascii() or not key.isprintable():
        raise MapperError(f"{KEY} holds characters that no header can carry: set it again")
    return key


def public(address: str) -> str:
    """An address without user, password, query and fragment, which may be secrets."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return address.rpartition("@")[2].partition("?")[0]
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def check_address(base_url: str) -> None:
    """Raises MapperError where `base_url` is none of an endpoint."""
    try:
        parts = urlsplit(base_url)
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
        httpx2.URL(base_url)
    except (ValueError, httpx2.InvalidURL) as error:
        raise MapperError(
            f"--base_url {public(base_url)!r} is no address ({error}): write it like http://localhost:8000/v1"
        ) from None
    if not known or parts.path.rstrip("/").endswith("/chat/completions"):
        raise MapperError(
            f"--base_url {public(base_url)!r} is no http(s) address of an endpoint: give the part before "
            "/chat/completions, like http://localhost:8000/v1"
        )

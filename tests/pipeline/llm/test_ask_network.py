"""What lies between us and an endpoint: deadlines, sizes, redirects, proxies, certificates, names and addresses."""

import gzip
import json
import re
import subprocess
import threading
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from adapt.errors import MapperError
from pipeline.llm import _connection as connection
from pipeline.llm._connection import KEY, MAX_BYTES
from tests import chat as served
from tests.chat import TRUE_PAIRS, Answer, Chat, completion, only, record, replay, reply, right


@pytest.mark.parametrize("where", ["head", "body"])
def test_a_byte_a_moment_does_not_outlive_the_deadline(where: str, project: Path, chat: Chat) -> None:
    """Each byte comes well within the timeout of a read."""
    chat.answer = only("Bark", Answer(reply(), pause_s=0.05, drips_head=where == "head"))
    start = time.monotonic()
    with pytest.raises(MapperError, match=r"APITimeoutError: .*no whole reply within 0.4 s.: raise --timeout_s"):
        record(chat, timeout_s=0.4, max_retries=0)
    assert time.monotonic() - start < 5  # the whole would take 50 s or, of the body, 15


def test_the_deadline_is_of_each_try_and_a_try_too_late_is_tried_again(project: Path, chat: Chat) -> None:
    slow = Answer(reply(), wait_for=threading.Event())
    chat.answer = lambda request: slow if len(chat.requests) == 2 else right(request)
    record(chat, timeout_s=0.5, max_retries=1)
    assert chat.asked() == ["Dog", "Bark", "Bark", "Meow"]
    assert slow.wait_for is not None
    slow.wait_for.set()


BOMB = gzip.compress(bytes(2**26), 1)  # 64 MiB of zeros in 0.3


@pytest.mark.parametrize(
    "answer",
    [
        Answer(body=" " * 2**20, n_times=10_000),
        Answer(body=BOMB, headers={"Content-Encoding": "gzip"}),
        Answer(status=400, body=BOMB, headers={"Content-Encoding": "gzip"}),
    ],
    ids=["10 GB", "gzip", "gzip in an error"],
)
def test_a_reply_without_end_is_given_up_in_bounded_memory(answer: Answer, project: Path, chat: Chat) -> None:
    chat.answer = only("Bark", answer)
    tracemalloc.start()
    try:
        with pytest.raises(MapperError, match=rf"its reply has more than {MAX_BYTES:,} bytes.: check --base_url"):
            record(chat)
        assert tracemalloc.get_traced_memory()[1] < 4 * MAX_BYTES
    finally:
        tracemalloc.stop()


def test_a_packed_reply_is_unpacked(project: Path, chat: Chat) -> None:
    packed = {"Content-Encoding": "gzip"}
    chat.answer = lambda request: Answer(body=gzip.compress(completion(right(request)).encode()), headers=packed)
    record(chat)
    assert replay() == TRUE_PAIRS


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_another_host_gets_neither_the_key_nor_the_question(
    status: int, project: Path, chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY, "sk-secret")
    with served.serving() as other:
        chat.answer = lambda request: Answer(status=status, headers={"Location": f"{other.url}/x?token=1"}, body="")
        with pytest.raises(MapperError, match=rf"it redirects to {other.url}/x\): where you trust that address, give"):
            record(chat)
        assert (other.requests, other.keys) == ([], set())


def test_a_redirect_on_the_same_host_is_followed_with_the_key(
    project: Path, chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY, "sk-secret")
    chat.answer = lambda request: (
        Answer(status=307, headers={"Location": "/v1/chat/completions/"}, body="")
        if len(chat.requests) % 2
        else right(request)
    )
    record(chat)
    assert len(chat.requests) == 6
    assert chat.keys == {"Bearer sk-secret"}


def test_a_redirect_in_a_circle_is_one_line(project: Path, chat: Chat) -> None:
    chat.answer = lambda request: Answer(status=307, headers={"Location": "/v1/chat/completions"}, body="")
    with pytest.raises(MapperError, match="did not answer for 'Dog' .APIStatusError 307"):
        record(chat)
    assert len(chat.requests) == 1 + connection.MAX_REDIRECTS


@pytest.mark.parametrize("proxy", ["socks://me:secret@127.0.0.1:9", "socks5h://127.0.0.1:9", "ftp://x", "http://[::1"])
@pytest.mark.parametrize("name", ["ALL_PROXY", "https_proxy"])
def test_a_proxy_that_cannot_be_used_is_one_line_that_names_it(
    name: str, proxy: str, project: Path, chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, proxy)
    with pytest.raises(MapperError, match=rf"{name.upper()}=.*httpx2\[socks\].*NO_PROXY") as raised:
        record(chat)
    assert "secret" not in str(raised.value)
    assert "\n" not in str(raised.value)
    monkeypatch.setenv("NO_PROXY", "localhost,127.0.0.1")
    record(chat)


def test_a_proxy_that_does_not_answer_is_one_line(project: Path, chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with pytest.raises(MapperError, match="APIConnectionError: ConnectionRefusedError"):
        record(chat, max_retries=0)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    record(chat)


def test_a_certificate_that_nobody_signed_is_told_as_the_cause(project: Path, chat: Chat) -> None:
    pem = project / "server.pem"
    make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=x"
    subprocess.run([*make.split(), "-keyout", pem, "-out", f"{pem}.crt"], check=True, capture_output=True)
    pem.write_text(pem.read_text() + Path(f"{pem}.crt").read_text())
    with served.serving(pem) as secure, pytest.raises(MapperError, match="certificate verify failed.*SSL_CERT_FILE"):
        record(secure, max_retries=0)


def test_https_to_a_server_of_plain_http_is_told_as_the_cause(project: Path, chat: Chat) -> None:
    with pytest.raises(MapperError, match="SSLError.*check whether --base_url is http:// or https://"):
        record(chat, base_url=chat.url.replace("http:", "https:"), max_retries=0)


def test_a_host_that_no_one_knows_is_told_as_the_cause(project: Path, chat: Chat) -> None:
    with pytest.raises(MapperError, match=r"APIConnectionError: gaierror: .*check the host in --base_url"):
        record(chat, base_url="http://nowhere.invalid/v1", max_retries=0)


@pytest.mark.parametrize(
    "address",
    ["http://[::1", "http://", "http:///v1", "http://localhost:port/v1", "http://localhost:99999/v1", "localhost:8000",
     "http://me:secret@[::1", "http://localhost/v1/chat/completions", "http://localhost\x00/v1", "ftp://x/v1"],
)  # fmt: skip
def test_an_address_that_is_none_is_one_line(address: str, project: Path, chat: Chat) -> None:
    with pytest.raises(MapperError, match=r"--base_url '.*' is no ") as raised:
        record(chat, base_url=address)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ({"timeout_s": 0}, "--timeout_s 0: give seconds above 0"),
        ({"timeout_s": float("nan")}, "--timeout_s nan"),
        ({"settings": '{"temperature": NaN}'}, "is not JSON .NaN is no number"),
        ({"settings": '{"max_tokens": "many"}'}, "max_tokens is 'many': give a whole number"),
        ({"settings": "[" * 100_000}, "is not JSON"),
    ],
)
def test_numbers_that_are_none_are_one_line(flags: dict[str, Any], told: str, project: Path, chat: Chat) -> None:
    with pytest.raises(MapperError, match=told):
        record(chat, **flags)
    assert chat.requests == []


def test_an_error_is_at_most_a_line_of_printable_characters(project: Path, chat: Chat) -> None:
    words = json.dumps({"error": {"message": "\u001b[31mred\n" * 1000 + "\ud800"}})
    chat.answer = only("Bark", Answer(status=400, body=words))
    with pytest.raises(MapperError, match=re.escape("BadRequestError 400: [31mred [31mred")) as raised:
        record(chat)
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 600

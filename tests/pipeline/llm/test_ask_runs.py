"""Runs of `ask`: planned, out of tokens, stopped, killed, two at once, and never with the key in what they leave
behind.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from adapt.errors import BusyError, MapperError
from pipeline.llm import _endpoint as endpoint
from tests import chat as served
from tests.chat import (
    CLASSES,
    FINISHED,
    TRUE_PAIRS,
    UNFINISHED,
    Answer,
    Chat,
    Request,
    lines,
    only,
    record,
    replay,
    right,
    sounds_of,
)
from tests.places import ROOT


def test_a_dry_run_tells_requests_and_tokens_and_asks_nothing(project: Path, chat: Chat) -> None:
    counts = record(chat, dry_run=True)
    assert counts["n_requests"] == counts["n_questions"] == 3
    characters = len((ROOT / "data/prompts/pick_system.txt").read_text()) * 3
    assert (
        characters / 5 < int(str(counts["n_tokens_in"])) < characters / 2
    )  # English has three to four characters a token
    assert counts["n_tokens_out"] == 150
    assert chat.requests == []
    assert not FINISHED.exists()
    assert not UNFINISHED.exists()


def test_a_token_budget_stops_before_it_is_overdrawn_and_more_budget_goes_on(project: Path, chat: Chat) -> None:
    one = int(str(record(chat, dry_run=True)["n_tokens_in"])) // 3 + 400  # a request may take its prompt and 400 tokens
    with pytest.raises(
        MapperError,
        match=f"--max_tokens_total {one + 15}: 20 are used .*1 questions are left, .*run the same command again",
    ):
        record(chat, max_tokens_total=one + 15)  # the endpoint says that a request took 10
    assert chat.asked() == ["Dog", "Bark"]
    assert record(chat, max_tokens_total=one + 15)["n_requests"] == 1
    assert chat.asked() == ["Dog", "Bark", "Meow"]


def test_requests_in_flight_count_against_the_budget(project: Path, chat: Chat) -> None:
    one = int(str(record(chat, dry_run=True)["n_tokens_in"])) // 3 + 400
    with pytest.raises(MapperError, match="are left"):
        record(chat, max_tokens_total=one + 15, concurrency=2)
    assert len(chat.requests) == 2  # the first, then one of the other two: both together might take too much


def test_a_run_that_stopped_goes_on_and_asks_nothing_twice(project: Path, chat: Chat) -> None:
    chat.answer = only("Meow", Answer(status=401, body="{}"))
    with pytest.raises(MapperError):
        record(chat)
    with UNFINISHED.open("a") as file:
        file.write('{"kind": "reply", "audio_id": 2, "sou')  # torn by a kill
    chat.answer = right
    assert record(chat)["n_requests"] == 1
    assert chat.asked() == ["Dog", "Bark", "Meow", "Meow"]  # the first Meow was turned away
    before = FINISHED.read_bytes()
    assert record(chat)["n_requests"] == 0
    assert FINISHED.read_bytes() == before


def test_an_interrupted_run_for_another_model_leaves_the_finished_recording_in_use(
    project: Path, chat: Chat, caplog: pytest.LogCaptureFixture
) -> None:
    record(chat)
    before = FINISHED.read_bytes()
    chat.answer = only("Bark", Answer(status=401, body="{}"))
    with pytest.raises(MapperError):
        record(chat, model="large")
    assert FINISHED.read_bytes() == before
    with caplog.at_level("INFO"):
        assert replay() == TRUE_PAIRS
    assert "pets.asking.jsonl holds a recording that was begun" in caplog.text
    chat.answer = right
    assert record(chat, model="large")["n_requests"] == 2
    assert lines()[0]["model"] == "large"
    assert replay() == TRUE_PAIRS


def test_two_runs_cannot_record_the_same_data_set_at_once(project: Path, chat: Chat) -> None:
    seen: list[object] = []

    def answer(request: Request) -> Answer:
        if not seen:
            seen.append(request)
            with pytest.raises(BusyError, match=r"pets.jsonl is being made by process \d+ on .* since 20") as raised:
                record(chat)
            seen.append(raised)
        return right(request)

    chat.answer = answer
    record(chat)
    assert len(seen) == 2


def test_when_a_class_list_grows_replies_to_the_same_question_are_kept(project: Path, chat: Chat) -> None:
    record(chat)
    served.write_classes(project, (*CLASSES, "yoga"))
    assert record(chat)["n_requests"] == 0
    assert replay() == TRUE_PAIRS


KEY = "sk-very-secret-0123456789"


@pytest.mark.parametrize("status", [401, 500])
def test_the_key_is_in_no_error_log_or_file_even_if_the_endpoint_says_it(
    status: int,
    project: Path,
    chat: Chat,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(endpoint.KEY, KEY)
    told = json.dumps({"error": {"message": f"Incorrect API key provided: {KEY}"}})
    chat.answer = lambda request: (
        Answer(f"your key is {KEY}")
        if len(request["messages"]) == 2 and sounds_of(request) == ["Dog"]
        else (right(request) if sounds_of(request) == ["Dog"] else Answer(status=status, body=told))
    )
    with caplog.at_level("DEBUG"), pytest.raises(MapperError, match=r"Incorrect API key provided: \[key\]") as raised:
        record(chat)
    assert chat.keys == {f"Bearer {KEY}"}
    assert raised.value.__suppress_context__
    assert "your key is [key]" in UNFINISHED.read_text()
    printed = capfd.readouterr()
    assert KEY not in str(raised.value) + caplog.text + printed.out + printed.err
    assert not [file for file in project.rglob("*") if file.is_file() and KEY.encode() in file.read_bytes()]


def test_a_key_that_no_header_can_carry_is_not_repeated(
    project: Path, chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(endpoint.KEY, "sk-secr\u00e9t")
    with pytest.raises(MapperError, match="OPENAI_API_KEY holds characters that no header can carry") as raised:
        record(chat)
    assert "secr" not in str(raised.value)


def start(project: Path, chat: Chat) -> "subprocess.Popen[str]":
    """`ask` as a process of its own, in the form block, which needs no embedding, a sound a request."""
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "pipeline.map_labels",
        "ask",
        "pets",
        "--base_url",
        chat.url,
        "--model",
        "small",
    ]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    before = signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # in the background a shell ignores it, and a child would inherit that
    try:
        return subprocess.Popen(
            [*command, "--form", "block", "--block_size", "1"], cwd=project, env=env, stderr=subprocess.PIPE, text=True
        )
    finally:
        signal.signal(signal.SIGINT, before)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.slow
def test_a_killed_run_goes_on_without_asking_twice_what_was_answered(project: Path, chat: Chat) -> None:
    for_ever = threading.Event()
    chat.answer = only("Meow", Answer(wait_for=for_ever))
    process = start(project, chat)
    until(lambda: len(chat.requests) == 3)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    for_ever.set()
    chat.answer = right
    assert record(chat, form="block", block_size=1)["n_requests"] == 2
    assert chat.asked() == ["Dog", "Bark", "Meow", "Meow", "Speech"]  # Meow was never answered
    assert replay() == TRUE_PAIRS


def interrupt(process: "subprocess.Popen[str]") -> None:
    """Send Ctrl-C and wait until the process says that it has understood."""
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    told = iter(process.stderr.readline, "")
    assert any("waiting for what is in flight" in line for line in told)


@pytest.mark.slow
def test_ctrl_c_lets_the_request_in_flight_finish_and_ends_in_one_line(project: Path, chat: Chat) -> None:
    answer_now = threading.Event()
    chat.answer = lambda request: Answer(
        right(request).content, wait_for=answer_now if sounds_of(request) == ["Bark"] else None
    )
    process = start(project, chat)
    until(lambda: len(chat.requests) == 2)
    interrupt(process)
    assert process.poll() is None  # waits for what is paid for
    answer_now.set()
    _, told = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Traceback" not in told
    assert "stopped by Ctrl-C: 2 questions are left" in told.splitlines()[-1]
    assert record(chat, form="block", block_size=1)["n_requests"] == 2
    assert chat.asked() == ["Dog", "Bark", "Meow", "Speech"]


@pytest.mark.slow
def test_a_second_ctrl_c_does_not_wait(project: Path, chat: Chat) -> None:
    for_ever = threading.Event()
    chat.answer = only("Bark", Answer(wait_for=for_ever))
    process = start(project, chat)
    until(lambda: len(chat.requests) == 2)
    interrupt(process)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=10)
    for_ever.set()
    assert process.returncode == 130
    assert "stopped by Ctrl-C: 3 questions are left" in told.splitlines()[-1]

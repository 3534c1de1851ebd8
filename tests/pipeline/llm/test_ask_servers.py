"""Asking servers as they are: what vLLM, llama.cpp, Ollama, OpenRouter, LM Studio, Mistral and proxies answer, in the
shapes in which people report it, from a local server.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from adapt.errors import MapperError
from pipeline.llm._formats import FORMATS
from tests.chat import (
    CLASSES,
    TRUE_PAIRS,
    UNFINISHED,
    Answer,
    Chat,
    Request,
    format_of,
    is_first,
    lines,
    match,
    only,
    record,
    replay,
    reply,
    right,
    sounds_of,
)


def wrapped(request: Request, before: str = "", after: str = "") -> str:
    """What a good model says, between other words."""
    return before + json.dumps(right(request).content) + after


def parts(request: Request) -> list[dict[str, Any]]:
    """Mistral's: reasoning and answer as parts of one content."""
    thought = {"type": "thinking", "thinking": [{"type": "text", "text": 'perhaps {"matches": []}'}], "closed": True}
    half = len(text := wrapped(request)) // 2
    return [thought, {"type": "text", "text": text[:half]}, {"type": "text", "text": text[half:]}]


# what the message holds -> where the record says that it stood
MESSAGES: dict[str, tuple[Any, str]] = {
    "vLLM from 0.11, Ollama: all in reasoning": (lambda r: {"content": None, "reasoning": wrapped(r)}, "reasoning"),
    "llama.cpp, SGLang, LM Studio: all in reasoning_content": (
        lambda r: {"content": "", "reasoning_content": wrapped(r)},
        "reasoning_content",
    ),
    "LiteLLM: both fields": (
        lambda r: {"content": "\n", "reasoning_content": wrapped(r), "reasoning": wrapped(r)},
        "reasoning_content",
    ),
    "reasoning beside the answer": (lambda r: {"content": wrapped(r), "reasoning_content": "hm, a {dog}"}, "content"),
    "Mistral: a list of parts": (lambda r: {"content": parts(r)}, "content"),
    "a list of strings": (lambda r: {"content": [wrapped(r)]}, "content"),
    "one part": (lambda r: {"content": {"type": "text", "text": wrapped(r)}}, "content"),
    "the answer as an object": (lambda r: {"content": right(r).content}, "content"),
    "parts of reasoning alone": (
        lambda r: {"content": [{"type": "thinking", "thinking": wrapped(r)}]},
        "content's reasoning",
    ),
    "OpenRouter: empty reasoning_details": (
        lambda r: {"content": wrapped(r), "reasoning": None, "reasoning_details": [], "refusal": None},
        "content",
    ),
}


@pytest.mark.parametrize("shape", MESSAGES)
def test_an_answer_is_recorded_wherever_the_message_holds_it(shape: str, project: Path, chat: Chat) -> None:
    message, found_in = MESSAGES[shape]
    chat.answer = lambda request: Answer(message=message(request))
    assert record(chat)["n_requests"] == 3
    assert replay() == TRUE_PAIRS
    assert {(r["found_in"], r["form"]) for r in lines()[1:]} == {(found_in, "json_schema")}


def test_the_text_is_recorded_as_it_came_and_read_the_same_when_replayed(project: Path, chat: Chat) -> None:
    chat.answer = lambda request: Answer(
        wrapped(request, '<think>\n{"matches": []}?\u2028</think>\n\nSure!\n```json\n', "\n``` ")
    )
    record(chat)
    assert all(r["raw"].startswith('<think>\n{"matches": []}?\u2028</think>') for r in lines()[1:])
    assert replay() == TRUE_PAIRS


@pytest.mark.parametrize("before", ["", "<think>a dog</think>\n"])
def test_a_format_that_the_server_ignores_is_left_for_the_next(before: str, project: Path, chat: Chat) -> None:
    """Here json_schema and json_object are accepted and ignored, and plain JSON is kept to, after reasoning or not."""
    chat.answer = lambda request: Answer(
        wrapped(request, before) if format_of(request) == "json_object_plain" else f"{before}It is a dog, I think."
    )
    record(chat, max_attempts=1)
    assert [format_of(request) for request in chat.requests] == [*FORMATS[:2], *["json_object_plain"] * 3]
    assert replay() == TRUE_PAIRS


def test_answers_in_an_ignored_format_are_kept_and_the_formats_after_it_are_tried(project: Path, chat: Chat) -> None:
    chat.answer = lambda request: Answer(wrapped(request, "```json\n", "\n```"))
    record(chat, form="block", block_size=1)
    assert [r["form"] for r in lines()[1:]] == list(FORMATS)
    assert chat.asked() == ["Dog", "Bark", "Meow", "Speech"]  # nothing is paid for twice
    assert replay() == TRUE_PAIRS


@pytest.mark.parametrize(
    ("status", "n_times"), [(500, 2), (200, 1), (400, 1)], ids=["500, tried again", "an error under 200", "400"]
)
def test_a_passing_error_does_not_change_the_format_of_a_recording(
    status: int, n_times: int, project: Path, chat: Chat
) -> None:
    broken = Answer(status=status, body='{"error": {"message": "CUDA out of memory"}}')
    chat.answer = lambda request: broken if len(chat.requests) <= n_times else right(request)
    record(chat, max_retries=1)
    assert [r["form"] for r in lines()[1:]] == ["json_object", "json_schema", "json_schema"]


def test_a_server_that_was_down_for_all_formats_has_refused_none(project: Path, chat: Chat) -> None:
    chat.answer = lambda request: Answer(status=500, body="{}")
    with pytest.raises(MapperError, match="InternalServerError 500"):
        record(chat, max_retries=0)
    chat.answer = right
    record(chat)
    assert {r["form"] for r in lines()[1:]} == {"json_schema"}


@pytest.mark.parametrize("status", [429, 503])
def test_the_retries_asked_for_hold_from_the_first_question_on(status: int, project: Path, chat: Chat) -> None:
    busy = Answer(status=status, body="{}", headers={"Retry-After": "0.01"})
    chat.answer = lambda request: busy if len(chat.requests) <= 3 else right(request)
    record(chat, max_retries=3)
    assert chat.asked() == ["Dog"] * 4 + ["Bark", "Meow"]
    assert {r["form"] for r in lines()[1:]} == {"json_schema"}


REASONED: dict[str, Answer] = {
    "DeepSeek, vLLM: reasoning apart": Answer(
        message={"content": None, "reasoning_content": "A dog barks, so"}, finish_reason="length"
    ),
    "reasoning in the text": Answer("<think>A dog barks, so", finish_reason="length"),
    "OpenAI: reasoning that is not shown": Answer(message={"content": ""}, finish_reason="length"),
    "Gemini behind a proxy": Answer(message={"content": None}, finish_reason="MAX_TOKENS"),
}


@pytest.mark.parametrize("shape", REASONED)
def test_tokens_used_up_by_reasoning_are_not_paid_for_again(shape: str, project: Path, chat: Chat) -> None:
    chat.answer = only("Bark", REASONED[shape])
    told = r"small used up 3 tokens reasoning about 'Bark' and gave no answer: raise max_tokens: --settings '.*3200}'"
    with pytest.raises(MapperError, match=told):
        record(chat)
    assert chat.asked() == ["Dog", "Bark"]
    assert "cut off at the token limit" in lines(UNFINISHED)[-1]["error"]
    chat.answer = right
    record(chat, settings='{"temperature": 0, "seed": 0, "max_tokens": 3200}')
    assert replay() == TRUE_PAIRS


EMPTY: dict[str, Answer] = {
    "nothing": Answer(message={"content": None}),
    "spaces": Answer(" \n"),
    "a tool's call": Answer(message={"content": None, "tool_calls": [{"id": "1", "type": "function"}]}),
    "reasoning alone": Answer(message={"content": "", "reasoning": "A dog barks."}),
}


@pytest.mark.parametrize("shape", EMPTY)
def test_no_empty_turn_is_sent_back_nor_two_turns_of_one_role(shape: str, project: Path, chat: Chat) -> None:
    chat.answer = only("Bark", EMPTY[shape])
    record(chat)
    (again,) = [request for request in chat.requests if not is_first(request)]
    assert [message["role"] for message in again["messages"]] == ["system", "user"]
    assert "Not valid: the reply is" in again["messages"][1]["content"]
    assert replay() == TRUE_PAIRS


NO_SYSTEM = {  # status and body as reported of Gemma and Mistral templates
    "vLLM": (400, {"error": {"message": "System role not supported", "type": "BadRequestError", "code": 400}}),
    "vLLM before 0.10": (
        400,
        {
            "object": "error",
            "message": "Conversation roles must alternate user/assistant/user/assistant/...",
            "code": 400,
        },
    ),
    "llama.cpp": (
        500,
        {
            "error": {
                "code": 500,
                "message": "While executing CallExpression: raise_exception('System role ...\nJinja Exception: "
                "System role not supported",
                "type": "server_error",
            }
        },
    ),
    "under status 200": (200, {"error": {"message": "Only user and assistant roles are supported!"}}),
}


@pytest.mark.parametrize("server", NO_SYSTEM)
def test_a_template_without_a_system_role_gets_the_systems_text_from_the_user(
    server: str, project: Path, chat: Chat
) -> None:
    status, body = NO_SYSTEM[server]
    chat.answer = lambda request: (
        Answer(status=status, body=json.dumps(body)) if request["messages"][0]["role"] == "system" else right(request)
    )
    record(chat, max_retries=0)
    assert chat.asked() == ["Dog", "Dog", "Bark", "Meow"]  # found out once
    system = Path("data/prompts/pick_system.txt").read_text()
    assert chat.requests[-1]["messages"][0]["content"].startswith(f"{system}\n\nSound: ")
    assert {(r["system_role"], r["form"]) for r in lines()[1:]} == {(False, "json_schema")}
    assert replay() == TRUE_PAIRS


UNDER_200: dict[str, tuple[dict[str, Any], str]] = {
    "OpenRouter: a provider fails": (
        {
            "error": {
                "code": 502,
                "message": "Provider returned error",
                "metadata": {"raw": '{"message": "upstream overloaded"}', "provider_name": "Chutes"},
            }
        },
        "InternalServerError 502: Provider returned error Chutes .*upstream overloaded",
    ),
    "OpenRouter: in the choice": (
        {"choices": [{"index": 0, "message": {"content": '{"mat'}, "error": {"code": 429, "message": "Slow down"}}]},
        "RateLimitError 429: Slow down.*--concurrency",
    ),
    "cut off by an error": (
        {"choices": [{"index": 0, "message": {"content": '{"mat'}, "finish_reason": "error"}]},
        "InternalServerError 502",
    ),
    "a code in words": (
        {"error": {"code": "insufficient_quota", "message": "You exceeded your quota"}},
        "BadRequestError 400: You exceeded your quota",
    ),
    "a text": ({"error": "model 'small' not found, try pulling it first"}, "not found, try pulling.*check --model"),
    "FastChat": ({"object": "error", "message": "NETWORK ERROR", "code": 50001}, "400: NETWORK ERROR"),
    "no choices": ({"choices": [], "usage": {}}, "no chat completion but JSON without choices"),
    "a message that is none": ({"choices": [{"message": "dog"}]}, "no chat completion but JSON without choices"),
}


@pytest.mark.parametrize("shape", UNDER_200)
def test_an_error_under_status_200_is_told_in_the_servers_words(shape: str, project: Path, chat: Chat) -> None:
    body, told = UNDER_200[shape]
    chat.answer = only("Bark", Answer(body=json.dumps(body)))
    with pytest.raises(MapperError, match=f"did not answer for 'Bark' .*{told}"):
        record(chat, max_retries=0)
    chat.answer = right
    record(chat)
    assert replay() == TRUE_PAIRS


def test_a_passing_error_under_status_200_is_tried_again(project: Path, chat: Chat) -> None:
    failing = Answer(body='\n\n {"error": {"code": 503, "message": "no provider"}}', headers={"Retry-After": "0.01"})
    chat.answer = lambda request: failing if len(chat.requests) in (1, 3) else right(request)
    record(chat)
    assert chat.asked() == ["Dog", "Dog", "Bark", "Bark", "Meow"]


TOLD: dict[str, tuple[int, str, str]] = {
    "LM Studio: an error that is a text": (
        403,
        "{\"error\": \"Model reloaded; 'response_format.type' must be 'json_schema' or 'text'\"}",
        "PermissionDeniedError 403: Model reloaded; 'response_format.type' must be",
    ),
    "FastAPI: detail": (
        422,
        '{"detail": [{"loc": ["body", "seed"], "msg": "Extra inputs are not permitted", "type": "extra_forbidden"}]}',
        "UnprocessableEntityError 422: Extra inputs are not permitted.: give --settings",
    ),
    "vLLM: too long": (
        400,
        "{\"error\": {\"message\": \"'max_tokens' or 'max_completion_tokens' is too large: 8000. This model's maximum "
        'context length is 4096 tokens", "type": "BadRequestError", "param": null, "code": 400}}',
        "maximum context length is 4096 tokens.*--settings a smaller max_tokens",
    ),
    "OpenAI: another name for the limit": (
        400,
        '{"error": {"message": "Unsupported parameter: \'max_tokens\' is not supported with this model. Use '
        "'max_completion_tokens' instead.\"}}",
        "Use 'max_completion_tokens' instead.*give --settings what this model takes",
    ),
    "vLLM: another model": (
        404,
        '{"error": {"message": "The model `small` does not exist.", "type": "NotFoundError", "code": 404}}',
        "does not exist.*check --model",
    ),
    "a wrong path": (404, '{"detail": "Not Found"}', "NotFoundError 404: Not Found.: check --base_url"),
    "OpenRouter: no money": (402, '{"error": {"message": "Insufficient credits", "code": 402}}', "add credit there"),
    "a gateway's page": (504, "<html><h1>504 Gateway Time-out</h1></html>", "InternalServerError 504: <html><h1>504"),
}


@pytest.mark.parametrize("case", TOLD)
def test_an_error_is_told_in_the_servers_words_with_the_flag_to_set(case: str, project: Path, chat: Chat) -> None:
    status, body, told = TOLD[case]
    chat.answer = only("Bark", Answer(status=status, body=body))
    with pytest.raises(MapperError, match=f"did not answer for 'Bark' .*{told}") as raised:
        record(chat, max_retries=0)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "usage", [None, {}, {"prompt_tokens": None}, {"prompt_tokens": "7", "completion_tokens": -1}, [7], {"cost": 0.1}]
)
def test_a_usage_that_counts_nothing_is_recorded_as_unknown(usage: object, project: Path, chat: Chat) -> None:
    def answer(request: Request) -> Answer:
        message = {"message": {"content": wrapped(request)}}  # and no finish_reason
        return Answer(body=json.dumps({"choices": [message]} | ({} if usage is None else {"usage": usage})))

    chat.answer = answer
    record(chat, max_tokens_total=10_000)
    assert {(r["prompt_tokens"], r["completion_tokens"], r["finish_reason"]) for r in lines()[1:]} == {(None,) * 3}
    assert replay() == TRUE_PAIRS


def test_a_server_that_streams_unasked_is_one_line(project: Path, chat: Chat) -> None:
    chat.answer = lambda request: Answer(body='data: {"choices": [{"delta": {"content": "{"}}]}\n\ndata: [DONE]\n\n')
    with pytest.raises(MapperError, match="no chat completion but a stream of events"):
        record(chat)
    assert {request["stream"] for request in chat.requests} == {False}


def test_an_answer_of_many_sounds_is_found_in_reasoning_as_well(project: Path, chat: Chat) -> None:
    chat.answer = lambda request: Answer(message={"content": "", "reasoning": wrapped(request, "So: ", " Done.")})
    record(chat, form="block")
    assert replay() == TRUE_PAIRS


def test_one_classes_reply_is_checked_as_strictly_after_a_sentence(project: Path, chat: Chat) -> None:
    chat.answer = only("Bark", Answer(f"Sure: {json.dumps(reply(match('unicorn')))}"))
    record(chat)
    (again,) = [request for request in chat.requests if not is_first(request)]
    assert sounds_of(again) == ["Bark"]
    assert (
        f"'unicorn' is not one of {[name.replace('_', ' ') for name in CLASSES]}"[:30]
        in again["messages"][-1]["content"]
    )

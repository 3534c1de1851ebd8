"""Finding the answer in what a model wrote: what is read of a recorded text, and what is a fault."""

import json
import time

import pytest

from pipeline.llm.forms import ReplyError, parse, without_reasoning

ITEM = {"class": "dog", "weight": 1}
JSON = json.dumps({"matches": [ITEM]})
DRAFT = '{"matches": []}'

READ = {
    "alone": JSON,
    "in fences": f"```json\n{JSON}\n```",
    "in fences without a language": f"```\n{JSON}```",
    "after a sentence": f"Sure! Here is the JSON that you asked for:\n\n{JSON}",
    "before a sentence": f"{JSON}\n\nLet me know if I can help with anything else.",
    "given twice": f"{JSON}\nThat is:\n```json\n{json.dumps({'matches': [ITEM]}, indent=2)}\n```",
    "quoted once more": json.dumps(JSON),
    "DeepSeek, Qwen: after reasoning": f"<think>\nA bark. {DRAFT}? No: a dog.\n</think>\n\n{JSON}",
    "the opening mark is in the template": f"A bark, so {DRAFT} is wrong.\n</think>\n\n{JSON}",
    "the model reasoned twice": f"<think>{DRAFT}</think>{DRAFT} <think>no</think>```json\n{JSON}\n```",
    "empty reasoning": f"<think>\n\n</think>\n\n{JSON}",
    "Seed": f"<seed:think>{DRAFT}</seed:think>{JSON}",
    "Magistral": f"[THINK]{DRAFT}[/THINK]{JSON}",
    "Kimi": f"◁think▷{DRAFT}◁/think▷{JSON}",
    "gpt-oss": f"<|channel|>analysis<|message|>{DRAFT}<|end|><|start|>assistant<|channel|>final<|message|>{JSON}",
    "a sentence with braces": f"The set {{dog}} it is: {JSON}",
}


@pytest.mark.parametrize("raw", READ.values(), ids=READ)
def test_the_answer_is_found_where_models_put_it(raw: str) -> None:
    assert parse(raw, "stop", "matches") == [ITEM]


def test_marks_of_reasoning_within_an_answer_are_part_of_it() -> None:
    raw = json.dumps({"matches": [{"reason": "a </think> b <think> ```c``` {d}"}]})
    assert parse(raw, "stop", "matches") == [{"reason": "a </think> b <think> ```c``` {d}"}]
    assert without_reasoning(raw) == raw


FAULTS = {
    "two answers that differ": (f"{DRAFT} or {JSON}", "2 different objects"),
    "reasoning alone": (f"<think>{JSON}</think>\n", "holds reasoning and no answer"),
    "reasoning without end": (f"<think>perhaps {JSON}", "holds reasoning and no answer"),
    "gpt-oss, reasoning alone": (f"<|channel|>analysis<|message|>{JSON}", "holds reasoning and no answer"),
    "nothing": (" \n", "the reply is empty"),
    "prose": ("It is a dog.", "not JSON: 'It is a dog.'"),
    "broken JSON is not mended": ("{'matches': [],}", "not JSON"),
    "half an answer": (JSON[:-1], 'not an object with a list "matches"'),
    "another object": ('Sure: {"class": "dog"}', 'not an object with a list "matches"'),
    "a list of another kind": ('{"matches": "dog"}', 'not an object with a list "matches"'),
    "a number of 5,000 digits": ('{"matches": [' + "9" * 5000 + "]}", "not JSON"),
    "nested without end": ('{"a": [' * 100_000, "not JSON"),
}


@pytest.mark.parametrize(("raw", "told"), FAULTS.values(), ids=FAULTS)
def test_what_is_no_answer_is_a_fault_and_never_guessed(raw: str, told: str) -> None:
    with pytest.raises(ReplyError, match=told):
        parse(raw, "stop", "matches")


@pytest.mark.parametrize("finish_reason", ["length", "max_tokens", "MAX_TOKENS"])
def test_a_reply_that_was_cut_off_is_not_read_even_where_it_looks_whole(finish_reason: str) -> None:
    with pytest.raises(ReplyError, match="cut off at the token limit"):
        parse(JSON, finish_reason, "matches")


@pytest.mark.parametrize("text", ["{" * 2**24, '{"a":[' * 2**17 + "1," * 2**17, '{"' * 2**17, "```" * 2**20])
def test_a_hostile_text_is_read_in_seconds(text: str) -> None:
    start = time.process_time()
    with pytest.raises(ReplyError):
        parse(text, "stop", "matches")
    assert time.process_time() - start < 5  # it takes a hundredth of that; without bounds it takes minutes

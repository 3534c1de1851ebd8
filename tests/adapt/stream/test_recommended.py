"""The rule of `python -m adapt.check`: each of its sentences, from findings made by hand."""

import dataclasses

import pytest

from adapt.stream._recommended import Findings, recommend

GOOD = Findings(
    n_classes=10, n_mapped=8, n_clips=200, n_heard=120, n_seen=100, n_seen_heard=60, information=0.6, trust=0.95,
    agree=0.9, by_chance=0.1, contradicted=(), can_align=True, ms=100.0,
)  # fmt: skip


@pytest.mark.parametrize(("changes", "run", "why"), [
    ({}, "full", "pictures and sounds agree, and the network can be adapted"),
    ({"n_mapped": 0, "n_heard": 0}, "none", "no class has a sound in the map"),
    ({"n_heard": 9}, "none", "only 4.5 % of the clips are heard"),
    ({"n_heard": 10}, "full", "agree"),
    ({"information": 0.04}, "none", "nearly the same to every clean clip"),
    ({"n_seen_heard": 9, "trust": 0.1}, "trusted", "9 heard clips are too few"),
    ({"trust": 0.19}, "none", "the pictures contradict the sounds"),
    ({"trust": 0.2}, "trusted", "agree in part"),
    ({"trust": 0.49, "can_align": False}, "trusted", "agree in part"),
    ({"trust": 0.49, "agree": 0.1}, "none", "the pictures contradict the sounds"),
    ({"trust": 0.49, "agree": 0.11}, "trusted", "agree in part"),
    ({"trust": 0.5, "agree": 0.1}, "full", "agree"),
    ({"trust": 0.5}, "full", "agree"),
    ({"contradicted": ("dog",)}, "full", "agree"),
    ({"budget_ms": 100.0}, "full", "agree"),
    ({"budget_ms": 99.0}, "plain", "it takes 100 ms a clip, 99 are given"),
    ({"can_align": False, "ms": None}, "plain", "no source statistics, and no batch norm"),
    ({"can_align": False, "ms": None, "trust": 0.89}, "trusted", "the sounds of some classes are doubtful"),
    ({"can_align": False, "ms": None, "contradicted": ("dog",)}, "trusted", "the sounds of some classes are doubtful"),
    ({"n_clips": 0, "n_heard": 0}, "none", "only 0.0 %"),
])  # fmt: skip
def test_the_first_rule_that_holds_decides(changes: dict[str, object], run: str, why: str) -> None:
    advice = recommend(dataclasses.replace(GOOD, **changes))  # type: ignore[arg-type]
    assert advice.run == run
    assert why in advice.why


def test_what_is_seen_earlier_in_the_list_outranks_what_comes_later() -> None:
    bad = dataclasses.replace(GOOD, n_mapped=0, n_heard=0, information=0.0, n_seen_heard=0, trust=0.0)
    assert "map" in recommend(bad).why
    assert "heard" in recommend(dataclasses.replace(bad, n_mapped=1)).why
    assert "model" in recommend(dataclasses.replace(bad, n_mapped=1, n_heard=200)).why
    assert recommend(dataclasses.replace(bad, n_mapped=1, n_heard=200, information=1.0)).run == "trusted"

"""What holds for every method: reset, saved states, guards, and the one door through which labels come."""

import dataclasses
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from adapt import fusion, methods
from adapt.contract import Answer, Batch
from adapt.core import _guards
from adapt.core._guards import Guards, GuardSettings
from adapt.core.learner import Views
from adapt.core.oracle import Oracle
from adapt.core.state import Sgd, Weights
from adapt.errors import MethodError
from adapt.fusion import Fused
from adapt.methods import audio, vitta
from adapt.methods.audio import Audio
from adapt.methods.vitta import Vitta
from tests import built
from tests.pairs import runs
from tests.tiny import K, TinyVideoModel, batch, same_weights, trained, weights

SETTINGS: dict[str, Any] = {
    "lr": 0.01,
    "entropy_margin": 1.1,
    "deyo_drop": -1.0,
}  # each method is given those that it reads
GUARDED = SETTINGS | {
    "ensemble": 0.9,
    "collapse_entropy": 0.9,
    "collapse_agreement": 1.1,
    "collapse_memory": 0.5,
    "collapse_every": 2,
}
STREAM = [batch(i, heard=i % 3 if i % 2 else None) for i in range(10)]
TRUTH = Oracle({clip.clip_ids[0]: (i % 3,) for i, clip in enumerate(STREAM)})  # right for every sound that is heard


def made(name: str, fusion: str = "none", settings: Mapping[str, Any] = SETTINGS) -> tuple[Fused, TinyVideoModel]:
    model = trained()
    return built.fused(name, fusion, model, None, K, TRUTH, **built.fitting(name, fusion, **settings)), model


GRADIENTS = [name for name in methods.names() if hasattr(made(name)[0].method, "guards")]


def same(a: Answer, b: Answer) -> bool:
    """Whether two answers are the same, bit for bit; only the milliseconds may differ."""
    fused = a.fused is b.fused or (a.fused is not None and b.fused is not None and torch.equal(a.fused, b.fused))
    traces = [[dataclasses.replace(step, ms=0.0) for step in answer.trace] for answer in (a, b)]
    rest = (a.steps, a.stop_reason, a.gate) == (b.steps, b.stop_reason, b.gate)
    return (
        fused and rest and traces[0] == traces[1] and torch.equal(a.before, b.before) and torch.equal(a.after, b.after)
    )


def through_a_file(state: Mapping[str, Any]) -> Any:
    file = io.BytesIO()
    torch.save(dict(state), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize(("name", "fused"), runs(methods.names(), fusion.names()))
def test_reset_gives_back_weights_and_answers_bit_for_bit(name: str, fused: str) -> None:
    method, model = made(name, fused)
    before = weights(model)
    first = [method.adapt(clip) for clip in STREAM[:5]]
    method.reset()
    assert same_weights(model, before)
    assert all(same(a, method.adapt(clip)) for a, clip in zip(first, STREAM, strict=False))


@pytest.mark.parametrize("name", methods.names())
@pytest.mark.parametrize(
    ("fused", "settings"),
    [
        ("none", GUARDED),
        ("trusted", SETTINGS),
        *(pytest.param(one, SETTINGS, marks=pytest.mark.slow) for one in fusion.names() if one != "trusted"),
    ],
)
def test_a_method_goes_on_from_its_saved_state_bit_for_bit(name: str, fused: str, settings: dict[str, Any]) -> None:
    undisturbed, model = made(name, fused, settings)
    expected = [undisturbed.adapt(clip) for clip in STREAM]
    interrupted, _ = made(name, fused, settings)
    for clip in STREAM[:6]:
        interrupted.adapt(clip)
    saved = through_a_file(interrupted.state())
    for clip in STREAM[6:]:
        interrupted.adapt(clip)  # a state is a copy: going on does not change it
    fresh, other = made(name, fused, settings)
    fresh.load_state(saved)
    assert all(same(answer, fresh.adapt(clip)) for answer, clip in zip(expected[6:], STREAM[6:], strict=True))
    assert same_weights(other, weights(model))


@pytest.mark.parametrize(("name", "fused"), runs(methods.names(), fusion.names()))
def test_every_method_takes_more_clips_than_one_at_once(name: str, fused: str) -> None:
    a, b = STREAM[1], STREAM[2]
    tensors = {
        field: torch.cat([getattr(a, field), getattr(b, field)]) for field in ("frames", "centre", "q", "s", "mass")
    }
    answer = made(name, fused)[0].adapt(Batch(**tensors, status=a.status + b.status, clip_ids=a.clip_ids + b.clip_ids))
    assert answer.before.shape == answer.after.shape == (2, K)
    assert answer.after.isfinite().all()
    assert (answer.fused is None) == (fused == "none")
    if answer.fused is not None:
        assert answer.fused.shape == (2, K)
        assert answer.fused.isfinite().all()


@pytest.mark.parametrize("name", GRADIENTS)
def test_every_method_that_takes_gradients_moves_its_weights_and_saves_them(name: str) -> None:
    method, model = made(name)
    before = weights(model)
    for clip in STREAM[:3]:
        method.adapt(clip)
    assert not same_weights(model, before)
    assert torch.equal(method.state()["method"]["weights"]["norm.bias"], model.norm.bias)


def test_the_methods_that_take_gradients_are_those_of_the_papers_that_do() -> None:
    assert set(GRADIENTS) == {
        *(
            "tent",
            "shot",
            "eata",
            "sar",
            "roid",
            "cmf",
            "deyo",
            "vitta",
            "vitta_dua",
            "ensemble",
            "audio",
            "oracle_gate",
        )
    }


def test_a_state_of_another_method_scope_or_optimiser_is_a_clear_error() -> None:
    method, _ = made("audio")
    with pytest.raises(MethodError, match="Audio needs .*: it is another method's"):
        method.load_state(made("vitta")[0].state())
    wider, _ = made("vitta", settings=SETTINGS | {"scope": "all"})
    with pytest.raises(MethodError, match="6 weights are not the 2 that adapt here"):
        made("vitta")[0].load_state(wider.state())
    optimiser = Sgd([torch.nn.Parameter(torch.zeros(2))], 0.1)
    with pytest.raises(MethodError, match="optimiser is not of 1 parameters"):
        optimiser.load_state(Sgd([torch.nn.Parameter(torch.zeros(2)) for _ in range(2)], 0.1).state())


def test_a_state_of_another_fusion_or_of_none_is_a_clear_error() -> None:
    for ours, theirs in (("none", "plain"), ("plain", "none")):
        with pytest.raises(MethodError, match="it is not of this method and fusion"):
            made("source", ours)[0].load_state(made("source", theirs)[0].state())
    with pytest.raises(MethodError, match="Trusted needs .*"):
        made("source", "trusted")[0].load_state(made("source", "balanced")[0].state())
    with pytest.raises(MethodError, match="it is not of this method and fusion"):
        made("source")[0].load_state(made("source")[0].method.state())


# guards


@pytest.mark.parametrize("name", GRADIENTS)
def test_ensembling_leaves_the_share_alpha_of_what_a_clip_changed(name: str) -> None:
    plain, model = made(name, settings=SETTINGS | {"ensemble": 1.0})
    guarded, pulled = made(name, settings=SETTINGS | {"ensemble": 0.75})
    source = weights(model)
    assert same(plain.adapt(STREAM[1]), guarded.adapt(STREAM[1]))  # the pull comes after the prediction
    for key in ("norm.weight", "norm.bias"):
        expected = 0.75 * model.get_parameter(key) + 0.25 * source[key]
        assert torch.allclose(pulled.get_parameter(key), expected, atol=1e-7)


def certain(k: int) -> Tensor:
    return torch.full((1, K), -math.inf).index_fill(1, torch.tensor([k]), 0.0)


def watched(settings: GuardSettings, source: list[int], answers: list[int]) -> tuple[list[str], Tensor]:
    """The stop reasons of a guarded stream of certain answers beside those of a certain source, and the weight w that
    is left.

    w starts at 0 and grows by 1 before each answer.
    """
    module = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(module.weight)
    store, optimiser, watch = (
        Weights(module, list(module.parameters())),
        Sgd(list(module.parameters()), 0.1),
        Guards(settings),
    )
    reasons = []
    for theirs, ours in zip(source, answers, strict=True):
        with torch.no_grad():
            module.weight.add_(1)
        answer = Answer(certain(ours), certain(ours), stop_reason="none")
        reasons.append(watch.after(answer, store, optimiser, lambda theirs=theirs: certain(theirs)).stop_reason)  # type: ignore[misc]
    return reasons, module.weight.detach()


WATCHING = GuardSettings(collapse_entropy=0.5, collapse_agreement=0.5, collapse_memory=0.9, collapse_every=100)


def first_narrow(share: float, memory: float) -> int:
    """After how many clips of one class the running marginal's entropy is below share log K; it holds 1 - .75 memory^n
    of that class.
    """
    for n in range(1, 1000):
        rest = 0.25 * memory**n
        top = 1 - 3 * rest
        if -top * math.log(top) - 3 * rest * math.log(rest) < share * math.log(K):
            return n
    raise AssertionError


def test_a_collapsed_model_is_put_back_when_the_marginal_is_narrow() -> None:
    source = [1, 2, 3] * 20
    reasons, weight = watched(WATCHING, source, [0] * 60)
    n = first_narrow(0.5, 0.9)
    assert 0.9**n < 0.5  # agreement: none since the start
    assert reasons[:n] == ["none"] * (n - 1) + ["collapsed"]
    assert reasons[n : 2 * n] == reasons[:n]  # watched from scratch
    assert weight.item() == 60 % n  # counted from the source again after each


def test_a_stream_sorted_by_class_is_no_collapse_while_a_sure_source_agrees() -> None:
    assert "collapsed" not in watched(WATCHING, [0] * 60, [0] * 60)[0]
    alone = dataclasses.replace(WATCHING, collapse_agreement=1.1)  # narrowness suffices
    assert "collapsed" in watched(alone, [0] * 60, [0] * 60)[0]


def test_the_last_good_weights_come_back_and_then_those_of_the_source() -> None:
    settings = dataclasses.replace(
        WATCHING, collapse_every=12, collapse_memory=0.8
    )  # narrow after 7 clips or so of one class
    source, answers = (
        [*[0, 1, 2, 3] * 3, *[1] * 40],
        [*[0, 1, 2, 3] * 3, *[0] * 40],
    )  # w is 12 when 12 good clips have passed
    reasons, _ = watched(settings, source, answers)
    first, second, *_ = (i + 1 for i, reason in enumerate(reasons) if reason == "collapsed")
    assert 12 < first < 24 < second
    assert watched(settings, source[:first], answers[:first])[1].item() == 12
    assert watched(settings, source[:second], answers[:second])[1].item() == 0


def test_a_wrecked_model_recovers_under_the_guard_and_not_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_guards, "SURE", 0.0)  # the tiny source is never sure of much
    guard = {"collapse_entropy": 0.9, "collapse_agreement": 0.9, "collapse_memory": 0.5}
    for settings, recovers in ((SETTINGS | guard, True), (SETTINGS, False)):
        method, model = made("vitta", settings=settings)
        with torch.no_grad():
            model.norm.weight.mul_(-100)
        reasons = [method.adapt(batch(i)).stop_reason for i in range(8)]
        assert ("collapsed" in reasons) == recovers
        assert (model.norm.weight.abs().max().item() < 10) == recovers


def test_guards_are_off_by_default() -> None:
    assert (GuardSettings().ensemble, GuardSettings().collapse_entropy) == (1.0, 0.0)
    assert not GuardSettings().guarded()


# the audio cycle's best step


class Scripted(Audio):
    """The losses that it sees on a clip, whatever the weights."""

    script: tuple[float, ...] = ()

    def look(self, batch: Batch) -> Views:
        """Views that agree."""
        views = super().look(batch)
        views.agree = torch.tensor(True)
        return views

    def terms(self, views: Views, t: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        loss, *parts = super().terms(views, t, weight)
        value, *self.script = self.script  # type: ignore[assignment]
        return (loss - loss.detach() + value, parts[0], parts[1], parts[2])


@pytest.mark.parametrize(("script", "reason"), [
    ((1.0, 0.5, 0.55, 0.55), "converged"),  # the second rise is none
    ((1.0, 0.5, 0.55, 0.7), "diverged"),  # by more than a fifth
])  # fmt: skip
def test_a_clip_that_gets_no_better_is_predicted_by_its_best_step(
    script: tuple[float, ...], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audio, "SURE", 2.0)  # never agreed
    method = Scripted(trained(), None, K, audio.Settings(lr=0.01, audio_lr=0.5, max_iterations=9, members="none"))
    method.script = script
    answer = method.adapt(batch(heard=2))
    assert (answer.stop_reason, answer.steps) == (reason, 3)
    first_own_look = (
        Vitta(trained(), None, vitta.Settings(lr=0.01)).adapt(batch(heard=2)).after
    )  # by the weights after the stream's step
    assert torch.equal(answer.after, first_own_look)


# the door for labels


class Watched(Oracle):
    """Counts how often it is asked."""

    asked = 0

    def true(self, clip_ids: Sequence[str], classes: Sequence[int]) -> list[bool]:
        Watched.asked += 1
        return super().true(clip_ids, classes)


@pytest.mark.parametrize("name", methods.names())
def test_an_oracle_reaches_the_method_that_declares_it_and_no_other(name: str) -> None:
    Watched.asked = 0
    oracle = Watched({clip.clip_ids[0]: (0, 3) for clip in STREAM})
    method = built.fused(name, "trusted", trained(), None, K, oracle)
    holders = [
        part
        for part in (method, method.fusion, method.method, getattr(method.method, "fusion", None))
        if part is not None
    ]
    assert any(value is oracle for part in holders for value in vars(part).values()) == (name == "oracle_gate")
    method.adapt(STREAM[1])
    assert Watched.asked == (name == "oracle_gate")


def test_a_method_that_needs_labels_is_a_clear_error_without_them() -> None:
    with pytest.raises(MethodError, match="oracle_gate is an upper bound that sees labels"):
        built.fused("oracle_gate", "trusted", trained(), None, K)


def test_the_oracle_gate_trusts_right_sounds_and_else_is_vitta() -> None:
    clip, alone = STREAM[1], SETTINGS | {"members": "none"}
    right, wrong, vitta_, trusting = (
        made("oracle_gate", settings=alone),
        made("oracle_gate", settings=alone),
        made("vitta"),
        made("audio", settings=alone | {"trust": 1.0}),
    )
    assert same(right[0].adapt(clip), trusting[0].adapt(clip))
    misled = wrong[0].adapt(dataclasses.replace(clip, clip_ids=("clip 2",)))  # whose class is another
    assert (misled.gate, misled.stop_reason) == (0, "unheard")
    assert torch.allclose(misled.after, vitta_[0].adapt(clip).after, atol=1e-6)

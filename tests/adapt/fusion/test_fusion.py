"""Fusions of picture and sound: what each says in closed form, on any method, and that the method's own answer stands
beside it.
"""

import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn

from adapt import fusion, methods
from adapt.contract import Answer, Batch
from adapt.core.oracle import Oracle
from adapt.core.state import ClassPrior
from adapt.errors import MethodError
from adapt.fusion import plain
from tests import built
from tests.pairs import runs
from tests.tiny import K, batch, trained

STREAM = [batch(i, heard=i % 3 if i % 2 else None) for i in range(6)]
TRUTH = Oracle({clip.clip_ids[0]: (i % 3,) for i, clip in enumerate(STREAM)})


class Pixels(nn.Module):
    """The first two colour channels' means are the logits."""

    def forward(self, frames: Tensor) -> Tensor:
        return frames[:, :2].mean((2, 3, 4))


def seen(p: tuple[float, float], s: tuple[float, float]) -> Batch:
    """A clip that Pixels gives the probabilities `p`, with evidence `s`."""
    logits = torch.tensor([math.log(p[0]) + 2, math.log(p[1]) + 2, 0.0])
    frames = logits.view(1, 1, 3, 1, 1, 1).expand(1, 2, 3, 4, 2, 2)
    evidence = torch.tensor([s])
    return Batch(frames, frames[:, :1], torch.full((1, 2), 0.5), evidence, evidence.amax(1), ("ok",), ("clip",))


def picture_of(answer: Answer) -> Tensor:
    """What is fused: what the method says without the sound."""
    return (answer.after if answer.unheard is None else answer.unheard).exp()


@pytest.mark.parametrize(("name", "fused"), runs(methods.names(), fusion.names()))
def test_a_fusion_changes_nothing_of_a_methods_own_answers(name: str, fused: str) -> None:
    alone = built.alone(name, trained(), None, K, TRUTH)
    beside = built.fused(name, fused, trained(), None, K, TRUTH)
    for clip in STREAM:
        ours, theirs = beside.adapt(clip), alone.adapt(clip)
        assert torch.equal(ours.after, theirs.after)
        assert torch.equal(ours.before, theirs.before)
        assert (ours.fused is None) == (fused == "none")


@pytest.mark.parametrize("name", methods.names())
def test_plain_fusion_is_p_times_floor_plus_evidence_on_any_method(name: str) -> None:
    method = built.fused(name, "plain", trained(), None, K, TRUTH, fusion_floor=0.05)
    for clip in STREAM:
        answer = method.adapt(clip)
        assert answer.fused is not None
        product = picture_of(answer) * (0.05 + clip.s)
        assert torch.allclose(answer.fused.softmax(1), product / product.sum(1, keepdim=True), atol=1e-6)
        assert torch.equal(answer.fused.argmax(1), product.argmax(1))


@pytest.mark.parametrize("name", methods.names())
def test_balanced_fusion_divides_by_the_running_mean_of_its_answers_on_any_method(name: str) -> None:
    method = built.fused(name, "balanced", trained(), None, K, TRUTH, fusion_floor=0.05, prior_balance=0.5)
    total = torch.ones(1, K, dtype=torch.float64)  # uniform counts as K clips
    for clip in STREAM:
        answer = method.adapt(clip)
        assert answer.fused is not None
        expected = (picture_of(answer) * (0.05 + clip.s)).double() / (total / total.sum()).sqrt()
        expected = expected / expected.sum()
        assert torch.allclose(answer.fused.double().softmax(1), expected, atol=1e-6)
        total = total + expected


def test_source_plus_plain_is_the_product_worked_out_by_hand() -> None:
    method = built.fused("source", "plain", Pixels(), None, 2, fusion_floor=0.05)
    answer = method.adapt(seen((0.9, 0.1), (0.0, 0.95)))
    assert answer.fused is not None
    assert answer.fused.exp()[0].tolist() == pytest.approx([0.9 * 0.05, 0.1 * 1.0])
    assert (answer.after.argmax().item(), answer.fused.argmax().item()) == (0, 1)
    silent = method.adapt(seen((0.9, 0.1), (0.0, 0.0))).fused
    assert silent is not None
    assert silent.argmax() == 0  # where nothing is heard the picture decides


def test_source_plus_balanced_divides_by_the_running_mean_of_its_own_answers() -> None:
    """Two clips by hand: p (.6, .4) fused with evidence (0, .5) at e = .5, prior exponent 1; uniform counts as two
    clips.
    """
    method = built.fused("source", "balanced", Pixels(), None, 2, fusion_floor=0.5, prior_balance=1.0)
    clip = seen((0.6, 0.4), (0.0, 0.5))
    first, second = method.adapt(clip), method.adapt(clip)
    assert first.fused is not None and second.fused is not None
    assert first.fused.softmax(1)[0].tolist() == pytest.approx(
        [0.3 / 0.7, 0.4 / 0.7]
    )  # .6 x .5 and .4 x 1, the prior still uniform
    prior = [(1 + 0.3 / 0.7) / 3, (1 + 0.4 / 0.7) / 3]
    expected = [0.3 / prior[0], 0.4 / prior[1]]
    assert second.fused.softmax(1)[0].tolist() == pytest.approx([e / sum(expected) for e in expected])
    assert second.after.exp()[0].tolist() == pytest.approx([0.6, 0.4])  # the method's own answer has no prior
    method.reset()
    again = method.adapt(clip).fused
    assert again is not None
    assert torch.equal(again, first.fused)


def test_the_class_prior_divides_by_the_running_mean_of_the_answers() -> None:
    prior = ClassPrior(2, weight=1.0)
    prior.add(torch.tensor([[math.inf, 0.0]]).nan_to_num(posinf=50))
    # uniform counts as 2 clips, then (1, 0): 2/3, 1/3
    assert prior.balanced(torch.zeros(1, 2)).exp()[0].tolist() == pytest.approx([1.5, 3.0])


def test_evidence_for_no_class_and_a_vanishing_probability_are_no_fault() -> None:
    fused = plain.fuse(torch.tensor([[0.0, -math.inf]]), torch.tensor([[0.0, 1.0]]), 0.05)
    assert fused.softmax(1)[0].tolist() == [1.0, 0.0]


def test_without_a_fusion_an_answer_has_none_even_of_a_method_that_makes_one() -> None:
    answer = built.fused("audio", "none", trained(), None, K).adapt(batch(heard=1))
    assert answer.fused is None


@pytest.mark.parametrize("other", ["plain", "balanced"])
def test_a_method_that_makes_a_fused_answer_of_its_own_is_fused_as_it_is_told(other: str) -> None:
    """audio makes a trusted answer for its targets; another fusion's is another answer, of the picture without the
    sound's pull.
    """
    own = built.fused("audio", "trusted", trained(), None, K).adapt(batch(heard=1))
    told = built.fused("audio", other, trained(), None, K).adapt(batch(heard=1))
    assert own.fused is not None and told.fused is not None
    assert not torch.allclose(own.fused.softmax(1), told.fused.softmax(1), atol=1e-3)
    assert torch.equal(own.after, told.after)


def test_the_source_model_is_asked_only_where_the_fusion_wants_it_and_it_was_not_yet() -> None:
    def n_asked(name: str, fused: str) -> int:
        method, asked = built.fused(name, fused, trained(), None, K), []
        ask = method.method.source_answer
        vars(method.method)["source_answer"] = lambda clip: asked.append(clip) or ask(clip)  # type: ignore[func-returns-value]
        method.adapt(batch(heard=1))
        return len(asked)

    assert {fused: n_asked("vitta", fused) for fused in fusion.names()} == {
        "none": 0,
        "plain": 0,
        "balanced": 0,
        "trusted": 1,
    }
    assert n_asked("audio", "trusted") == n_asked("source", "trusted") == 1  # once, by the method itself


def test_a_clip_without_time_for_the_source_is_fused_without_it() -> None:
    method = built.fused("vitta", "trusted", trained(), None, K, budget_ms=1e-6)
    answer = method.adapt(batch(heard=1))
    assert (answer.stop_reason, answer.source) == ("budget", None)
    assert answer.fused is not None
    assert answer.fused.isfinite().all()


def test_source_answers_are_the_source_models_whatever_was_learned() -> None:
    for name in methods.names():
        if name == "audio_only":
            continue
        model, clip = trained(), batch(5)
        with torch.no_grad():
            expected = trained()(clip.centre[:, 0]).log_softmax(1)
        method = built.alone(name, model, None, K, TRUTH, **built.fitting(name, lr=0.1, entropy_margin=1.1))
        for i in range(3):
            method.adapt(STREAM[i])
        before = {key: value.clone() for key, value in model.state_dict().items()}
        assert torch.allclose(method.source_answer(clip), expected, atol=1e-6), name
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items()), name


def test_an_unknown_fusion_is_answered_with_the_choices() -> None:
    with pytest.raises(
        MethodError, match=r"^unknown fusion 'plan': choose one of \['none', 'balanced', 'plain', 'trusted'\]$"
    ):
        built.fused("source", "plan", trained(), None, K)


def test_several_clips_at_once_are_fused_row_by_row() -> None:
    a, b = STREAM[1], STREAM[2]
    both = dataclasses.replace(
        a, **{field: torch.cat([getattr(a, field), getattr(b, field)]) for field in ("frames", "centre", "q", "s",
        "mass")},
        status=a.status + b.status, clip_ids=a.clip_ids + b.clip_ids,
    )  # fmt: skip
    for fused in ("plain", "balanced", "trusted"):
        together = built.fused("source", fused, trained(), None, K).adapt(both).fused
        singles = [built.fused("source", fused, trained(), None, K).adapt(clip).fused for clip in (a, b)]
        assert together is not None and singles[0] is not None and singles[1] is not None
        assert torch.allclose(together, torch.cat([singles[0], singles[1]]), atol=1e-5)

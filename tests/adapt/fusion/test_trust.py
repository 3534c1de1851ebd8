"""Trust in the sound, information in the picture, and the fused answer that both lead to; expected values are worked
out by hand.
"""

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from adapt import methods
from adapt.contract import Answer, Batch
from adapt.core.pool import START, Information
from adapt.errors import MethodError
from adapt.fusion import trusted
from adapt.fusion.trusted import AGREES, CLASS, GRID, Settings, SourceMix, Trust, Trusted
from adapt.methods.audio import Audio
from tests import built
from tests.tiny import K, batch, trained

UNIFORM = torch.full((K,), 1 / K, dtype=torch.float64)


def certain(k: int) -> Tensor:
    return torch.eye(K)[k : k + 1]


def told(pairs: list[tuple[int, int]], prior: float = 0.8) -> Trust:
    """Trust after clips of (picture, sound), each sure, the mean picture uniform."""
    trust = Trust(K, prior)
    for picture, sound in pairs:
        trust.add(0.9 * certain(picture) + 0.1 / K, certain(sound), torch.tensor([True]), UNIFORM)
    return trust


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """One rho, one hypothesis, no doubt: Bayes' rule for a coin."""
    for name, value in {"CLASS": 1 - 1e-12, "AGREES": 1.0, "DOUBT": 0.0}.items():
        monkeypatch.setattr(trusted, name, value)


def test_before_any_evidence_trust_is_the_prior_of_stream_and_class() -> None:
    trust = Trust(K, 0.8)
    assert trust.of(torch.tensor([0, 3]), 1.0).tolist() == pytest.approx([0.8 * CLASS] * 2)


@pytest.mark.usefixtures("plain")
def test_with_one_hypothesis_trust_follows_bayes_rule() -> None:
    # p of the heard class is .925 where they agree and .025 where not, over pi = .25: factors 3.7 and .1
    odds = 0.8 / 0.2 * 3.7 * 0.1 * 0.1
    assert told([(0, 0), (1, 0), (2, 0)]).of(torch.tensor([0]), 1.0).item() == pytest.approx(odds / (1 + odds))


@pytest.mark.usefixtures("plain")
def test_half_the_weight_halves_the_evidence_and_none_leaves_the_prior() -> None:
    trust = told([(1, 0), (1, 0)])
    half = 0.8 / 0.2 * 0.1  # sqrt of .1^2
    assert trust.of(torch.tensor([0]), 0.5).item() == pytest.approx(half / (1 + half))
    assert trust.of(torch.tensor([0]), 0.0).item() == pytest.approx(0.8)


def test_a_class_whose_sound_is_contradicted_loses_trust_alone() -> None:
    agreeing = [(k, k) for k in (1, 2, 3) for _ in range(5)]
    trust = told([(1, 0)] * 40 + agreeing)
    wrong, right = trust.of(torch.tensor([0, 1]), 1.0).tolist()
    assert wrong < 0.1 and right > 0.99


@pytest.mark.usefixtures("plain")
def test_the_likelihood_averages_over_the_shares_of_agreeing_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trusted, "AGREES", 0.2)
    trust = told([(0, 0), (1, 0)])
    shares = [0.2 + 0.8 * i / (GRID - 1) for i in range(GRID)]
    ratio = sum((rho * 3.7 + 1 - rho) * (rho * 0.1 + 1 - rho) for rho in shares) / GRID
    assert trust.of(torch.tensor([0]), 1.0).item() == pytest.approx(4 * ratio / (1 + 4 * ratio))


def test_trust_of_two_heard_classes_is_bayes_rule_with_the_constants() -> None:
    """Stream and class, by hand: L_c averaged over rho, doubt mixed into the picture, the prior of a class given that
    of the stream.
    """
    doubt = trusted.DOUBT
    trust = told([(0, 0), (1, 0), (1, 1)])
    heard = {
        same: ((1 - doubt) * p + doubt / K) * K for same, p in ((True, 0.925), (False, 0.025))
    }  # over what is usual, 1 / K
    shares = [AGREES + (1 - AGREES) * i / (GRID - 1) for i in range(GRID)]
    found = {0: (True, False), 1: (True,)}
    likely = {
        k: sum(math.prod(rho * heard[same] + 1 - rho for same in clips) for rho in shares) / GRID
        for k, clips in found.items()
    }
    of_class = {k: CLASS * likely.get(k, 1.0) + 1 - CLASS for k in range(K)}
    odds = 0.8 / 0.2 * math.prod(of_class.values())
    expected = [odds / (1 + odds) * CLASS * likely.get(k, 1.0) / of_class[k] for k in range(K)]
    assert trust.of(torch.arange(K), 1.0).tolist() == pytest.approx(expected)


def test_a_clip_that_is_not_heard_says_nothing_and_full_prior_trust_is_never_lost() -> None:
    trust = Trust(K, 0.8)
    trust.add(certain(1), certain(0), torch.tensor([False]), UNIFORM)
    assert trust.of(torch.tensor([0]), 1.0).item() == pytest.approx(0.8 * CLASS)
    assert told([(1, 0)] * 50, prior=1.0).of(torch.tensor([0]), 1.0).item() == 1


def test_a_picture_that_says_the_same_of_every_clip_has_no_information() -> None:
    for pictures, expected in (([0] * 400, 0.0), ([0, 1, 2, 3] * 100, 1.0)):
        information = Information(K, 0.2)
        assert information.weight() == 1
        for k in pictures:
            information.add(certain(k))
        assert information.weight() == pytest.approx(expected, abs=0.1)


def test_information_is_the_mutual_information_of_clip_and_answer_over_its_threshold() -> None:
    information = Information(2, 0.5)
    for _ in range(50_000 // 2):
        information.add(torch.tensor([[0.75, 0.25], [0.25, 0.75]]))
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    mutual = (math.log(2) - entropy) / math.log(2)
    assert information.mutual() == pytest.approx(mutual, rel=1e-3)
    assert information.weight() == pytest.approx(mutual / 0.5, rel=1e-3)


def test_the_first_clips_count_as_a_full_picture_and_0_turns_the_weight_off() -> None:
    information = Information(K, 0.2)
    for _ in range(int(START)):
        information.add(UNIFORM[None])
    assert information.weight() == pytest.approx(0.5)  # as many clips of nothing as those of all before the first
    off = Information(K, 0.0)
    off.add(UNIFORM[None])
    assert off.weight() == 1


def mixing(adapted: list[int], source: list[int], **settings: float) -> SourceMix:
    """The source mix after clips of which both were sure."""
    mix = SourceMix(K, Settings(**settings))
    for ours, theirs in zip(adapted, source, strict=True):
        mix.take(certain(ours).clamp_min(1e-9).log(), certain(theirs).clamp_min(1e-9).log())
    return mix


def test_the_source_counts_half_at_first_then_by_its_information() -> None:
    varied, same = [0, 1, 2, 3] * 100, [0] * 400
    assert mixing([], []).weight() == 0.5
    assert mixing(varied, varied[::-1]).weight() == pytest.approx(0.5)
    assert mixing(varied, same).weight() < 0.05
    assert mixing(same, varied).weight() > 0.95
    assert mixing(varied, varied, source_mix=0.4).weight() == pytest.approx(0.2)
    assert mixing([], [], information=0.0).weight() == 0.5  # nothing is known and nothing assumed


def test_both_answers_are_mixed_in_logarithms() -> None:
    adapted, source = torch.tensor([[0.8, 0.2]]), torch.tensor([[0.2, 0.8]])
    mix = SourceMix(2, Settings())
    assert mix.picture(adapted.log(), source.log()).exp()[0].tolist() == pytest.approx([0.5, 0.5])
    for clip in torch.eye(2).repeat(500, 1)[:, None]:
        mix.take(torch.full((1, 2), 0.5).log(), clip.clamp_min(1e-9).log())  # the adapted one has collapsed
    assert mix.picture(adapted.log(), source.log()).exp()[0].tolist() == pytest.approx([0.2, 0.8], abs=0.01)
    assert torch.equal(mix.picture(adapted.log(), None), adapted.log())


@pytest.mark.parametrize("name", ["audio", "vitta"])
def test_the_source_mix_changes_what_is_fused_and_no_weight_and_is_not_asked_at_0(name: str) -> None:
    def after(source_mix: float) -> tuple[list[Tensor], list[Tensor], int]:
        model, asked = trained(), []
        method = built.fused(name, "trusted", model, None, K, lr=0.05, source_mix=source_mix)
        ask = method.method.source_answer

        def source_answer(batch: Batch) -> Tensor:
            asked.append(batch)
            return ask(batch)

        vars(method.method)["source_answer"] = source_answer
        fused = [method.adapt(batch(i)).fused for i in range(3)]  # silent clips: the steps are the same
        return (
            [answer for answer in fused if answer is not None],
            [p.detach().clone() for p in model.parameters()],
            len(asked),
        )

    (with_source, weights, n_asked), (without, others, n_others) = after(1.0), after(0.0)
    assert (n_asked, n_others) == (3, 0)
    assert all(torch.equal(a, b) for a, b in zip(weights, others, strict=True))
    assert len(with_source) == len(without) == 3
    assert not torch.allclose(with_source[2], without[2])


def fusing(**settings: float) -> Trusted:
    return Trusted(3, Settings(**settings))


def sound(evidence: list[float]) -> Batch:
    """A clip of three classes."""
    s = torch.tensor([evidence])
    return dataclasses.replace(batch(), q=s / s.sum() if s.sum() else torch.full((1, 3), 1 / 3), s=s, mass=s.amax(1))


def test_the_fused_sound_is_late_fusion_at_full_trust_and_nothing_at_none() -> None:
    uniform, method = torch.full((1, 3), 1 / 3).log(), fusing(fusion_floor=0.05, logit_adjustment=0.0)
    full, half, none = (
        method.together(uniform, sound([0.0, 0.9, 0.0]), torch.tensor([r]), 1.0).exp()[0].tolist()
        for r in (1.0, 0.5, 0.0)
    )
    assert full == pytest.approx([0.05 / 1.05, 0.95 / 1.05, 0.05 / 1.05])
    assert none == pytest.approx([1 / 3] * 3)
    assert half == pytest.approx([(a + b) / 2 for a, b in zip(full, none, strict=True)])


def test_picture_and_sound_together_are_their_product_over_the_prior_to_its_power() -> None:
    """p^omega (r a + (1 - r) / K) / prior^b with p = (.5, .3, .2), a = (.1, 1, .1) / 1.2, omega = .5, r = .8, b = 2."""
    method = fusing(fusion_floor=0.1, logit_adjustment=2.0)
    method.answers.add(torch.tensor([[1.0, 0.0, 0.0]]).log().clamp_min(-50))
    prior = [2 / 4, 1 / 4, 1 / 4]  # uniform counts as three clips
    parts = [
        p**0.5 * (0.8 * a / 1.2 + 0.2 / 3) / b**2
        for p, a, b in zip((0.5, 0.3, 0.2), (0.1, 1.0, 0.1), prior, strict=True)
    ]
    found = method.together(
        torch.tensor([[0.5, 0.3, 0.2]]).log(), sound([0.0, 0.9, 0.0]), torch.tensor([0.8]), 0.5
    ).exp()
    assert found[0].tolist() == pytest.approx([part / sum(parts) for part in parts])


def test_the_first_fused_answer_is_the_formula_with_the_priors() -> None:
    """The views' share, half of the source's answer, the prior trust: all by hand; uniform evidence says nothing of
    classes without any.
    """
    settings = {"fusion_floor": 0.1, "logit_adjustment": 0.75, "fusion_views": 0.6}
    before, after, source = (torch.tensor([p]) for p in ([0.6, 0.3, 0.1], [0.2, 0.6, 0.2], [0.5, 0.25, 0.25]))
    answer = Answer(before.log(), after.log(), source=source.log())
    found = fusing(**settings).fuse(answer, sound([0.0, 0.8, 0.0])).exp()[0].tolist()
    seen = [0.4 * a + 0.6 * b for a, b in zip((0.2, 0.6, 0.2), (0.6, 0.3, 0.1), strict=True)]
    picture = [math.sqrt(a * b) for a, b in zip(seen, (0.5, 0.25, 0.25), strict=True)]
    trust = 0.8 * CLASS
    fused = [p * (trust * a / 1.1 + (1 - trust) / 3) for p, a in zip(picture, (0.1, 0.9, 0.1), strict=True)]
    assert found == pytest.approx([f / sum(fused) for f in fused], rel=1e-5)


def test_what_a_method_says_without_the_sound_is_fused_where_it_says_that() -> None:
    """Else the sound would count twice: once in the weights, once in the fusion."""
    before, swayed, unheard = (torch.tensor([p]).log() for p in ([0.4, 0.3, 0.3], [0.1, 0.8, 0.1], [0.3, 0.4, 0.3]))
    heard = sound([0.0, 0.9, 0.0])
    with_it = fusing(source_mix=0.0).fuse(Answer(before, swayed, unheard=unheard), heard)
    assert torch.equal(with_it, fusing(source_mix=0.0).fuse(Answer(before, unheard), heard))
    assert not torch.allclose(with_it, fusing(source_mix=0.0).fuse(Answer(before, swayed), heard))


@pytest.mark.parametrize("name", [name for name in methods.names() if name != "oracle_gate"])  # which asks an oracle
def test_trusted_fusion_stops_trusting_sounds_of_other_clips_on_any_method(name: str) -> None:
    """The picture is sure of class i % 4 and the sound always says the next class: what is left is the picture, worked
    out by hand.
    """
    chosen = built.fitting(name, "trusted", information=0.0, fusion_views=0.5, logit_adjustment=0.0)
    method = built.fused(name, "trusted", trained(), None, K, **chosen)
    fusion = getattr(method.method, "fusion", None) or method.fusion
    assert isinstance(fusion, Trusted)
    for i in range(40):
        p = 0.9 * certain(i % K) + 0.1 / K
        fusion.trust.add(p, certain((i + 1) % K), torch.tensor([True]), fusion.information.mean())
        fusion.information.add(p)
    answer = method.adapt(batch(heard=1))
    assert answer.fused is not None and answer.source is not None
    seen = (answer.before.exp() + answer.after.exp()) / 2
    picture = (seen * answer.source.exp()).sqrt()
    assert torch.allclose(answer.fused.exp(), picture / picture.sum(), atol=0.01)
    if name == "audio":
        assert answer.gate is not None and answer.gate < 0.01
        assert answer.stop_reason == "unheard"


@pytest.mark.parametrize(("of", "members"), [("vitta", "none"), ("ensemble", "dua,source"), ("ensemble", "vitta_dua")])
def test_audio_fuses_as_trusted_fusion_does_beside_any_method(of: str, members: str) -> None:
    """On silent clips audio's steps are the ensemble's, and its own fusion's answers are those of `ensemble + trusted`,
    or of `vitta + trusted` where nobody stands beside it.
    """
    others: dict[str, Any] = {"members": members} if of == "ensemble" else {}
    ours = built.fused("audio", "trusted", trained(), None, K, lr=0.01, members=members)
    theirs = built.fused(of, "trusted", trained(), None, K, lr=0.01, **others)
    for i in range(4):
        a, b = ours.adapt(batch(i)).fused, theirs.adapt(batch(i)).fused
        assert a is not None and b is not None
        assert torch.allclose(a, b, atol=1e-6)


@pytest.mark.parametrize(("settings", "message"), [
    ({"trust": 0.0}, "trust is 0.0: give above 0 to 1"),
    ({"trust": 1.5}, "trust is 1.5: give above 0 to 1"),
    ({"fusion_floor": 0.0}, "fusion_floor is 0.0: give above 0"),
    ({"source_mix": 1.5}, "source_mix is 1.5: give 0 to 1"),
    ({"fusion_views": -0.1}, "fusion_views is -0.1: give 0 to 1"),
    ({"information": math.nan}, "information is nan: give 0 to 1"),
])  # fmt: skip
@pytest.mark.parametrize("name", ["audio", "source"])
def test_a_setting_of_trusted_fusion_out_of_its_range_is_one_clear_error(
    name: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(MethodError, match=f"^{message}$"):
        methods.choose(name, "trusted", settings)
    if name == "audio":
        with pytest.raises(MethodError, match=f"^{message}$"):
            built.alone("audio", trained(), None, K, **settings)


def test_audio_has_a_trusted_fusion_of_its_own_for_its_targets() -> None:
    method = built.alone("audio", trained(), None, K, trust=0.3, source_mix=0.5)
    assert isinstance(method, Audio)
    assert isinstance(method.fusion, Trusted)
    assert (method.fusion.trust.prior, method.fusion.mix.last) == (0.3, 0.5)

"""Trust in the sound, information in the picture, and the fused answer that both lead to; expected values are worked out by hand."""
import dataclasses
import math

import pytest
import torch
from torch import Tensor

from adapt.contract import Batch
from adapt.errors import MethodError
from adapt.fusion._old import trusted
from adapt.fusion._trust import GRID, Information, Recall, Trust
from adapt.methods import Settings
from adapt.methods.audio import Audio
from tests.tiny import K, batch, trained

UNIFORM = torch.full((K,), 1 / K, dtype=torch.float64)
PLAIN = Settings(trust=0.8, trust_class=1.0, trust_share=1.0, trust_doubt=0.0)  # one rho, one hypothesis: Bayes' rule for a coin


def certain(k: int) -> Tensor:
    return torch.eye(K)[k : k + 1]


def told(settings: Settings, pairs: list[tuple[int, int]]) -> Trust:
    """Trust after clips of (picture, sound), each sure, the mean picture uniform."""
    trust = Trust(K, settings)
    for picture, sound in pairs:
        trust.add(0.9 * certain(picture) + 0.1 / K, certain(sound), torch.tensor([True]), UNIFORM)
    return trust


def test_before_any_evidence_trust_is_the_prior_of_stream_and_class() -> None:
    trust = Trust(K, Settings(trust=0.8, trust_class=0.9))
    assert trust.of(torch.tensor([0, 3]), 1.0).tolist() == pytest.approx([0.72, 0.72])


def test_with_one_hypothesis_trust_follows_bayes_rule() -> None:
    # p of the heard class is .925 where they agree and .025 where not, over pi = .25: factors 3.7 and .1
    odds = 0.8 / 0.2 * 3.7 * 0.1 * 0.1
    trust = told(PLAIN, [(0, 0), (1, 0), (2, 0)])
    assert trust.of(torch.tensor([0]), 1.0).item() == pytest.approx(odds / (1 + odds))


def test_half_the_weight_halves_the_evidence_and_none_leaves_the_prior() -> None:
    trust = told(PLAIN, [(1, 0), (1, 0)])
    half = 0.8 / 0.2 * 0.1  # sqrt of .1^2
    assert trust.of(torch.tensor([0]), 0.5).item() == pytest.approx(half / (1 + half))
    assert trust.of(torch.tensor([0]), 0.0).item() == pytest.approx(0.8)


def test_a_class_whose_sound_is_always_contradicted_loses_trust_while_the_others_keep_theirs() -> None:
    agreeing = [(k, k) for k in (1, 2, 3) for _ in range(5)]
    trust = told(Settings(), [(1, 0)] * 40 + agreeing)
    wrong, right = trust.of(torch.tensor([0, 1]), 1.0).tolist()
    assert wrong < 0.1 and right > 0.99


def test_the_likelihood_averages_over_the_shares_of_agreeing_clips() -> None:
    settings = dataclasses.replace(PLAIN, trust_share=0.2)
    trust = told(settings, [(0, 0), (1, 0)])
    shares = [0.2 + 0.8 * i / (GRID - 1) for i in range(GRID)]
    ratio = sum((rho * 3.7 + 1 - rho) * (rho * 0.1 + 1 - rho) for rho in shares) / GRID
    assert trust.of(torch.tensor([0]), 1.0).item() == pytest.approx(4 * ratio / (1 + 4 * ratio))


def test_a_clip_that_is_not_heard_says_nothing_and_full_prior_trust_is_never_lost() -> None:
    trust = Trust(K, PLAIN)
    trust.add(certain(1), certain(0), torch.tensor([False]), UNIFORM)
    assert trust.of(torch.tensor([0]), 1.0).item() == pytest.approx(0.8)
    assert told(dataclasses.replace(PLAIN, trust=1.0), [(1, 0)] * 50).of(torch.tensor([0]), 1.0).item() == 1


def test_a_picture_that_says_the_same_of_every_clip_has_no_information_and_a_sure_varied_one_has_all() -> None:
    settings = Settings(information=0.2, information_start=0.0)
    for pictures, expected in (([0] * 400, 0.0), ([0, 1, 2, 3] * 100, 1.0)):
        information = Information(K, settings)
        assert information.weight() == 1
        for k in pictures:
            information.add(certain(k))
        assert information.weight() == pytest.approx(expected, abs=0.1)


def test_information_is_the_mutual_information_of_clip_and_answer_over_its_threshold() -> None:
    information = Information(2, Settings(information=0.5, information_start=0.0))
    for _ in range(5000):
        information.add(torch.tensor([[0.75, 0.25], [0.25, 0.75]]))
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert information.weight() == pytest.approx((math.log(2) - entropy) / math.log(2) / 0.5, rel=1e-3)


def test_the_first_clips_count_as_a_full_picture_and_0_turns_the_weight_off() -> None:
    information = Information(K, Settings(information=0.2, information_start=5.0))
    for _ in range(5):
        information.add(UNIFORM[None])
    assert information.weight() == pytest.approx(0.5)  # 5 clips of nothing beside 5 of all
    off = Information(K, Settings(information=0.0))
    off.add(UNIFORM[None])
    assert off.weight() == 1


def recalling(adapted: list[int], source: list[int], **settings: float) -> Recall:
    """Recall after clips of which both were sure."""
    recall = Recall(K, Settings(**settings))  # type: ignore[arg-type]
    for ours, theirs in zip(adapted, source, strict=True):
        recall.add(certain(ours).clamp_min(1e-9).log(), certain(theirs).clamp_min(1e-9).log())
    return recall


def test_the_source_counts_half_at_first_then_by_the_information_in_its_answers_beside_the_adapted_ones() -> None:
    varied, same = [0, 1, 2, 3] * 100, [0] * 400
    assert recalling([], []).weight() == 0.5
    assert recalling(varied, varied[::-1]).weight() == pytest.approx(0.5)
    assert recalling(varied, same).weight() < 0.05
    assert recalling(same, varied).weight() > 0.95
    assert recalling(varied, varied, recall=0.4).weight() == pytest.approx(0.2)
    assert recalling([], [], information=0.0).weight() == 0.5  # nothing is known and nothing assumed


def test_both_answers_are_mixed_in_logarithms() -> None:
    adapted, source = torch.tensor([[0.8, 0.2]]), torch.tensor([[0.2, 0.8]])
    recall = Recall(2, Settings())
    assert recall.mix(adapted.log(), source.log()).exp()[0].tolist() == pytest.approx([0.5, 0.5])
    for clip in torch.eye(2).repeat(500, 1)[:, None]:
        recall.add(torch.full((1, 2), 0.5).log(), clip.clamp_min(1e-9).log())  # the adapted one has collapsed
    assert recall.mix(adapted.log(), source.log()).exp()[0].tolist() == pytest.approx([0.2, 0.8], abs=0.01)
    assert torch.equal(recall.mix(adapted.log(), None), adapted.log())


def test_a_recalled_source_changes_what_is_believed_and_no_weight_and_without_recall_is_not_asked() -> None:
    class Watched(Audio):
        asked = 0

        def predict(self, batch: Batch) -> Tensor:
            self.asked += all(torch.equal(now, then) for now, then in zip(self.weights.copy(), self.weights.source, strict=True))
            return super().predict(batch)

    def after(recall: float) -> tuple[Watched, list[Tensor]]:
        method = Watched(trained(), None, K, Settings(lr=0.05, stream_audio=0.0, recall=recall))
        fused = [method.adapt(batch(i)).fused for i in range(3)]  # silent clips: the visual steps are the same
        return method, [answer for answer in fused if answer is not None]

    (on, with_source), (off, without) = after(1.0), after(0.0)
    assert (on.asked, off.asked) == (3, 0)
    assert all(torch.equal(a, b) for a, b in zip(on.weights.copy(), off.weights.copy(), strict=True))
    assert len(with_source) == len(without) == 3
    assert not torch.allclose(with_source[2], without[2])
    with pytest.raises(MethodError, match=r"recall 1.5: give 0 to 1"):
        Audio(trained(), None, K, Settings(recall=1.5))


def test_the_fused_sound_is_late_fusion_at_full_trust_and_nothing_at_none() -> None:
    s = torch.tensor([[0.0, 0.9, 0.0]])
    full, half, none = (trusted(s, torch.tensor([r]), 0.05).exp()[0].tolist() for r in (1.0, 0.5, 0.0))
    assert full == pytest.approx([0.05 / 1.05, 0.95 / 1.05, 0.05 / 1.05])
    assert none == pytest.approx([1 / 3] * 3)
    assert half == pytest.approx([(a + b) / 2 for a, b in zip(full, none, strict=True)])


def test_the_absence_of_a_necessary_sound_speaks_against_its_class_by_its_weight() -> None:
    s, absent = torch.zeros(1, 2), torch.tensor([[0.0, 0.5]])
    assert trusted(s, torch.ones(1), 0.1, absent, 0.0).exp()[0].tolist() == pytest.approx([0.5, 0.5])
    assert trusted(s, torch.ones(1), 0.1, absent, 1.0).exp()[0].tolist() == pytest.approx([2 / 3, 1 / 3])


def test_sounds_of_other_clips_lose_the_audio_methods_trust() -> None:
    """The picture is sure of class i % 4 and the sound always says the next class."""
    method = Audio(trained(), None, K, Settings(information=0.0))
    for i in range(40):
        p = 0.9 * certain(i % K) + 0.1 / K
        method.trust.add(p, certain((i + 1) % K), torch.tensor([True]), method.information.mean())
        method.information.add(p)
    clip = batch(heard=1)
    answer = method.adapt(clip)
    assert answer.gate is not None and answer.gate < 0.01
    assert answer.stop_reason == "unheard"
    assert answer.fused is not None
    assert answer.fused.argmax() == answer.after.argmax()


def test_a_gate_or_a_choice_that_does_not_exist_is_one_clear_error() -> None:
    with pytest.raises(MethodError, match=r"gate 'loudness': choose among \['mass', 'sharpness', 'agreement', 'trust', 'none'\]"):
        Audio(trained(), None, K, Settings(gate=("mass", "loudness")))
    for name in ("trust", "trust_class", "trust_share", "fusion_floor"):
        with pytest.raises(MethodError, match=f"{name} 0.0: give more than 0, at most"):
            Audio(trained(), None, K, Settings(**{name: 0.0}))  # type: ignore[arg-type]
    with pytest.raises(MethodError, match=r"target 'sweet': choose one of \['fused', 'soft', 'hard', 'candidate'\]"):
        Audio(trained(), None, K, Settings(target="sweet"))

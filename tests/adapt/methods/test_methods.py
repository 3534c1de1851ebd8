"""Each method does what its paper (or adapt/METHOD.md, for ours) says; expected values are worked out by hand or by
plain torch.
"""

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adapt.core import moments
from adapt.core._guards import GuardSettings
from adapt.core.settings import names as names_of
from adapt.errors import MethodError
from adapt.losses import Alignment, consistency, divergence
from adapt.methods import audio, norm, vitta
from adapt.methods.audio import Audio
from adapt.methods.norm import Norm
from adapt.methods.vitta import Vitta
from tests import built
from tests.tiny import K, TinyVideoModel, batch, same_weights, trained, weights

VITTA = vitta.Settings(lr=0.01)
AUDIO = audio.Settings(lr=0.01, audio_lr=0.05, members="none")


@pytest.fixture
def model() -> TinyVideoModel:
    return trained()


@pytest.mark.parametrize("name", ["source", "norm", "audio_only", "t3a", "neo", "firm"])
def test_gradient_free_methods_change_no_weight(name: str, model: TinyVideoModel) -> None:
    before = weights(model)
    built.alone(name, model, None, K).adapt(batch(heard=1))
    assert same_weights(model, before)


def test_an_unknown_method_is_answered_with_the_choices(model: TinyVideoModel) -> None:
    with pytest.raises(MethodError, match=r"unknown method 'vita': choose one of \['audio',"):
        built.alone("vita", model, None, K)


def test_norm_of_full_weight_normalises_a_shifted_clip_to_mean_0_std_1(model: TinyVideoModel) -> None:
    """Schneider et al. 2020: with the test statistics alone, batch norm's output is standardised whatever the shift."""
    nn.init.ones_(model.norm.weight)
    nn.init.zeros_(model.norm.bias)
    outputs: list[Tensor] = []
    method = Norm(model, norm.Settings(bn_prior=1.0))
    model.norm.register_forward_hook(lambda m, i, o: outputs.append(o))
    clip = batch()
    method.adapt(dataclasses.replace(clip, frames=clip.frames * 3 + 5, centre=clip.centre * 3 + 5))
    unadapted, adapted = outputs
    assert unadapted.mean((0, 2, 3, 4)).abs().max() > 1
    assert torch.allclose(adapted.mean((0, 2, 3, 4)), torch.zeros(6), atol=1e-4)
    assert torch.allclose(adapted.std((0, 2, 3, 4)), torch.ones(6), atol=1e-2)


def test_norm_refuses_a_model_without_batch_norm() -> None:
    with pytest.raises(MethodError, match="no batch norm layer"):
        Norm(nn.Linear(2, 2), norm.Settings())


def test_the_alignment_loss_is_the_l1_distance_computed_by_hand() -> None:
    source = {"n": (torch.tensor([0.0, 1.0]), torch.tensor([1.0, 1.0]))}
    aligned = Alignment(source, ema=0.1, start="zero")
    seen = {"n": (torch.tensor([2.0, 4.0]), torch.tensor([3.0, 5.0]))}
    # online = 0.1 x clip + 0.9 x 0: means .2 .4, variances .3 .5; |.2-0|, |.4-1| -> mean .4; |.3-1|, |.5-1| -> mean .6
    assert aligned.loss(seen).item() == pytest.approx(1.0)


def test_after_n_equal_clips_the_average_holds_1_minus_0_9_to_the_n() -> None:
    source = {"n": (torch.zeros(1), torch.ones(1))}
    aligned = Alignment(source, ema=0.1, start="zero")
    for _ in range(7):
        aligned.commit({"n": (torch.tensor([2.0]), torch.tensor([3.0]))})
    assert aligned.online["n"][0].item() == pytest.approx(2 * (1 - 0.9**7))
    assert aligned.online["n"][1].item() == pytest.approx(3 * (1 - 0.9**7))


def test_moments_are_those_of_all_axes_but_the_channels() -> None:
    x = torch.randn(3, 5, 2, 4, 4)
    mean, variance = moments.moments(x, channel_last=False)
    flat = x.transpose(0, 1).reshape(5, -1)
    assert torch.allclose(mean, flat.mean(1), atol=1e-6)
    assert torch.allclose(variance, flat.var(1, correction=0), atol=1e-6)


def test_consistency_is_zero_for_equal_views_and_a_third_for_a_hand_computed_pair() -> None:
    same = torch.tensor([[[0.5, 0.5], [0.5, 0.5]]]).log()
    assert consistency(same).item() == pytest.approx(0)
    apart = torch.tensor([[[2 / 3, 1 / 3], [1 / 3, 2 / 3]]]).log()  # mean .5 .5; each view is 1/6 + 1/6 away
    assert consistency(apart).item() == pytest.approx(1 / 3)


def test_vitta_lowers_its_loss_on_a_repeated_clip(model: TinyVideoModel) -> None:
    method = Vitta(model, None, dataclasses.replace(VITTA, ema=1.0, lr=0.05))
    shifted = dataclasses.replace(batch(), frames=batch().frames * 0.2)
    losses = [method.adapt(shifted).trace[0].loss for _ in range(20)]
    assert losses[-1] < 0.8 * losses[0]


def test_vittas_step_is_plain_sgd_on_its_loss(model: TinyVideoModel) -> None:
    """The same step by hand: alignment to the buffers' statistics plus 0.1 consistency, one SGD step on scale and
    shift.
    """
    clip, s = batch(), VITTA
    by_hand = TinyVideoModel()
    by_hand.load_state_dict(model.state_dict())
    by_hand.eval()
    out: list[Tensor] = []
    by_hand.norm.register_forward_hook(lambda m, i, o: out.append(o))
    p = by_hand(clip.frames[0]).softmax(1)
    mean, var = out[0].mean((0, 2, 3, 4)), out[0].var((0, 2, 3, 4), correction=0)
    beta, gamma2 = by_hand.norm.bias.detach(), by_hand.norm.weight.detach() ** 2
    loss = (
        (0.1 * (mean - beta)).abs().mean()
        + (0.1 * (var - gamma2)).abs().mean()
        + 0.1 * (p - p.mean(0)).abs().sum(1).mean()
    )
    grads = torch.autograd.grad(loss, [by_hand.norm.weight, by_hand.norm.bias])
    expected = [v.detach() - s.lr * g for v, g in zip((by_hand.norm.weight, by_hand.norm.bias), grads, strict=True)]
    Vitta(model, None, s).adapt(clip)
    assert torch.allclose(model.norm.weight, expected[0], atol=1e-6)
    assert torch.allclose(model.norm.bias, expected[1], atol=1e-6)


def test_without_sound_the_audio_method_equals_the_visual_one(model: TinyVideoModel) -> None:
    other = TinyVideoModel()
    other.load_state_dict(model.state_dict())
    visual, hearing = Vitta(model, None, VITTA), Audio(other.eval(), None, K, AUDIO)
    for i in range(4):
        clip = batch(i)
        a, b = visual.adapt(clip), hearing.adapt(clip)
        assert torch.allclose(a.after, b.after, atol=1e-6)
        assert (b.gate, b.stop_reason) == (0, "unheard")
    assert all(torch.allclose(x, y, atol=1e-6) for x, y in zip(model.parameters(), other.parameters(), strict=True))


def test_a_clip_that_takes_many_steps_commits_its_statistics_once(model: TinyVideoModel) -> None:
    method = Audio(model, None, K, dataclasses.replace(AUDIO, cycle="fixed", max_iterations=5))
    before = dict(method.alignment.online)
    clip = batch(heard=2)
    seen = method.look(clip).seen
    answer = method.adapt(clip)
    assert answer.steps == 5
    for name, (mean, _) in seen.items():
        assert torch.allclose(method.alignment.online[name][0], 0.1 * mean.detach() + 0.9 * before[name][0], atol=1e-6)


def test_the_sound_moves_the_models_own_answer_towards_what_is_heard(model: TinyVideoModel) -> None:
    method = Audio(model, None, K, dataclasses.replace(AUDIO, audio_lr=0.3))
    for heard in range(K):
        method.reset()
        answer = method.adapt(batch(heard=heard))
        assert answer.after[0, heard] > answer.before[0, heard]


def test_only_the_streams_step_of_a_heard_clip_stays(model: TinyVideoModel) -> None:
    clip, start = batch(heard=2), weights(model)
    bias, steps = {}, {}
    for n in (1, 5):
        model.load_state_dict(start)
        steps[n] = Audio(model, None, K, dataclasses.replace(AUDIO, cycle="fixed", max_iterations=n)).adapt(clip).steps
        bias[n] = model.norm.bias.detach().clone()
    assert steps == {1: 1, 5: 5}
    assert torch.equal(bias[5], bias[1])
    assert not torch.equal(bias[1], start["norm.bias"])


def test_what_stays_of_a_heard_clip_is_the_visual_step_alone(model: TinyVideoModel) -> None:
    """The step that stays has no term of the sound: the weights are vitta's, however loud the clip is."""
    other = TinyVideoModel()
    other.load_state_dict(model.state_dict())
    clip = batch(heard=2)
    Vitta(model, None, VITTA).adapt(clip)
    answer = Audio(other.eval(), None, K, AUDIO).adapt(clip)
    assert answer.steps > 1
    assert all(torch.equal(x, y) for x, y in zip(model.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize(("settings", "constants", "reason"), [
    ({"audio_lr": 5.0, "max_iterations": 50}, {"SURE": 0.0, "SLACK": 1e9, "TOLERANCE": 0.0}, "agreed"),
    ({}, {"SURE": 2.0, "TOLERANCE": 1e9}, "converged"),
    ({"max_iterations": 3}, {"SURE": 2.0, "SLACK": 1e9, "TOLERANCE": 0.0}, "max_iterations"),
])  # fmt: skip
def test_the_cycle_stops_for_the_rule_that_is_made_to_hold(
    settings: dict[str, Any],
    constants: dict[str, float],
    reason: str,
    model: TinyVideoModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in constants.items():
        monkeypatch.setattr(audio, name, value)
    answer = Audio(model, None, K, dataclasses.replace(AUDIO, **settings)).adapt(batch(heard=1))
    assert answer.stop_reason == reason
    assert answer.steps <= settings.get("max_iterations", AUDIO.max_iterations)


def test_the_audio_term_is_the_trust_times_kl_of_target_and_views() -> None:
    p = torch.tensor([[[0.7, 0.1, 0.1, 0.1], [0.25, 0.25, 0.25, 0.25]]])
    t = torch.tensor([[0.1, 0.6, 0.2, 0.1]])
    method = Audio(trained(), None, K, dataclasses.replace(AUDIO, audio_weight=2.0))
    views = method.look(batch())
    loss, align, agree, heard = method.terms(dataclasses.replace(views, log_p=p.log()), t, torch.tensor([0.5]))
    kl = sum(F.kl_div(view.log(), t[0], reduction="sum").item() for view in p[0]) / 2  # torch's own
    assert divergence(p.log(), t).tolist() == pytest.approx([kl])
    assert heard.item() == pytest.approx(2.0 * 0.5 * kl)
    assert loss.item() == pytest.approx(align.item() + 0.1 * agree.item() + heard.item(), rel=1e-5)


def test_audio_weight_0_is_vitta_on_heard_clips_too(model: TinyVideoModel) -> None:
    method, other = Audio(model, None, K, dataclasses.replace(AUDIO, audio_weight=0.0)), Vitta(trained(), None, VITTA)
    for i in range(3):
        clip = batch(i, heard=1)
        answer = method.adapt(clip)
        assert answer.steps == 1
        assert torch.equal(answer.after, other.adapt(clip).after)


def test_audio_reads_at_most_16_settings_besides_the_guards() -> None:
    own = set(names_of(audio.Settings)) - set(names_of(GuardSettings))
    assert len(own) <= 16, sorted(own)


def test_statistics_from_buffers_need_batch_norm() -> None:
    with pytest.raises(MethodError, match="run the statistics stage"):
        moments.from_buffers(nn.Sequential(nn.LayerNorm(3)), ["0"])


def test_a_model_without_norm_layers_is_one_clear_error() -> None:
    with pytest.raises(MethodError, match="has no norm layer to align"):
        Vitta(nn.Linear(2, 2), None, VITTA)

"""Each method does what its paper (or adapt/METHOD.md, for ours) says; expected values are worked out by hand or by plain torch."""
import dataclasses
import math
from typing import Any

import pytest
import torch
from adapt.targets import candidate_target, hard_target, soft_target
from torch import Tensor, nn

from adapt import methods
from adapt.contract import Batch
from adapt.core import moments
from adapt.errors import MethodError
from adapt.fusion._old import ClassPrior, fuse
from adapt.losses.predictions import consistency
from adapt.methods import Settings
from adapt.methods.audio import Audio
from adapt.methods.norm import Norm
from adapt.methods.vitta import Vitta
from tests.tiny import K, TinyVideoModel, batch, same_weights, trained, weights

SETTINGS = Settings(lr=0.01, audio_lr=0.05)


@pytest.fixture
def model() -> TinyVideoModel:
    return trained()


@pytest.mark.parametrize("name", ["source", "norm", "audio_only", "late_fusion", "late_fusion_prior", "t3a"])
def test_gradient_free_methods_change_no_weight(name: str, model: TinyVideoModel) -> None:
    before = weights(model)
    methods.build(name, model, None, K, SETTINGS).adapt(batch(heard=1))
    assert same_weights(model, before)


def test_an_unknown_method_is_answered_with_the_choices(model: TinyVideoModel) -> None:
    with pytest.raises(MethodError, match=r"unknown method 'vita': choose one of \['audio',"):
        methods.build("vita", model, None, K, SETTINGS)


def test_norm_with_full_weight_on_the_clip_normalises_a_shifted_clip_to_mean_0_and_std_1(model: TinyVideoModel) -> None:
    """Schneider et al. 2020: with the test statistics alone, batch norm's output is standardised whatever the shift."""
    nn.init.ones_(model.norm.weight)
    nn.init.zeros_(model.norm.bias)
    outputs: list[Tensor] = []
    method = Norm(model, Settings(bn_prior=1.0))
    model.norm.register_forward_hook(lambda m, i, o: outputs.append(o))
    clip = batch()
    method.adapt(dataclasses.replace(clip, frames=clip.frames * 3 + 5, centre=clip.centre * 3 + 5))
    unadapted, adapted = outputs
    assert unadapted.mean((0, 2, 3, 4)).abs().max() > 1
    assert torch.allclose(adapted.mean((0, 2, 3, 4)), torch.zeros(6), atol=1e-4)
    assert torch.allclose(adapted.std((0, 2, 3, 4)), torch.ones(6), atol=1e-2)


def test_norm_refuses_a_model_without_batch_norm() -> None:
    with pytest.raises(MethodError, match="no batch norm layer"):
        Norm(nn.Linear(2, 2), SETTINGS)


def test_the_alignment_loss_is_the_hand_computed_l1_distance_of_the_online_statistics() -> None:
    source = {"n": (torch.tensor([0.0, 1.0]), torch.tensor([1.0, 1.0]))}
    aligned = Alignment(source, ema=0.1, start="zero")
    seen = {"n": (torch.tensor([2.0, 4.0]), torch.tensor([3.0, 5.0]))}
    # online = 0.1 x clip + 0.9 x 0: means .2 .4, variances .3 .5; |.2-0|, |.4-1| -> mean .4; |.3-1|, |.5-1| -> mean .6
    assert aligned.loss(seen).item() == pytest.approx(1.0)


def test_after_n_equal_clips_the_zero_started_average_holds_1_minus_0_9_to_the_n_of_them() -> None:
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
    method = Vitta(model, None, dataclasses.replace(SETTINGS, ema=1.0, lr=0.05))
    shifted = dataclasses.replace(batch(), frames=batch().frames * 0.2)
    losses = [method.adapt(shifted).trace[0].loss for _ in range(20)]
    assert losses[-1] < 0.8 * losses[0]


def test_vittas_step_is_plain_sgd_on_its_loss(model: TinyVideoModel) -> None:
    """The same step by hand: alignment to the buffers' statistics plus 0.1 consistency, one SGD step on scale and shift."""
    clip, s = batch(), SETTINGS
    by_hand = TinyVideoModel()
    by_hand.load_state_dict(model.state_dict())
    by_hand.eval()
    out: list[Tensor] = []
    by_hand.norm.register_forward_hook(lambda m, i, o: out.append(o))
    p = by_hand(clip.frames[0]).softmax(1)
    mean, var = out[0].mean((0, 2, 3, 4)), out[0].var((0, 2, 3, 4), correction=0)
    beta, gamma2 = by_hand.norm.bias.detach(), by_hand.norm.weight.detach() ** 2
    loss = (0.1 * (mean - beta)).abs().mean() + (0.1 * (var - gamma2)).abs().mean() + 0.1 * (p - p.mean(0)).abs().sum(1).mean()
    grads = torch.autograd.grad(loss, [by_hand.norm.weight, by_hand.norm.bias])
    expected = [v.detach() - s.lr * g for v, g in zip((by_hand.norm.weight, by_hand.norm.bias), grads, strict=True)]
    Vitta(model, None, s).adapt(clip)
    assert torch.allclose(model.norm.weight, expected[0], atol=1e-6)
    assert torch.allclose(model.norm.bias, expected[1], atol=1e-6)


def test_without_sound_the_audio_method_equals_the_visual_one(model: TinyVideoModel) -> None:
    other = TinyVideoModel()
    other.load_state_dict(model.state_dict())
    visual, audio = Vitta(model, None, SETTINGS), Audio(other.eval(), None, K, SETTINGS)
    for i in range(4):
        clip = batch(i)
        a, b = visual.adapt(clip), audio.adapt(clip)
        assert torch.allclose(a.after, b.after, atol=1e-6)
        assert (b.gate, b.stop_reason) == (0, "unheard")
    assert all(torch.allclose(x, y, atol=1e-6) for x, y in zip(model.parameters(), other.parameters(), strict=True))


def test_a_clip_that_takes_many_steps_commits_its_statistics_once(model: TinyVideoModel) -> None:
    method = Audio(model, None, K, dataclasses.replace(SETTINGS, confident=1.1, tolerance=0.0, slack=1e9, max_iterations=5))
    before = dict(method.alignment.online)
    clip = batch(heard=2)
    seen = method.look(clip).seen
    answer = method.adapt(clip)
    assert answer.steps == 5
    for name, (mean, _) in seen.items():
        assert torch.allclose(method.alignment.online[name][0], 0.1 * mean.detach() + 0.9 * before[name][0], atol=1e-6)


def test_the_sound_moves_the_models_own_answer_towards_what_is_heard(model: TinyVideoModel) -> None:
    method = Audio(model, None, K, dataclasses.replace(SETTINGS, audio_lr=0.3))
    for heard in range(K):
        method.reset()
        answer = method.adapt(batch(heard=heard))
        assert answer.after[0, heard] > answer.before[0, heard]


def test_with_commit_0_only_the_streams_step_stays_and_with_1_all_do(model: TinyVideoModel) -> None:
    clip, start = batch(heard=2), weights(model)
    many: dict[str, Any] = {"confident": 1.1, "tolerance": 0.0, "slack": 1e9}
    bias = {}
    for commit, n in ((0.0, 5), (1.0, 5), (0.0, 1)):
        model.load_state_dict(start)
        Audio(model, None, K, dataclasses.replace(SETTINGS, commit=commit, max_iterations=n, **many)).adapt(clip)
        bias[commit, n] = model.norm.bias.detach().clone()
    assert torch.equal(bias[0.0, 5], bias[0.0, 1])
    assert not torch.allclose(bias[1.0, 5], bias[0.0, 1], atol=1e-4)


def test_a_step_that_makes_the_loss_rise_is_undone(model: TinyVideoModel) -> None:
    settings = dataclasses.replace(SETTINGS, audio_lr=500.0, commit=1.0, confident=1.1, tolerance=0.0, slack=0.0, target="hard")
    method = Audio(model, None, K, settings)
    answer = method.adapt(batch(heard=2))
    assert answer.stop_reason == "diverged"
    assert model.norm.weight.abs().max() < 10


@pytest.mark.parametrize(("settings", "reason"), [
    ({"confident": 0.0, "audio_lr": 5.0, "max_iterations": 50, "slack": 1e9, "tolerance": 0.0}, "agreed"),
    ({"confident": 1.1, "tolerance": 1e9}, "converged"),
    ({"confident": 1.1, "tolerance": 0.0, "slack": 1e9, "max_iterations": 3}, "max_iterations"),
])  # fmt: skip
def test_the_cycle_stops_for_the_reason_that_its_settings_force(settings: dict[str, Any], reason: str, model: TinyVideoModel) -> None:
    answer = Audio(model, None, K, dataclasses.replace(SETTINGS, **settings)).adapt(batch(heard=1))
    assert answer.stop_reason == reason
    assert answer.steps <= settings.get("max_iterations", SETTINGS.max_iterations)


def test_the_three_targets_on_a_case_worked_out_by_hand() -> None:
    p, q = torch.tensor([[0.64, 0.32, 0.04]]), torch.tensor([[0.04, 0.32, 0.64]])
    s = torch.tensor([[0.0, 0.5, 0.9]])
    assert hard_target(q).tolist() == [[0, 0, 1]]
    assert candidate_target(p.log(), s, 0.2).tolist() == [[0, 1, 0]]  # sound leaves classes 1 and 2, the picture prefers 1
    assert candidate_target(p.log(), torch.zeros(1, 3), 0.2).tolist() == [[1, 0, 0]]
    half = soft_target(p.log(), q, 0.5)  # sqrt(.64 x .04) = .16, sqrt(.32 x .32) = .32, .16 -> / .64
    assert half[0].tolist() == pytest.approx([0.25, 0.5, 0.25])


def test_the_gate_is_zero_in_silence_one_for_a_sure_sound_that_agrees_and_falls_when_both_are_sure_and_differ(model: TinyVideoModel) -> None:
    method = Audio(model, None, K, dataclasses.replace(SETTINGS, gate=("mass", "sharpness", "agreement", "trust")))

    def gate(p: list[float], clip: Batch) -> float:
        return float(method.gate(torch.tensor([p]).log(), clip, torch.ones(1)))

    sure = [0.97, 0.01, 0.01, 0.01]
    assert gate(sure, batch()) == 0
    nearly_one = dataclasses.replace(batch(heard=0, certainty=1.0), mass=torch.ones(1))
    assert gate(sure, nearly_one) == pytest.approx(1, abs=1e-4)
    differing = dataclasses.replace(batch(heard=1, certainty=1.0), mass=torch.ones(1))
    assert gate(sure, differing) == pytest.approx(1 - 0.97, abs=1e-3)
    assert gate([0.25] * 4, differing) == pytest.approx(0.75, abs=1e-3)


def test_fusion_multiplies_by_floor_plus_evidence_and_leaves_a_silent_clip_to_the_picture() -> None:
    p = torch.tensor([[0.9, 0.1]])
    scores = fuse(p.log(), torch.tensor([[0.0, 0.95]]), floor=0.05).exp()
    assert scores[0].tolist() == pytest.approx([0.9 * 0.05, 0.1 * 1.0])
    assert fuse(p.log(), torch.zeros(1, 2), 0.05).argmax() == 0


def test_the_class_prior_divides_by_the_running_mean_of_the_answers() -> None:
    prior = ClassPrior(2, weight=1.0)
    prior.add(torch.tensor([[math.inf, 0.0]]).nan_to_num(posinf=50))
    # uniform counts as 2 clips, then (1, 0): 2/3, 1/3
    assert prior.balanced(torch.zeros(1, 2)).exp()[0].tolist() == pytest.approx([1.5, 3.0])


def test_statistics_from_buffers_need_batch_norm() -> None:
    with pytest.raises(MethodError, match="run the statistics stage"):
        moments.from_buffers(nn.Sequential(nn.LayerNorm(3)), ["0"])


def test_a_model_without_norm_layers_is_one_clear_error() -> None:
    with pytest.raises(MethodError, match="has no norm layer to align"):
        Vitta(nn.Linear(2, 2), None, SETTINGS)


def test_with_both_shares_at_0_what_stays_of_a_heard_clip_is_the_visual_step_alone(model: TinyVideoModel) -> None:
    other = TinyVideoModel()
    other.load_state_dict(model.state_dict())
    clip = batch(heard=2)
    Vitta(model, None, SETTINGS).adapt(clip)
    answer = Audio(other.eval(), None, K, SETTINGS).adapt(clip)
    assert answer.steps > 1
    assert all(torch.equal(x, y) for x, y in zip(model.parameters(), other.parameters(), strict=True))

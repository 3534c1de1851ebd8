"""Each baseline does what its paper claims; expected values are worked out by hand, by plain torch, or by torch's own
training mode.
"""

import dataclasses
import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adapt.contract import Batch, SourceStatistics
from adapt.core.batch_norm import own_statistics
from adapt.core.head import find_head, forward_with_features
from adapt.errors import MethodError
from adapt.losses import entropy
from adapt.methods import eata, norm, sar, shot, t3a, tent
from adapt.methods.eata import Eata, importance
from adapt.methods.norm import Norm
from adapt.methods.sar import Sar
from adapt.methods.shot import Centroids, Shot, diversity
from adapt.methods.t3a import T3A
from adapt.methods.tent import Tent
from tests import built
from tests.tiny import K, TinyVideoModel, batch, same_weights, trained, weights

LR = 0.01
TENT, EATA = tent.Settings(lr=LR, bn_prior=1.0), eata.Settings(lr=LR, bn_prior=1.0)  # batch norm as the papers have it
SAR, SHOT = sar.Settings(lr=LR, bn_prior=1.0, sar_frozen=0.0), shot.Settings(lr=LR, bn_prior=1.0)


@pytest.fixture
def model() -> TinyVideoModel:
    return trained()


def in_training_mode(model: nn.Module) -> nn.Module:
    """A copy whose batch norms use the batch's statistics by torch's own training mode."""
    copy = TinyVideoModel()
    copy.load_state_dict(model.state_dict())
    return copy.train()


def clip_entropy(model: nn.Module, clip: Batch) -> Tensor:
    """The entropy of the mean over views, written out."""
    p = model(clip.frames[0]).softmax(1).mean(0)
    return -(p * p.log()).sum()


def of_norm(model: nn.Module) -> tuple[nn.Parameter, nn.Parameter]:
    norm = model.get_submodule("norm")
    assert isinstance(norm, nn.BatchNorm3d)
    return norm.weight, norm.bias


# tent


def test_in_tent_a_batch_norms_output_on_a_shifted_clip_has_mean_0_and_std_1(model: TinyVideoModel) -> None:
    nn.init.ones_(model.norm.weight)
    nn.init.zeros_(model.norm.bias)
    outputs: list[Tensor] = []
    method = Tent(model, TENT)
    model.norm.register_forward_hook(lambda m, i, o: outputs.append(o.detach()))
    clip = batch()
    method.adapt(dataclasses.replace(clip, frames=clip.frames * 3 + 5))
    assert torch.allclose(outputs[0].mean((0, 2, 3, 4)), torch.zeros(6), atol=1e-4)
    assert torch.allclose(outputs[0].std((0, 2, 3, 4)), torch.ones(6), atol=1e-2)


def test_tents_step_is_sgd_on_the_entropy_with_batch_norm_in_training_mode(model: TinyVideoModel) -> None:
    by_hand = in_training_mode(model)
    gradients = torch.autograd.grad(clip_entropy(by_hand, batch()), of_norm(by_hand))
    expected = [w.detach() - LR * g for w, g in zip(of_norm(by_hand), gradients, strict=True)]
    Tent(model, TENT).adapt(batch())
    assert all(torch.allclose(w, e, atol=1e-6) for w, e in zip(of_norm(model), expected, strict=True))


def test_tent_lowers_the_entropy_and_changes_scale_and_shift_alone(model: TinyVideoModel) -> None:
    before, method = weights(model), Tent(model, dataclasses.replace(TENT, lr=0.5))
    losses = [method.adapt(batch()).trace[0].loss for _ in range(20)]
    assert all(later < earlier for earlier, later in pairwise(losses))
    assert losses[-1] < 0.8 * losses[0]
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"norm.weight", "norm.bias"}


def test_one_value_a_channel_is_a_clear_error_with_the_clips_own_statistics() -> None:
    model = nn.Sequential(nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.BatchNorm1d(3), nn.Linear(3, K))
    one_view = dataclasses.replace(batch(), frames=batch().centre)
    with pytest.raises(MethodError, match="'2' sees one value a channel.*set bn_prior below 1"):
        Tent(model, TENT).adapt(one_view)
    assert Tent(model, dataclasses.replace(TENT, bn_prior=0.3)).adapt(one_view).steps == 1


# norm


def test_bn_samples_is_schneiders_rule_n_over_big_n_plus_n(model: TinyVideoModel) -> None:
    by_rule = Norm(model, norm.Settings(bn_samples=16)).adapt(batch()).after
    assert torch.equal(by_rule, Norm(model, norm.Settings(bn_prior=1 / 17)).adapt(batch()).after)
    clip = batch()
    two = dataclasses.replace(clip, frames=clip.frames.repeat(2, *[1] * 5), centre=clip.centre.repeat(2, *[1] * 5))
    assert torch.equal(
        Norm(model, norm.Settings(bn_samples=16)).adapt(two).after,
        Norm(model, norm.Settings(bn_prior=2 / 18)).adapt(two).after,
    )


# eata

SURE, OTHER, UNSURE = ([0.97, 0.01, 0.01, 0.01], [0.01, 0.97, 0.01, 0.01], [0.25] * 4)
H_SURE = -(0.97 * math.log(0.97) + 0.03 * math.log(0.01))  # 0.168 < E_0 = 0.4 log 4 = 0.555 < log 4


def test_eata_weighs_reliable_new_clips_by_exp_of_e0_minus_entropy_and_the_rest_by_0(model: TinyVideoModel) -> None:
    method = Eata(model, K, eata.Settings())
    log_p = torch.tensor([SURE, UNSURE]).log()
    weight, reliable = method.weigh(log_p)
    assert weight.tolist() == pytest.approx([math.exp(0.4 * math.log(4) - H_SURE), 0])
    assert reliable.tolist() == [True, False]
    method.chosen.add(
        torch.tensor(SURE)
    )  # now the same again is redundant (cosine 1), another class is not (cosine .02)
    assert (method.weigh(torch.tensor([SURE, OTHER]).log())[0] > 0).tolist() == [False, True]
    method.chosen.add(torch.tensor(OTHER))
    assert method.chosen.value is not None
    assert method.chosen.value.tolist() == pytest.approx([0.9 * 0.97 + 0.001, 0.009 + 0.097, 0.01, 0.01])


def test_eata_takes_no_step_on_an_unreliable_or_redundant_clip(model: TinyVideoModel) -> None:
    method = Eata(model, K, dataclasses.replace(EATA, entropy_margin=0.01))
    before = weights(model)
    answer = method.adapt(batch())
    assert (answer.steps, answer.stop_reason) == (0, "unreliable")
    assert same_weights(model, before)
    method = Eata(model, K, dataclasses.replace(EATA, entropy_margin=1.1))
    assert method.adapt(batch()).steps == 1
    after_one = weights(model)
    assert (method.adapt(batch()).stop_reason, same_weights(model, after_one)) == ("redundant", True)


def test_eatas_step_is_sgd_on_the_weighed_entropy(model: TinyVideoModel) -> None:
    settings = dataclasses.replace(EATA, entropy_margin=1.1)
    by_hand = in_training_mode(model)
    h = clip_entropy(by_hand, batch())
    gradients = torch.autograd.grad(math.exp(1.1 * math.log(K) - h.item()) * h, of_norm(by_hand))
    expected = [w.detach() - LR * g for w, g in zip(of_norm(by_hand), gradients, strict=True)]
    Eata(model, K, settings).adapt(batch())
    assert all(torch.allclose(w, e, atol=1e-6) for w, e in zip(of_norm(model), expected, strict=True))


def test_eatas_fisher_weights_are_mean_squared_gradients(
    model: TinyVideoModel,
) -> None:
    clips = [batch(i).centre[:, 0] for i in range(3)]
    squares = torch.zeros(6)
    for clip in clips:
        by_hand = in_training_mode(model)
        logits = by_hand(clip)
        squares += torch.autograd.grad(F.cross_entropy(logits, logits.argmax(1)), of_norm(by_hand)[1])[0].square()
    fisher = importance(model, clips, TENT)
    assert fisher.keys() == {"norm.weight", "norm.bias"}
    assert torch.allclose(fisher["norm.bias"][0], squares / 3, rtol=1e-3)
    method = built.alone("eata", model, SourceStatistics({}, fisher), K, eata_fisher=7.0)
    assert isinstance(method, Eata)
    assert method.regulariser().item() == 0
    with torch.no_grad():
        model.norm.bias.add_(0.5)
    assert method.regulariser().item() == pytest.approx(7 * 0.25 * (squares / 3).sum().item(), rel=1e-3)
    with pytest.raises(MethodError, match=r"lack parameter 'norm.bias'"):
        built.alone("eata", model, SourceStatistics({}, {"norm.weight": fisher["norm.weight"]}), K)
    without = built.alone("eata", model, SourceStatistics({}), K)  # the authors call that ETA
    assert isinstance(without, Eata)
    assert without.fisher is None


# sar


def test_sars_step_is_the_hand_computed_sharpness_aware_one(model: TinyVideoModel) -> None:
    settings = dataclasses.replace(SAR, entropy_margin=1.1, sar_radius=0.5)
    by_hand = in_training_mode(model)
    start = [w.detach().clone() for w in of_norm(by_hand)]
    first = torch.autograd.grad(clip_entropy(by_hand, batch()), of_norm(by_hand))
    length = torch.cat(first).norm()
    with torch.no_grad():
        for w, g in zip(of_norm(by_hand), first, strict=True):
            w.add_(0.5 * g / length)
    second = torch.autograd.grad(clip_entropy(by_hand, batch()), of_norm(by_hand))
    assert not torch.allclose(second[1], first[1], rtol=1e-2)
    Sar(model, K, settings).adapt(batch())
    for w, s, g in zip(of_norm(model), start, second, strict=True):
        assert torch.allclose(w, s - LR * g, atol=1e-6)


def test_sar_recovers_when_it_has_collapsed(model: TinyVideoModel) -> None:
    before, method = weights(model), Sar(model, K, dataclasses.replace(SAR, entropy_margin=1.1))
    assert method.adapt(batch()).stop_reason == "max_iterations"
    with torch.no_grad():
        model.norm.weight.mul_(1000)  # every answer is certain now
    reasons: list[str] = []
    while "recovered" not in reasons:  # the running loss falls by a tenth a clip
        assert len(reasons) < 60
        reasons.append(method.adapt(batch(len(reasons))).stop_reason)
    assert len(reasons) > 5
    assert same_weights(model, before)
    assert method.adapt(batch()).stop_reason == "max_iterations"


def test_sar_takes_no_step_on_an_unreliable_clip(model: TinyVideoModel) -> None:
    before = weights(model)
    answer = Sar(model, K, dataclasses.replace(SAR, entropy_margin=0.01)).adapt(batch())
    assert (answer.steps, answer.stop_reason, same_weights(model, before)) == (0, "unreliable", True)


def test_sar_leaves_the_quarter_of_norm_layers_nearest_to_the_output_alone() -> None:
    torch.manual_seed(0)
    layers = [layer for _ in range(4) for layer in (nn.Conv3d(3, 3, 1), nn.BatchNorm3d(3), nn.ReLU())]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(3, K))
    before = weights(model)
    Sar(model, K, dataclasses.replace(SAR, entropy_margin=1.1, sar_frozen=0.25)).adapt(batch())
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {f"{i}.{kind}" for i in (1, 4, 7) for kind in ("weight", "bias")}
    with pytest.raises(MethodError, match="no weight of Sequential is left to adapt"):
        Sar(model, K, dataclasses.replace(SAR, sar_frozen=1.0))


# shot


def test_shots_online_diversity_term_has_the_papers_gradient() -> None:
    """L_div = sum_k pbar_k log pbar_k over a set of 8 by autograd through pbar."""
    torch.manual_seed(0)
    logits = torch.randn(8, K, requires_grad=True)
    marginal = logits.softmax(1).mean(0)
    (paper,) = torch.autograd.grad((marginal * marginal.log()).sum(), logits)
    (online,) = torch.autograd.grad(diversity(logits.log_softmax(1), logits.softmax(1).mean(0)), logits)
    assert torch.allclose(online, paper, atol=1e-7)


def test_shots_pseudo_label_is_the_class_of_the_nearest_of_two_rounds_of_centroids() -> None:
    centroids = Centroids(torch.tensor([[2.0, 0.0], [0.0, 3.0]]))
    # the picture says class 0 with .9, the feature (.6, .8) is nearer to class 1: cosines with (1, 0) + .9 (.6, .8) =
    # (1.54, .72) and (0, 1) + .1 (.6, .8) = (.06, 1.08) are .88 and .83, so round one says 0, and in round two (1.6,
    # .8) at .894 beats (0, 1) at .8
    assert centroids.label(torch.tensor([[1.2, 1.6]]), torch.tensor([[0.9, 0.1]])).tolist() == [0]
    assert torch.allclose(centroids.soft, torch.tensor([[1.54, 0.72], [0.06, 1.08]]))
    assert torch.allclose(centroids.hard, torch.tensor([[1.6, 0.8], [0.0, 1.0]]))
    assert centroids.label(torch.tensor([[0.0, 5.0]]), torch.tensor([[0.5, 0.5]])).tolist() == [1]


class TwoChannels(nn.Module):
    """Which of two colour channels is brighter, said with a bias to the first."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.head = nn.BatchNorm1d(2), nn.Linear(2, 2)
        with torch.no_grad():
            assert self.norm.running_mean is not None and self.norm.running_var is not None
            self.norm.running_mean.fill_(0.5)
            self.norm.running_var.fill_(0.05)
            self.head.weight.copy_(torch.tensor([[1.0, -1.0], [-1.0, 1.0]]))
            self.head.bias.copy_(torch.tensor([0.6, -0.6]))

    def forward(self, frames: Tensor) -> Tensor:
        logits: Tensor = self.head(self.norm(frames[:, :2].mean((2, 3, 4))))
        return logits


@pytest.mark.parametrize(("name", "n_right"), [("source", 40), ("tent", 20), ("shot", 40)])
def test_where_tent_collapses_to_one_class_shot_keeps_both(name: str, n_right: int) -> None:
    """Clips of two kinds in turn, both told apart by the source; of the last 40 tent gets one kind, shot all."""
    settings = built.fitting(name, lr=0.5, bn_prior=0.0, momentum=0.0)
    method, random, right = built.alone(name, TwoChannels(), None, 2, **settings), torch.Generator().manual_seed(0), []
    for i in range(120):
        frames = torch.full((1, 2, 3, 2, 2, 2), 0.4)
        frames[:, :, i % 2] += 0.2
        frames = frames + 0.05 * torch.rand(frames.shape, generator=random)
        unheard = torch.full((1, 2), 0.5)
        clip = Batch(frames, frames[:, :1], unheard, 0 * unheard, torch.zeros(1), ("silent",), ("clip",))
        right.append(int(method.adapt(clip).after.argmax()) == i % 2)
    assert sum(right[-40:]) == n_right


def test_shot_leaves_the_head_alone_even_where_all_weights_adapt(model: TinyVideoModel) -> None:
    before = weights(model)
    Shot(model, K, dataclasses.replace(SHOT, scope="all")).adapt(batch())
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    # A norm by the clip's own statistics takes the convolution's bias away again: its gradient is 0, or what rounding
    # leaves of that.
    assert changed - {"conv.bias"} == {"conv.weight", "norm.weight", "norm.bias"}


# t3a and the head


class Pixels(nn.Module):
    """The first two colour channels' means are the features; the head is the identity."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(2, 2, bias=False)
        nn.init.eye_(self.head.weight)

    def forward(self, frames: Tensor) -> Tensor:
        logits: Tensor = self.head(frames[:, :2].mean((3, 4)).transpose(1, 2)).mean(1)  # the head on every frame
        return logits


def coloured(a: float, b: float) -> Batch:
    frames = torch.tensor([a, b, 0.0]).view(1, 1, 3, 1, 1, 1).expand(1, 2, 3, 4, 2, 2)
    return dataclasses.replace(batch(), frames=frames, centre=frames[:, :1])


def test_t3a_equals_the_hand_computed_centroids() -> None:
    method = T3A(Pixels(), 2, t3a.Settings())
    # feature (.3, .4) is of class 1; its unit vector (.6, .8) joins (0, 1): sum (.6, 1.8), unit (.3162, .9487); class 0
    # keeps (1, 0)
    expected = torch.tensor([[0.3, 0.3 * 0.6 / math.sqrt(3.6) + 0.4 * 1.8 / math.sqrt(3.6)]]).log_softmax(1)
    answer = method.adapt(coloured(0.3, 0.4))
    assert torch.allclose(answer.after, expected, atol=1e-6)
    assert torch.allclose(answer.before, torch.tensor([[0.3, 0.4]]).log_softmax(1))


def test_t3a_keeps_the_supports_of_lowest_entropy() -> None:
    method = T3A(Pixels(), 2, t3a.Settings(t3a_supports=2))
    for a, b in ((0.1, 0.9), (0.4, 0.5), (0.3, 0.9)):  # class 1; margins .8, .1, .6; the head's own (0, 1) has margin 1
        method.adapt(coloured(a, b))
    kept = method.supports.vectors[method.supports.classes == 1]
    assert torch.allclose(kept, F.normalize(torch.tensor([[0.0, 1.0], [0.1, 0.9]]), dim=1))


def test_a_model_without_a_last_linear_layer_is_a_clear_error_for_t3a() -> None:
    with pytest.raises(MethodError, match="BatchNorm3d has no linear layer with 4 outputs"):
        T3A(nn.BatchNorm3d(3), K, t3a.Settings())
    scaled = nn.Sequential(nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(3, K), nn.Sigmoid())
    with pytest.raises(MethodError, match="not its last linear layer's outputs"):
        T3A(scaled, K, t3a.Settings()).adapt(batch())


class FrameByFrame(nn.Module):
    """An image network on N x T frames, its logits averaged over time, as adapt/backbones/frames.py does it."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, K))

    def forward(self, frames: Tensor) -> Tensor:
        n, c, t, h, w = frames.shape
        logits: Tensor = self.image(frames.transpose(1, 2).reshape(n * t, c, h, w)).view(n, t, K).mean(1)
        return logits


def test_the_heads_input_is_averaged_over_frames_where_the_head_is_applied_to_each() -> None:
    model, frames = FrameByFrame(), torch.rand(2, 3, 4, 4, 4)
    seen = forward_with_features(model, find_head(model, K), frames)
    by_hand = F.adaptive_avg_pool2d(frames.mean(2), 2).flatten(1)
    assert torch.allclose(seen.features, by_hand, atol=1e-6)


# norms that fuse


def test_entropy_is_log_k_for_uniform_and_0_for_certain() -> None:
    assert entropy(torch.tensor([UNSURE]).log()).item() == pytest.approx(math.log(4))
    assert entropy(torch.tensor([[50.0, 0.0]]).log_softmax(1)).item() == pytest.approx(0, abs=1e-6)


class FusedNorm(nn.BatchNorm3d):
    """A batch norm that ends in its activation, as timm's do."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu()


@pytest.mark.parametrize("gradients", [False, True])
def test_a_norm_that_fuses_its_activation_keeps_it_under_its_own_statistics(gradients: bool) -> None:
    torch.manual_seed(0)
    norm, x = FusedNorm(3).eval(), 5 + 2 * torch.randn(2, 3, 4, 5, 5)
    norm.running_mean, norm.running_var = torch.rand(3), 1 + torch.rand(3)
    with torch.set_grad_enabled(gradients), own_statistics(nn.Sequential(norm), 1.0):
        found = norm(x)
    expected = (x - x.mean((0, 2, 3, 4), keepdim=True)) / (
        x.var((0, 2, 3, 4), keepdim=True, correction=0) + norm.eps
    ).sqrt()
    assert torch.allclose(found, expected.relu(), atol=1e-5)

"""Self-training on chosen or weighed clips, ROID, CMF and DeYO: expected values are written out, by hand or in plain
torch, as the authors' code has them.
"""

import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adapt.contract import Batch
from adapt.core.state import Weights
from adapt.methods import cmf, deyo, roid
from adapt.methods.cmf import Cmf, Filter
from adapt.methods.deyo import Deyo, shuffled
from adapt.methods.roid import Roid, Weigher, disagreement, likelihood_ratio
from tests.tiny import K, TinyVideoModel, batch, same_weights, trained, weights

LR = 0.01
ROID = roid.Settings(lr=LR, bn_prior=1.0)
CMF = cmf.Settings(lr=LR, bn_prior=1.0)
DEYO = deyo.Settings(lr=LR, bn_prior=1.0, entropy_margin=1.1, deyo_drop=-1.0, sar_frozen=0.0)


def in_training_mode() -> TinyVideoModel:
    return trained().train()


def of_norm(model: TinyVideoModel) -> list[nn.Parameter]:
    return [model.norm.weight, model.norm.bias]


def stepped(model: TinyVideoModel, loss: Tensor) -> list[Tensor]:
    """Scale and shift after one step of SGD on the loss."""
    return [w.detach() - LR * g for w, g in zip(of_norm(model), torch.autograd.grad(loss, of_norm(model)), strict=True)]


# roid


def test_the_likelihood_ratio_of_a_known_distribution() -> None:
    p = torch.tensor([[0.8, 0.2], [0.5, 0.5]], dtype=torch.float64)
    by_hand = -(0.8 * math.log(0.8 / 0.2) + 0.2 * math.log(0.2 / 0.8))
    assert likelihood_ratio(p.log()).tolist() == pytest.approx([by_hand, 0], abs=1e-4)


def test_the_ratio_still_learns_from_a_sure_clip_where_entropy_does_not() -> None:
    """The paper's claim: the gradient of entropy vanishes as a clip becomes certain, the ratio's stays."""
    slopes = []
    for loss in (likelihood_ratio, lambda log_p: -(log_p.exp() * log_p).sum(1)):
        logits = torch.tensor([[4.5, 0.0]], dtype=torch.float64, requires_grad=True)  # p = .989
        (gradient,) = torch.autograd.grad(loss(logits.log_softmax(1)).sum(), logits)
        slopes.append(gradient.abs().max().item())
    assert slopes[0] > 10 * slopes[1]


def test_the_disagreement_of_two_views_is_their_symmetric_cross_entropy() -> None:
    a, b = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.3, 0.3, 0.4])
    by_hand = -(0.5 * (a * b.log()).sum() + 0.5 * (b * a.log()).sum())
    assert disagreement(torch.stack([a, b]).log()[None]).tolist() == pytest.approx([by_hand.item()])
    third = torch.tensor([0.1, 0.1, 0.8])
    pairs = [-(0.5 * (x * y.log()).sum() + 0.5 * (y * x.log()).sum()) for x, y in ((a, b), (a, third), (b, third))]
    found = disagreement(torch.stack([a, b, third]).log()[None])
    assert found.tolist() == pytest.approx([torch.stack(pairs).mean().item()])
    assert disagreement(a.log().view(1, 1, 3)).tolist() == [0]


def published_weights(p: Tensor, mean: Tensor) -> Tensor:
    """ROID's code on a batch of p (B, K)."""
    d = 1 - F.cosine_similarity(mean[None], p, dim=1)
    d = (d - d.min()) / (d.max() - d.min())
    c = (p * p.log()).sum(1)
    c = (c - c.min()) / (c.max() - c.min())
    weights = torch.exp(d * c / (1 / 3))
    weights[d < d.mean()] = 0
    return weights


def test_a_batch_of_the_windows_size_is_weighed_as_by_the_authors() -> None:
    torch.manual_seed(0)
    weigher, mean = Weigher(K, roid.Settings(roid_window=8)), torch.full((K,), 1 / K)
    for _ in range(3):
        p = torch.randn(8, K).mul(2).softmax(1)
        assert torch.allclose(weigher.weigh(p.log()), published_weights(p, mean), rtol=1e-4, atol=1e-6)
        mean = 0.9 * mean + 0.1 * p.mean(0)
        assert torch.allclose(weigher.mean, mean)


def test_single_clips_are_weighed_among_the_newest_of_the_window() -> None:
    torch.manual_seed(0)
    weigher, mean = Weigher(K, roid.Settings(roid_window=4)), torch.full((K,), 1 / K)
    answers = torch.randn(12, K).mul(2).softmax(1)
    found = []
    for i, p in enumerate(answers):
        weight = weigher.weigh(p[None].log())
        expected = published_weights(answers[max(0, i - 3) : i + 1], mean)[-1:] if i else torch.ones(1)
        assert torch.allclose(weight, expected, rtol=1e-4)
        mean = mean + 0.1 / 4 * (p - mean)
        found.append(float(weight))
    assert 0 in found and max(found) > 1


def test_the_prior_is_the_authors_smoothed_one_times_k() -> None:
    weigher = Weigher(2, roid.Settings(roid_window=2))
    assert weigher.prior().tolist() == [1, 1]
    weigher.weigh(torch.tensor([[0.9, 0.1], [0.7, 0.3]]).log())
    smooth = max(1 / 2, 1 / 2) / 0.8  # of the mean answer (.8, .2)
    expected = [2 * (share + smooth) / (1 + 2 * smooth) for share in (0.8, 0.2)]
    assert weigher.prior().tolist() == pytest.approx(expected)


def test_roids_step_is_sgd_on_its_loss_and_its_answer_is_corrected() -> None:
    """The first clip has nothing beside it: its weight is 1."""
    model, by_hand = trained(), in_training_mode()
    views = by_hand(batch().frames[0]).softmax(1)
    p = views.mean(0)
    ratio = -(p * (p / (1 - p) + 1e-5).log()).sum()
    crosses = -0.5 * ((views[0] * views[1].log()).sum() + (views[1] * views[0].log()).sum())
    expected = stepped(by_hand, ratio + crosses)
    answer = Roid(model, K, ROID).adapt(batch())
    assert answer.steps == 1
    smooth = 1 / p.max()
    prior = K * (p + smooth) / (1 + smooth * K)
    with torch.no_grad():
        for w, value in zip(of_norm(by_hand), expected, strict=True):
            w.copy_(value)
        logits = by_hand(batch().centre[:, 0])
    assert torch.allclose(answer.after, (logits * prior).log_softmax(1), atol=1e-5)
    for w, value, start in zip(of_norm(model), expected, of_norm(trained()), strict=True):
        assert torch.allclose(w, 0.99 * value + 0.01 * start, atol=1e-6)  # pulled back to the source afterwards


def test_a_clip_like_those_before_gives_no_step() -> None:
    model = trained()
    method = Roid(model, K, ROID)
    method.weigher.answers = torch.tensor([[0.97, 0.01, 0.01, 0.01], [0.01, 0.97, 0.01, 0.01]])
    before = weights(model)
    answer = method.adapt(batch())  # near to uniform, as the running mean is
    assert (answer.steps, answer.stop_reason, same_weights(model, before)) == (0, "redundant", True)


# cmf


def test_the_filter_is_the_authors_recursion_written_out() -> None:
    module = nn.Linear(1, 1, bias=False)
    nn.init.constant_(module.weight, 2.0)
    store = Weights(module, list(module.parameters()))
    kalman = Filter(store.source, cmf.Settings(cmf_q=0.05 * 38400, cmf_alpha=0.9, cmf_gamma=0.8))
    hidden, variance = 2.0, 0.0
    for _ in range(4):
        with torch.no_grad():
            module.weight.add_(1)  # the step
        theta = module.weight.item()
        recovered = 0.9 * hidden + 0.1 * 2.0
        variance = 0.81 * variance + 0.05
        beta = max(0.89, 0.95 / (variance + 0.95))
        variance *= beta
        hidden = beta * recovered + (1 - beta) * theta
        kalman.update(store)
        assert module.weight.item() == pytest.approx(0.8 * theta + 0.2 * hidden, rel=1e-5)
        assert (kalman.hidden[0].item(), kalman.variance) == pytest.approx((hidden, variance), rel=1e-5)
    kalman.reset()
    assert (kalman.hidden[0].item(), kalman.variance) == (2.0, 0.0)


def test_a_walk_without_variance_is_roids_weight_ensembling() -> None:
    """The paper's remark that a fixed source is the special case q = 0: the hidden weights are the source's."""
    ours, theirs = trained(), trained()
    method = Cmf(ours, K, dataclasses.replace(CMF, cmf_q=0.0))
    other = Roid(theirs, K, ROID)
    for i in range(4):
        steps = method.adapt(batch(i)).steps
        assert steps == other.adapt(batch(i)).steps
        if not steps:
            break  # the guard pulls after every clip, the filter after a step
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(of_norm(ours), of_norm(theirs), strict=True))


def test_q_is_for_as_many_weights_as_a_vit_b_has_in_its_norms() -> None:
    assert Cmf(trained(), K, dataclasses.replace(CMF, cmf_q=0.5)).hidden.q == pytest.approx(0.5 * 12 / 38400)


def test_more_variance_lets_the_hidden_weights_follow_the_stream_further() -> None:
    module = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(module.weight)
    followed = []
    for q in (0.0, 0.001, 0.05):
        store = Weights(module, list(module.parameters()))
        kalman = Filter(store.source, cmf.Settings(cmf_q=q * 38400))
        for _ in range(20):
            store.put([torch.ones(1, 1)])
            kalman.update(store)
        followed.append(kalman.hidden[0].item())
        store.reset()
    assert followed[0] == 0 < followed[1] < followed[2] < 1


# deyo


def numbered(side: int = 8) -> Tensor:
    """(1, 2, 3, 4, side, side): every pixel of a frame another number."""
    return torch.arange(side * side).float().view(1, 1, 1, 1, side, side).expand(1, 2, 3, 4, side, side)


def test_a_shuffle_moves_whole_patches_and_all_frames_and_views_alike() -> None:
    frames = numbered()
    found = shuffled(frames, 4)
    assert torch.equal(found, found[:, :1, :1, :1].expand_as(found)) and not torch.equal(found, frames)
    patches = [found[0, 0, 0, 0, i : i + 2, j : j + 2] for i in range(0, 8, 2) for j in range(0, 8, 2)]
    corners = [int(patch[0, 0]) for patch in patches]
    assert sorted(corners) == [8 * i + j for i in range(0, 8, 2) for j in range(0, 8, 2)]
    for patch, corner in zip(patches, corners, strict=True):
        assert patch.flatten().tolist() == [corner, corner + 1, corner + 8, corner + 9]


def test_all_clips_are_shuffled_alike() -> None:
    frames = torch.cat([numbered(), numbered() / 2])
    found = shuffled(frames, 4)
    assert torch.equal(found[:1], shuffled(frames[:1], 4)) and torch.equal(found[0], 2 * found[1])


@pytest.mark.parametrize("side", [2, 3, 6, 9, 30])
def test_a_side_that_is_no_multiple_of_the_patches_keeps_its_size(side: int) -> None:
    flat = torch.full((1, 2, 3, 4, side, side), 0.3)
    assert torch.allclose(shuffled(flat, 4), flat)
    found = shuffled(numbered(side) / side**2, 4)
    assert found.shape[-2:] == (side, side) and found.isfinite().all()
    assert found.mean().item() == pytest.approx(numbered(side).mean().item() / side**2, abs=0.1)


class LeftOrRight(nn.Module):
    """Whether the left half is brighter than the right one; with `shape` off whether the whole is bright."""

    def __init__(self, shape: bool) -> None:
        super().__init__()
        self.norm, self.shape = nn.BatchNorm1d(2), shape

    def forward(self, frames: Tensor) -> Tensor:
        left, right = frames[..., :4].mean((1, 2, 3, 4)), frames[..., 4:].mean((1, 2, 3, 4))
        seen = torch.stack([left - right, right - left] if self.shape else [left + right, -left - right], 1)
        logits: Tensor = self.norm(4 * seen)
        return logits


def half_bright() -> Batch:
    frames = torch.zeros(1, 1, 3, 2, 8, 8)
    frames[..., :4] = 1.0
    return Batch(frames, frames, torch.full((1, 2), 0.5), torch.zeros(1, 2), torch.zeros(1), ("silent",), ("clip",))


def test_deyo_learns_from_shape_and_leaves_out_what_is_colour_alone() -> None:
    """The paper's claim (figure 1): an answer that outlives the shuffle rests on colour or background."""
    settings = deyo.Settings(bn_prior=0.0, sar_frozen=0.0)
    reasons = {shape: Deyo(LeftOrRight(shape), 2, settings).adapt(half_bright()).stop_reason for shape in (True, False)}
    assert reasons == {True: "max_iterations", False: "shapeless"}


def test_the_drop_is_the_top_class_probability_that_the_shuffle_takes() -> None:
    model = LeftOrRight(True).eval()
    method = Deyo(model, 2, deyo.Settings(bn_prior=0.0, sar_frozen=0.0))
    clip = half_bright()
    with torch.no_grad():
        p, there = (model(frames[0]).softmax(1)[0] for frames in (clip.frames, shuffled(clip.frames, 4)))
        log_p = model(clip.frames[0]).log_softmax(1)
    assert p[0] > 0.9
    assert method.drop(clip, log_p).tolist() == pytest.approx([(p[0] - there[0]).item()])


def test_deyos_step_is_sgd_on_the_weighed_entropy() -> None:
    model, by_hand = trained(), in_training_mode()
    p = by_hand(batch().frames[0]).softmax(1).mean(0)
    there = in_training_mode()(shuffled(batch().frames, 4)[0]).softmax(1).mean(0)
    h, top = -(p * p.log()).sum(), int(p.argmax())
    weight = math.exp(0.4 * math.log(K) - h.item()) + math.exp((p[top] - there[top]).item())
    expected = stepped(by_hand, weight * h)
    answer = Deyo(model, K, DEYO).adapt(batch())
    assert answer.trace[0].loss == pytest.approx(weight * h.item(), rel=1e-4)
    assert all(torch.allclose(w, value, atol=1e-6) for w, value in zip(of_norm(model), expected, strict=True))


@pytest.mark.parametrize(("settings", "reason"), [
    (dataclasses.replace(DEYO, entropy_margin=0.01), "unreliable"),
    (dataclasses.replace(DEYO, deyo_drop=1.0), "shapeless"),
])  # fmt: skip
def test_deyo_takes_no_step_on_a_clip_that_is_left_out(settings: deyo.Settings, reason: str) -> None:
    model = trained()
    before = weights(model)
    answer = Deyo(model, K, settings).adapt(batch())
    assert (answer.steps, answer.stop_reason, same_weights(model, before)) == (0, reason, True)

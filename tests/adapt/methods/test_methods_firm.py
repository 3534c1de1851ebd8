"""FIRM: rebalancing, its gate and its prototypes, against closed forms."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adapt.contract import Batch
from adapt.methods import firm
from adapt.methods.firm import Firm, gate, rebalanced
from tests.tiny import batch

UNIFORM = torch.full((3,), 1 / 3)


class Pair(nn.Module):
    """The first two channels' means are the features; the head has weight vectors of unit length."""

    def __init__(self, bias: float = 0.0) -> None:
        super().__init__()
        self.head = nn.Linear(2, 2)
        with torch.no_grad():
            self.head.weight.copy_(torch.eye(2))
            self.head.bias.copy_(torch.tensor([bias, 0.0]))

    def forward(self, frames: Tensor) -> Tensor:
        logits: Tensor = self.head(frames[:, :2].mean((2, 3, 4)))
        return logits


def clip(*features: tuple[float, float]) -> Batch:
    frames = torch.tensor([(*pair, 0.0) for pair in features]).view(-1, 1, 3, 1, 1, 1).expand(-1, 1, 3, 2, 2, 2)
    n = len(features)
    return dataclasses.replace(batch(), frames=frames, centre=frames, clip_ids=("clip",) * n, status=("silent",) * n)


def test_rebalancing_gives_every_row_1_and_every_class_its_share() -> None:
    torch.manual_seed(1)
    r = rebalanced(torch.randn(12, 3).softmax(1), UNIFORM)
    assert torch.allclose(r.sum(1), torch.ones(12, dtype=torch.float64))
    assert torch.allclose(r.sum(0), torch.full((3,), 4.0, dtype=torch.float64), atol=1e-3)
    prior = torch.tensor([0.5, 0.25, 0.25])
    assert torch.allclose(rebalanced(r, prior).sum(0), 12 * prior.double(), atol=1e-3)


def test_two_clips_of_two_classes_are_rebalanced_to_the_closed_form() -> None:
    """A 2 x 2 matrix scales to (x, 1 - x; 1 - x, x) with x / (1 - x) = sqrt(a d / (b c)) (Sinkhorn 1967)."""
    p = torch.tensor([[0.9, 0.1], [0.6, 0.4]])
    ratio = math.sqrt(0.9 * 0.4 / (0.1 * 0.6))
    x = ratio / (1 + ratio)
    expected = torch.tensor([[x, 1 - x], [1 - x, x]], dtype=torch.float64)
    assert torch.allclose(rebalanced(p, torch.tensor([0.5, 0.5])), expected, atol=1e-6)


@pytest.mark.parametrize("n", [1, 2, 5, 30])
def test_the_gate_of_n_clips_of_one_class_is_that_of_its_chi_square(n: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    p = torch.eye(3)[torch.zeros(n, dtype=torch.long)]
    chi_square, _ = stats.chisquare([n, 0, 0])  # n (K - 1)
    z = (chi_square - 2) / 2  # two degrees of freedom
    assert gate(p, UNIFORM) == pytest.approx(2 * stats.norm.cdf(z) - 1, abs=1e-6)


def test_the_gate_is_shut_for_a_first_clip_and_for_even_answers() -> None:
    assert gate(torch.tensor([[0.9, 0.1, 0.0]]), UNIFORM) == pytest.approx(0, abs=1e-9)
    assert gate(torch.eye(3).repeat(5, 1), UNIFORM) == 0


def test_the_first_clip_is_queried_against_the_heads_own_vectors() -> None:
    feature = F.normalize(torch.tensor([0.3, 0.4]), dim=0)  # (.6, .8)
    p = torch.tensor([0.3, 0.4]).softmax(0)
    evidence = (feature / 0.07).log_softmax(0)  # the cosines with (1, 0) and (0, 1)
    answer = Firm(Pair(), 2, firm.Settings()).adapt(clip((0.3, 0.4)))
    assert torch.allclose(answer.after[0], (p.log() + 0.25 * evidence).log_softmax(0), atol=1e-5)
    assert torch.allclose(answer.before[0], p.log())


def test_a_prototype_is_queried_before_it_is_written() -> None:
    method = Firm(Pair(), 2, firm.Settings(firm_gate=False))
    method.adapt(clip((0.3, 0.4)))
    # one clip is rebalanced to (.5, .5), and both prototypes are now the clip's unit feature: the next clip's cosines
    # with them are equal
    assert torch.allclose(method.decisions.sums, torch.tensor([[0.3, 0.4], [0.3, 0.4]]), atol=1e-6)
    assert method.decisions.mass.tolist() == pytest.approx([0.5, 0.5])
    p = torch.stack([torch.tensor([0.3, 0.4]).softmax(0), torch.tensor([0.9, 0.1]).softmax(0)])
    expected = rebalanced(p, torch.tensor([0.5, 0.5]))[1].log().float()
    assert torch.allclose(method.adapt(clip((0.9, 0.1))).after[0], expected, atol=1e-5)


def test_clips_of_a_batch_are_decided_on_one_after_the_other() -> None:
    pairs = [(0.3, 0.4), (0.9, 0.1), (0.2, 0.8)]
    one, all_ = Firm(Pair(), 2, firm.Settings()), Firm(Pair(), 2, firm.Settings())
    singly = torch.cat([one.adapt(clip(pair)).after for pair in pairs])
    assert torch.allclose(all_.adapt(clip(*pairs)).after, singly, atol=1e-6)


def test_where_the_source_answers_one_class_to_all_rebalancing_brings_both_back() -> None:
    """The claim: a collapse of the class frequencies is undone, on a stream whose classes are even."""
    random = torch.Generator().manual_seed(0)
    method, right = Firm(Pair(bias=1.0), 2, firm.Settings(firm_weight=0.0)), {"before": 0, "after": 0}
    for i in range(100):
        noise = 0.2 * torch.rand(2, generator=random)
        feature = [0.3 + float(noise[0]), 0.3 + float(noise[1])]
        feature[i % 2] += 0.3
        answer = method.adapt(clip((feature[0], feature[1])))
        for name in right:
            right[name] += int(getattr(answer, name).argmax()) == i % 2
    assert right["before"] == 50
    assert right["after"] > 85


def test_the_window_holds_the_newest_posteriors() -> None:
    method = Firm(Pair(), 2, firm.Settings(firm_window=3))
    for i in range(5):
        method.adapt(clip((0.1 * i, 0.2)))
    expected = torch.stack([torch.tensor([0.1 * i, 0.2]).softmax(0) for i in (2, 3, 4)])
    assert torch.allclose(method.decisions.posteriors, expected, atol=1e-6)


def test_a_class_that_the_head_masks_takes_no_share() -> None:
    class Masked(Pair):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(2, 3)

        def forward(self, frames: Tensor) -> Tensor:
            logits: Tensor = self.head(frames[:, :2].mean((2, 3, 4)))
            return logits.index_fill(1, torch.tensor([1]), -math.inf)

    torch.manual_seed(0)
    method = Firm(Masked(), 3, firm.Settings(firm_gate=False, firm_weight=0.0))
    answers = torch.cat([method.adapt(clip((0.1 * i, 0.2))).after.exp() for i in range(5)])
    assert (answers[:, 1] == 0).all() and torch.allclose(answers.sum(1), torch.ones(5))
    assert torch.allclose(answers[0], torch.tensor([0.5, 0.0, 0.5]), atol=1e-4)  # one clip, two classes

"""The logarithmic opinion pool against closed forms: weights by information, products of probabilities."""

import math

import pytest
import torch
from torch import Tensor

from adapt.core.pool import START, Pool

VARIED, SAME = (
    torch.eye(4),
    torch.eye(4)[[0, 0, 0, 0]],
)  # of four clips: the information of one is log K, of the other 0


def log_p(*rows: list[float]) -> Tensor:
    return torch.tensor(rows).log()


def heard(*members: Tensor, times: int = 1, information: float = 0.2, last: float = 1.0) -> Pool:
    """A pool after clips on which each member gave these answers, K = 4."""
    pool = Pool(4, len(members), information, last)
    for _ in range(times):
        for answers in zip(*members, strict=True):
            pool.add([answer[None].clamp_min(1e-30).log() for answer in answers])
    return pool


def test_before_the_first_clip_all_models_count_alike() -> None:
    assert Pool(4, 3, 0.2).weights() == pytest.approx([1 / 3] * 3)
    assert Pool(4, 3, 0.0).weights() == pytest.approx([1 / 3] * 3)  # nothing is known and nothing assumed
    assert Pool(4, 1, 0.2, last=0.5).weights() == [1]  # one alone has all


def test_weights_are_information_times_clips_and_what_all_start_with() -> None:
    """The mean of four certain answers to four classes, and of the uniform start, is uniform: I = 1.  Of four times the
    same answer, with the start, it is .85 .05 .05 .05, and I is its entropy over log 4.
    """
    spread = -(0.85 * math.log(0.85) + 3 * 0.05 * math.log(0.05)) / math.log(4)
    says = [4 * 1 + START * 0.2, 4 * spread + START * 0.2]
    assert heard(VARIED, SAME).weights() == pytest.approx([one / sum(says) for one in says])


def test_the_last_keeps_a_share_of_its_weight_and_the_others_take_the_rest() -> None:
    whole, less, none = (heard(VARIED, VARIED, VARIED, last=last).weights() for last in (1.0, 0.3, 0.0))
    assert whole == pytest.approx([1 / 3] * 3)
    assert less == pytest.approx([0.45, 0.45, 0.1])
    assert none == pytest.approx([0.5, 0.5, 0])


def test_the_pool_is_the_product_of_powers_scaled() -> None:
    pool = heard(VARIED, SAME, VARIED, times=3)
    a, b, c = ([0.7, 0.1, 0.1, 0.1], [0.25] * 4, [0.1, 0.6, 0.2, 0.1])
    powers = [torch.tensor(p) ** w for p, w in zip((a, b, c), pool.weights(), strict=True)]
    product = torch.stack(powers).prod(0)
    mixed = pool.mix([log_p(p) for p in (a, b, c)])
    assert torch.allclose(mixed.exp()[0], product / product.sum(), atol=1e-6)
    assert mixed.exp().sum().item() == pytest.approx(1)


def test_a_class_that_one_rules_out_is_ruled_out_and_no_answer_counts_not() -> None:
    pool, nan = Pool(4, 3, 0.2), torch.full((1, 4), math.nan)
    a, b = log_p([0.5, 0.5, 0.0, 0.0]), log_p([0.25, 0.25, 0.25, 0.25])
    assert pool.mix([a, b, b]).exp()[0].tolist() == pytest.approx([0.5, 0.5, 0, 0])
    assert torch.allclose(pool.mix([a, nan, b]), pool.mix([a, b, a])[:, :], atol=1e-6)
    assert bool(pool.mix([nan, nan, nan]).isnan().all())
    before = pool.weights()
    pool.add([nan, nan, nan])
    assert pool.weights() == before


def test_a_pool_forgets_and_goes_on_from_a_state() -> None:
    pool, other = heard(VARIED, SAME), Pool(4, 2, 0.2)
    other.load_state(pool.state())
    assert other.weights() == pool.weights() != Pool(4, 2, 0.2).weights()
    pool.reset()
    assert pool.weights() == Pool(4, 2, 0.2).weights()

"""The ensemble of adapters: each member is the method that it is alone, though all share one network."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn

from adapt.core.moments import source_statistics
from adapt.core.pool import Pool
from adapt.errors import MethodError
from adapt.methods import ensemble
from adapt.methods.ensemble import Ensemble, members_of
from tests import built
from tests.tiny import K, TinyVideoModel, batch, same_weights, trained, weights

STREAM = [batch(i) for i in range(6)]
LR = 0.05
SHARP = dataclasses.replace(STREAM[0], frames=STREAM[0].frames * math.inf)  # gives no finite answer


class Normed(nn.Module):
    """A network with layer norm alone."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.norm, self.head = nn.Linear(3, 8), nn.LayerNorm(8), nn.Linear(8, K)

    def forward(self, frames: Tensor) -> Tensor:
        features: Tensor = self.norm(self.embed(frames.mean((2, 3, 4))))
        logits: Tensor = self.head(features)
        return logits


def by_hand(members: list[str]) -> list[tuple[Tensor, Tensor]]:
    """(before, after) of every clip: each member on a network of its own, then the pool."""
    alone = [built.alone(name, trained(), None, K, **built.fitting(name, lr=LR)) for name in members]
    pool, pooled = Pool(K, len(members), 0.2), []
    for clip in STREAM:
        first = dataclasses.replace(clip, frames=clip.frames[:, :1])  # of two views
        answers = [method.adapt(first if i else clip) for i, method in enumerate(alone)]
        pooled.append((pool.mix([one.before for one in answers]), pool.mix([one.after for one in answers])))
        pool.add([one.before for one in answers])
    return pooled


@pytest.mark.parametrize("members", ["dua,source", "vitta_dua", "neo", "source,vitta_dua,dua", "source"])
def test_members_answer_as_they_do_alone_and_are_pooled(members: str) -> None:
    model = trained()
    method, alone = built.alone("ensemble", model, None, K, lr=LR, members=members), trained()
    assert isinstance(method, Ensemble)
    vitta = built.alone("vitta", alone, None, K, lr=LR)
    for clip, (before, after) in zip(STREAM, by_hand(["vitta", *method.members.names]), strict=True):
        answer = method.adapt(clip)
        assert torch.allclose(answer.before, before, atol=1e-6)
        assert torch.allclose(answer.after, after, atol=1e-6)
        vitta.adapt(clip)
    assert same_weights(model, weights(alone))  # what the network is left with is vitta's


def test_who_stands_beside_vitta_by_default_hangs_on_batch_norm() -> None:
    of = ensemble.Settings
    assert members_of(of(), trained()) == ["dua", "source"]
    assert members_of(of(), Normed()) == ["neo", "source"]
    assert members_of(of(members="source,vitta_dua"), trained()) == ["vitta_dua", "source"]
    assert members_of(of(source_mix=0.0), trained()) == ["dua"]  # a source without weight is not asked
    assert members_of(of(members="none"), trained()) == []


@pytest.mark.parametrize(("members", "message"), [
    ("auto,dua", "auto and none stand alone"),
    ("none,source", "auto and none stand alone"),
    ("dua,dua", "give some, with commas between, of"),
    ("tent", "give some, with commas between, of"),
    ("", "give some, with commas between, of"),
])  # fmt: skip
def test_members_that_cannot_be_are_one_clear_error(members: str, message: str) -> None:
    with pytest.raises(MethodError, match=message):
        built.alone("ensemble", trained(), None, K, members=members)


def test_following_members_need_batch_norm() -> None:
    statistics = source_statistics(Normed(), [clip.centre[:, 0] for clip in STREAM])
    with pytest.raises(MethodError, match="no batch norm layer whose statistics could follow"):
        built.alone("ensemble", Normed(), statistics, K, members="dua")
    answer = built.alone("ensemble", Normed(), statistics, K).adapt(STREAM[0])
    assert bool(answer.after.isfinite().all())


def test_moving_to_another_type_moves_every_member_along() -> None:
    def answers(halfway: bool) -> list[Tensor]:
        model = trained()
        method = built.alone("ensemble", model, None, K, lr=LR, members="dua,vitta_dua")
        assert isinstance(method, Ensemble)
        told = []
        for i, clip in enumerate(STREAM):
            if halfway and i == 3:
                model.double()
                method.move(lambda x: x.double() if x.is_floating_point() else x)
            frames = {name: getattr(clip, name).to(next(model.parameters())) for name in ("frames", "centre")}
            told.append(method.adapt(dataclasses.replace(clip, **frames)).after.float())
        return told

    for a, b in zip(answers(False), answers(True), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_a_clip_that_gives_no_finite_answer_leaves_every_member_as_it_was() -> None:
    model, other = trained(), trained()
    hit = built.alone("ensemble", model, None, K, lr=LR, members="dua,vitta_dua,source")
    spared = built.alone("ensemble", other, None, K, lr=LR, members="dua,vitta_dua,source")
    for clip in STREAM[:3]:
        hit.adapt(clip)
        spared.adapt(clip)
    assert hit.adapt(SHARP).stop_reason == "not_finite"
    for clip in STREAM[3:]:
        assert torch.equal(hit.adapt(clip).after, spared.adapt(clip).after)
    assert same_weights(model, weights(other))


def test_the_network_of_a_wrapped_ensemble_is_vittas_between_two_clips() -> None:
    model = trained()
    method = built.alone("ensemble", model, None, K, lr=LR)
    statistics = {name: value.clone() for name, value in model.named_buffers()}
    method.adapt(STREAM[0])
    assert all(torch.equal(value, statistics[name]) for name, value in model.named_buffers())
    assert isinstance(model, TinyVideoModel)
    assert not torch.equal(model.norm.weight, trained().norm.weight)

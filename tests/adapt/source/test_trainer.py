"""A training step is AdamW's at the cosine's rate, goes on bit for bit where it was saved, and sees mildly changed
clips.
"""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler

from adapt.errors import MethodError
from adapt.source._augment import augmented
from adapt.source._trainer import Trainer
from tests.tiny import K, trained, weights


def trainer(model: nn.Module, precision: str = "fp32", scope: str = "all") -> Trainer:
    return Trainer(
        model, 10, lr=0.1, head_lr_factor=0.5, weight_decay=0.1, label_smoothing=0.0, precision=precision, scope=scope
    )


def test_the_learning_rate_rises_and_falls_by_a_cosine_and_the_heads_is_its_own() -> None:
    made = trainer(trained().train())
    rates = []
    for _ in range(10):
        rates.append([group["lr"] for group in made.optimiser.param_groups])
        made.step(torch.rand(4, 3, 4, 8, 8), torch.tensor([0, 1, 2, 3]))
    body = [rate[0] for rate in rates]
    assert body[0] < body[1] == max(body) == pytest.approx(0.1, rel=0.05)
    top = 0.15 * 11 - 1  # torch's schedule has a step more than the run, and counts from 0
    cosine = [0.05 * (1 + math.cos(math.pi * (step - top) / (10 - top))) for step in range(1, 10)]
    assert body[1:] == pytest.approx(cosine, abs=1e-5)
    assert all(head == pytest.approx(0.5 * other) for other, _, head in rates)


def test_only_weights_of_more_than_one_dimension_decay() -> None:
    model = trained()
    groups = trainer(model).optimiser.param_groups
    decaying = {id(parameter) for group in groups[:1] for parameter in group["params"]}
    assert {name for name, parameter in model.named_parameters() if id(parameter) in decaying} == {"conv.weight"}
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0, 0.1]


def test_scope_head_trains_the_head_from_zeros_and_leaves_norm_layers() -> None:
    model, before = trained(), weights(trained())
    made = trainer(model, scope="head")
    made.begin()
    frames, label_ids = torch.rand(4, 3, 4, 8, 8), torch.tensor([0, 1, 2, 3])
    assert made.step(frames, label_ids).item() == pytest.approx(math.log(K))  # of zeros: every class is as likely
    assert made.step(frames, label_ids).item() < math.log(K)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"head.weight", "head.bias"}


def test_an_unknown_scope_is_one_clear_error() -> None:
    with pytest.raises(MethodError, match="scope 'heads': choose one of all, head"):
        trainer(trained(), scope="heads")


def test_a_step_is_adamws_on_the_cross_entropy() -> None:
    frames, label_ids = torch.rand(4, 3, 4, 8, 8), torch.tensor([0, 1, 2, 3])
    model, expected = trained().train(), trained().train()
    made = trainer(model)
    optimiser = torch.optim.AdamW(
        [
            {"params": [expected.conv.weight], "weight_decay": 0.1},
            {"params": [expected.conv.bias, expected.norm.weight, expected.norm.bias], "weight_decay": 0.0},
            {"params": [expected.head.weight, expected.head.bias], "weight_decay": 0.1},
        ]
    )
    for group, ours in zip(optimiser.param_groups, made.optimiser.param_groups, strict=True):
        group["lr"], group["betas"] = ours["lr"], ours["betas"]
    loss = -expected(frames).log_softmax(1)[range(4), label_ids].mean()
    loss.backward()
    optimiser.step()
    assert made.step(frames, label_ids).item() == pytest.approx(loss.item(), rel=1e-6)
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value)


def test_a_trainer_goes_on_bit_for_bit_where_its_state_was_taken() -> None:
    frames, label_ids = torch.rand(4, 3, 4, 8, 8), torch.tensor([0, 1, 2, 3])
    first = trainer(trained().train())
    first.step(frames, label_ids)
    second = trainer(trained().train())
    second.load_state(copy.deepcopy(first.state()))
    for made in (first, second):
        for _ in range(3):
            made.step(frames, label_ids)
    assert all(
        torch.equal(a, b)
        for a, b in zip(first.model.state_dict().values(), second.model.state_dict().values(), strict=True)
    )


def test_a_clips_changes_are_mild_the_same_in_every_frame_and_repeatable() -> None:
    still = torch.randint(
        0, 256, (3, 3, 1, 24, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    ).expand(3, 3, 4, 24, 24)
    changed = augmented(still, np.random.default_rng(2), change=True, flip=True)
    assert changed.shape == still.shape
    assert changed.min() >= 0 and changed.max() <= 1
    assert torch.equal(changed, augmented(still, np.random.default_rng(2), change=True, flip=True))
    same = (changed == changed[:, :, :1]).flatten(1).all(1)
    assert same.any()  # noise, where there is any, is new in every frame; all else is not
    assert torch.equal(augmented(still, np.random.default_rng(2), change=False, flip=False), still / 255)
    mirrored = augmented(still, np.random.default_rng(2), change=False, flip=True)
    assert all(
        torch.equal(m, s / 255) or torch.equal(m, s.flip(-1) / 255) for m, s in zip(mirrored, still, strict=True)
    )


def test_a_step_that_overflows_changes_neither_weights_nor_learning_rate() -> None:
    frames, label_ids = torch.rand(4, 3, 4, 8, 8), torch.tensor([0, 1, 2, 3])
    model = trained().train()
    nn.init.normal_(model.head.weight, std=1e4)  # large gradients
    made = trainer(model)
    made.scaler = GradScaler("cpu", init_scale=2.0**127)  # as fp16 has it on a GPU
    before, rate = copy.deepcopy([*made.model.parameters()]), made.schedule.get_last_lr()
    assert made.step(frames, label_ids).isfinite()
    assert all(torch.equal(a, b) for a, b in zip(before, made.model.parameters(), strict=True))
    assert made.schedule.get_last_lr() == rate
    made.scaler = GradScaler("cpu", init_scale=2.0**10)
    made.step(frames, label_ids)
    assert not all(torch.equal(a, b) for a, b in zip(before, made.model.parameters(), strict=True))
    assert made.schedule.get_last_lr() != rate

"""Kinds of norm layers: which count, which weights adapt, which outputs are aligned, and whose statistics are mixed."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

import adapt
from adapt.core.batch_norm import batch_norms, own_statistics
from adapt.core.learner import adapted_parameters
from adapt.core.moments import from_buffers, norm_layers
from adapt.errors import MethodError
from tests.adapt.wrapper.test_wrap import NAMES, clip, wrapped
from tests.tiny import K


class OfMyOwn(_BatchNorm):
    """A batch norm that is none of torch's classes."""

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002 - torch's name
        assert input.dim() == 5


def network(norm: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    head = (nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(5, K))
    return nn.Sequential(nn.Conv3d(3, 5, 3), norm, *head).eval()


def settled(norm: nn.Module) -> nn.Sequential:
    """The network with running statistics of noise."""
    made = network(norm).train()
    for i in range(20):
        made(clip(i, b=4))
    return made.eval()


BATCH_NORMS = [nn.SyncBatchNorm, OfMyOwn]


@pytest.mark.parametrize("kind", BATCH_NORMS)
def test_every_kind_of_batch_norm_is_one(kind: type[_BatchNorm]) -> None:
    model, torchs = network(kind(5)), network(nn.BatchNorm3d(5))
    assert norm_layers(model) == norm_layers(torchs) == ["1"]
    assert list(batch_norms(model)) == ["1"]
    assert [id(p) for p in adapted_parameters(model, "norm")] == [id(model[1].weight), id(model[1].bias)]
    assert from_buffers(model, ["1"])["1"][1].tolist() == [1.0] * 5


@pytest.mark.parametrize("kind", BATCH_NORMS)
@pytest.mark.parametrize("method", ["tent", "norm", "dua", "vitta", "vitta_dua", "sar", "audio"])
def test_a_method_does_with_it_what_it_does_with_batch_norm(kind: type[_BatchNorm], method: str) -> None:
    torchs = settled(nn.BatchNorm3d(5))
    model = network(kind(5))
    model.load_state_dict(torchs.state_dict())
    mine, reference = wrapped(method, model), wrapped(method, torchs)
    for i in range(2):
        assert torch.equal(mine(clip(i), {"rain": 0.9}), reference(clip(i), {"rain": 0.9}))


def test_the_conversion_of_torch_gives_a_network_that_adapts() -> None:
    model: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(settled(nn.BatchNorm3d(5)))
    wrapped("vitta", model)(clip())
    assert not torch.equal(model.get_parameter("1.weight"), torch.ones(5))


def test_an_instance_norm_adapts_and_its_own_moments_are_not_aligned() -> None:
    model = network(nn.InstanceNorm3d(5, affine=True))
    assert [id(p) for p in adapted_parameters(model, "norm")] == [id(model[1].weight), id(model[1].bias)]
    with pytest.raises(MethodError, match="has no norm layer to align"):
        norm_layers(model)
    before = model.get_parameter("1.weight").clone()
    wrapped("tent", model)(clip())
    assert not torch.equal(model.get_parameter("1.weight"), before)


def test_an_instance_norm_with_running_statistics_is_aligned() -> None:
    """Its buffers hold variances within clips: what lies between clips is not in them."""
    model = settled(nn.InstanceNorm3d(5, affine=True, track_running_stats=True))
    assert norm_layers(model) == ["1"] and batch_norms(model) == {}
    with pytest.raises(MethodError, match="from buffers need batch norm layers: .* pass adapt.source_statistics"):
        wrapped("vitta", model)
    clips = [clip(i, t=4 + i % 3) for i in range(4)]
    statistics = adapt.source_statistics(model, clips)
    outputs = torch.cat([model[:2](frames).transpose(0, 1).flatten(1) for frames in clips], 1).double()
    assert torch.allclose(statistics.moments["1"][1].double(), outputs.var(1, correction=0), rtol=1e-5)
    before = model.get_parameter("1.weight").clone()
    made = adapt.wrap(model, "vitta", classes=NAMES, statistics=statistics)
    assert made(clip()).isfinite().all()
    assert not torch.equal(model.get_parameter("1.weight"), before)


def test_statistics_of_an_instance_norm_are_not_mixed() -> None:
    model = settled(nn.InstanceNorm3d(5, affine=True, track_running_stats=True))
    before = model(clip())
    with own_statistics(model, 1.0):
        assert torch.equal(model(clip()), before)


def test_public_statistics_weigh_clips_by_their_number_of_values() -> None:
    model = settled(nn.BatchNorm3d(5)).double()
    clips = [clip(i, t=t, b=b).double() * (i + 1) / 4 for i, (t, b) in enumerate([(4, 1), (9, 2), (3, 1), (16, 3)])]
    found = adapt.source_statistics(model, clips).moments["1"]
    with torch.no_grad():
        outputs = torch.cat([model[:2](frames).transpose(0, 1).flatten(1) for frames in clips], 1)
    assert torch.allclose(found[0].double(), outputs.mean(1), rtol=0, atol=1e-6)
    assert torch.allclose(found[1].double(), torch.var(outputs, 1, correction=0), rtol=0, atol=1e-6)
    a_clip_one_vote = torch.stack([model[:2](frames).transpose(0, 1).flatten(1).mean(1) for frames in clips]).mean(0)
    assert (a_clip_one_vote - outputs.mean(1)).abs().max() > 1e-3

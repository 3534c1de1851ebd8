"""What differs between the baselines and their authors' code is a setting, and with it they are theirs.

Each expectation is the authors' arithmetic in our words (torch's own training mode, its SGD, the names in SAR's
collect_params), never their code.
"""

import copy
import dataclasses

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adapt import backbones
from adapt.errors import MethodError
from adapt.losses import consistency
from adapt.methods import eata, norm, sar
from adapt.methods.norm import Norm
from adapt.methods.sar import Sar, below_the_top, published_top
from tests import built
from tests.tiny import K, TinyVideoModel, batch, same_weights, trained, weights


@pytest.fixture
def model() -> TinyVideoModel:
    return trained()


# norm


@pytest.mark.parametrize("samples", [0, 16])
def test_norm_mixes_the_unbiased_variance_that_torch_keeps_in_a_buffer(model: TinyVideoModel, samples: int) -> None:
    """Schneider et al. mix N / (N + n) of the buffers with those of a second norm of momentum 1 in training mode."""
    clip, prior = batch(), samples / (samples + 1)
    clip = dataclasses.replace(clip, frames=clip.frames.double(), centre=clip.centre.double())
    theirs, second = copy.deepcopy(model.double()), nn.BatchNorm3d(6, affine=False, momentum=1.0).double()
    with torch.no_grad():
        second(theirs.conv(clip.centre[:, 0]))
        for name in ("running_mean", "running_var"):
            buffer = getattr(theirs.norm, name)
            buffer.copy_(prior * buffer + (1 - prior) * getattr(second, name))
        expected = theirs(clip.centre[:, 0]).log_softmax(1)
    given = {"bn_samples": float(samples)} if samples else {"bn_prior": 1.0}
    settings = norm.Settings(bn_variance="unbiased", **given)
    assert torch.allclose(Norm(model, settings).adapt(clip).after, expected, rtol=0, atol=1e-12)
    biased = Norm(model, dataclasses.replace(settings, bn_variance="biased")).adapt(clip).after
    assert (biased - expected).abs().max() > 1e-6


def test_a_single_value_a_channel_has_no_unbiased_variance() -> None:
    model = nn.Sequential(nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.BatchNorm1d(3), nn.Linear(3, K))
    with pytest.raises(MethodError, match="'2' sees one value a channel, which has no unbiased variance"):
        Norm(model, norm.Settings(bn_variance="unbiased")).adapt(batch())


# vitta


def test_consistency_over_a_batch_is_the_sum_of_its_clips() -> None:
    """L1Loss(reduction='sum') of every view against their mean, divided by the number of views."""
    p = torch.rand(3, 2, K).softmax(2)
    l1 = nn.L1Loss(reduction="sum")
    expected = (l1(p[:, 0], p.mean(1)) + l1(p[:, 1], p.mean(1))) / 2
    assert consistency(p.log(), over="sum").item() == pytest.approx(expected.item(), rel=1e-6)
    assert consistency(p.log()).item() == pytest.approx(expected.item() / 3, rel=1e-6)


def test_vitta_takes_the_sum_where_it_is_told_to(model: TinyVideoModel) -> None:
    clip = batch()
    two = dataclasses.replace(clip, frames=clip.frames.repeat(2, *[1] * 5), centre=clip.centre.repeat(2, *[1] * 5))
    found = [
        built.alone("vitta", trained(), None, K, consistency=1e3, consistency_over=over).adapt(two).trace[0].consistency
        for over in ("mean", "sum")
    ]
    assert found[0] and found[1] == pytest.approx(2 * found[0], rel=1e-5)


def test_the_dropout_rate_is_that_of_the_last_dropout_while_adapting_alone() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv3d(3, 4, 1), nn.Dropout(0.1), nn.BatchNorm3d(4), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Dropout(0.5),
        nn.Linear(4, K),
    )  # fmt: skip
    first, last = (module for module in model if isinstance(module, nn.Dropout))
    seen: list[tuple[float, float, bool]] = []
    model[6].register_forward_hook(lambda *_: seen.append((first.p, last.p, last.training)))
    built.alone("tent", model, None, K, dropout=True, dropout_rate=0.8).adapt(batch())
    assert seen == [(0.1, 0.8, True), (0.1, 0.5, False)]  # the step's forward, the prediction's
    seen.clear()
    built.alone("tent", model, None, K, dropout=True).adapt(batch())
    assert seen[0] == (0.1, 0.5, True)
    seen.clear()
    built.alone("tent", model, None, K, dropout_rate=0.8).adapt(batch())
    assert seen[0] == (0.1, 0.5, False)


# eata


def clips(n: int) -> list[Tensor]:
    return [batch(seed=i).centre[:, 0] for i in range(n)]


@pytest.mark.parametrize("size", [1, 4, 64])
def test_the_fisher_weights_are_squared_gradients_of_whole_batches(model: TinyVideoModel, size: int) -> None:
    """In training mode, of the mean cross-entropy to the model's own answers; the mean over batches, a last smaller
    one as much as the others.
    """
    frames = clips(10)
    theirs = copy.deepcopy(model).train()
    total = torch.zeros(6)
    batches = [torch.cat(frames[i : i + size]) for i in range(0, 10, size)]
    for one in batches:
        logits = theirs(one)
        (gradient,) = torch.autograd.grad(F.cross_entropy(logits, logits.argmax(1)), theirs.norm.weight)
        total += gradient.square()
    found = eata.importance(model, frames, eata.Settings(bn_prior=1.0), size)
    assert torch.allclose(found["norm.weight"][0], total / len(batches), rtol=1e-4, atol=1e-9)
    assert torch.equal(found["norm.weight"][1], model.norm.weight)


def test_the_fisher_weights_of_single_clips_add_up_to_more_than_those_of_a_batch(model: TinyVideoModel) -> None:
    """The mean of squares is at least the square of the mean; with the source's statistics clips do not mix."""
    frames = [clip * i / 16 for i, clip in enumerate(clips(16))]
    alone, together = (eata.importance(model, frames, eata.Settings(bn_prior=0.0), n) for n in (1, 16))
    for name in alone:
        assert (alone[name][0] >= together[name][0] * (1 - 1e-4) - 1e-12).all()
    assert alone["norm.weight"][0].sum() > 1.5 * together["norm.weight"][0].sum()


# sar


def adapting_as_published(model: nn.Module) -> set[str]:
    """The norms that SAR's collect_params leaves to adapt, by its conditions on names."""
    kinds = (nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm)
    left = [name for name, module in model.named_modules() if isinstance(module, kinds)]
    skipped = ("layer4", "blocks.9", "blocks.10", "blocks.11", "norm.")
    return {name for name in left if name != "norm" and not any(part in name for part in skipped)}


def names_of(model: nn.Module, parameters: list[nn.Parameter]) -> set[str]:
    """The modules that hold these parameters."""
    known = {id(parameter): name.rpartition(".")[0] for name, parameter in model.named_parameters()}
    return {known[id(parameter)] for parameter in parameters}


@pytest.mark.parametrize("name", ["vit_base_patch16_224", "resnet50_gn", "resnet18"])
def test_the_top_that_keeps_still_is_that_of_the_published_networks(name: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name)
    left = names_of(model, below_the_top(model, sar.Settings(sar_top="published")))
    assert left == adapting_as_published(model)


def test_a_tanets_layer4_keeps_still_with_its_temporal_modules() -> None:
    model = backbones.build("tanet", K, 3, variant="resnet18")
    left = names_of(model, below_the_top(model, sar.Settings(sar_top="published")))
    assert left and not any("layer4" in name for name in left)
    of_layer4 = [m for m in model.get_submodule("base_model.layer4").modules() if isinstance(m, nn.BatchNorm2d)]
    assert {id(module) for module in of_layer4} <= {id(module) for module in published_top(model)}


def test_a_network_without_a_published_top_is_one_clear_error(model: TinyVideoModel) -> None:
    with pytest.raises(MethodError, match="TinyVideoModel has neither layer4 nor a stack of 12 blocks: set sar_top to"):
        Sar(model, K, sar.Settings(sar_top="published"))


@pytest.mark.parametrize("coasts", [False, True])
def test_the_momentum_goes_on_where_no_clip_is_reliable(model: TinyVideoModel, coasts: bool) -> None:
    """In the authors' code the loss is then the mean of nothing, its gradient 0, and SGD steps along its buffer."""
    settings = sar.Settings(lr=0.05, bn_prior=0.0, sar_frozen=0.0, entropy_margin=0.999, sar_coasts=coasts)
    method = Sar(model, K, settings)
    assert method.adapt(batch()).steps == 1
    buffers = [method.optimiser.inner.state[w]["momentum_buffer"].clone() for w in method.parameters]
    before = [w.detach().clone() for w in method.parameters]
    method.margin = 0.0  # no clip is that sure
    answer = method.adapt(batch(seed=1))
    assert (answer.steps, answer.stop_reason) == (0, "unreliable")
    share = 0.05 * 0.9 if coasts else 0.0
    for w, old, buffer in zip(method.parameters, before, buffers, strict=True):
        assert torch.allclose(w, old - share * buffer, atol=1e-8)
        assert torch.equal(method.optimiser.inner.state[w]["momentum_buffer"], (0.9 if coasts else 1.0) * buffer)


def test_coasting_from_rest_changes_nothing(model: TinyVideoModel) -> None:
    before = weights(model)
    method = Sar(model, K, sar.Settings(lr=0.05, sar_frozen=0.0, entropy_margin=0.0, sar_coasts=True))
    assert method.adapt(batch()).stop_reason == "unreliable"
    assert same_weights(model, before)

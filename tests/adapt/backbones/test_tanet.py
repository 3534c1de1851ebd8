"""TANet: the published network, names and maths; the references are in tests/published_tanet.py, written after the
authors' code.
"""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from adapt import backbones, presets
from adapt.backbones import tanet
from adapt.backbones._folding import Norm2d, conv_norm
from adapt.backbones._temporal import TemporalAdaptiveModule
from adapt.contract import Batch, SourceStatistics
from adapt.core.moments import moments
from adapt.errors import MethodError
from adapt.methods.vitta import Settings, Vitta
from tests import built
from tests.published_tanet import PublishedTANet, PublishedVitta, Tam, images, layers, settle

K, T, SIZE = 5, 3, 32


def ours_and_theirs(depth: int = 18, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, PublishedTANet]:
    """The same weights in both."""
    torch.manual_seed(0)
    theirs = PublishedTANet(depth, K, T)
    settle(theirs).to(dtype)
    ours = backbones.build("tanet", K, T, variant=f"resnet{depth}").to(dtype).eval()
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def clip(seed: int, dtype: torch.dtype = torch.float64, n: int = 1) -> Batch:
    random = torch.Generator().manual_seed(seed)
    views = torch.rand(n, 3, 3, T, SIZE, SIZE, generator=random, dtype=dtype)
    uniform = torch.full((n, K), 1 / K, dtype=dtype)
    return Batch(
        views[:, :2],
        views[:, 2:],
        uniform,
        torch.zeros_like(uniform),
        uniform.new_zeros(n),
        ("silent",) * n,
        ("clip",) * n,
    )


def source_statistics(model: PublishedTANet) -> SourceStatistics:
    """Some."""
    sizes = {name: len(model.get_submodule(name).get_buffer("running_mean")) for name in layers(model)}
    return SourceStatistics(
        {name: (torch.linspace(-0.3, 0.3, c).double(), torch.linspace(0.3, 1, c).double()) for name, c in sizes.items()}
    )


def test_resnet50_has_the_published_number_of_parameters() -> None:
    model = backbones.build("tanet", 400, 8, variant="resnet50")
    assert (
        round(sum(p.numel() for p in model.parameters()) / 1e6, 1) == 25.6
    )  # Liu et al. 2021, table of Kinetics-400, 8 frames


def test_the_forward_and_every_gradient_are_those_of_the_authors_network() -> None:
    ours, theirs = ours_and_theirs(50)
    frames = clip(0).frames[0]
    weight = torch.linspace(-1, 1, 2 * K).double().view(2, K)
    of_ours, of_theirs = ours(frames), theirs(images(frames))
    assert torch.allclose(of_ours, of_theirs, rtol=1e-9, atol=1e-12)
    (of_ours * weight).sum().backward()
    (of_theirs * weight).sum().backward()
    gradients = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        expected = gradients[name].grad
        assert parameter.grad is not None and expected is not None
        assert torch.allclose(parameter.grad, expected, rtol=1e-7, atol=1e-10 * float(expected.abs().max())), name


def test_without_gradients_and_in_training_mode_the_forward_is_theirs_too() -> None:
    ours, theirs = ours_and_theirs()
    frames = clip(0).frames[0]
    with torch.inference_mode():
        assert torch.allclose(ours(frames), theirs(images(frames)), rtol=1e-9, atol=1e-12)
    for model in (ours, theirs):
        model.train()
        model.get_submodule("base_model.fc").eval()
    assert torch.allclose(ours(frames), theirs(images(frames)), rtol=1e-9, atol=1e-12)


def test_two_vitta_clips_give_the_losses_weights_and_predictions_of_the_authors_way() -> None:
    ours, theirs = ours_and_theirs()
    source = source_statistics(theirs)
    settings = Settings(scope="all", lr=1e-3, weight_decay=5e-4, ema_start="zero")
    method = Vitta(ours, source, settings)
    published = PublishedVitta(theirs, source.moments, settings.lr, settings.weight_decay)
    for seed in range(2):
        batch = clip(seed)
        answer = method.adapt(batch)
        loss = published.step(images(batch.frames[0]), 0, dropout=False)
        assert answer.trace[0].loss == pytest.approx(loss, rel=1e-9)
        expected = published.predict(images(batch.centre[0])).log_softmax(1)
        assert torch.allclose(answer.after, expected, rtol=1e-8, atol=1e-10)
    weights = theirs.state_dict()
    for name, value in ours.state_dict().items():
        assert torch.allclose(value.double(), weights[name].double(), rtol=1e-8, atol=1e-10), name


def test_with_its_preset_vitta_is_the_authors_way_step_by_step() -> None:
    """Dropout of 0.8 and all; the same noise on both sides, since it is drawn once a clip."""
    ours, theirs = ours_and_theirs()
    source = source_statistics(theirs)
    chosen = presets.get("vitta_published").settings
    method = built.alone("vitta", ours, source, K, **chosen)
    published = PublishedVitta(theirs, source.moments, chosen["lr"], chosen["weight_decay"])
    for seed in range(3):
        batch = clip(seed)
        torch.manual_seed(seed)
        answer = method.adapt(batch)
        torch.manual_seed(seed)
        loss = published.step(images(batch.frames[0]), 0, dropout=True)
        assert answer.trace[0].loss == pytest.approx(loss, rel=1e-9)
        expected = published.predict(images(batch.centre[0])).log_softmax(1)
        assert torch.allclose(answer.after, expected, rtol=1e-8, atol=1e-10)
    weights = theirs.state_dict()
    for name, value in ours.state_dict().items():
        assert torch.allclose(value.double(), weights[name].double(), rtol=1e-8, atol=1e-10), name


def test_with_dropout_on_the_same_noise_gives_the_same_step() -> None:
    ours, theirs = ours_and_theirs()
    source = source_statistics(theirs)
    batch = clip(0)
    method = built.alone("vitta", ours, source, K, scope="all", dropout=True, dropout_rate=0.8, ema_start="zero")
    torch.manual_seed(3)
    answer = method.adapt(batch)
    torch.manual_seed(3)
    published = PublishedVitta(theirs, source.moments, 1e-3, 0.0)
    assert answer.trace[0].loss == pytest.approx(published.step(images(batch.frames[0]), 0, dropout=True), rel=1e-9)


@pytest.mark.parametrize("scope", ["norm", "last_norm", "last", "all"])
@pytest.mark.slow
def test_a_step_is_the_same_whatever_is_folded_or_reused(scope: str) -> None:
    """The reference is the authors' network, in which nothing is, adapted by the same method."""
    ours, theirs = ours_and_theirs()

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = theirs

        def forward(self, frames: Tensor) -> Tensor:
            logits: Tensor = self.inner(images(frames))
            return logits

        def alignment_layers(self) -> list[str]:
            return [f"inner.{name}" for name in layers(theirs)]

    method = built.alone("vitta", ours, None, K, scope=scope, lr=1e-3)
    whole = Vitta(Whole(), None, Settings(scope="all", lr=1e-3))
    adapting = {name for name, p in ours.named_parameters() if p.requires_grad}
    whole.optimiser.parameters[:] = whole.parameters[:] = [
        p for name, p in theirs.named_parameters() if name in adapting
    ]
    whole.optimiser.reset()
    assert torch.allclose(method.adapt(clip(0)).after, whole.adapt(clip(0)).after, rtol=1e-8, atol=1e-10)
    for name, value in ours.state_dict().items():
        assert torch.allclose(value.double(), theirs.state_dict()[name].double(), rtol=1e-8, atol=1e-10), name


def test_the_alignment_layers_are_the_2d_batch_norms_of_layer3_and_layer4() -> None:
    """Three a bottleneck of resnet50's 6 and 3, two a basic block of resnet18's 2 and 2, and one in each layer's
    shortcut.
    """
    for variant, count in (("resnet50", 29), ("resnet18", 10), ("narrow", 6)):
        model = tanet.build(K, T, variant=variant)
        chosen = model.alignment_layers()
        assert len(chosen) == count
        assert all(isinstance(model.get_submodule(name), nn.BatchNorm2d) for name in chosen)
        if variant != "narrow":
            assert chosen == layers(PublishedTANet(int(variant[-2:]), K, T))


def test_the_blocks_run_one_after_the_other_are_the_forward() -> None:
    frames = torch.rand(2, 3, T, SIZE, SIZE)
    for variant in tanet.VARIANTS:
        model = tanet.build(K, T, variant=variant).eval()
        x = frames
        for block in model.blocks():
            x = block.run(x)
            assert len(x) % len(frames) == 0
        assert torch.equal(x, model(frames))
        in_blocks = [
            p for block in model.blocks() for name in block.modules for p in model.get_submodule(name).parameters()
        ]
        assert [id(p) for p in in_blocks] == [id(p) for p in model.parameters()]


def test_views_of_another_length_are_refused() -> None:
    with pytest.raises(MethodError, match="takes 3 frames a view, the views have 8"):
        backbones.build("tanet", K, T)(torch.rand(1, 3, 8, SIZE, SIZE))


def test_the_temporal_module_is_the_authors_grouped_convolution() -> None:
    torch.manual_seed(0)
    theirs = Tam(8, T)
    settle(theirs).double()
    ours = TemporalAdaptiveModule(8, T).double().eval()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2 * T, 8, 2, 3).double().requires_grad_(True)
    assert torch.allclose(ours(x), theirs(x), rtol=1e-12, atol=1e-12)
    weight = torch.randn(x.shape).double()
    expected = torch.autograd.grad((theirs(x) * weight).sum(), [x, *theirs.parameters()])
    found = torch.autograd.grad((ours(x) * weight).sum(), [x, *ours.parameters()])
    assert all(torch.allclose(a, b, rtol=1e-9, atol=1e-12) for a, b in zip(found, expected, strict=True))


def test_the_narrow_module_comes_before_its_blocks_first_convolution() -> None:
    torch.manual_seed(0)
    model = settle(backbones.build("tanet", K, T)).double()
    block = model.get_submodule("base_model.layer2.0")
    net: Any = block.get_submodule("net")
    x = torch.rand(T, 16, 6, 6).double()
    y = net.bn1(net.conv1(block.get_submodule("tam")(x))).relu()
    assert torch.allclose(block(x), (net.bn2(net.conv2(y)) + net.downsample(x)).relu(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("last", [False, True])
def test_moments_and_their_gradients_are_var_means(last: bool) -> None:
    """Also far from zero, where a sum of squares would cancel."""
    x = (100 + torch.randn(3, 5, 4, 6).double()).requires_grad_(True)
    variance, mean = torch.var_mean(x, (0, 1, 2) if last else (0, 2, 3), correction=0)
    found = moments(x, channel_last=last)
    assert torch.allclose(found[0], mean) and torch.allclose(found[1], variance)
    weight = torch.randn(2, len(mean)).double()
    (expected,) = torch.autograd.grad((weight[0] * mean + weight[1] * variance).sum(), x)
    (gradient,) = torch.autograd.grad((weight[0] * found[0] + weight[1] * found[1]).sum(), x)
    assert torch.allclose(gradient, expected, rtol=1e-9, atol=1e-12)
    assert torch.allclose(moments(x.detach().float(), channel_last=last)[1].double(), variance, rtol=1e-4)


def test_hooks_see_the_same_output_of_a_folded_norm_and_it_stays_as_it_was() -> None:
    conv, norm, x = nn.Conv2d(3, 4, 3, bias=True), Norm2d(4), torch.randn(2, 3, 6, 6)
    settle(norm)
    expected = nn.BatchNorm2d.forward(norm, conv(x))
    outputs: list[Tensor] = []
    norm.register_forward_hook(lambda module, given, output: outputs.append(output))
    y = conv_norm(conv, norm, x, plus=torch.full_like(expected, -0.1), relu=True)
    assert torch.allclose(outputs[0], expected, atol=1e-6) and (outputs[0] < 0).any()
    assert torch.allclose(y, (expected - 0.1).relu(), atol=1e-6)


def test_no_variant_is_the_narrow_one() -> None:
    torch.manual_seed(0)
    empty = backbones.build("tanet", K, T)
    torch.manual_seed(0)
    narrow = backbones.build("tanet", K, T, variant="narrow")
    assert all(torch.equal(a, b) for a, b in zip(empty.parameters(), narrow.parameters(), strict=True))
    assert copy.deepcopy(empty)(torch.rand(1, 3, T, SIZE, SIZE)).shape == (1, K)

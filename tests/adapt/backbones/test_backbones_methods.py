"""Every method on every backbone, on every device at hand: it adapts and resets bit for bit, or refuses with the one
error that is expected.
"""

import copy
import functools
import warnings
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from adapt import backbones, methods
from adapt.contract import Batch, Method, Moments, SourceStatistics
from adapt.core import moments
from adapt.core.oracle import Oracle
from adapt.errors import MethodError
from tests import built
from tests.pairs import pairs
from tests.tiny import same_weights, weights

K, T = 5, 4
NETWORKS = {  # id -> backbone, variant, side of its frames
    "clip": ("clip", "tiny", 32),
    "frames (batch norm)": ("frames", "test_efficientnet", 32),
    "frames (layer norm)": ("frames", "test_convnext", 32),
    "frames (transformer)": ("frames", "test_vit", 32),
    "frames (pyramid transformer)": ("frames", "pvt_v2_b0", 32),
    "mvit": ("mvit", "tiny", 32),
    "r2plus1d": ("r2plus1d", "tiny", 32),
    "swin3d": ("swin3d", "tiny", 32),
    "tanet": ("tanet", "", 32),
    "videomae": ("videomae", "tiny", 32),
}
WITHOUT_BATCH_NORM = (
    "clip",
    "frames (layer norm)",
    "frames (transformer)",
    "frames (pyramid transformer)",
    "mvit",
    "swin3d",
    "videomae",
)
REFUSED = {("norm", network): "no batch norm layer to mix" for network in WITHOUT_BATCH_NORM} | {
    (name, network): "no batch norm layer whose statistics could follow"
    for name in ("dua", "vitta_dua")
    for network in WITHOUT_BATCH_NORM
}  # every other pair works
OF_EACH_KIND = ("frames (batch norm)", "swin3d", "tanet")  # where every method is tried in `make test`
ALIGNING = ("vitta", "audio")  # which are tried there on every network
SETTINGS: dict[str, Any] = {"entropy_margin": 2.0, "deyo_drop": -1.0}  # EATA, SAR and DeYO leave no clip out
STILL = ("source", "norm", "t3a", "neo", "firm", "audio_only")  # methods that change no weight and no buffer


@pytest.fixture(params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest) -> torch.device:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return torch.device(request.param)


@functools.cache
def source(network: str) -> tuple[nn.Module, SourceStatistics]:
    """A network with random weights, the same each time, and its statistics on noise."""
    name, variant, side = NETWORKS[network]
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of packages being imported
        torch.manual_seed(0)
        model = backbones.build(name, K, T, "", variant).eval()
        clips = [torch.rand(1, 3, T, side, side) for _ in range(2)]
    return model, SourceStatistics(moments.collect(model, moments.norm_layers(model), clips))


def clip(seed: int, side: int, device: torch.device) -> Batch:
    """Noise of two views, whose sound points to class 1."""
    frames = torch.rand(1, 2, 3, T, side, side, generator=torch.Generator().manual_seed(seed))
    q, s = torch.tensor([[0.05, 0.8, 0.05, 0.05, 0.05]]), torch.tensor([[0.0, 0.8, 0.0, 0.0, 0.0]])
    seen, centre, q, s, mass = (tensor.to(device) for tensor in (frames, frames[:, :1], q, s, s.amax(1)))
    return Batch(seen, centre, q, s, mass, ("ok",), (f"clip {seed}",))


@pytest.mark.parametrize(
    ("name", "network"),
    pairs(methods.names(), NETWORKS, lambda name, network: network in OF_EACH_KIND or name in ALIGNING),
)
def test_a_method_adapts_a_backbone_and_resets_it_bit_for_bit_or_says_why_not(
    name: str, network: str, device: torch.device
) -> None:
    made, statistics = source(network)
    model = copy.deepcopy(made).to(device)
    before, side = weights(model), NETWORKS[network][2]

    def build() -> Method:
        return built.alone(
            name, model, statistics, K, Oracle({"clip 0": (1,), "clip 1": (2,)}), **built.fitting(name, **SETTINGS)
        )

    if (name, network) in REFUSED:
        with pytest.raises(MethodError, match=REFUSED[name, network]):
            build().adapt(clip(0, side, device))
        return
    method = build()
    for seed in range(2):
        answer = method.adapt(clip(seed, side, device))
        for log_p in (answer.before, answer.after):
            assert log_p.shape == (1, K)
            assert log_p.isfinite().all()
    assert same_weights(model, before) == (name in STILL)
    method.reset()
    assert same_weights(model, before)


@pytest.mark.parametrize("network", NETWORKS)
def test_vittas_published_recipe_adapts_all_weights_with_dropout_on(network: str, device: torch.device) -> None:
    made, statistics = source(network)
    model = copy.deepcopy(made).to(device)
    before = weights(model)
    method = built.alone(
        "vitta", model, statistics, K, scope="all", dropout=True, lr=5e-5, weight_decay=5e-4, ema_start="zero"
    )
    assert method.adapt(clip(0, NETWORKS[network][2], device)).after.isfinite().all()
    assert not [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not same_weights(model, before)
    method.reset()
    assert same_weights(model, before)


@pytest.mark.parametrize("network", WITHOUT_BATCH_NORM)
@pytest.mark.parametrize("name", ["vitta", "audio"])
def test_without_batch_norm_alignment_asks_for_source_statistics(name: str, network: str) -> None:
    model, _ = source(network)
    with pytest.raises(
        MethodError, match="source statistics from buffers need batch norm layers: run the statistics stage"
    ):
        built.alone(name, copy.deepcopy(model), None, K)


def test_without_batch_norm_the_share_of_the_clips_own_statistics_changes_nothing() -> None:
    """Tent on layer norms is plain: what the papers do to a transformer."""
    made, statistics = source("swin3d")
    answers: list[Tensor] = []
    for share in (0.0, 1.0):
        method = built.alone("tent", copy.deepcopy(made), statistics, K, bn_prior=share, lr=0.1)
        answers.append(method.adapt(clip(0, 32, torch.device("cpu"))).after)
    assert torch.equal(*answers)


@pytest.mark.parametrize(("network", "layer", "axis"), [
    ("frames (layer norm)", "image.stages.2.downsample.0", 1),  # timm's LayerNorm2d: (M, C, H, W)
    ("swin3d", "network.features.6.0.norm1", 4),  # (N, T, H, W, C)
    ("mvit", "network.blocks.3.norm1", 2),  # (N, L, C)
    ("r2plus1d", "network.layer4.0.conv1.1", 1),  # (N, C, T, H, W)
])  # fmt: skip
def test_a_layers_moments_are_one_a_channel_wherever_its_channels_are(network: str, layer: str, axis: int) -> None:
    model, _ = source(network)
    seen: list[Tensor] = []
    found: Moments = {}
    hooks: list[Any] = [
        lambda module, inputs, output: seen.append(output.clone()),
        partial(moments.record, found, layer),
    ]
    handles = [model.get_submodule(layer).register_forward_hook(hook) for hook in hooks]
    frames = clip(0, 32, torch.device("cpu")).frames[0]
    try:
        with torch.no_grad():
            model(frames)
    finally:
        for handle in handles:
            handle.remove()
    channels = seen[0].movedim(axis, 0).flatten(1)  # by hand
    mean, variance = found[layer]
    assert torch.allclose(mean, channels.mean(1), atol=1e-5)
    assert torch.allclose(variance, channels.var(1, correction=0), atol=1e-5)

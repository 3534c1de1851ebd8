"""The backbones against the libraries that they come from: forward, blocks, sizes, and the table of `python -m
adapt.backbones`.
"""

import functools
import sys
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.models import video
from torchvision.models.video.mvit import MSBlockConfig, MViT

from adapt import backbones
from adapt.backbones import __main__ as listing
from adapt.backbones import mvit
from adapt.contract import blocks_of
from adapt.errors import MethodError

K, T, SIDE = 5, 4, 32
NETWORKS = {
    "clip": ("clip", "tiny"),
    "frames (EfficientNet)": ("frames", "test_efficientnet"),
    "frames (ResNet)": ("frames", "test_resnet"),
    "frames (ConvNeXt)": ("frames", "test_convnext"),
    "frames (PVT)": ("frames", "pvt_v2_b0"),
    "frames (ViT)": ("frames", "test_vit"),
    "frames (another)": ("frames", "test_byobnet"),
    "mvit": ("mvit", "tiny"),
    "r2plus1d": ("r2plus1d", "tiny"),
    "swin3d": ("swin3d", "tiny"),
    "videomae": ("videomae", "tiny"),
}


@functools.cache
def network(name: str) -> Any:
    """One of NETWORKS with random weights; to be left as it is."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of packages being imported
        torch.manual_seed(0)
        backbone, variant = NETWORKS[name]
        return backbones.build(backbone, K, T, "", variant).eval().requires_grad_(False)


def clips(t: int = T, h: int = SIDE, w: int = SIDE, n: int = 2) -> Tensor:
    return torch.rand(n, 3, t, h, w, generator=torch.Generator().manual_seed(0))


def normal(x: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Each colour with its training mean and deviation, by hand."""
    return torch.stack([(x[:, c] - mean[c]) / std[c] for c in range(3)], 1)


def images(x: Tensor) -> Tensor:
    """(N, 3, T, H, W) -> (N T, 3, H, W)."""
    return x.transpose(1, 2).flatten(0, 1)


IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def of_torchvision(weights: Any) -> Callable[[Any, Tensor], Tensor]:
    """The library's network on pixels normalised as the library's own transforms do."""
    preset = weights.DEFAULT.transforms()
    return lambda model, x: model.network(normal(x, tuple(preset.mean), tuple(preset.std)))


def of_timm(model: Any, x: Tensor) -> Tensor:
    config = model.image.pretrained_cfg
    return (
        model.image(images(normal(x, config["mean"], config["std"])).contiguous(memory_format=torch.channels_last))
        .view(len(x), -1, K)
        .mean(1)
    )


def of_transformers(model: Any, x: Tensor) -> Tensor:
    return model.network(normal(x, *IMAGENET).transpose(1, 2)).logits


def of_clip(model: Any, x: Tensor) -> Tensor:
    """The library's embeddings of frames, pooled by hand."""
    openai = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    found = model.network(images(normal(x, *openai))).image_embeds
    pooled = (found / found.norm(dim=1, keepdim=True)).view(len(x), -1, found.shape[1]).mean(1)
    return model.head(pooled / pooled.norm(dim=1, keepdim=True) * found.shape[1] ** 0.5)


REFERENCES = {name: of_timm for name in NETWORKS if name.startswith("frames")} | {
    "clip": of_clip,
    "mvit": of_torchvision(video.MViT_V2_S_Weights),
    "r2plus1d": of_torchvision(video.R2Plus1D_18_Weights),
    "swin3d": of_torchvision(video.Swin3D_T_Weights),
    "videomae": of_transformers,
}


@pytest.mark.parametrize("name", NETWORKS)
def test_block_after_block_is_the_librarys_own_forward(name: str) -> None:
    model, x = network(name), clips()
    answer, expected = model(x), REFERENCES[name](model, x)
    assert answer.shape == (2, K)
    assert torch.allclose(answer, expected, atol=1e-5)
    if name != "clip":  # whose pooling is worked out in another order
        assert torch.equal(answer, expected)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_block_gives_one_tensor_of_n_clips_and_leaves_its_input_alone(name: str) -> None:
    """What runs once a clip is kept and used again: nothing may write into it."""
    x = clips()
    for block in blocks_of(network(name)):
        before = x.clone()
        y = block.run(x)
        assert torch.equal(x, before)
        assert len(y) == 2
        x = y


@pytest.mark.parametrize("name", NETWORKS)
def test_blocks_share_the_weights_among_them_and_add_none(name: str) -> None:
    model = network(name)
    before = list(model.state_dict())
    blocks = blocks_of(model)
    owners = [{id(p) for module in block.modules for p in model.get_submodule(module).parameters()} for block in blocks]
    assert sum(map(len, owners)) == len(set().union(*owners))
    elsewhere = {key for key, p in model.named_parameters() if not any(id(p) in owner for owner in owners)}
    assert elsewhere == (
        {"image.cls_token", "image.pos_embed", "image.reg_token"} & set(before)
    )  # timm's ViT has these in no module
    assert list(model.state_dict()) == before


@pytest.mark.parametrize(("name", "first", "last", "n"), [
    ("clip", "network.vision_model.encoder.layers.0.layer_norm1", "network.vision_model.encoder.layers.2.layer_norm2",
    2 * 3),
    ("frames (EfficientNet)", "image.blocks.3.0.bn1", "image.bn2", 7),
    ("frames (ResNet)", "image.layer3.0.bn1", "image.layer4.0.downsample.2", 7),
    ("frames (ConvNeXt)", "image.stages.2.downsample.0", "image.head.norm", 9),
    # the last stage reduces no keys
    ("frames (PVT)", "image.stages.2.downsample.norm", "image.stages.3.norm", (1 + 2 * 3 + 1) + (1 + 2 * 2 + 1)),
    ("frames (ViT)", "image.blocks.0.norm1", "image.blocks.5.norm2", 2 * 6),
    ("mvit", "network.blocks.2.norm1", "network.norm", 2 * 2 + 1),
    ("r2plus1d", "network.layer3.0.conv1.0.1", "network.layer4.0.downsample.1", 2 * 5),
    ("swin3d", "network.features.4.0.norm1", "network.norm", 2 * 2 + 1 + 2 + 1),  # blocks, merging, block, final
    ("videomae", "network.videomae.encoder.layer.0.layernorm_before",
    "network.videomae.encoder.layer.2.layernorm_after", 2 * 3),
])  # fmt: skip
def test_the_last_two_stages_align_or_all_blocks_of_a_plain_transformer(
    name: str, first: str, last: str, n: int
) -> None:
    layers = network(name).alignment_layers()
    assert (layers[0], layers[-1], len(layers)) == (first, last, n)


# sizes of the input


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "videomae"])
def test_any_number_of_frames_of_any_size_goes_in(name: str) -> None:
    assert network(name)(clips(3, 41, 56)).shape == (2, K)


def test_videomae_says_which_frames_it_takes() -> None:
    for x in (clips(t=2), clips(h=40)):
        with pytest.raises(
            MethodError,
            match=f"built for frames of 4 x 32 x 32, these are {x.shape[2]} x {x.shape[3]} x 32: set video.frames",
        ):
            network("videomae")(x)
    with pytest.raises(MethodError, match="joins 2 frames to a tubelet and was asked for 5"):
        backbones.build("videomae", K, 5, "", "tiny")


def test_frames_smaller_than_a_patch_are_a_clear_error_for_clip() -> None:
    with pytest.raises(MethodError, match=r"clip's patches have 8 pixels a side, frames \(4, 32\)"):
        network("clip")(clips(h=4))


def test_a_timm_network_of_one_size_says_which() -> None:
    model = backbones.build("frames", K, T, "", "test_coatnet")
    with pytest.raises(MethodError, match=r"built for frames of \(160, 160\), these are \(32, 32\): set video.size"):
        model(clips())


def test_mvit_1_interpolates_positions_where_the_size_is_not_its_own() -> None:
    blocks = [
        MSBlockConfig(1, 8, 16, [], [3, 3, 3], [], [1, 2, 2]),
        MSBlockConfig(2, 16, 16, [3, 3, 3], [3, 3, 3], [1, 2, 2], [1, 1, 1]),
    ]
    library = MViT((32, 32), 4, blocks, False, True, False, False, num_classes=K).eval()
    model, x = mvit.Mvit(library), clips()
    with torch.no_grad():
        assert torch.equal(model(x), of_torchvision(video.MViT_V1_B_Weights)(model, x))
        table = library.pos_encoding
        table.spatial_pos[:] = torch.arange(8).repeat(8)[:, None].float()  # the column
        table.temporal_pos[:] = torch.tensor([0.0, 100.0])[:, None]
        table.class_pos.zero_()
        found = model._positions((2, 8, 16))[1:, 0].view(2, 8, 16)
    assert found[1] - found[0] == pytest.approx(torch.full((8, 16), 100.0))
    assert found[0, 3, 4:12].tolist() == pytest.approx(
        [c / 2 - 0.25 for c in range(4, 12)], abs=0.1
    )  # twice as fine, pixel centres kept


# names and the table


def test_every_file_of_the_folder_is_a_backbone_but_its_command() -> None:
    assert backbones.names() == ["clip", "frames", "mvit", "r2plus1d", "swin3d", "tanet", "videomae"]


@pytest.mark.parametrize("name", [name for name in backbones.names() if name != "tanet"])
def test_an_unknown_variant_is_a_clear_error(name: str) -> None:
    with pytest.raises(MethodError, match=f"unknown variant 'huge' of {name}: choose one of"):
        backbones.build(name, K, T, "", "huge")


@pytest.mark.parametrize(
    ("name", "package"), [("frames", "timm"), ("videomae", "transformers"), ("clip", "transformers")]
)
def test_a_package_that_is_not_installed_is_named(name: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        MethodError, match=rf"needs the package {package}: install it with `pip install -e '.\[backbones\]'`"
    ):
        backbones.build(name, K, T)


def numbers(line: list[str]) -> tuple[float, float]:
    """Parameters in millions, and multiply-adds of a clip in billions, as papers count them."""
    return float(line[3]), float(line[4]) / 2


@pytest.mark.parametrize(("name", "variant", "weights"), [
    ("r2plus1d", "18", video.R2Plus1D_18_Weights),
    ("swin3d", "t", video.Swin3D_T_Weights),
    pytest.param("mvit", "v2_s", video.MViT_V2_S_Weights, marks=pytest.mark.slow),
    pytest.param("mvit", "v1_b", video.MViT_V1_B_Weights, marks=pytest.mark.slow),
])  # fmt: skip
def test_parameters_and_flops_are_those_of_torchvisions_documentation(name: str, variant: str, weights: Any) -> None:
    stated = weights.DEFAULT.meta
    line = listing.row(name, variant, listing.inputs(name)[variant], 400)
    assert numbers(line) == pytest.approx((stated["num_params"] / 1e6, stated["_ops"]), abs=0.06)


@pytest.mark.slow
def test_parameters_and_flops_are_those_of_the_papers() -> None:
    """VideoMAE's table 18: ViT-B 87 M, 180 G at 16 x 224 x 224; DeiT's ViT-S/16: 22 M, 4.6 G an image."""
    assert numbers(listing.row("videomae", "base", (16, 224, 224), 400)) == pytest.approx((87, 180), abs=0.6)
    assert numbers(listing.row("frames", "vit_small_patch16_224", (1, 224, 224), 1000)) == pytest.approx(
        (22, 4.6), abs=0.15
    )


def test_the_command_prints_one_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["python -m adapt.backbones", "r2plus1d", "--classes", "101"])
    listing.main()
    header, rule, first, second = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()
    ]
    assert len(header) == len(rule) == len(first) == len(second) == len(listing.COLUMNS)
    assert first[:3] == ["r2plus1d", "18", "16 x 112 x 112"]
    assert first[5:] == [
        "18",
        "network.{layer3.0.conv1.0.1 .. layer4.1.conv2.1}",
        "network.{stem .. layer2}",
        "3 of 6: network.{layer3 .. fc}",
    ]
    assert second[1] == "tiny"
    monkeypatch.setattr(sys, "argv", ["python -m adapt.backbones", "tapnet"])
    with pytest.raises(SystemExit):
        listing.main()
    assert capsys.readouterr().err.startswith("adapt.backbones: unknown backbone 'tapnet': choose one of ['clip'")

"""Networks of transformers, torchvision and timm for `adapt.wrap`: what they are given is what their libraries' own
preprocessing gives them, and the blocks of docs/networks.md run as they stand on small networks with random weights.
"""

import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import transformers
from PIL import Image
from torch import Tensor, nn
from torchvision.models.video import MViT, R3D_18_Weights, S3D_Weights, SwinTransformer3d, r3d_18, s3d
from torchvision.models.video.mvit import MSBlockConfig
from torchvision.transforms._presets import VideoClassification

import adapt
from adapt.errors import MethodError
from tests.places import ROOT

PAGE = (ROOT / "docs/networks.md").read_text(encoding="utf-8")
TRANSFORMERS, TORCHVISION, TIMM = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
ON_THE_HUB = re.findall(r"^\| \w+ \| `(\S+)` \| (\d+) \| (\d+) \|$", PAGE, re.MULTILINE)
NAMES = ["playing trumpet", "yoga", "bowling", "chess"]
SMALL: dict[str, Any] = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "image_size": 32,
    "num_frames": 4, "id2label": dict(enumerate(NAMES)),
}  # fmt: skip
SIDE: dict[str, Any] = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
CONFIGS: dict[str, tuple[Any, Any]] = {  # of a name's network, by its type: configuration, image processor
    "videomae": (transformers.VideoMAEConfig, transformers.VideoMAEImageProcessor),
    "vivit": (partial(transformers.VivitConfig, tubelet_size=[2, 16, 16]), transformers.VivitImageProcessor),
    "timesformer": (partial(transformers.TimesformerConfig, patch_size=16), transformers.VideoMAEImageProcessor),
}


def pixels(n_frames: int, side: int = 32, seed: int = 0) -> Tensor:
    """uint8 (T, C, H, W)."""
    return torch.randint(
        0, 256, (n_frames, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )


def ours(seen: Tensor) -> Tensor:
    """uint8 (T, C, H, W) as a caller of `adapt.wrap` has it: (1, C, T, H, W) float in [0, 1]."""
    return seen.float().div(255).transpose(0, 1)[None]


def of_transformers(kind: str, **changes: Any) -> tuple[Any, Any]:
    """A small network with random weights, its image processor."""
    config, processor = CONFIGS[kind]
    torch.manual_seed(0)
    networks: Any = transformers.AutoModelForVideoClassification
    return networks.from_config(config(**{**SMALL, **changes})).eval(), processor(**SIDE)


def message(make: Any) -> str:
    """The one line of a MethodError."""
    with pytest.raises(MethodError) as error:
        make()
    assert "\n" not in str(error.value)
    return str(error.value)


# the page


@pytest.mark.parametrize("name", [name for name, _, _ in ON_THE_HUB])
def test_the_block_for_transformers_runs_as_it_stands(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The names are those of folders here, which transformers looks for first."""
    monkeypatch.chdir(tmp_path)
    for part in of_transformers(next(kind for kind in CONFIGS if kind in name)):
        part.save_pretrained(name)
    code = TRANSFORMERS.replace(ON_THE_HUB[0][0], name)
    space: dict[str, Any] = {
        "frames": ours(pixels(4)), "clean_clips": [ours(pixels(4, seed=seed)) for seed in range(1, 4)],
    }  # fmt: skip
    exec(code, space)  # noqa: S102 - our own documentation
    assert space["logits"].shape == (1, 4) and space["logits"].isfinite().all()
    assert space["model"].trace


@pytest.mark.slow  # 33 million weights
def test_the_block_for_torchvision_runs_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights are where torch keeps what it has downloaded."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    file = tmp_path / "hub/checkpoints" / Path(R3D_18_Weights.KINETICS400_V1.url).name
    file.parent.mkdir(parents=True)
    torch.save(r3d_18().state_dict(), file)
    space: dict[str, Any] = {"frames": ours(pixels(2, 112))}
    exec(TORCHVISION, space)  # noqa: S102 - our own documentation
    assert space["logits"].shape == (1, 400) and space["logits"].isfinite().all()
    assert space["model"].trace


@pytest.mark.slow  # 24 images of 224 x 224 a step
def test_the_block_for_timm_runs_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(timm.create_model("efficientnet_lite0", num_classes=3).state_dict(), "efficientnet_lite0.pth")
    space: dict[str, Any] = {"frames": ours(pixels(8, 224))}
    exec(TIMM, space)  # noqa: S102 - our own documentation
    assert space["logits"].shape == (1, 3) and space["logits"].isfinite().all()
    assert space["model"].trace


def test_the_pages_line_of_an_error_is_the_one_that_is_given() -> None:
    network, _ = of_transformers("videomae", image_size=224, num_frames=16)
    ready = adapt.hugging_face(network, transformers.VideoMAEImageProcessor())
    assert message(lambda: ready["prepare"](torch.rand(1, 3, 16, 128, 171))) in PAGE.splitlines()


def test_the_pages_frames_and_sizes_are_those_of_the_configurations() -> None:
    defaults = {
        kind: getattr(transformers, f"{name}Config")()
        for kind, name in [("videomae", "VideoMAE"), ("vivit", "Vivit"), ("timesformer", "Timesformer")]
    }
    assert len(ON_THE_HUB) == len(defaults)
    for name, n_frames, size in ON_THE_HUB:
        config = next(config for kind, config in defaults.items() if kind in name)
        assert (config.num_frames, config.image_size) == (int(n_frames), int(size))


# what the networks are given


@pytest.mark.parametrize(("kind", "processor"), [
    ("videomae", "VideoMAEImageProcessor"), ("videomae", "VideoMAEVideoProcessor"), ("vivit", "VivitImageProcessor"),
    ("vivit", "VivitVideoProcessor"), ("timesformer", "TimesformerVideoProcessor"),
])  # fmt: skip
def test_a_network_of_transformers_is_given_what_its_processor_makes(kind: str, processor: str) -> None:
    network, _ = of_transformers(kind)
    theirs, seen = getattr(transformers, processor)(**SIDE), pixels(4)
    ready = adapt.hugging_face(network, theirs)
    (expected,) = theirs(list(seen.permute(0, 2, 3, 1).numpy()), return_tensors="pt").values()
    given = ready["prepare"](ours(seen))
    torch.testing.assert_close(given, expected, rtol=0, atol=1e-5)
    with torch.inference_mode():
        torch.testing.assert_close(ready["read"](network(given)), network(expected).logits, rtol=1e-4, atol=1e-5)


def swin() -> nn.Module:
    """The smallest Swin3D."""
    torch.manual_seed(0)
    return SwinTransformer3d([2, 4, 4], 8, [1, 1], [1, 1], [2, 2, 2], num_classes=4).eval()


def test_a_network_of_torchvision_is_given_what_its_transforms_make() -> None:
    transforms = VideoClassification(crop_size=(32, 32), resize_size=(32,), mean=(0.1, 0.4, 0.7), std=(0.2, 0.3, 0.5))
    ready, seen = adapt.torchvision_video(swin(), transforms), pixels(4)
    torch.testing.assert_close(ready["prepare"](ours(seen)), transforms(seen)[None], rtol=0, atol=1e-5)
    model = adapt.wrap(swin(), "source", classes=NAMES, predict="alone", **ready)
    with torch.inference_mode():
        expected = swin()(transforms(seen)[None]).log_softmax(1)
    torch.testing.assert_close(model(ours(seen)), expected, rtol=1e-4, atol=1e-5)


def test_the_logits_of_a_timm_network_are_the_mean_over_frames() -> None:
    torch.manual_seed(0)
    data: Any = timm.data
    network = timm.create_model("vit_tiny_patch16_224", num_classes=4, depth=2, embed_dim=24, img_size=32).eval()
    config = data.resolve_model_data_config(network) | {"input_size": (3, 32, 32), "crop_pct": 1.0}
    preprocess = data.create_transform(**config, is_training=False)
    seen = pixels(3)
    images = torch.stack([preprocess(picture(frame)) for frame in seen])
    ready = adapt.timm_images(network, 3, config)
    torch.testing.assert_close(ready["prepare"](ours(seen)), images, rtol=0, atol=1e-5)
    two = torch.cat([ours(seen), ours(pixels(3, seed=1))])
    with torch.inference_mode():
        answers = ready["read"](network(ready["prepare"](two)))
        torch.testing.assert_close(answers[0], network(images).mean(0), rtol=1e-4, atol=1e-5)
        alone = ready["read"](network(ready["prepare"](two[1:])))
    torch.testing.assert_close(answers[1:], alone, rtol=1e-4, atol=1e-5)


def picture(frame: Tensor) -> Image.Image:
    """uint8 (C, H, W) as Pillow has it."""
    return Image.fromarray(frame.permute(1, 2, 0).numpy())


# what they do not take


def tiny_mvit() -> nn.Module:
    block = MSBlockConfig(
        num_heads=1, input_channels=8, output_channels=8, kernel_q=[], kernel_kv=[], stride_q=[], stride_kv=[]
    )
    return MViT((32, 32), 4, [block, block], residual_pool=False, residual_with_cls_embed=True, rel_pos_embed=False,
                proj_after_attn=False, num_classes=4)  # fmt: skip


TRANSFORMS = VideoClassification(crop_size=(32, 32), resize_size=(32,))


@pytest.mark.parametrize(("shape", "said"), [
    ((1, 3, 6, 32, 32), "takes 4 frames, these are 6: pass so many, or more and view_frames=4"),
    ((1, 3, 4, 48, 48), "takes frames of 32 x 32, these are 48 x 48: resize and crop them so"),
])  # fmt: skip
@pytest.mark.parametrize("make", [
    lambda: adapt.hugging_face(*of_transformers("timesformer")),
    lambda: adapt.torchvision_video(tiny_mvit(), TRANSFORMS),
    lambda: adapt.timm_images(timm.create_model("resnet10t", num_classes=4), 4, size=32),
], ids=["transformers", "torchvision", "timm"])  # fmt: skip
def test_frames_that_a_network_does_not_take_are_one_line(make: Any, shape: tuple[int, ...], said: str) -> None:
    assert said in message(lambda: make()["prepare"](torch.rand(shape)))


def test_a_wrapped_network_says_so_too_and_keeps_its_weights_names() -> None:
    network, processor = of_transformers("videomae")
    names = set(network.state_dict())
    model = adapt.wrap(network, "source", classes=NAMES, **adapt.hugging_face(network, processor))
    assert "VideoMAEForVideoClassification takes frames of 32 x 32" in message(lambda: model(torch.rand(1, 3, 4, 9, 9)))
    assert set(model.state_dict()) == names


def test_a_number_of_frames_that_is_too_small_is_one_line() -> None:
    ready = adapt.torchvision_video(s3d(), S3D_Weights.KINETICS400_V1)
    assert "S3D takes 14 frames or more, these are 8" in message(
        lambda: ready["prepare"](torch.rand(1, 3, 8, 224, 224))
    )


@pytest.mark.parametrize(("make", "said"), [
    (lambda: adapt.hugging_face(of_transformers("vivit")[0], transformers.VideoMAEImageProcessor()),
     "built for frames of 32 x 32, its preprocessing makes 224 x 224"),
    (lambda: adapt.torchvision_video(tiny_mvit(), R3D_18_Weights.KINETICS400_V1),
     "built for frames of 32 x 32, its preprocessing makes 112 x 112"),
    (lambda: adapt.timm_images(timm.create_model("vit_tiny_patch16_224", depth=1, img_size=32), 2),
     "built for frames of 32 x 32, its preprocessing makes 224 x 224"),
    (lambda: adapt.timm_images(swin(), 2), r"the data_config of SwinTransformer3d has no input_size: pass timm.data"),
    (lambda: adapt.timm_images(timm.create_model("resnet10t"), 0), "n_frames=0: a view has 1 frame or more"),
    (lambda: adapt.torchvision_video(swin(), lambda clip: TRANSFORMS(clip).square()),
     "does more than scale and shift colours"),
    (lambda: adapt.hugging_face(of_transformers("vivit")[0], transformers.ViTImageProcessor()),
     "the processor makes no clip (N, T, C, H, W)"),
])  # fmt: skip
def test_a_preprocessing_that_is_not_the_networks_is_one_line(make: Any, said: str) -> None:
    assert said in message(make)

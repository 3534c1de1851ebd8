"""Published weights in the backbones: state dicts, folders of transformers, CLIP's text half; each whole, or one clear
error.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from adapt import backbones
from adapt.backbones import _pretrained as pretrained
from adapt.backbones import clip, frames, mvit, r2plus1d, swin3d
from adapt.errors import CheckpointError, MethodError
from tests.adapt.backbones.test_backbones import SIDE, K, T, clips, network, normal, of_transformers
from tests.places import ROOT


def save(state: dict[str, Tensor], path: Path) -> str:
    torch.save(state, path)
    return str(path)


TORCHVISION: list[tuple[str, Any, str]] = [
    ("r2plus1d", r2plus1d._tiny, "fc"),
    ("swin3d", swin3d._tiny, "head"),
    ("mvit", mvit._tiny, "head.1"),
]


@pytest.mark.parametrize(("name", "library", "head"), TORCHVISION, ids=[name for name, _, _ in TORCHVISION])
def test_a_published_state_dict_is_loaded_whole_but_for_a_head_of_another_size(
    name: str, library: Any, head: str, tmp_path: Path
) -> None:
    for n_classes in (400, K):
        published = library(num_classes=n_classes).state_dict()
        model: Any = backbones.build(name, K, T, save(published, tmp_path / "published.pth"), "tiny")
        differing = {key for key, value in model.network.state_dict().items() if not torch.equal(value, published[key])}
        assert differing == ({f"{head}.weight", f"{head}.bias"} if n_classes == 400 else set())


def test_weights_that_do_not_fit_are_one_clear_error_each(tmp_path: Path) -> None:
    def build(weights: str) -> nn.Module:
        return backbones.build("r2plus1d", K, T, weights, "tiny")

    published = r2plus1d._tiny(num_classes=400).state_dict()
    stem = published.pop("stem.0.weight")
    with pytest.raises(
        CheckpointError, match=r"1 missing, 0 too many \('stem.0.weight' is missing\): check model.variant"
    ):
        build(save(published, tmp_path / "lacking.pth"))
    published |= {"stem.0.weight": stem, "stem.9.weight": stem}
    with pytest.raises(CheckpointError, match=r"0 missing, 1 too many \('stem.9.weight' is not the network's\)"):
        build(save(published, tmp_path / "more.pth"))
    with pytest.raises(CheckpointError, match="another size of .*: size mismatch for stem.0.weight"):
        build(save(published | {"stem.0.weight": stem[:1]}, tmp_path / "other.pth"))
    with pytest.raises(CheckpointError, match="is no file: set train.weights"):
        build(str(tmp_path / "nowhere.pth"))
    (tmp_path / "text.pth").write_text("not weights")
    with pytest.raises(CheckpointError, match="text.pth is not a file of weights"):
        build(str(tmp_path / "text.pth"))
    torch.save([stem], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="holds no state dict, but list"):
        build(str(tmp_path / "list.pth"))


def test_a_timm_network_loads_safetensors_of_its_own_names(tmp_path: Path) -> None:
    import timm
    from safetensors.torch import save_file

    published: Any = timm.create_model("test_vit", num_classes=1000)
    save_file(published.state_dict(), tmp_path / "model.safetensors")
    model: Any = backbones.build("frames", K, T, str(tmp_path / "model.safetensors"), "test_vit")
    assert torch.equal(model.image.blocks[0].attn.qkv.weight, published.blocks[0].attn.qkv.weight)
    assert model.image.head.weight.shape == (K, 64)


def test_the_packaged_weights_keep_the_names_and_the_answers_of_before(tmp_path: Path) -> None:
    """Checkpoints of photosound hold these names; the forward is what stood here before there were variants."""
    import timm

    model: Any = backbones.build("frames", K, T, "packaged").eval()
    assert list(model.state_dict()) == [
        f"image.{key}" for key in timm.create_model("tf_efficientnet_lite0", num_classes=K).state_dict()
    ]
    theirs = torch.load(frames.packaged_weights(), weights_only=True)
    assert torch.equal(model.image.conv_stem.weight, next(iter(theirs.values())))
    x = clips()
    with torch.no_grad():
        by_hand = (x.transpose(1, 2).reshape(8, 3, SIDE, SIDE) - 0.5) / 0.5
        expected = model.image(by_hand.contiguous(memory_format=torch.channels_last)).view(2, T, -1).mean(1)
        assert torch.equal(model(x), expected)
    with pytest.raises(
        CheckpointError, match="'packaged' weights are tf_efficientnet_lite0's, the variant is resnet18"
    ):
        backbones.build("frames", K, T, "packaged", "resnet18")


def test_the_packaged_head_comes_along_where_1000_classes_are_asked_for() -> None:
    theirs = list(torch.load(frames.packaged_weights(), weights_only=True).values())
    names = (ROOT / "data/labels/imagenet.txt").read_text(encoding="utf-8").splitlines()
    model: Any = backbones.build("frames", len(names), T, "packaged").eval()
    assert torch.equal(model.image.classifier.weight, theirs[-2])
    assert torch.equal(model.image.classifier.bias, theirs[-1])
    with torch.no_grad():
        assert model(clips()).shape == (2, 1000)


# transformers


@pytest.fixture
def published_videomae(tmp_path: Path) -> Path:
    """A folder as transformers saves a fine-tuned VideoMAE of K classes."""
    from transformers import VideoMAEConfig, VideoMAEForVideoClassification

    size: Any = {
        "hidden_size": 16,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "image_size": 32,
        "num_labels": K,
    }
    VideoMAEForVideoClassification(VideoMAEConfig(**size)).save_pretrained(tmp_path / "videomae")
    return tmp_path / "videomae"


def test_a_fine_tuned_videomae_keeps_its_head_where_it_has_as_many_classes(published_videomae: Path) -> None:
    from safetensors.torch import load_file

    saved = load_file(published_videomae / "model.safetensors")
    theirs = {
        key.replace("q_bias", "query.bias").replace("v_bias", "value.bias"): value for key, value in saved.items()
    }  # the hub's names
    for n_classes in (K, K + 1):
        model: Any = backbones.build("videomae", n_classes, T, str(published_videomae), "tiny")
        ours = model.network.state_dict()
        differing = {key for key in theirs if not torch.equal(ours[key], theirs[key])}
        assert differing == (set() if n_classes == K else {"classifier.weight", "classifier.bias"})
        assert ours.keys() == theirs.keys()
        assert torch.equal(model(clips()), of_transformers(model, clips()))
        assert model.network.videomae.embeddings.position_embeddings.abs().sum() > 0  # a table that no file holds


def test_a_folder_of_transformers_that_does_not_fit_is_one_clear_error(published_videomae: Path) -> None:
    def build(weights: str | Path, variant: str = "tiny") -> nn.Module:
        return backbones.build("videomae", K, T, str(weights), variant)

    with pytest.raises(CheckpointError, match="hidden_size is 16, the variant has 768: set model.variant"):
        build(published_videomae, "base")
    with pytest.raises(CheckpointError, match="is no folder of transformers and no name on the hub"):
        build("nowhere")
    (published_videomae / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(CheckpointError, match="is no folder of transformers with weights"):
        build(published_videomae)
    (published_videomae / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"has no config.json of transformers \(FileNotFoundError\)"):
        build(published_videomae)


def test_a_folder_of_another_network_is_refused(published_clip: Path) -> None:
    with pytest.raises(CheckpointError, match="holds a network of type 'clip', 'videomae' is wanted"):
        backbones.build("videomae", K, T, str(published_clip), "tiny")


def test_a_folder_with_weights_missing_is_refused(published_videomae: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = published_videomae / "model.safetensors"
    state = load_file(path)
    del state["videomae.encoder.layer.1.intermediate.dense.weight"]
    save_file(state, path, {"format": "pt"})
    with pytest.raises(
        CheckpointError,
        match=r"1 missing, 0 too many \('videomae.encoder.layer.1.intermediate.dense.weight' is missing\)",
    ):
        backbones.build("videomae", K, T, str(published_videomae), "tiny")


def test_a_name_on_the_hub_is_downloaded_once_and_a_silent_hub_is_a_clear_error(
    published_videomae: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    asked: list[str] = []

    def answer(name: str, allow_patterns: list[str]) -> str:
        asked.append(name)
        return str(published_videomae)

    def silence(name: str, allow_patterns: list[str]) -> str:
        raise LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", answer)
    backbones.build("videomae", K, T, "someone/videomae-tiny", "tiny")
    assert asked == ["someone/videomae-tiny"]
    monkeypatch.setattr(huggingface_hub, "snapshot_download", silence)
    with pytest.raises(
        CheckpointError,
        match=r"no folder 'someone/videomae-tiny', and the hub did not answer with one \(LocalEntryNotFoundError",
    ):
        backbones.build("videomae", K, T, "someone/videomae-tiny", "tiny")


NAMES = ["ApplyEyeMakeup", "blowing_nose", "4: dance"]  # as three of our label lists write classes
CAPTIONS = ["a video of apply eye makeup", "a video of blowing nose", "a video of dance"]


@pytest.fixture
def published_clip(tmp_path: Path) -> Path:
    """A folder as transformers saves a whole CLIP, with a tokenizer of single letters."""
    from transformers import CLIPConfig, CLIPModel

    text = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 48,
    }
    letters = [chr(c) for c in range(97, 123)]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    text |= {
        "vocab_size": len(tokens),
        "eos_token_id": len(tokens) - 1,
        "bos_token_id": len(tokens) - 2,
        "projection_dim": 8,
    }
    config = CLIPConfig(text_config=text, vision_config=clip.VARIANTS["tiny"], projection_dim=8)
    folder = tmp_path / "clip"
    CLIPModel(config).save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return folder


def test_clips_zero_shot_head_answers_as_clip_itself(published_clip: Path) -> None:
    from transformers import CLIPModel, CLIPTokenizer

    model = backbones.build("clip", len(NAMES), 1, str(published_clip), "tiny").eval()
    clip.initialise_head(model, NAMES, str(published_clip))
    whole: Any = CLIPModel.from_pretrained(published_clip)
    tokens = CLIPTokenizer.from_pretrained(published_clip)(CAPTIONS, padding=True, return_tensors="pt")
    x = clips(t=1)
    with torch.no_grad():
        expected = whole.eval()(
            tokens["input_ids"], normal(x, clip.MEAN, clip.STD)[:, :, 0], tokens["attention_mask"]
        ).logits_per_image
        assert torch.allclose(model(x), expected, atol=1e-4)


def test_the_zero_shot_head_needs_a_text_half_and_random_weights_have_none(published_clip: Path) -> None:
    model: Any = backbones.build("clip", len(NAMES), T, "", "tiny")
    before = model.head.weight.clone()
    clip.initialise_head(model, NAMES, "")
    assert torch.equal(model.head.weight, before)
    with pytest.raises(MethodError, match="Swin3d is no clip backbone"):
        clip.initialise_head(network("swin3d"), NAMES, str(published_clip))
    with pytest.raises(CheckpointError, match=r"\(2, 8\) text embeddings for a head of \(3, 8\)"):
        clip.initialise_head(model, NAMES[:2], str(published_clip))
    for name in ("vocab.json", "merges.txt"):
        (published_clip / name).unlink()
    with pytest.raises(CheckpointError, match="has no tokenizer of CLIP"):
        clip.initialise_head(model, NAMES, str(published_clip))


def test_state_dicts_are_found_one_level_down(tmp_path: Path) -> None:
    for key in ("state_dict", "model"):
        torch.save({key: {"a": torch.ones(1)}, "epoch": 3}, tmp_path / "nested.pth")
        assert pretrained.read_state(tmp_path / "nested.pth") == {"a": torch.ones(1)}

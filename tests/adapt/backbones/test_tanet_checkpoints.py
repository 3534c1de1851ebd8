"""TANet's checkpoints: the published form loads whole, and one that would run code or is another's is refused."""

import argparse
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from adapt import backbones
from adapt.errors import AdaptError, CheckpointError, MethodError
from tests.published_tanet import PublishedTANet, images, settle

K, T, SIZE = 5, 3, 32


def published_file(folder: Path, depth: int = 18, n_classes: int = K) -> tuple[Path, PublishedTANet]:
    """What ViTTA's authors offer: saved from a DataParallel, with the epoch beside the weights."""
    theirs = PublishedTANet(depth, n_classes, T)
    settle(theirs)
    state = {f"module.{name}": value for name, value in theirs.state_dict().items()}
    torch.save({"epoch": 50, "arch": "resnet50", "state_dict": state, "best_prec1": 90.0}, folder / "tanet_ucf.pth.tar")
    return folder / "tanet_ucf.pth.tar", theirs


def test_a_checkpoint_of_the_published_form_loads_whole(tmp_path: Path) -> None:
    path, theirs = published_file(tmp_path)
    names = torch.load(path, weights_only=True)["state_dict"].keys()
    assert {
        "module.base_model.layer1.0.net.conv1.weight",
        "module.base_model.layer4.1.tam.L.3.weight",
        "module.new_fc.bias",
    } <= names
    ours = backbones.build("tanet", K, T, str(path), "resnet18").eval()
    frames = torch.rand(1, 3, T, SIZE, SIZE)
    assert torch.allclose(ours(frames), theirs(images(frames)), atol=1e-4)


@pytest.mark.parametrize("numpy_1", [False, True])
def test_a_numpy_scalar_and_a_namespace_beside_the_weights_are_read(tmp_path: Path, numpy_1: bool) -> None:
    """What torch.save writes of them, under the names that numpy 2 and numpy 1 give their scalars."""
    path, theirs = published_file(tmp_path)
    about = {"best_prec1": np.float64(90.0), "epoch": np.int64(50), "args": argparse.Namespace(arch="tanet", lr=0.1)}
    torch.save(torch.load(path, weights_only=True) | about, path)
    if numpy_1:
        rewrite(path, b"numpy._core.multiarray", b"numpy.core.multiarray")
    ours = backbones.build("tanet", K, T, str(path), "resnet18").eval()
    frames = torch.rand(1, 3, T, SIZE, SIZE)
    assert torch.allclose(ours(frames), theirs(images(frames)), atol=1e-4)
    with pytest.raises(pickle.UnpicklingError):  # nothing is left allowed after it
        torch.load(path, weights_only=True)


def rewrite(path: Path, old: bytes, new: bytes) -> None:
    """Put `new` for `old` in the pickle of a file that torch.save wrote."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    (name,) = (name for name in parts if name.endswith("data.pkl"))
    assert old in parts[name]
    parts[name] = parts[name].replace(old, new)
    with zipfile.ZipFile(path, "w") as archive:
        for one, content in parts.items():
            archive.writestr(one, content)


class Harmful:
    """Pickled as a call that leaves a file behind."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def test_a_checkpoint_that_would_run_code_is_refused_and_runs_none(tmp_path: Path) -> None:
    path, _ = published_file(tmp_path)
    content = torch.load(path, weights_only=True)
    hidden = (Harmful(tmp_path / "mark"), argparse.Namespace(lr=Harmful(tmp_path / "mark")))
    for harmful in hidden:
        torch.save(content | {"args": harmful}, path)
        with pytest.raises(CheckpointError, match="is no published TANet resnet18 checkpoint"):
            backbones.build("tanet", K, T, str(path), "resnet18")
        assert not (tmp_path / "mark").exists()
    torch.load(path, weights_only=False)
    assert (tmp_path / "mark").exists()  # it would have


@pytest.mark.parametrize(
    ("variant", "n_classes", "n_frames"), [("resnet50", K, T), ("resnet18", K + 1, T), ("resnet18", K, 8)]
)
def test_a_checkpoint_of_another_network_is_refused_in_one_line(
    tmp_path: Path, variant: str, n_classes: int, n_frames: int
) -> None:
    path, _ = published_file(tmp_path)
    with pytest.raises(
        CheckpointError, match=f"no published TANet {variant} checkpoint with {n_classes} classes and {n_frames} frames"
    ) as caught:
        backbones.build("tanet", n_classes, n_frames, str(path), variant)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_checkpoint_and_variants_that_do_not_exist_are_refused(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "list.pt")
    (tmp_path / "text.pt").write_text("hello")
    refused: list[tuple[str, str, type[AdaptError], str]] = [
        (str(tmp_path / "list.pt"), "resnet18", CheckpointError, "list.pt is no published"),
        (str(tmp_path / "text.pt"), "resnet18", CheckpointError, "text.pt is no published"),
        (str(tmp_path / "none.pt"), "resnet18", CheckpointError, "none.pt does not exist"),
        (str(tmp_path / "list.pt"), "narrow", CheckpointError, "narrow has no published weights"),
        ("", "resnet51", MethodError, r"no variant 'resnet51': choose one of \['narrow', 'resnet18', 'resnet50'\]"),
    ]
    for weights, variant, error, message in refused:
        with pytest.raises(error, match=message):
            backbones.build("tanet", K, T, weights, variant)

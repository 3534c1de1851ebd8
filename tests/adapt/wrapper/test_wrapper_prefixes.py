"""Published weights that were saved through a wrapper of torch: their names have its prefix."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from adapt import backbones
from adapt.backbones import r2plus1d
from adapt.backbones._pretrained import read_state, without_wrappers
from adapt.errors import CheckpointError

K, T = 4, 4
STATE = {"stem.weight": torch.ones(2), "head.bias": torch.zeros(1)}
PREFIXES = ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "module.module."]


def prefixed(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}{name}": value for name, value in state.items()}


@pytest.mark.parametrize("prefix", ["", *PREFIXES])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_prefixes_alone_or_nested_are_taken_off(prefix: str, suffix: str, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / f"weights{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(prefixed(STATE, prefix), path)
    assert read_state(path).keys() == STATE.keys()


def test_the_prefixes_are_those_that_torch_itself_writes() -> None:
    compiled: Any = torch.compile(nn.Linear(2, 1), backend="eager")
    for cover in (compiled, nn.DataParallel(nn.Linear(2, 1)), nn.DataParallel(compiled)):
        assert without_wrappers(Path("file"), cover.state_dict()).keys() == {"weight", "bias"}


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_backbone_takes_weights_saved_through_a_wrapper(prefix: str, tmp_path: Path) -> None:
    published = r2plus1d._tiny(num_classes=K).state_dict()
    torch.save({"state_dict": prefixed(published, prefix)}, tmp_path / "published.pth")
    model = backbones.build("r2plus1d", K, T, str(tmp_path / "published.pth"), "tiny")
    ours = {name.removeprefix("network."): value for name, value in model.state_dict().items()}
    assert all(torch.equal(value, published[name]) for name, value in ours.items())


@pytest.mark.parametrize("prefix", ["", *PREFIXES])
def test_tanet_takes_weights_saved_through_a_wrapper(prefix: str, tmp_path: Path) -> None:
    theirs = backbones.build("tanet", K, T, "", "resnet18")
    torch.save({"state_dict": prefixed(theirs.state_dict(), prefix)}, tmp_path / "published.pth")
    ours = backbones.build("tanet", K, T, str(tmp_path / "published.pth"), "resnet18").state_dict()
    assert all(torch.equal(value, ours[name]) for name, value in theirs.state_dict().items())


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod."])
@pytest.mark.parametrize("reader", ["read_state", "tanet"])
def test_a_file_of_which_a_part_has_a_prefix_is_refused_by_its_name(prefix: str, reader: str, tmp_path: Path) -> None:
    path = tmp_path / "mixed.pth"
    torch.save({"state_dict": prefixed(STATE, prefix) | {"c.weight": torch.ones(1)}}, path)
    message = f"mixed.pth: the prefix '{prefix}' stands before 2 of 3 names, not before 'c.weight'"
    with pytest.raises(CheckpointError, match=message) as caught:
        read_state(path) if reader == "read_state" else backbones.build("tanet", K, T, str(path), "resnet18")
    assert "\n" not in str(caught.value)


def test_a_file_whose_names_are_no_text_is_no_state_dict(tmp_path: Path) -> None:
    torch.save({0: torch.ones(1)}, tmp_path / "numbers.pth")
    with pytest.raises(CheckpointError, match="holds no state dict"):
        read_state(tmp_path / "numbers.pth")

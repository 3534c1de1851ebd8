"""A state.pt that is none: the run starts anew and says why."""

from pathlib import Path

import pytest
import torch

from adapt.stream._progress import STATE, Lane


@pytest.mark.parametrize("content", [[1, 2], torch.ones(3), {}, {"fingerprint": {}}, "text", None])
def test_a_state_of_another_form_is_not_gone_on_with(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "state.pt")
    saved, problem = Lane(tmp_path, {}, 1, range(1))._read(torch.device("cpu"))
    assert saved is None
    assert problem.startswith("state.pt is broken")


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04" + bytes(60)])
def test_a_state_that_torch_cannot_read_is_not_gone_on_with(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "state.pt").write_bytes(content)
    assert Lane(tmp_path, {}, 1, range(1))._read(torch.device("cpu"))[1].startswith("state.pt is broken")


def test_a_state_of_the_right_form_is_read(tmp_path: Path) -> None:
    torch.save(dict.fromkeys(STATE, 1), tmp_path / "state.pt")
    assert Lane(tmp_path, {}, 1, range(1))._read(torch.device("cpu")) == (dict.fromkeys(STATE, 1), "")

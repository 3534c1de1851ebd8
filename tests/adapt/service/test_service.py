"""service: a network as a file answers as the network does, wherever torch or onnxruntime is, without this project."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

import adapt
from adapt import service
from adapt.errors import MethodError
from tests import tiny

CLASSES = [f"class {i}" for i in range(tiny.K)]
# Nothing of this project is on the path of these programs.
WITH_TORCH = """
import json, sys
import numpy as np
import torch
extra = {"earshot.json": ""}
network = torch.export.load(sys.argv[1], extra_files=extra).module()
np.save(sys.argv[3], network(torch.from_numpy(np.load(sys.argv[2]))).detach().numpy())
ours = [name for name in sys.modules if name.split(".")[0] in ("adapt", "pipeline")]
print(json.dumps([extra["earshot.json"], ours]))
"""
WITH_ONNXRUNTIME = """
import json, sys
import numpy as np
import onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
np.save(sys.argv[3], session.run(None, {"frames": np.load(sys.argv[2])})[0])
about = session.get_modelmeta().custom_metadata_map["earshot"]
ours = [name for name in sys.modules if name.split(".")[0] in ("adapt", "pipeline", "torch")]
print(json.dumps([about, ours]))
"""
ALONE = {".pt2": WITH_TORCH, ".onnx": WITH_ONNXRUNTIME}


def alone(path: Path, frames: Tensor) -> tuple[Tensor, dict[str, object]]:
    """(the file's logits, what it says of itself) by a process in a folder of its own."""
    given, answer = path.with_name("given.npy"), path.with_name("answer.npy")
    np.save(given, frames.numpy())
    command = [sys.executable, "-I", "-W", "ignore", "-c", ALONE[path.suffix], str(path), str(given), str(answer)]
    done = subprocess.run(command, cwd=path.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    about, of_ours = json.loads(done.stdout)
    assert of_ours == []
    return torch.from_numpy(np.load(answer)), json.loads(about)


def adapted() -> adapt.Wrapped:
    model = adapt.wrap(tiny.trained(), "tent", classes=CLASSES, lr=2.0)
    for seed in range(3):
        model(torch.rand(1, 3, 4, 8, 8, generator=torch.Generator().manual_seed(seed)))
    return model


class Unlike(nn.Module):
    """Takes frames between -1 and 1, the time before the colours, and answers a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = tiny.trained()

    def forward(self, frames: Tensor) -> dict[str, Tensor]:
        return {"logits": self.inner(frames.transpose(1, 2) * 0.5 + 0.5)}


class Branching(nn.Module):
    """Its forward asks for a value."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = tiny.trained()

    def forward(self, frames: Tensor) -> Tensor:
        logits: Tensor = self.inner(frames if float(frames.mean()) > 0.5 else -frames)
        return logits


class OneByOne(nn.Module):
    """Takes two clips and no other number."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = tiny.trained()

    def forward(self, frames: Tensor) -> Tensor:
        first, second = frames
        return torch.stack([self.inner(first[None])[0], self.inner(second[None])[0]])


@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
def test_the_adapted_network_answers_the_same_in_a_process_without_this_project(suffix: str, tmp_path: Path) -> None:
    model, frames = adapted(), torch.rand(5, 3, 4, 8, 8, generator=torch.Generator().manual_seed(9))
    before = model.save()
    found = model.export(tmp_path / f"net{suffix}", frames[:2])
    assert found.largest_difference <= 1e-4 * max(1, found.largest_logit) and found.any_batch
    assert all(torch.equal(value, before[name]) for name, value in model.save().items())
    with torch.no_grad():
        expected = model.model(frames)
        source = tiny.trained()(frames)
    logits, about = alone(found.path, frames)
    assert torch.allclose(logits, expected, atol=1e-4)
    assert not torch.allclose(logits, source, atol=1e-2)  # it is the adapted one
    assert about["classes"] == CLASSES and about["frames"] == [3, 4, 8, 8] and about["clips"] == "any"


def test_after_reset_it_is_the_source_network(tmp_path: Path) -> None:
    model, frames = adapted(), torch.rand(2, 3, 4, 8, 8)
    model.reset()
    model.export(tmp_path / "net.pt2", frames)
    with torch.no_grad():
        assert torch.allclose(alone(tmp_path / "net.pt2", frames)[0], tiny.trained()(frames), atol=1e-5)


@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
def test_prepare_and_read_go_along(suffix: str, tmp_path: Path) -> None:
    model = adapt.wrap(
        Unlike(), "source", classes=CLASSES, prepare=lambda x: 2 * x.transpose(1, 2) - 1, read=lambda x: x["logits"]
    )
    frames = torch.rand(2, 3, 4, 8, 8)
    model.export(tmp_path / f"net{suffix}", frames)
    with torch.no_grad():
        expected = tiny.trained()(frames)  # what prepare does, the network undoes
    assert torch.allclose(alone(tmp_path / f"net{suffix}", frames)[0], expected, atol=1e-4)


def test_it_takes_the_view_that_a_clip_is_predicted_from(tmp_path: Path) -> None:
    model = adapt.wrap(tiny.trained(), "source", classes=CLASSES, view_frames=4)
    assert model.export(tmp_path / "net.pt2", torch.rand(1, 3, 12, 8, 8)).frames == (3, 4, 8, 8)


def test_a_network_that_takes_a_certain_number_of_clips_is_written_for_that(tmp_path: Path) -> None:
    found = service.export(OneByOne().eval(), torch.rand(2, 3, 4, 8, 8), tmp_path / "net.pt2", CLASSES)
    assert not found.any_batch
    assert alone(found.path, torch.rand(2, 3, 4, 8, 8))[1]["clips"] == 2


def test_masked_classes_stay_masked(tmp_path: Path) -> None:
    network = tiny.trained()
    with torch.no_grad():
        network.head.bias[1] = -torch.inf
    service.export(network, torch.rand(2, 3, 4, 8, 8), tmp_path / "net.pt2", CLASSES)
    assert alone(tmp_path / "net.pt2", torch.rand(2, 3, 4, 8, 8))[0][:, 1].tolist() == [-torch.inf, -torch.inf]


def test_a_file_that_answers_otherwise_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written is the graph of a network with one weight changed."""
    follow = service._program

    def other(network: nn.Module, example: Tensor) -> tuple[torch.export.ExportedProgram, bool]:
        changed = copy.deepcopy(network)
        changed.get_parameter("head.bias").data[0] += 0.01
        return follow(changed, example)

    monkeypatch.setattr(service, "_program", other)
    with pytest.raises(MethodError, match=r"logits differ by up to 0\.01.* no file was written"):
        service.export(tiny.trained(), torch.rand(2, 3, 4, 8, 8), tmp_path / "net.pt2", CLASSES)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "network", "line"),
    [
        ("net.bin", tiny.TinyVideoModel(), r"net.bin: end it in .pt2 for torch_export or .onnx"),
        ("net.pt2", Branching(), "torch.export cannot follow Branching .*must not branch on values"),
    ],
)
def test_what_cannot_be_written_is_one_clear_line(name: str, network: nn.Module, line: str, tmp_path: Path) -> None:
    with pytest.raises(MethodError, match=line):
        service.export(network, torch.rand(2, 3, 4, 8, 8), tmp_path / name, CLASSES)
    assert list(tmp_path.iterdir()) == []


def test_without_its_packages_onnx_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(MethodError, match=r"needs the package onnxscript: run `pip install -e '.\[export\]'`"):
        service.export(tiny.trained(), torch.rand(2, 3, 4, 8, 8), tmp_path / "net.onnx", CLASSES)


def test_an_onnx_file_is_one_that_onnx_finds_whole(tmp_path: Path) -> None:
    service.export(tiny.trained(), torch.rand(2, 3, 4, 8, 8), tmp_path / "net.onnx", CLASSES)
    graph = onnx.load(tmp_path / "net.onnx")
    onnx.checker.check_model(graph, full_check=True)
    assert ([i.name for i in graph.graph.input], [o.name for o in graph.graph.output]) == (["frames"], ["logits"])

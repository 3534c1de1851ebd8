"""A benchmark's run from a folder as ViTTA's authors ship it, of tiny clips, and a checkpoint of the published form, to
the page: the source model's row is that of the authors' network on the same frames.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.clips import write_video
from tests.places import ROOT
from tests.published_tanet import PublishedTANet, layers, settle
from tests.sounds import make_project

pytestmark = pytest.mark.slow  # nine processes that load torch
FRAMES, SIDE, K = 2, 32, 101
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
CORRUPTIONS = ("gauss", "rain")
NAMES = (ROOT / "data/labels/ucf101.txt").read_text(encoding="utf-8").splitlines()


def answers(network: PublishedTANet, level: int) -> set[int]:
    """The classes that the authors' network gives to frames of that grey, and of the greys that a codec may make of
    it.
    """
    frames = [torch.full((FRAMES, 3, SIDE, SIDE), (level + off) / 255) for off in (-2, -1, 0, 1, 2)]
    images: Tensor = torch.cat([(one - MEAN) / STD for one in frames])
    with torch.no_grad():
        found: set[int] = set(network(images).argmax(1).tolist())
    return found


def sure(network: PublishedTANet) -> list[tuple[int, int]]:
    """(grey, class) of two greys that the network is sure of, of two classes."""
    found = {level: answers(network, level) for level in range(10, 250, 8)}
    certain = [(level, next(iter(classes))) for level, classes in found.items() if len(classes) == 1]
    first = certain[0]
    return [first, next(pair for pair in certain if pair[1] != first[1])]


@pytest.fixture(scope="module")
def network() -> PublishedTANet:
    torch.manual_seed(0)
    made = PublishedTANet(18, K, FRAMES)
    settle(made)
    with torch.no_grad():  # a head to which dark and bright look unlike
        made.new_fc.weight.normal_(0, 1)
        made.new_fc.bias.zero_()
        spread = [made.base_model((torch.full((FRAMES, 3, SIDE, SIDE), x) - MEAN) / STD) for x in (0.1, 0.9)]
        made.new_fc.bias.copy_(-made.new_fc(torch.cat(spread).mean(0)))
    return made.eval()


@pytest.fixture(scope="module")
def project(network: PublishedTANet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three videos: one whose corrupted files both show its class, one of whose files one does, one without."""
    root = make_project(tmp_path_factory.mktemp("benchmark") / "project")
    for name in ("benchmarks.json", "maps", "prompts", "replies"):
        (root / "data" / name).symlink_to(ROOT / "data" / name)
    (dark, one), (bright, other) = sure(network)
    third = next(k for k in range(K) if k not in (one, other))
    shown = {"a": (one, dark, dark), "b": (other, bright, dark), "c": (third, dark, bright)}
    shipped, lines = root.parent / "UCF101 C", dict.fromkeys(CORRUPTIONS, "")
    for stem, (label, *levels) in shown.items():
        for corruption, level in zip(CORRUPTIONS, levels, strict=True):
            path = f"{corruption}/{NAMES[label]}/v_{NAMES[label]}_{stem}.mp4"
            write_video(shipped / "level_5_ucf_val_split_1_" / path, [level] * 8, (64, 64))
            lines[corruption] = f"{path} 8 {label}\n" + lines[corruption]
    (lists := shipped / "list_video_perturbations_ucf").mkdir()
    for corruption, text in lines.items():
        (lists / f"{corruption}_shuffled.txt").write_text(text)
    (folder := shipped / "source_statistics_tanet_ucf").mkdir()
    widths = [m.num_features for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert set(layers(network))
    for part, value in (("mean", 0.0), ("var", 1.0)):
        found = np.empty(len(widths), object)
        found[:] = [np.full(width, value, np.float32) for width in widths]
        np.save(folder / f"list_spatiotemp_{part}_20220908_235138.npy", found)
    state = {f"module.{name}": tensor for name, tensor in network.state_dict().items()}
    torch.save(
        {"epoch": 30, "arch": "resnet18", "state_dict": state, "best_prec1": np.float64(95.1)}, root / "tanet.pth.tar"
    )
    return root


def run(project: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline.benchmark", "ucf101-c", "--videos", str(project.parent / "UCF101 C")]
    command += ["--weights", "tanet.pth.tar", "--variant", "resnet18", "--frames", str(FRAMES), "--resize", str(SIDE)]
    command += ["--size", str(SIDE), "--corruptions", *CORRUPTIONS, "--jobs", "1", *words]
    return subprocess.run(
        command, cwd=project, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )


def test_a_holder_of_ucf101_c_gets_rows_beside_the_published_ones(project: Path) -> None:
    done = run(project, "--preset", "vitta_published")
    assert done.returncode == 0, done.stderr[-3000:]
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines() if "|" in line]
    assert table[0] == ["method", "of", "gauss", "rain", "mean of 2"]
    rows = {row[0]: row[1:] for row in table[2:]}
    assert rows["source+none"] == ["this run", "66.7", "33.3", "50.0"]
    assert rows["vitta_published+none"][0] == "this run"
    assert rows["AME"] == ["AME", "72.1", "90.5", "81.3"]
    assert done.stdout == (project / "cache/metrics/ucf101_c/benchmark.md").read_text()
    for said in (
        "This run has frames 2, the published protocol 16.",
        "This run has 3 clips a stream, the published test set 3,783.",
        "in the order of its own {}_shuffled.txt", "those of list_spatiotemp_mean_20220908_235138.npy",
        "This run leaves out pepper, salt",
    ):  # fmt: skip
        assert said in done.stdout
    options = json.loads((project / "cache/metrics/ucf101_c/vitta_published+none.json").read_text())
    assert options["n"] == 6 and options["n_failed"] == 0
    # again: everything is kept
    again = run(project, "--preset", "vitta_published")
    assert again.returncode == 0 and again.stdout == done.stdout
    assert again.stderr.count("is finished, of the same options, data and code: kept") == 2


def test_a_stage_that_fails_ends_the_command_with_its_own_line(project: Path) -> None:
    (project / "broken.pth").write_bytes(b"no checkpoint")
    done = run(project, "--weights", "broken.pth")
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert "broken.pth is no published TANet resnet18 checkpoint" in lines[-2]
    assert lines[-1].startswith("pipeline.benchmark: python -m adapt.train ended with 1, as it says above")
    clean = run(project, "--corruptions", "clean", "gauss")
    assert clean.returncode == 1 and "the clean videos are not here: give --originals" in clean.stderr

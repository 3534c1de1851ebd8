"""export: weights in, a file out, by the command; what the weights do not say is asked for."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from adapt import backbones, export
from adapt.errors import AdaptError, CheckpointError
from adapt.source import checkpoints
from tests.clips import write_video
from tests.places import ROOT

NAMES = ["cat", "dog", "parrot"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a narrow TANet, and the state dict alone; its weights are random."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    model = backbones.build("tanet", len(NAMES), 4, "", "narrow")
    checkpoints.save_model(folder / "tanet.pt", model, "tanet", NAMES, 4, "narrow", 32)
    torch.save(model.state_dict(), folder / "adapted.pt")
    (folder / "names.txt").write_text("\n".join(NAMES) + "\n")
    return folder


def options(trained: Path, tmp_path: Path, weights: str | Path = "tanet.pt", **changed: object) -> export.Options:
    known = {"backbone": "tanet", "variant": "narrow", "weights": trained / weights, "out": tmp_path / "net.pt2"}
    return export.Options(**(known | changed))  # type: ignore[arg-type]


def test_the_command_writes_a_checkpoint_and_says_how_near_it_is(trained: Path, tmp_path: Path) -> None:
    video = write_video(tmp_path / "clip.mp4", [0, 60, 120, 180, 240] * 3, size=(64, 48))
    command = [
        sys.executable, "-m", "adapt.export", "--backbone", "tanet", "--variant", "narrow", "--weights",
        str(trained / "tanet.pt"), "--format", "onnx", "--out", str(tmp_path / "net.onnx"), "--videos", str(video),
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["format"], said["n_clips"], said["n_classes"], said["frames"]) == ("onnx", 5, 3, [3, 4, 32, 32])
    assert 0 <= said["largest_difference"] <= 1e-4 * max(1, said["largest_logit"])
    assert Path(said["out"]).stat().st_size > 10_000


def test_a_state_dict_of_an_adapted_network_is_written_as_it_is(trained: Path, tmp_path: Path) -> None:
    said = export.run(options(trained, tmp_path, "adapted.pt", classes=trained / "names.txt", frames=4, size=32))
    model = backbones.build("tanet", len(NAMES), 4, "", "narrow").eval()
    model.load_state_dict(torch.load(trained / "adapted.pt", weights_only=True))
    frames = torch.rand(1, 3, 4, 32, 32)
    loaded = torch.export.load(str(said["out"])).module()
    with torch.no_grad():
        assert torch.allclose(loaded(frames), model(frames), atol=1e-5)


def test_clips_are_read_as_a_run_predicts_them(tmp_path: Path) -> None:
    greys = list(range(0, 240, 10))
    video = write_video(tmp_path / "clip.mp4", greys, size=(64, 64))
    frames = export._clip(video, 4, 32)
    middle = [greys[i] / 255 for i in (3, 9, 15, 21)]  # the middles of four equal parts of 24 frames
    assert frames.shape == (1, 3, 4, 32, 32)
    assert np.allclose(frames[0, 0].mean((1, 2)), middle, atol=0.02)


@pytest.mark.parametrize(
    ("weights", "changed", "error", "line"),
    [
        ("adapted.pt", {}, AdaptError, "give --classes, --frames and --size"),
        ("tanet.pt", {"frames": 8}, CheckpointError, "was trained on 4 frames, --frames is 8"),
        ("tanet.pt", {"variant": "resnet18"}, CheckpointError, "variant is 'narrow'"),
        ("names.txt", {}, CheckpointError, "is not a checkpoint"),
        ("none.pt", {}, CheckpointError, "is missing"),
    ],
)
def test_weights_that_do_not_fit_are_one_clear_line(
    weights: str, changed: dict[str, object], error: type[Exception], line: str, trained: Path, tmp_path: Path
) -> None:
    with pytest.raises(error, match=line):
        export.run(options(trained, tmp_path, weights, **changed))


def test_a_state_dict_of_another_network_is_refused(trained: Path, tmp_path: Path) -> None:
    torch.save({"head.weight": torch.zeros(3, 3)}, tmp_path / "other.pt")
    given = options(trained, tmp_path, classes=trained / "names.txt", frames=4, size=32, weights=tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="does not fit tanet with these classes"):
        export.run(given)


def test_other_classes_than_the_checkpoints_are_refused(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("cat\ndog\nfish\n")
    with pytest.raises(CheckpointError, match="has other classes than"):
        export.run(options(trained, tmp_path, classes=tmp_path / "names.txt"))

"""Training: the same seed gives the same bytes, also where it was killed in between; published weights; files that do
not fit are one error.
"""

import dataclasses
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adapt import backbones
from adapt.errors import AdaptError, CacheError, CheckpointError, MethodError, OptionsError
from adapt.source import _loader, checkpoints, train
from adapt.source._resume import Progress
from adapt.tables import cache, classes, code, parquet
from adapt.tables.cache import Clip
from tests.greys import LABELS, VIDEO
from tests.places import ROOT

CLIPS = Path("cache/greys/clips.parquet")
PATH = checkpoints.model_path("greys", "tanet")
PROGRESS = PATH.with_name(".tanet.progress.pt")
OPTIONS = train.Options("greys", "tanet", video=VIDEO, epochs=3, batch_size=4, lr=0.01, save_every=1)
# Trains as OPTIONS say, and kills itself: after its n-th save, or within it, when the new file is written but has not
# its name yet.
CHILD = """
import os, signal, sys
from pathlib import Path
from adapt.source import train
from tests.adapt.source.test_train import OPTIONS
left, within = int(sys.argv[1]), sys.argv[2] == "within"
rename = Path.replace
def replace(self, target):
    global left
    if "progress" not in str(target):
        return rename(self, target)
    left -= 1
    if left == 0 and within:
        os.kill(os.getpid(), signal.SIGKILL)
    rename(self, target)
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
Path.replace = replace
train.run(OPTIONS)
"""
BACKBONE = """
import torch
from torch import nn


class Mean(nn.Module):
    def __init__(self, n_classes):
        super().__init__()
        self.norm, self.head = nn.BatchNorm3d(3), nn.Linear(3, n_classes)

    def forward(self, frames):
        return self.head(self.norm(frames).mean((2, 3, 4)))


def build(n_classes, n_frames, weights, variant):
    model = Mean(n_classes)
    if weights:
        model.load_state_dict(torch.load(weights, weights_only=True), strict=False)
    return model
"""
HOOK = """

def initialise_head(model, names, weights):
    for value in model.head.parameters():
        nn.init.constant_(value, len(names[0]))
"""


@pytest.fixture
def here(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(project)
    for path in (PATH, PROGRESS):
        path.unlink(missing_ok=True)
    return project


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose files are backbones as well; `mean` is the first."""
    monkeypatch.setattr(backbones, "__path__", [*backbones.__path__, str(tmp_path)])
    monkeypatch.delitem(sys.modules, "adapt.backbones.mean", raising=False)
    (tmp_path / "mean.py").write_text(BACKBONE)
    return tmp_path


def trained_bytes(**changes: object) -> bytes:
    PATH.unlink(missing_ok=True)  # or it would be kept
    train.run(dataclasses.replace(OPTIONS, **changes))  # type: ignore[arg-type]
    return PATH.read_bytes()


def test_two_runs_of_a_seed_give_the_same_bytes_and_another_seed_others(here: Path) -> None:
    once = trained_bytes(epochs=1)
    assert trained_bytes(epochs=1, save_every=0, workers=1) == once
    assert trained_bytes(epochs=1, seed=1) != once


@pytest.mark.slow
def test_a_checkpoint_of_the_same_options_data_and_code_is_kept(
    here: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def is_kept(**changes: object) -> bool:
        caplog.clear()
        before = PATH.stat().st_mtime_ns
        with caplog.at_level(logging.INFO):
            done = train.run(dataclasses.replace(chosen, **changes))  # type: ignore[arg-type]
        assert done.keys() == counts.keys()
        kept = "is made already, of the same options, data and code: kept" in caplog.text
        assert kept == (PATH.stat().st_mtime_ns == before)
        assert not kept or done == counts
        return kept

    chosen = dataclasses.replace(OPTIONS, epochs=1)
    counts = train.run(chosen)
    assert is_kept()
    assert is_kept(
        workers=1, save_every=0, video=dataclasses.replace(VIDEO, decode_timeout_s=7)
    )  # what changes no weight
    assert not is_kept(seed=1)
    counts = train.run(chosen)
    with monkeypatch.context() as patch:
        patch.setattr(code, "code_sha256", lambda modules, without=(): "0" * 64)
        assert not is_kept()
    counts = train.run(chosen)
    clips = Path("cache/greys/clips.parquet")
    table = clips.read_bytes()
    anew = {"classes_sha256": classes.sha256(LABELS), "made": "anew"}
    cache.write_table(clips, "clips", pq.read_table(clips).to_pylist(), anew)
    assert not is_kept()
    clips.write_bytes(table)
    PATH.write_bytes(PATH.read_bytes()[:100])
    assert not is_kept()


@pytest.mark.slow
def test_a_run_that_was_killed_twice_ends_with_the_bytes_of_one_that_was_not(here: Path) -> None:
    undisturbed = trained_bytes()
    PATH.unlink()
    assert not PROGRESS.exists()  # a run that has ended leaves none
    sizes = []
    for n_saves, where in ((2, "after"), (3, "within")):  # all steps of the first epoch; then within the second one's
        command = [sys.executable, "-W", "ignore", "-c", CHILD, str(n_saves), where]
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        done = subprocess.run(
            command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False
        )
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert not PATH.exists()
        sizes.append(checkpoints.load(PROGRESS, "train")["position"])
    assert [(at["epoch"], at["n_behind"]) for at in sizes] == [(0, 8), (1, 4)]
    assert trained_bytes() == undisturbed
    assert not PROGRESS.exists()


def test_what_another_run_left_is_not_taken_up_and_that_is_said(here: Path, caplog: pytest.LogCaptureFixture) -> None:
    undisturbed = trained_bytes(epochs=1)
    labels = cache.read_labels("greys")
    Progress(PROGRESS, train.identity(dataclasses.replace(OPTIONS, lr=0.5), labels)).write({"position": {"epoch": 7}})
    with caplog.at_level(logging.INFO):
        assert trained_bytes(epochs=1) == undisturbed
    assert "is of another run (epochs was 3, is 1): training starts anew" in caplog.text


def test_a_broken_progress_file_is_passed_over_and_that_is_said(here: Path, caplog: pytest.LogCaptureFixture) -> None:
    undisturbed = trained_bytes(epochs=1)
    PROGRESS.write_bytes(b"half of a file")
    assert trained_bytes(epochs=1) == undisturbed
    assert ".tanet.progress.pt cannot be read" in caplog.text


def test_a_runs_identity_knows_clips_and_weights_but_not_threads(here: Path) -> None:
    weights = here / "weights.pt"
    weights.write_bytes(b"one")
    chosen = dataclasses.replace(OPTIONS, weights=str(weights))
    before = train.identity(chosen, LABELS)
    assert train.identity(dataclasses.replace(chosen, workers=7, save_every=9), LABELS) == before
    weights.write_bytes(b"two")
    changed = [name for name, value in train.identity(chosen, LABELS).items() if before[name] != value]
    assert changed == ["the file of weights"]
    assert "clips.parquet" in before


def test_bf16_trains_as_well_on_a_cpu_and_fp16_is_refused_there(here: Path) -> None:
    full = trained_bytes(epochs=2)
    assert trained_bytes(epochs=2, precision="bf16") != full
    state = checkpoints.load(PATH, "train")["state"]
    assert {value.dtype for value in state.values() if value.is_floating_point()} == {torch.float32}
    with pytest.raises(
        MethodError, match="precision fp16 needs a CUDA device, but device is cpu: set train.precision to bf16 or fp32"
    ):
        trained_bytes(precision="fp16")
    with pytest.raises(MethodError, match="precision 'half': choose one of fp32, bf16, fp16"):
        trained_bytes(precision="half")


@pytest.mark.parametrize(("changes", "said"), [
    ({"epochs": -1}, "epochs is -1: give 0 to 100000"), ({"batch_size": 0}, "batch_size is 0: give 1 to 4096"),
])  # fmt: skip
def test_a_number_outside_its_range_is_one_error_from_python_too(
    here: Path, changes: dict[str, object], said: str
) -> None:
    with pytest.raises(OptionsError, match=f"^{said}$"):
        trained_bytes(**changes)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_one_error(here: Path) -> None:
    with pytest.raises(AdaptError, match="cuda"):
        trained_bytes(device="cuda")


def test_a_loss_that_is_no_number_ends_the_run_and_leaves_no_checkpoint(here: Path) -> None:
    with pytest.raises(AdaptError, match=r"the loss is (nan|inf) in epoch \d: lower train.lr"):
        trained_bytes(lr=1e30)
    assert not PATH.exists()


def test_without_a_train_clip_that_can_be_read_there_is_one_error(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = cache.read_clips
    monkeypatch.setattr(
        cache,
        "read_clips",
        lambda dataset, split, **known: [dataclasses.replace(clip, status="failed") for clip in read(dataset, split)],
    )
    with pytest.raises(AdaptError, match="no train clip of greys can be read"):
        trained_bytes()


def test_no_epochs_take_published_weights_as_they_are(here: Path, registry: Path) -> None:
    weights = {"norm.weight": torch.ones(3), "norm.bias": torch.zeros(3), "head.weight": torch.tensor([[-1.0] * 3,
    [1.0] * 3]),
               "head.bias": torch.tensor([1.5, -1.5])}  # fmt: skip
    torch.save(weights, registry / "published.pt")
    done = train.run(dataclasses.replace(OPTIONS, backbone="mean", epochs=0, weights=str(registry / "published.pt")))
    assert (done["val_accuracy"], done["n_train"]) == (1.0, 0)
    loaded = checkpoints.load_model(Path(str(done["checkpoint"])), "mean", LABELS, 4).model.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in weights.items())


def test_published_weights_need_no_validation_split_and_training_does(
    here: Path, registry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    test_only = [row for row in parquet.read_table(CLIPS, "clips").to_pylist() if row["split"] == "test"]
    before = CLIPS.read_bytes()
    try:
        parquet.write_table(CLIPS, "clips", test_only, {"classes_sha256": classes.sha256(LABELS)})
        torch.save(backbones.build("mean", 2, 4).state_dict(), registry / "published.pt")
        options = dataclasses.replace(OPTIONS, backbone="mean", epochs=0, weights=str(registry / "published.pt"))
        done = train.run(options)
        assert (done["val_accuracy"], done["n_val"], done["n_train"]) == (None, 0, 0)
        assert train.run(options) == done  # kept
        with pytest.raises(CacheError, match="has no clip of split 'val'"):
            train.run(dataclasses.replace(options, epochs=1))
    finally:
        CLIPS.write_bytes(before)


def test_the_head_of_a_random_network_is_not_trained_alone(here: Path) -> None:
    with pytest.raises(
        AdaptError,
        match="scope is 'head', but the rest of the network is random: set train.weights, or train.scope to all",
    ):
        train.run(dataclasses.replace(OPTIONS, scope="head"))


def test_no_epochs_would_leave_a_random_model_and_are_one_error(here: Path, registry: Path) -> None:
    with pytest.raises(CheckpointError, match="epochs 0 takes weights as they are, and there are none"):
        train.run(dataclasses.replace(OPTIONS, backbone="mean", epochs=0))
    torch.save({"norm.weight": torch.ones(3)}, registry / "headless.pt")
    with pytest.raises(
        CheckpointError, match=r"headless.pt leaves head.weight of mean random: set train.epochs above 0"
    ):
        train.run(dataclasses.replace(OPTIONS, backbone="mean", epochs=0, weights=str(registry / "headless.pt")))


def test_a_backbone_may_make_its_head_of_the_class_names_where_nothing_is_trained(here: Path, registry: Path) -> None:
    (registry / "mean.py").write_text(BACKBONE + HOOK)
    torch.save({"norm.weight": torch.ones(3)}, registry / "headless.pt")
    done = train.run(dataclasses.replace(OPTIONS, backbone="mean", epochs=0, weights=str(registry / "headless.pt")))
    state = checkpoints.load(Path(str(done["checkpoint"])), "train")["state"]
    assert set(state["head.weight"].flatten().tolist()) == {4.0}  # len("dark")
    assert (train.build(dataclasses.replace(OPTIONS, backbone="mean"), LABELS, 0).head.weight != 4).all()  # type: ignore[union-attr,operator]


def test_a_clip_of_several_classes_is_answered_right_by_any_of_them(here: Path) -> None:
    class Bright(nn.Module):
        def forward(self, frames: Tensor) -> Tensor:
            return F.one_hot(torch.ones(len(frames), dtype=torch.long), 2).float()

    clips = cache.read_clips("greys", "val")
    assert train.accuracy(Bright(), clips, OPTIONS) == 0.5
    assert train.accuracy(Bright(), [dataclasses.replace(clip, label_ids=(0, 1)) for clip in clips], OPTIONS) == 1.0


def test_a_batch_leaves_out_what_cannot_be_read_and_counts_it_as_behind(here: Path) -> None:
    clips = cache.read_clips("greys", "train")
    clips[1:1] = [Clip("gone", Path("gone.mp4"), "train", 0, "ok")] * 2
    clips.insert(1, dataclasses.replace(clips[0], clip_id="another's file", unread="scan could not read it"))
    found = list(_loader.batches(clips, [0.5] * 11, VIDEO, batch_size=2, workers=2, device=torch.device("cpu")))
    assert [(len(batch.frames), batch.n_behind) for batch in found] == [
        (1, 2),
        (2, 6),
        (2, 8),
        (2, 10),
        (1, 11),
    ]  # none of the second two
    assert [clip for batch in found for clip in batch.clips] == cache.read_clips("greys", "train")
    assert all(abs(int(batch.frames[0].float().median()) - (40, 200)[batch.clips[0].label_id]) < 16 for batch in found)

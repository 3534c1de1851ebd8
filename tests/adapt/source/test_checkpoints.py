"""A checkpoint says what it was trained for, and one that does not fit is one line of error that says why and what to
do.
"""

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from adapt import backbones
from adapt.errors import CheckpointError
from adapt.source import checkpoints
from adapt.tables import classes

LABELS = ["dark", "bright"]
PATH = checkpoints.model_path("greys", "tanet")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_checkpoint_says_what_it_was_trained_for(here: Path) -> None:
    checkpoints.save_model(PATH, backbones.build("tanet", 2, 4), "tanet", LABELS, 4, "", 32)
    content = checkpoints.load(PATH, "train")
    state = content.pop("state")
    assert content == {
        "backbone": "tanet", "variant": "", "n_frames": 4, "size": 32, "labels": LABELS,
        "labels_sha256": classes.sha256(LABELS), "n_classes": 2,
        "run": {}, "counts": {},
    }  # fmt: skip
    assert [*state.values()][-1].shape == (2,)  # the head's bias


@pytest.mark.parametrize(("changes", "message"), [
    ({"labels": LABELS[::-1]}, r"labels_sha256 is .* \(class 0 is 'dark' there, 'bright' in labels.txt\)"),
    ({"labels": [*LABELS, "grey"]}, r"labels_sha256 is .* \(2 classes there, 3 in labels.txt\)"),
    ({"backbone": "frames"}, "backbone is 'tanet', 'frames' is wanted"),
    ({"variant": "r50"}, "variant is '', 'r50' is wanted"),
    ({"n_frames": 8}, "n_frames is 4, 8 is wanted"),
    ({"size": 224}, "size is 32, 224 is wanted"),
])  # fmt: skip
def test_a_checkpoint_for_something_else_is_one_error_that_says_what_to_do(
    here: Path, changes: dict[str, object], message: str
) -> None:
    model = backbones.build("tanet", 2, 4)
    checkpoints.save_model(PATH, model, "tanet", LABELS, 4, "", 32)
    wanted: dict[str, object] = {"backbone": "tanet", "labels": LABELS, "n_frames": 4, "variant": "", "size": 32}
    with pytest.raises(CheckpointError, match=f"tanet.pt: {message}: run `dvc repro train`"):
        checkpoints.load_model(PATH, **wanted | changes)  # type: ignore[arg-type]
    loaded = checkpoints.load_model(PATH, **wanted).model.state_dict()  # type: ignore[arg-type]
    assert all(torch.equal(value, loaded[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("value", "message"),
    [(None, "missing there, (2,) in the model"), (torch.zeros(4), "(4,) there, (2,) in the model")],
)
def test_weights_of_another_head_are_one_error(here: Path, value: Tensor | None, message: str) -> None:
    checkpoints.save_model(PATH, backbones.build("tanet", 2, 4), "tanet", LABELS, 4)
    content = checkpoints.load(PATH, "train")
    name, _ = content["state"].popitem()  # the head's bias
    content["state"] |= {} if value is None else {name: value}
    checkpoints.save(PATH, content)
    with pytest.raises(
        CheckpointError,
        match=re.escape(f"tanet.pt: tensor {name} is {message} (1 such tensors): run `dvc repro train`"),
    ):
        checkpoints.load_model(PATH, "tanet", LABELS, 4)


def test_weights_that_the_model_does_not_know_are_one_error(here: Path) -> None:
    checkpoints.save_model(PATH, backbones.build("tanet", 2, 4), "tanet", LABELS, 4)
    content = checkpoints.load(PATH, "train")
    content["state"]["more"] = torch.zeros(1)
    checkpoints.save(PATH, content)
    with pytest.raises(CheckpointError, match=r"tensor more is \(1,\) there, missing in the model"):
        checkpoints.load_model(PATH, "tanet", LABELS, 4)


@pytest.mark.parametrize("content", [b"", b"no checkpoint"])
def test_a_file_that_is_no_checkpoint_is_one_error(here: Path, content: bytes) -> None:
    PATH.parent.mkdir(parents=True)
    PATH.write_bytes(content)
    with pytest.raises(
        CheckpointError, match=r"tanet.pt is not a checkpoint \(.*\): delete it and run `dvc repro train`"
    ):
        checkpoints.load_model(PATH, "tanet", LABELS, 4)
    torch.save(torch.zeros(3), PATH)
    with pytest.raises(CheckpointError, match="holds a Tensor, no checkpoint of ours"):
        checkpoints.load_model(PATH, "tanet", LABELS, 4)


def test_a_file_is_kept_for_the_run_that_made_it_alone(here: Path) -> None:
    """By everything that the run depends on; a file that does not say so, or no file of ours, is made again."""
    made, counts = {"epochs": "3", "code": "abc"}, {"val_accuracy": 1.0}
    assert checkpoints.counts_of(PATH, made) is None
    model = backbones.build("tanet", 2, 4)
    checkpoints.save_model(PATH, model, "tanet", LABELS, 4, "", 32, made, counts)
    assert checkpoints.counts_of(PATH, made) == counts
    assert checkpoints.counts_of(PATH, made | {"epochs": "4"}) is None
    assert checkpoints.counts_of(PATH, made | {"more": "1"}) is None
    checkpoints.save_model(PATH, model, "tanet", LABELS, 4, "", 32)
    assert checkpoints.counts_of(PATH, {}) is None
    PATH.write_bytes(b"half a file")
    assert checkpoints.counts_of(PATH, made) is None

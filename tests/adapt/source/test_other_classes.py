"""A head of other classes is taken as it is: no training, no validation, statistics from buffers."""

import dataclasses
import sys
from pathlib import Path

import pytest
import torch

from adapt import backbones
from adapt.core import moments
from adapt.errors import AdaptError
from adapt.source import checkpoints, statistics, train
from adapt.tables import cache
from tests.adapt.source.test_train import BACKBONE
from tests.greys import VIDEO

HEAD = ["night", "noon", "snow"]
OPTIONS = train.Options("greys", "mean", video=VIDEO, epochs=0, classes="heads.txt", weights="published.pt")
MODEL, FILE = checkpoints.model_path("greys", "mean"), checkpoints.statistics_path("greys", "mean")
LOOK = statistics.Options("greys", "mean", video=VIDEO, classes="heads.txt", source_free=True)


@pytest.fixture
def here(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project with published weights of a head of three classes, and the backbone that they are of."""
    monkeypatch.chdir(project)
    monkeypatch.setattr(backbones, "__path__", [*backbones.__path__, str(tmp_path)])
    monkeypatch.delitem(sys.modules, "adapt.backbones.mean", raising=False)
    (tmp_path / "mean.py").write_text(BACKBONE)
    Path("heads.txt").write_text("".join(f"{name}\n" for name in HEAD))
    random = torch.Generator().manual_seed(0)
    shapes = {"norm.weight": (3,), "norm.bias": (3,), "head.weight": (3, 3), "head.bias": (3,)}
    torch.save({name: torch.rand(shape, generator=random) for name, shape in shapes.items()}, "published.pt")
    for path in (MODEL, FILE):
        path.unlink(missing_ok=True)
    return project


def test_the_checkpoint_names_the_heads_classes_and_no_clip_is_looked_at(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "read_clips", lambda dataset, split: pytest.fail(f"{split} was read"))
    done = train.run(OPTIONS)
    assert (done["n_train"], done["n_val"], done["val_accuracy"]) == (0, 0, None)
    loaded = checkpoints.load_model(MODEL, "mean", HEAD, 4)
    assert torch.equal(loaded.model.state_dict()["head.bias"], torch.load("published.pt")["head.bias"])
    counts = statistics.run(LOOK)
    assert (counts["n_clips"], counts["n_layers"]) == (0, 1)
    found = checkpoints.load_statistics(FILE, loaded.sha256, HEAD)
    expected = moments.from_buffers(loaded.model, ["norm"])["norm"]
    assert all(torch.equal(a, b) for a, b in zip(found.moments["norm"], expected, strict=True))


def test_a_head_of_other_classes_is_not_trained(here: Path) -> None:
    with pytest.raises(AdaptError, match="classes heads.txt names the outputs of a head that is there already"):
        train.run(dataclasses.replace(OPTIONS, epochs=1))


def test_statistics_from_buffers_have_no_weights_of_eata(here: Path) -> None:
    with pytest.raises(AdaptError, match="source_free looks at no clip, and EATA's weights are taken from clips"):
        statistics.run(dataclasses.replace(LOOK, fisher=True))

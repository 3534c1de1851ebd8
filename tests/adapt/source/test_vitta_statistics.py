"""ViTTA's own statistics files: read in the order of layers, and without running code of theirs."""

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from adapt import backbones
from adapt.errors import AdaptError, CheckpointError
from adapt.source import vitta_statistics
from adapt.stream import options, streaming
from tests import tiny_project
from tests.published_tanet import PublishedTANet

K, T = 5, 3


def write(path: Path, arrays: list[np.ndarray]) -> Path:
    """np.save of a list of arrays, as their compute_statistics does it; of different lengths it is one of objects."""
    kept: Any = np.empty(len(arrays), object)
    kept[:] = arrays
    np.save(path, kept, allow_pickle=True)
    return path


def published(model: nn.Module, folder: Path) -> tuple[list[Path], dict[str, tuple[torch.Tensor, torch.Tensor]]]:
    """The two files of a network of theirs, and what they say by layer: its 2D batch norms as torch names them."""
    random = torch.Generator().manual_seed(0)
    norms = {name: m.num_features for name, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    said = {
        name: (torch.randn(n, generator=random), torch.rand(n, generator=random)) for name, n in norms.items()
    }  # fmt: skip
    files = [
        write(folder / f"list_spatiotemp_{part}_20220908_235138.npy", [pair[i].numpy() for pair in said.values()])
        for i, part in enumerate(("mean", "var"))
    ]
    return files, said


def test_the_files_of_the_published_network_are_ours_layer_by_layer(tmp_path: Path) -> None:
    files, said = published(PublishedTANet(18, K, T), tmp_path)
    found = vitta_statistics.read(files, backbones.build("tanet", K, T, variant="resnet18"))
    assert found.fisher == {} and found.moments.keys() == said.keys()
    for name, (mean, variance) in said.items():
        assert torch.equal(found.moments[name][0], mean) and torch.equal(found.moments[name][1], variance)


def test_of_a_transformer_they_hold_all_layer_norms_but_the_first() -> None:
    model = backbones.build("swin3d", K, 4, variant="tiny")
    norms = [name for name, module in model.named_modules() if isinstance(module, nn.LayerNorm)]
    assert "patch_embed" in norms[0]
    assert vitta_statistics.layers(model) == norms[1:]


def test_layers_of_one_length_make_a_plain_array(tmp_path: Path) -> None:
    model = nn.Sequential(nn.BatchNorm2d(2), nn.BatchNorm1d(7), nn.BatchNorm3d(2))
    for name in ("mean", "var"):
        np.save(tmp_path / f"{name}.npy", np.arange(4.0).reshape(2, 2))
    found = vitta_statistics.read([tmp_path / "mean.npy", tmp_path / "var.npy"], model)
    assert {name: mean.tolist() for name, (mean, _) in found.moments.items()} == {"0": [0, 1], "2": [2, 3]}


@pytest.mark.parametrize(("arrays", "said"), [
    ([[1.0, 2.0]], "is of 1 layers, Sequential has 2"),
    ([[1.0, 2.0], [1.0, 2.0, 3.0]], r"layer 1 is \(3,\) there, \(2,\) in the model"),
    ([[1.0, 2.0], [1.0, np.nan]], "layer 1 is not finite"),
])  # fmt: skip
def test_files_of_another_network_are_one_line(arrays: list[list[float]], said: str, tmp_path: Path) -> None:
    model = nn.Sequential(nn.BatchNorm2d(2), nn.BatchNorm2d(2))
    path = write(tmp_path / "mean.npy", [np.array(values, np.float32) for values in arrays])
    with pytest.raises(CheckpointError, match=said) as error:
        vitta_statistics.read([path, path], model)
    assert "\n" not in str(error.value)


class Harmful:
    """Pickled as a call that makes a folder."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def test_a_file_that_would_run_code_runs_none(tmp_path: Path) -> None:
    path, model = tmp_path / "mean.npy", nn.Sequential(nn.BatchNorm2d(2))
    np.save(path, np.array([Harmful(tmp_path / "mark")], object), allow_pickle=True)
    with pytest.raises(CheckpointError, match="is no list of ViTTA's statistics .*it asks for posix.mkdir"):
        vitta_statistics.read([path, path], model)
    assert not (tmp_path / "mark").exists()
    np.load(path, allow_pickle=True)
    assert (tmp_path / "mark").exists()  # it would have


@pytest.mark.parametrize("content", [b"", b"no array", pickle.dumps([1, 2])])
def test_what_is_no_array_is_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "mean.npy").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"mean.npy is no list of ViTTA's statistics .*give list_spatiotemp_mean"):
        vitta_statistics.read([tmp_path / "mean.npy"] * 2, nn.Sequential(nn.BatchNorm2d(2)))


# in the stage


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_project.copy(tmp_path_factory)


def test_the_stage_adapts_with_them_and_its_fingerprint_knows(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    plain = tiny_project.options("vitta+none")
    given = streaming.read(plain)
    assert given.statistics is not None
    names = vitta_statistics.layers(given.source.model)
    lengths = [len(given.source.model.get_parameter(f"{name}.weight")) for name in names]
    files = []
    for i, part in enumerate(("mean", "var")):
        filler = [np.zeros(length, np.float32) for length in lengths]  # layers that are not aligned
        arrays = [
            given.statistics.moments[name][i].numpy() if name in given.statistics.moments else array
            for name, array in zip(names, filler, strict=True)
        ]
        files.append(str(write(Path(f"list_spatiotemp_{part}.npy"), arrays)))
    theirs = tiny_project.options("vitta+none", statistics_files=tuple(files), name="theirs")
    assert streaming.run(theirs)["top1"] == streaming.run(plain)["top1"]
    known = [streaming.identify(one, given.source) for one in (plain, theirs)]
    assert known[0]["statistics_sha256"] != known[1]["statistics_sha256"]
    losses = [Path(f"cache/tiny/adapt/{name}/traces.parquet") for name in ("vitta+none", "theirs")]
    tables = [pq.read_table(path).column("loss").to_pylist() for path in losses]
    assert tables[0] == tables[1]


def test_statistics_files_are_two_and_not_beside_source_free() -> None:
    with pytest.raises(AdaptError, match=r"statistics_files is \('a.npy',\): give two: means, variances"):
        options.check(tiny_project.options("vitta", statistics_files=("a.npy",)))
    with pytest.raises(AdaptError, match="source_free is True: give no, or no statistics_files"):
        options.check(tiny_project.options("vitta", statistics_files=("a", "b"), source_free=True))

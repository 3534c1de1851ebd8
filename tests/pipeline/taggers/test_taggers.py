"""What every tagger promises: names, variants, precisions, devices, provenance."""

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from adapt.errors import TaggerError
from pipeline import taggers
from pipeline.taggers import _mel, _torch
from tests.pipeline.taggers.tagging import in_project_on_one_thread
from tests.places import ROOT


@pytest.fixture(scope="module", autouse=True)
def in_project() -> Iterator[None]:
    with in_project_on_one_thread():
        yield


def test_the_folder_is_the_registry() -> None:
    there = {path.stem for path in (ROOT / "pipeline/taggers").glob("[!_]*.py")}
    assert set(taggers.names()) == there >= {"ast", "efficientat", "panns", "yamnet"}


def test_an_unknown_tagger_is_told_the_choice() -> None:
    with pytest.raises(
        TaggerError, match=r"unknown tagger 'pans': choose one of \['ast', 'efficientat', 'panns', 'yamnet'\]"
    ):
        taggers.build("pans")


@pytest.mark.parametrize("name", taggers.names())
def test_an_unknown_variant_or_precision_is_told_the_choice_in_one_line(name: str) -> None:
    with pytest.raises(TaggerError, match=rf"^{name} has no variant 'huge': set tag.args.variant to one of \['[^\n]*$"):
        taggers.build(name, variant="huge")
    with pytest.raises(TaggerError, match=rf"^{name} has no variant 'huge'"):
        taggers.sample_rate(name, "huge")
    with pytest.raises(
        TaggerError, match=rf"^{name} has no precision 'int4': set tag.args.precision to one of \['fp32'[^\n]*$"
    ):
        taggers.build(name, precision="int4")


@pytest.mark.parametrize("name", sorted(set(taggers.names()) - {"panns"}))
def test_a_tagger_without_a_package_of_its_own_says_so_in_one_line(name: str) -> None:
    with pytest.raises(
        TaggerError,
        match=rf"^{name} has no implementation 'package': set tag.args.implementation to one of \['ours'\]$",
    ):
        taggers.build(name, implementation="package")


def test_every_tagger_states_the_sample_rate_of_its_published_models() -> None:
    found = {name: taggers.sample_rate(name) for name in taggers.names()}
    assert found == {"ast": 16000, "efficientat": 32000, "panns": 32000, "yamnet": 16000}
    siblings = ("Cnn14", "Cnn6", "Cnn10", "Cnn14_16k", "MobileNetV1", "MobileNetV2")
    assert [taggers.sample_rate("panns", variant) for variant in siblings] == [32000, 32000, 32000, 16000, 32000, 32000]


@pytest.mark.parametrize("name", ["ast", "efficientat", "panns"])
@pytest.mark.parametrize(
    ("device", "precision", "message"),
    [
        ("cuda:64", "fp32", r"device 'cuda:64' is not there \(CUDA devices: \d+\): set tag.args.device to cpu"),
        ("gpu", "fp32", "unknown device 'gpu': set tag.args.device to cpu, cuda or cuda:1"),
        ("meta", "fp32", "device 'meta' is not one that taggers run on"),
        ("cpu", "fp16", "precision fp16 needs a CUDA device, but tag.args.device is cpu"),
    ],
)
def test_a_device_that_is_not_there_or_cannot_is_an_error(
    name: str, device: str, precision: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "any.pth").touch()
    with pytest.raises(TaggerError, match=message):
        taggers.build(name, str(tmp_path / "any.pth"), device, precision=precision)


def test_a_file_that_is_no_label_list_is_refused(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("index,mid,display_name\n1,/m/1,Late\n")
    with pytest.raises(TaggerError, match="not a list of index, mid, display_name with the index counting from 0"):
        taggers.read_labels(tmp_path / "labels.csv")


def test_the_label_list_of_audioset_has_its_527_classes() -> None:
    with (ROOT / "data/labels/audioset.csv").open(newline="") as file:
        assert len({row["mid"] for row in csv.DictReader(file)}) == 527
    assert len(set(taggers.read_labels(Path("data/labels/audioset.csv")))) == 527


def test_a_checkpoint_that_would_run_code_is_not_loaded(tmp_path: Path) -> None:
    torch.save({"model": Path("/")}, tmp_path / "code.pth")
    with pytest.raises(TaggerError, match="code.pth is not a checkpoint of Cnn14 .*Weights only load failed"):
        _torch.read_checkpoint(tmp_path / "code.pth", "Cnn14", "somewhere")


@pytest.mark.parametrize("written_by", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_numpy_arrays_beside_the_weights_are_read_under_numpys_old_name_and_its_new(
    written_by: str, tmp_path: Path
) -> None:
    """The published Cnn14_16k holds the state of its sampler, written by numpy 1."""
    path = tmp_path / "old.pth"
    torch.save({"model": {}, "sampler": np.arange(3)}, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes().replace(b"numpy._core.multiarray", written_by.encode()))
    checkpoint = _torch.read_checkpoint(path, "Cnn14_16k", "somewhere")
    assert np.array_equal(checkpoint["sampler"], [0, 1, 2])  # type: ignore[arg-type]


def test_the_mel_bank_is_kaldis() -> None:
    """Independent: torchaudio's port of Kaldi, which leaves the highest bin out."""
    kaldi = pytest.importorskip("torchaudio.compliance.kaldi")
    expected, _ = kaldi.get_mel_banks(128, 1024, 32000.0, 0.0, 15000.0, 100.0, -500.0, 1.0)
    found = _mel.triangles(128, 1024, 32000, 0.0, 15000.0)
    np.testing.assert_allclose(found[:-1].T, expected, atol=2e-4)
    assert not found[-1].any()

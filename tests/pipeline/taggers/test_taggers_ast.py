"""The tagger `ast`: transformers' network on our log-mel, proven with a tiny one of random weights."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
import transformers
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file, save_file

from adapt.errors import TaggerError
from pipeline import taggers
from pipeline.taggers import ast, read_labels
from tests.pipeline.taggers.golden import Floats, sound
from tests.pipeline.taggers.tagging import (
    differences_by_batch_and_padding,
    golden,
    hear,
    in_project_on_one_thread,
    noise,
)

RATE = ast.SAMPLE_RATE
Extractor: Any = transformers.ASTFeatureExtractor


@pytest.fixture(scope="module", autouse=True)
def in_project() -> Iterator[None]:
    with in_project_on_one_thread():
        yield


def save(folder: Path, names: list[str]) -> Any:
    """A tiny AST with random weights whose answers stand in the order of `names`, as transformers saves it."""
    torch.manual_seed(0)
    settings = transformers.ASTConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48,
        id2label=dict(enumerate(names)), label2id={name: i for i, name in enumerate(names)},
    )  # fmt: skip
    network: Any = transformers.ASTForAudioClassification(settings)
    network.eval()
    for parameter in network.parameters():  # fresh ones answer all sounds alike
        torch.nn.init.normal_(parameter, std=0.3)
    network.save_pretrained(folder)
    Extractor().save_pretrained(folder)
    return network


@pytest.fixture(scope="module")
def order() -> list[int]:
    """Where AudioSet's classes stand in the checkpoint's answer."""
    return [int(i) for i in np.random.default_rng(0).permutation(527)]


@pytest.fixture(scope="module")
def network(order: list[int], folder: Path) -> Any:
    names = read_labels(ast.LABELS)
    return save(folder, [names[i] for i in np.argsort(order)])


@pytest.fixture(scope="module")
def folder(in_project: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ast")


@pytest.fixture(scope="module")
def tiny(network: Any, folder: Path) -> ast.Ast:
    return ast.Ast(folder, torch.device("cpu"), "fp32")


def extracted(waveform: Floats) -> torch.Tensor:
    """What transformers' own extractor, which calls torchaudio's Kaldi, makes of a sound of 25 ms or more."""
    features: torch.Tensor = Extractor()(waveform, sampling_rate=RATE, return_tensors="pt")["input_values"]
    return features


def test_the_log_mel_is_the_golden_one_of_transformers_and_torchaudio(tiny: ast.Ast) -> None:
    found = tiny.log_mel(torch.from_numpy(sound(RATE)[None]), torch.tensor([sound(RATE).size]))
    assert found.shape == (1, 1024, 128)
    np.testing.assert_allclose(found[0, :200], golden("ast"), atol=1e-4)


@pytest.mark.parametrize("n_samples", [400, 401, 559, 560, RATE, RATE * 10, 164_239])
def test_features_are_the_extractors_at_every_length(n_samples: int, tiny: ast.Ast) -> None:
    """Padding that came with the sound does not change them: the extractor fills after the logarithm."""
    waveform = noise(n_samples)
    found = tiny.log_mel(torch.from_numpy(np.pad(waveform, (0, 5000))[None]), torch.tensor([n_samples]))
    np.testing.assert_allclose(found, extracted(waveform), atol=1e-3)


def test_ast_answers_as_transformers_in_audiosets_order(tiny: ast.Ast, network: Any, order: list[int]) -> None:
    with torch.inference_mode():
        expected = network(extracted(noise(RATE))).logits[0].numpy()[order]
    assert expected.std() > 0.1
    np.testing.assert_allclose(hear(tiny, noise(RATE)), expected, atol=1e-4)
    assert tiny.labels[0] == "Speech"


def test_asts_logits_do_not_depend_on_the_batch_or_on_padding(tiny: ast.Ast) -> None:
    assert differences_by_batch_and_padding(tiny).max() <= 1e-4


def test_half_precision_answers_close_to_single(tiny: ast.Ast, folder: Path) -> None:
    half = taggers.build("ast", str(folder), precision="bf16")
    single, found = hear(tiny, noise(RATE)), hear(half, noise(RATE))
    assert found.dtype == np.float32
    assert 0 < np.abs(found - single).mean() <= 0.05 * single.std()


def test_a_sound_shorter_than_a_frame_is_heard_as_one_frame(tiny: ast.Ast) -> None:
    np.testing.assert_allclose(hear(tiny, noise(100)), hear(tiny, np.pad(noise(100), (0, 300))), atol=1e-4)


def test_a_sound_longer_than_it_hears_at_once_is_an_error_not_cut(tiny: ast.Ast) -> None:
    with pytest.raises(TaggerError, match=r"this ast hears 10.26 s at once: set tag.args.window_s to that or less"):
        hear(tiny, noise(164_240))


def test_ast_states_what_decides_its_logits(tiny: ast.Ast, network: Any, tmp_path: Path) -> None:
    stated = tiny.provenance()
    assert (stated["tagger"], stated["variant"], stated["precision"]) == ("ast", "ast", "fp32")
    other = copied(network, tmp_path)
    settings = json.loads((other / "preprocessor_config.json").read_text())
    (other / "preprocessor_config.json").write_text(json.dumps(settings | {"mean": -4.0}))
    assert taggers.build("ast", str(other)).provenance()["checkpoint_sha256"] != stated["checkpoint_sha256"]


def copied(network: Any, to: Path) -> Path:
    network.save_pretrained(to)
    Extractor().save_pretrained(to)
    return to


def test_classes_that_are_not_audiosets_are_refused(tmp_path: Path) -> None:
    save(tmp_path, ["Speech", "Quietude"])
    with pytest.raises(
        TaggerError,
        match=r"2 classes that are not the 527 of data/labels/audioset.csv; only on one side: \['A capella', ",
    ):
        taggers.build("ast", str(tmp_path))


def test_gaps_are_not_filled_with_chance(network: Any, tmp_path: Path) -> None:
    copied(network, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["classifier.dense.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        TaggerError, match=r"is no whole checkpoint of ast: \{'missing_keys': \['classifier.dense.weight'\]\}"
    ):
        taggers.build("ast", str(tmp_path))


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "preprocessor_config.json"])
def test_a_folder_without_one_of_its_files_is_refused(name: str, network: Any, tmp_path: Path) -> None:
    copied(network, tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(TaggerError, match=f"is no checkpoint of ast: {name} missing"):
        taggers.build("ast", str(tmp_path))


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "preprocessor_config.json"])
def test_a_broken_file_is_refused(name: str, network: Any, tmp_path: Path) -> None:
    copied(network, tmp_path)
    (tmp_path / name).write_bytes(b"broken")
    with pytest.raises(TaggerError, match=r"^[^\n]* is no checkpoint of ast \([^\n]*\)$"):
        taggers.build("ast", str(tmp_path))


@pytest.mark.parametrize("settings", [{"sampling_rate": 8000}, {"do_normalize": False}])
def test_another_front_end_is_refused(settings: dict[str, object], network: Any, tmp_path: Path) -> None:
    copied(network, tmp_path)
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    with pytest.raises(TaggerError, match="but ast knows only 16000 and True"):
        taggers.build("ast", str(tmp_path))


@pytest.mark.parametrize("checkpoint", ["", "no-such-folder", "../no/such", "/no/such"])
def test_what_is_neither_a_folder_nor_a_name_of_the_hub_is_refused(checkpoint: str) -> None:
    with pytest.raises(
        TaggerError,
        match=f"ast has no checkpoint at '{checkpoint}': set tag.args.checkpoint to a folder of transformers or a name",
    ):
        taggers.build("ast", checkpoint)


def test_a_hub_that_does_not_answer_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(name: str, allow_patterns: list[str]) -> str:
        raise LocalEntryNotFoundError("no connection\nand no copy here")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(
        TaggerError,
        match=r"^ast found no folder 'MIT/ast-x', and the Hugging Face hub did not answer with one \([^\n]*\)$",
    ):
        taggers.build("ast", "MIT/ast-x")


def test_a_name_of_the_hub_is_loaded_from_its_local_copy(
    tiny: ast.Ast, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, allow_patterns: str(folder))
    assert taggers.build("ast", "MIT/ast-x").provenance() == tiny.provenance()

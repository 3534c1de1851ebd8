"""A preset is its authors' numbers: for the stage, the choice of settings by run, the statistics stage and Python."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import tyro

import adapt
from adapt import methods, presets
from adapt.core.settings import names
from adapt.errors import AdaptError, MethodError, OptionsError
from adapt.source import checkpoints, statistics
from adapt.stream import chosen, options, streaming
from adapt.stream.options import Options, options_for, run_name
from adapt.video.clips import VideoOptions
from adapt.video.views import indices_of_views
from adapt.wrapper import Wrapped
from tests import tiny
from tests.greys import VIDEO

WORDS = ["--dataset", "tiny", "--backbone", "tanet", "--corruptions", "gauss"]
SMALL = ["--frames", str(VIDEO.frames), "--resize", str(VIDEO.resize), "--size", str(VIDEO.size)]


def told(*words: str) -> Options:
    """What a command line says."""
    line = [*WORDS, *words]
    return tyro.cli(options_for(line), args=line, config=(tyro.conf.OmitArgPrefixes,))


@pytest.mark.parametrize("name", presets.PRESETS)
def test_a_preset_names_settings_and_options_that_there_are(name: str) -> None:
    preset = presets.get(name)
    methods.choose(preset.method, "none", preset.settings)  # raises
    assert preset.video.keys() <= {field.name for field in dataclasses.fields(VideoOptions)}
    assert preset.statistics.keys() <= {field.name for field in dataclasses.fields(statistics.Options)}
    made = told("--preset", name)
    options.check(made)
    assert preset.settings.items() <= options.given_settings(made).items()
    assert preset.video.items() <= dataclasses.asdict(made.video).items()


def test_vitta_published_has_the_numbers_of_the_authors_options() -> None:
    """Of utils/opts.py, and TSN's dropout; reading: clip_length, scale_size, input_size, uniform_equidist."""
    made = told("--preset", "vitta_published")
    given = options.given_settings(made)
    expected = {
        "lr": 0.00005, "momentum": 0.9, "weight_decay": 5e-4, "ema": 0.1, "consistency": 0.1, "dropout_rate": 0.8,
        "dropout": True, "scope": "all", "ema_start": "zero", "consistency_over": "sum",
    }  # fmt: skip
    assert expected.items() <= given.items()
    assert made.video == VideoOptions(16, 2, 256, 224, "multi_scale_whole", sampling="vitta")
    assert made.batch_size == 1


def test_the_pictures_baselines_have_the_numbers_of_their_authors_scripts() -> None:
    for name in ("tent_published", "eata_published", "sar_published"):
        made = told("--preset", name)
        given = options.given_settings(made)
        assert (given["lr"], given["momentum"], given["bn_prior"], made.batch_size) == (0.00025, 0.9, 1.0, 64)
        # one view, and that the one that is predicted from
        wanted = indices_of_views(100, made.video.frames, made.video.views, made.video.sampling)
        assert len(wanted) == 2 and (wanted[0] == wanted[1]).all()
    of_eata = presets.get("eata_published")
    assert (of_eata.settings["eata_similarity"], of_eata.settings["eata_fisher"]) == (0.05, 2000)
    assert of_eata.statistics == {"fisher": True, "fisher_batch": 64, "bn_prior": 1.0, "max_clips": 2000}
    sar_reset = presets.get("sar_published").settings["sar_reset"]
    assert sar_reset * math.log(1000) == pytest.approx(0.2, rel=0.01)


def test_a_flag_beside_a_preset_overrides_it() -> None:
    made = told("--preset", "vitta_published", "--lr", "0.5", "--no-dropout", "--views", "3", "--batch_size", "2")
    given = options.given_settings(made)
    assert (given["lr"], given["dropout"], given["dropout_rate"]) == (0.5, False, 0.8)
    assert (made.video.views, made.video.sampling, made.batch_size) == (3, "vitta", 2)


def test_a_settings_file_beside_a_preset_overrides_it(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"lr": 0.5, "ema": 0.2}))
    made = told("--preset", "vitta_published", "--settings_file", str(tmp_path / "a.json"), "--ema", "0.3")
    given = options.given_settings(made)
    assert (given["lr"], given["ema"], given["scope"]) == (0.5, 0.3, "all")


@pytest.mark.parametrize("words", [
    ("--preset", "vitta_published"), ("--method", "vitta_published"), ("--method", "vitta", "--preset=vitta_published"),
    ("--method", "vitta_published+trusted"),
])  # fmt: skip
def test_a_preset_is_named_by_its_flag_or_in_place_of_a_method(words: tuple[str, ...]) -> None:
    made = told(*words)
    assert options.method_and_fusion(made) == ("vitta", "trusted")
    assert run_name(made) == "vitta_published"
    assert options.given_settings(made)["dropout_rate"] == 0.8 and made.video.sampling == "vitta"


def test_a_presets_run_with_another_fusion_is_named_by_both() -> None:
    assert run_name(told("--preset", "vitta_published", "--fusion", "none")) == "vitta_published+none"
    assert run_name(told("--method", "vitta_published+plain")) == "vitta_published+plain"
    assert run_name(told("--method", "vitta")) == "vitta"


@pytest.mark.parametrize(("words", "said"), [
    (("--preset", "vita_published"), r"unknown preset 'vita_published': choose one of \['eata_published'"),
    (("--preset", "vitta_published", "--method", "tent"), "vitta_published is of vitta, and --method names tent"),
])  # fmt: skip
def test_a_preset_that_cannot_be_is_one_line(words: tuple[str, ...], said: str) -> None:
    with pytest.raises(MethodError, match=said) as error:
        told(*words)
    assert "\n" not in str(error.value)


def test_options_that_name_a_preset_without_its_defaults_are_refused() -> None:
    with pytest.raises(MethodError, match=r"in Python make the options by options_for\(\['--preset', 'tent_published'"):
        options.check(Options("tiny", "tanet", "tent", ("gauss",), preset="tent_published"))
    kind = options_for(["--preset", "tent_published"])
    options.check(kind("tiny", "tanet", corruptions=("gauss",)))  # type: ignore[call-arg]


# the stage


def test_the_fingerprint_holds_what_a_preset_comes_to_and_not_its_name(here: Path) -> None:
    preset = presets.get("tent_published")
    source = checkpoints.Source(tiny.trained(), "0")
    by_name = told("--preset", "tent_published", "--name", "a", *SMALL)
    typed = dataclasses.replace(
        told("--method", "tent", "--name", "a", *SMALL), settings=dict(preset.settings), batch_size=64,
        video=dataclasses.replace(by_name.video, views=1),
    )  # fmt: skip
    known = streaming.identify(by_name, source)
    assert known == streaming.identify(typed, source)
    said = json.loads(known["options"])
    assert said["settings"]["bn_prior"] == 1.0 and said["video"]["views"] == 1 and "preset" not in said
    other = told("--preset", "tent_published", "--name", "a", *SMALL, "--bn_prior", "0.5")
    assert streaming.identify(other, source)["options"] != known["options"]


@pytest.mark.parametrize("name", ["vitta_published", "tent_published", "sar_published", "norm_published"])
def test_the_stage_runs_a_preset_whole(name: str, here: Path) -> None:
    done = streaming.run(told("--preset", name, *SMALL, "--jobs", "1", "--fusion", "none"))
    assert (done["n_predictions"], done["n_failed"]) == (9, 1)
    assert Path(f"cache/tiny/adapt/{name}+none/predictions.parquet").is_file()


def test_eatas_regulariser_comes_from_forwards_with_the_runs_bn_prior(here: Path) -> None:
    """Statistics of other forwards are refused; those that its preset takes of the statistics stage serve."""
    line = ["--dataset", "tiny", "--backbone", "tanet", *SMALL]

    def take(*words: str) -> dict[str, object]:
        whole = [*line, *words]
        return statistics.run(tyro.cli(statistics.options_for(whole), args=whole, config=(tyro.conf.OmitArgPrefixes,)))

    run = told("--preset", "eata_published", *SMALL, "--jobs", "1", "--fusion", "none")
    take("--fisher")
    with pytest.raises(AdaptError, match="taken with bn_prior 0.3, the run has 1: run .* --fisher --bn_prior 1$"):
        streaming.run(run)
    assert take("--preset", "eata_published")["n_fisher"] != 0
    assert streaming.run(run)["n_predictions"] == 9
    with pytest.raises(MethodError, match="options_for"):
        statistics.run(statistics.Options("tiny", "tanet", video=VIDEO, preset="eata_published"))
    with pytest.raises(OptionsError, match="^fisher_batch is 0: give 1 to 65536$"):
        take("--fisher_batch", "0")


# settings by run


def test_what_is_given_for_all_runs_leaves_a_presets_own_settings_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    line = ["--dataset", "tiny", "--methods", "vitta", "vitta_published", "vitta_published+none", "--lr", "0.1"]
    line += ["--trust", "0.7"]
    chosen.run(tyro.cli(chosen.options_for(line), args=line, config=(tyro.conf.OmitArgPrefixes,)))
    found = {path.stem: json.loads(path.read_text()) for path in Path("cache/tiny/settings").glob("*.json")}
    assert found == {
        "vitta": {"lr": 0.1, "trust": 0.7}, "vitta_published": {"trust": 0.7}, "vitta_published+none": {},
    }  # fmt: skip
    made = told("--method", "vitta_published", "--settings_file", "cache/tiny/settings/vitta_published.json")
    assert (options.given_settings(made)["lr"], options.given_settings(made)["trust"]) == (5e-5, 0.7)


# python


def wrapped(**given: Any) -> Wrapped:
    return adapt.wrap(tiny.trained(), classes=list("abcd"), fusion="none", **given)


def test_wrap_takes_a_preset_and_keywords_beside_it_win() -> None:
    made = wrapped(preset="vitta_published", view_frames=4, lr=0.5)
    settings = made.method.method.settings  # type: ignore[attr-defined]
    assert dict(presets.get("vitta_published").settings) | {"lr": 0.5} == {
        name: getattr(settings, name) for name in presets.get("vitta_published").settings
    }
    frames = torch.arange(40).view(1, 1, -1, 1, 1).expand(1, 3, 40, 8, 8) / 40
    seen: list[list[int]] = []
    made.model.register_forward_pre_hook(
        lambda _, given: seen.extend((40 * given[0][:, 0, :, 0, 0]).round().int().tolist())
    )
    made(frames)
    assert seen[-3:] == indices_of_views(40, 4, 2, "vitta").tolist()
    assert set(names(type(settings))) >= set(presets.get("vitta_published").settings)


def test_wrap_takes_a_presets_views_unless_it_is_told_others() -> None:
    assert wrapped(preset="tent_published")._n_views == 1
    assert wrapped(preset="tent_published", views=3)._n_views == 3
    assert wrapped(method="tent")._n_views == 2
    with pytest.raises(MethodError, match="preset tent_published is of tent, and method names vitta"):
        wrapped(preset="tent_published", method="vitta")
    with pytest.raises(MethodError, match="unknown preset 'tent'"):
        wrapped(preset="tent")

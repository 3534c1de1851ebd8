"""Settings by name: which a method and a fusion read, what else is answered, and how a command line, a file and a run's
own file give them.
"""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import tyro

from adapt import fusion, methods
from adapt.core import settings
from adapt.errors import AdaptError, EarshotError, MethodError
from adapt.stream import chosen, options, streaming
from adapt.stream.options import Options, options_for

WORDS = ["--dataset", "a", "--backbone", "b", "--corruptions", "gauss"]


def told(*words: str) -> Options:
    """What a command line says."""
    line = [*WORDS, *words]
    return tyro.cli(options_for(line), args=line, config=(tyro.conf.OmitArgPrefixes,))


def flags(*words: str) -> set[str]:
    """The settings that a command line may give."""
    return {field.name for field in dataclasses.fields(told(*words).settings)}


# by name


def test_the_settings_of_a_method_and_a_fusion_are_those_that_either_has() -> None:
    assert methods.settings_of("source", "none") == {}
    assert set(methods.settings_of("source", "plain")) == {"fusion_floor"}
    assert set(methods.settings_of("t3a", "balanced")) == {"t3a_supports", "fusion_floor", "prior_balance"}
    assert set(methods.settings_of("norm", "none")) == {"bn_prior", "bn_samples", "bn_variance"}
    assert {"lr", "trust"} <= set(methods.settings_of("vitta", "trusted"))
    assert "trust" not in methods.settings_of("vitta", "plain")


@pytest.mark.parametrize(
    "name", ["dropout", "weight_decay", "ema_start", "trust_class", "gate", "target", "commit", "recall", "balance"]
)
def test_audio_has_no_setting_that_no_measurement_supports(name: str) -> None:
    assert name not in methods.settings_of("audio", "trusted")


def test_no_given_setting_is_every_default() -> None:
    for name in methods.names():
        for fused in fusion.names():
            of_method, of_fusion = methods.choose(name, fused, {})
            assert of_method == type(of_method)()
            assert of_fusion == (None if fused == "none" else type(of_fusion)())


def test_a_setting_that_method_and_fusion_both_read_is_the_same_for_both() -> None:
    of_method, of_fusion = methods.choose("audio", "trusted", {"trust": 0.5, "lr": 0.1})
    assert (of_method.trust, of_fusion.trust, of_method.lr) == (0.5, 0.5, 0.1)
    of_method, of_fusion = methods.choose("audio", "plain", {"fusion_floor": 0.2})
    assert (of_method.fusion_floor, of_fusion.fusion_floor) == (0.2, 0.2)


@pytest.mark.parametrize(("method", "fused", "given", "said"), [
    ("audio", "trusted", {"recall": 0.5}, "audio [+] trusted: setting 'recall' is called 'source_mix' now"),
    ("vitta", "trusted", {"balance": 0.5}, "vitta [+] trusted: setting 'balance' is called 'logit_adjustment' now"),
    ("tent", "none", {"entropy_lr": 0.5}, "tent [+] none: setting 'entropy_lr' is called 'lr' now"),
    ("audio", "trusted", {"gate": "mass"}, "setting 'gate' is gone: no measurement supported it"),
    ("audio", "trusted", {"commit": 0.5}, "setting 'commit' is gone: no measurement supported it"),
    ("vitta", "plain", {"sourcemix": 1}, "vitta [+] plain: unknown setting 'sourcemix'"),
    ("vitta", "plain", {"trust": 0.5}, "vitta [+] plain: unknown setting 'trust'"),
    ("audio", "none", {"audiolr": 1}, "unknown setting 'audiolr', did you mean 'audio_lr'?"),
    ("source", "none", {"lr": 1}, "source [+] none: unknown setting 'lr': choose among"),
    ("vitta", "none", {"lr": -1.0}, "^lr is -1.0: give 0 or more$"),
    ("vitta", "none", {"momentum": 1.0}, "^momentum is 1.0: give 0 to below 1$"),
    ("vitta", "none", {"ema": math.nan}, "^ema is nan: give 0 to 1$"),
    ("vitta", "none", {"lr": math.inf}, "^lr is inf: give 0 or more$"),
    ("vitta", "none", {"lr": "fast"}, "^lr is 'fast': give 0 or more$"),
    ("vitta", "none", {"lr": True}, "^lr is True: give 0 or more$"),
    ("vitta", "none", {"dropout": 1}, "^dropout is 1: give yes, no$"),
    ("vitta", "none", {"scope": "head"}, r"^scope is 'head': give one of \['norm', 'last_norm', 'last', 'all'\]$"),
    ("audio", "none", {"max_iterations": 0}, "^max_iterations is 0: give 1 or more$"),
    ("audio", "none", {"max_iterations": 2.5}, "^max_iterations is 2.5: give 1 or more$"),
    ("source", "plain", {"fusion_floor": 0.0}, "^fusion_floor is 0.0: give above 0$"),
    ("late_fusion", "none", {}, "^method 'late_fusion' is 'source[+]plain' now: a fusion goes with any method$"),
    ("late_fusion_prior", "none", {}, "^method 'late_fusion_prior' is 'source[+]balanced' now"),
    ("vitta_fusion", "none", {}, "^method 'vitta_fusion' is 'vitta[+]plain' now"),
    ("audoi", "none", {}, "^unknown method 'audoi': choose one of "),
    ("audio", "late", {}, "^unknown fusion 'late': choose one of "),
])  # fmt: skip
def test_a_setting_that_cannot_be_is_one_line_that_says_what_there_is(
    method: str, fused: str, given: dict[str, Any], said: str
) -> None:
    with pytest.raises(MethodError, match=said) as error:
        methods.choose(method, fused, given)
    assert "\n" not in str(error.value)


def test_every_setting_has_a_range_a_source_and_a_line_that_explains_it() -> None:
    for name in methods.names():
        for fused in fusion.names():
            known, docs = methods.settings_of(name, fused), methods.docs_of(name, fused)
            assert docs.keys() == known.keys()
            assert all(field.metadata["source"] and settings.values(field) for field in known.values())


def test_what_is_gone_or_renamed_is_read_by_nothing_and_new_names_are() -> None:
    known = {
        setting for name in methods.names() for fused in fusion.names() for setting in methods.settings_of(name, fused)
    }
    assert not known & ({*settings.GONE} | {*settings.RENAMED})
    assert set(settings.RENAMED.values()) <= known


# on the command line


def test_a_command_line_takes_the_settings_of_its_method_and_fusion_alone() -> None:
    assert flags("--method", "source", "--fusion", "none") == set()
    assert flags("--method", "source", "--fusion", "plain") == flags("--method", "source+plain") == {"fusion_floor"}
    assert flags("--method", "t3a", "--fusion=none") == {"t3a_supports"}
    assert flags("--method", "vitta") == set(methods.settings_of("vitta", "trusted"))
    assert flags("--method=audio", "--fusion", "none") == set(methods.settings_of("audio"))


def test_flags_give_settings_and_what_is_left_out_is_the_default() -> None:
    made = told("--method", "vitta", "--fusion", "plain", "--lr", "0.5", "--dropout", "--fusion-floor", "0.2")
    given = options.given_settings(made)
    assert (given["lr"], given["dropout"], given["fusion_floor"]) == (0.5, True, 0.2)
    of_method, of_fusion = methods.choose("vitta", "plain", given)
    assert of_method == dataclasses.replace(type(of_method)(), lr=0.5, dropout=True)
    assert of_fusion.fusion_floor == 0.2
    assert not told("--method", "vitta", "--no-dropout").settings.dropout


@pytest.mark.parametrize(
    "words", [("--method", "source", "--lr", "0.1"), ("--method", "vitta", "--fusion", "plain", "--trust", "0.5")]
)
def test_a_flag_that_the_run_does_not_read_is_a_usage_error(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as done:
        told(*words)
    assert done.value.code == 2
    assert words[-2] in capsys.readouterr().err


@pytest.mark.parametrize(("words", "said"), [
    (("--method", "audio", "--recall", "0.5"), "setting 'recall' is called 'source_mix' now"),
    (("--method", "audio", "--balance=0.5"), "setting 'balance' is called 'logit_adjustment' now"),
    (("--method", "tent", "--entropy-lr", "0.5"), "setting 'entropy_lr' is called 'lr' now"),
    (("--method", "audio", "--stream_audio", "earned"), "setting 'stream_audio' is gone: no measurement supported it"),
    (("--method", "audio", "--negative", "1"), "setting 'negative' is gone"),
    (("--method", "late_fusion"), "method 'late_fusion' is 'source[+]plain' now"),
    (("--method", "vitta", "--fusion", "plane"), "unknown fusion 'plane'"),
])  # fmt: skip
def test_a_flag_of_before_is_answered_with_what_it_is_now(words: tuple[str, ...], said: str) -> None:
    with pytest.raises(MethodError, match=said):
        told(*words)


def test_as_a_command_a_flag_of_before_is_one_line_and_exit_1(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        streaming.main([*WORDS, "--method", "audio", "--recall", "0.5"])
    assert (ended.value.code, *capsys.readouterr()) == (1, "", "adapt: setting 'recall' is called 'source_mix' now\n")


def test_a_file_gives_defaults_and_flags_win(tmp_path: Path) -> None:
    path = tmp_path / "vitta.json"
    path.write_text(json.dumps({"lr": 0.5, "ema": 0.3}))
    made = told("--method", "vitta", "--settings_file", str(path), "--ema", "0.7")
    given = options.given_settings(made)
    assert (given["lr"], given["ema"]) == (0.5, 0.7)
    assert given["momentum"] == 0.9
    in_python = Options("a", "b", "vitta", ("gauss",), settings={"ema": 0.7}, settings_file=str(path))
    assert options.given_settings(in_python) == {"lr": 0.5, "ema": 0.7}


@pytest.mark.parametrize(("content", "said"), [
    ("{", "cannot be read"),
    ("[1]", "holds a list: give a JSON object of settings by name"),
    ('{"trust_class": 1}', "setting 'trust_class' is gone"),
    ('{"audio_lr": 1}', "vitta [+] trusted: unknown setting 'audio_lr'"),
    ('{"lr": -1}', "lr is -1: give 0 or more"),
    (None, "cannot be read"),
])  # fmt: skip
def test_a_file_that_cannot_be_is_one_line(content: str | None, said: str, tmp_path: Path) -> None:
    path = tmp_path / "vitta.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(AdaptError, match=said):
        told("--method", "vitta", "--settings_file", str(path))
    with pytest.raises(AdaptError, match=said):
        options.check(Options("a", "b", "vitta", ("gauss",), settings_file=str(path)))


# by run


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def choose(*words: str) -> dict[str, dict[str, Any]]:
    """What `python -m adapt.choose` writes: run -> its settings."""
    line = ["--dataset", "tiny", *words]
    counts = chosen.run(tyro.cli(chosen.options_for(line), args=line, config=(tyro.conf.OmitArgPrefixes,)))
    found = {path.stem: json.loads(path.read_text()) for path in Path("cache/tiny/settings").glob("*.json")}
    assert counts == {name: len(values) for name, values in found.items()}
    return found


def test_a_runs_file_holds_only_what_it_reads(here: Path) -> None:
    words = (
        "--methods",
        "source",
        "source+plain",
        "vitta+none",
        "audio",
        "--max_iterations",
        "3",
        "--fusion_floor",
        "0.02",
        "--lr",
        "0.01",
    )
    assert choose(*words) == {
        "source": {"fusion_floor": 0.02},
        "source+plain": {"fusion_floor": 0.02},
        "vitta+none": {"lr": 0.01},
        "audio": {"fusion_floor": 0.02, "lr": 0.01, "max_iterations": 3},
    }


def test_a_setting_changes_no_file_of_a_run_that_does_not_read_it(here: Path) -> None:
    """So DVC runs those alone again."""

    def files(n: int) -> dict[str, bytes]:
        choose("--methods", "source", "vitta", "audio", "--max_iterations", str(n))
        return {path.stem: path.read_bytes() for path in Path("cache/tiny/settings").iterdir()}

    before, after = files(5), files(3)
    assert {name for name, content in after.items() if before[name] != content} == {"audio"}


@pytest.mark.parametrize(("flag", "value"), [("--dropout", True), ("--no-dropout", False)])
def test_a_setting_of_yes_or_no_is_given_as_dvc_writes_it(flag: str, value: bool, here: Path) -> None:
    assert choose("--methods", "vitta", "source", flag) == {"vitta": {"dropout": value}, "source": {}}


def test_a_run_that_is_no_more_leaves_no_file(here: Path) -> None:
    choose("--methods", "source", "vitta")
    assert choose("--methods", "vitta") == {"vitta": {}}


@pytest.mark.parametrize(("words", "said"), [
    (("--methods", "source", "vitta", "--max_iterations", "3"), "^max_iterations is a setting of none of source vitta: "
                                                                "take it out of adapt.args$"),
    (("--methods", "source+none", "--fusion_floor", "0.1"), "^fusion_floor is a setting of none of source[+]none"),
    (("--methods", "vitta", "--lr", "-1"), "^lr is -1.0: give 0 or more$"),
    (("--methods", "audio", "--recall", "1"), "^setting 'recall' is called 'source_mix' now$"),
    (("--methods", "audio", "--target", "hard"), "^setting 'target' is gone: no measurement supported it$"),
    (("--methods", "late_fusion"), "^method 'late_fusion' is 'source[+]plain' now"),
    (("--methods", "vitta+plane"), "^unknown fusion 'plane'"),
])  # fmt: skip
def test_a_setting_that_no_run_reads_or_that_cannot_be_is_one_line(
    words: tuple[str, ...], said: str, here: Path
) -> None:
    with pytest.raises(EarshotError, match=said) as error:
        choose(*words)
    assert "\n" not in str(error.value)


def test_a_runs_file_is_taken_by_the_stage(here: Path) -> None:
    choose("--methods", "audio", "vitta+plain", "--max_iterations", "3", "--fusion_floor", "0.02")
    for name, given in (
        ("audio", {"max_iterations": 3, "fusion_floor": 0.02}),
        ("vitta+plain", {"fusion_floor": 0.02}),
    ):
        made = told("--method", name, "--settings_file", f"cache/tiny/settings/{name}.json")
        assert given.items() <= options.given_settings(made).items()
        options.check(made)


def test_two_fusions_named_at_once_are_one_line() -> None:
    words = ["--method", "vitta+plain", "--fusion", "balanced"]
    with pytest.raises(MethodError, match="names the fusion plain, --fusion balanced another"):
        options_for(words)
    options_for([*words[:3], "plain"])

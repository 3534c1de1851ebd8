"""data/settings: each params.yaml holds only what differs from the stages' own defaults, since DVC gives a section's
keys to the stage as flags; no setting of a method is changed.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest
import yaml

from adapt.source import statistics, train
from adapt.stream.options import Options
from adapt.video.clips import VideoOptions
from pipeline import decode, map_classes, pseudo_label, scan, tag
from tests.places import ROOT

FOLDERS = sorted(path.name for path in (ROOT / "data/settings").iterdir())
CHOICES = {"recipe", "tagger", "variant", "backbone", "mapper", "methods", "against"}  # dvc.yaml names them by itself
KINDS: dict[str, type[Any]] = {
    "scan": scan.Options, "decode": decode.Options, "tag.args": tag.Options, "map_classes": map_classes.Options,
    "pseudo_label": pseudo_label.Options,
    "video": VideoOptions, "train": train.Options, "statistics": statistics.Options, "streams": Options,
    "adapt.run": Options,
}  # fmt: skip


def section(params: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    for part in name.split("."):
        params = params[part]
    return params


def params_of(folder: str) -> Mapping[str, Any]:
    text = (ROOT / "data/settings" / folder / "params.yaml").read_text(encoding="utf-8")
    found: Mapping[str, Any] = yaml.safe_load(text)
    return found


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("name", KINDS)
def test_a_section_holds_flags_that_differ_from_the_stages_defaults(name: str, folder: str) -> None:
    defaults = {field.name: field.default for field in dataclasses.fields(KINDS[name])}
    given = {key: value for key, value in section(params_of(folder), name).items() if key not in CHOICES}
    assert set(given) - set(defaults) == set()
    same = {
        key for key, value in given.items() if (tuple(value) if isinstance(value, list) else value) == defaults[key]
    }
    assert same - {"severity", "order_seeds"} == set()  # these two the report is told as well


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_setting_of_a_method_is_changed_for_a_data_set(folder: str) -> None:
    assert params_of(folder)["adapt"]["args"] == {}


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_section_of_the_root_is_there(folder: str) -> None:
    root = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    assert list(params_of(folder)) == list(root)


def test_the_two_runs_on_wild_differ_in_who_listens_and_in_which_methods_run() -> None:
    wild, other = params_of("wild"), params_of("wild_efficientat")
    assert {name for name in wild if wild[name] != other[name]} == {"dataset", "tag", "report"}
    assert (ROOT / "data/maps/wild_efficientat.classes.csv").resolve() == ROOT / "data/maps/wild.classes.csv"

"""data/settings/photosound: its params.yaml holds only what differs from the stages' own defaults, since DVC gives a
section's keys to the stage as flags.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest
import yaml

from adapt.source import statistics, train
from adapt.stream.options import Options
from adapt.video.clips import VideoOptions
from pipeline import decode, pseudo_label, scan, tag
from tests.places import ROOT

FOLDER = ROOT / "data/settings/photosound"
CHOICES = {"recipe", "tagger", "variant", "backbone", "mapper", "methods", "against"}  # dvc.yaml names them by itself
KINDS: dict[str, type[Any]] = {
    "scan": scan.Options, "decode": decode.Options, "tag.args": tag.Options, "pseudo_label": pseudo_label.Options,
    "video": VideoOptions, "train": train.Options, "statistics": statistics.Options, "streams": Options,
    "adapt.run": Options,
}  # fmt: skip


def section(params: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    for part in name.split("."):
        params = params[part]
    return params


@pytest.mark.parametrize("name", KINDS)
def test_a_section_holds_flags_that_differ_from_the_stages_defaults(name: str) -> None:
    params = yaml.safe_load((FOLDER / "params.yaml").read_text(encoding="utf-8"))
    defaults = {field.name: field.default for field in dataclasses.fields(KINDS[name])}
    given = {key: value for key, value in section(params, name).items() if key not in CHOICES}
    assert set(given) - set(defaults) == set()
    same = {
        key for key, value in given.items() if (tuple(value) if isinstance(value, list) else value) == defaults[key]
    }
    assert same - {"severity", "order_seeds"} == set()  # these two the report is told as well


def test_no_setting_of_a_method_is_changed_for_photosound() -> None:
    params = yaml.safe_load((FOLDER / "params.yaml").read_text(encoding="utf-8"))
    assert params["adapt"]["args"] == {}


def test_every_section_of_the_root_is_there() -> None:
    here, root = (yaml.safe_load((f / "params.yaml").read_text(encoding="utf-8")) for f in (FOLDER, ROOT))
    assert list(here) == list(root)

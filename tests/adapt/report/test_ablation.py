"""The ablation's settings: every variant is a run that `python -m adapt` takes, changes something, and is in the
table.
"""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tyro
import yaml

from adapt.methods import names, parts_of
from adapt.stream.options import Options, check, options_for
from tests.places import ROOT

SETTINGS = ROOT / "data/settings/photosound"
PARAMS: dict[str, Any] = yaml.safe_load((SETTINGS / "ablation/params.yaml").read_text(encoding="utf-8"))
SHARED: dict[str, Any] = yaml.safe_load((SETTINGS / "params.yaml").read_text(encoding="utf-8"))["adapt"]
VARIANTS: dict[str, dict[str, Any]] = PARAMS["variants"]


def flags(values: dict[str, Any]) -> list[str]:
    """As DVC writes a dictionary in a command (.dvc/config): lists after one another, false as --no-flag."""
    words = []
    for name, value in values.items():
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no-{name}")
        else:
            words += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    return words


def told(streams: dict[str, Any], variant: dict[str, Any]) -> Options:
    """What the study's command says, as python -m adapt takes it."""
    words = ["--dataset", "photosound", "--backbone", "frames", *flags(SHARED["run"]), *flags(streams), *flags(variant)]
    try:
        made = tyro.cli(options_for(words), args=words, config=(tyro.conf.OmitArgPrefixes,))
    except SystemExit:
        pytest.fail(f"python -m adapt does not take {flags(variant)}")
    check(made)
    return made


@pytest.mark.parametrize("name", VARIANTS)
def test_adapt_takes_a_variants_flags_and_they_change_what_full_does(name: str) -> None:
    def settings(variant: dict[str, Any]) -> dict[str, Any]:
        return dataclasses.asdict(told(PARAMS["streams"], variant).settings)

    wanted = {field: value for field, value in VARIANTS[name].items() if field != "method"}
    full, own = settings({"method": "audio"}), settings(VARIANTS[name])
    changed = {field: value for field, value in own.items() if value != full[field]}
    # what is the default already need not change: fixed_5 takes as many steps as full may
    assert changed == {field: value for field, value in wanted.items() if value != full[field]}
    assert bool(changed) == (name != "full")


def test_the_table_has_every_variant_in_order_and_compares_it_with_full() -> None:
    assert PARAMS["report"]["methods"] == list(VARIANTS)
    assert (next(iter(VARIANTS)), PARAMS["report"]["against"]) == ("full", ["full"])
    assert not VARIANTS.keys() & set(names())  # a variant is not taken for a method


def test_the_study_of_orders_has_every_method_on_three_orders() -> None:
    orders: dict[str, Any] = yaml.safe_load((SETTINGS / "orders/params.yaml").read_text(encoding="utf-8"))
    assert orders["variants"] == {name: {"method": name} for name in orders["report"]["methods"]}
    assert {parts_of(name)[0] for name in orders["variants"]} == set(names())
    for variant in orders["variants"].values():
        told(orders["streams"], variant)
    assert len(orders["streams"]["order_seeds"]) == 3
    assert (SETTINGS / "orders/dvc.yaml").resolve() == (SETTINGS / "ablation/dvc.yaml").resolve()


def test_the_ablation_is_apart_and_its_table_waits_for_every_variant(tmp_path: Path) -> None:
    for name in (".dvc/config", "dvc.yaml", "params.yaml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(
        SETTINGS, tmp_path / SETTINGS.relative_to(ROOT), symlinks=True, ignore=shutil.ignore_patterns("dvc.lock")
    )
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    code = (
        "import json, networkx; from dvc.repo import Repo\n"
        "graph = Repo().index.graph\n"
        "before = {s.addressing: sorted(t.addressing for t in networkx.descendants(graph, s)) for s in graph}\n"
        "print(json.dumps(before))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    before: dict[str, list[str]] = json.loads(done.stdout)
    main, own = "data/settings/photosound/dvc.yaml", "data/settings/photosound/ablation/dvc.yaml"
    assert f"{main}:adapt@audio" in before[f"{main}:report"]
    assert not [name for name in before[f"{main}:report"] if name.startswith(own)]
    assert {name for name in before[f"{own}:report"] if name.startswith(own)} == {
        f"{own}:variant@{name}" for name in VARIANTS
    }
    assert {f"{main}:train", f"{main}:statistics", f"{main}:pseudo_label"} <= set(before[f"{own}:variant@full"])

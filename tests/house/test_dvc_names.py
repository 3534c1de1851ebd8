"""Names of params.yaml run no command of their own, whatever they hold: `dvc repro` gives them to a shell."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from adapt.errors import OptionsError
from pipeline import names
from pipeline.names import Options
from tests.places import ROOT

SCALARS = ("dataset", "scan.recipe", "tag.tagger", "tag.variant", "model.backbone", "map_labels.mapper")
HOSTILE = ("x; touch pwned", "x && touch pwned", "x | touch pwned", "$(touch pwned)", "`touch pwned`",
           "x\ntouch pwned\n",
           "x > pwned", "x & touch pwned", '"; touch pwned; "', "x #", "*", "~")  # fmt: skip
# Every command that DVC makes of a folder's dvc.yaml and params.yaml.
COMMANDS = """
import json, sys
from dvc.repo import Repo
print(json.dumps([[s.addressing, s.cmd] for s in Repo(sys.argv[1]).index.stages]))
"""
DEFAULT = Options("demo", "folder", "yamnet", "", "frames")


def put(params: dict[str, Any], name: str, value: str) -> None:
    *above, last = name.split(".")
    for part in above:
        params = params[part]
    params[last] = value


def commands(folder: Path, params: dict[str, Any]) -> dict[str, str]:
    """Stage -> the command that DVC would give to the shell."""
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", COMMANDS, str(folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that DVC takes for its own, and a `python` that only says what it was told."""
    folder = tmp_path_factory.mktemp("dvc")
    (folder / ".dvc").mkdir()
    (folder / ".dvc/config").write_text("[core]\n    no_scm = true\n    analytics = false\n")
    shutil.copy(ROOT / "dvc.yaml", folder)
    (folder / "bin").mkdir()
    (folder / "bin/python").write_text('#!/bin/sh\nfor word; do printf "%s\\0" "$word" >> told; done\n')
    (folder / "bin/python").chmod(0o755)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("value", HOSTILE)
def test_no_name_of_params_yaml_is_a_command_of_the_shell(value: str, project: Path) -> None:
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    for name in SCALARS:
        put(params, name, value)
    made = commands(project, params)
    assert len(made) >= 12
    for stage, command in made.items():
        (project / "told").unlink(missing_ok=True)
        env = os.environ | {"PATH": f"{project}/bin:/usr/bin:/bin"}
        subprocess.run(command, shell=True, cwd=project, env=env, check=False, capture_output=True)  # as DVC does
        assert not (project / "pwned").exists(), f"{stage}: {command}"
        told = (project / "told").read_text().split("\0")
        assert value in told or value not in command, f"{stage} takes it for more than a word: {command}"


@pytest.mark.slow
def test_the_stage_names_comes_first_and_gets_even_quotes_as_they_are(project: Path) -> None:
    """Where a name ends the quotes around it, this stage stops `dvc repro` before another command runs."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    for name in SCALARS[:-1]:
        put(params, name, "'; touch pwned; '")
    (command,) = (
        cmd for stage, cmd in commands(project, params).items() if cmd.startswith("python -m pipeline.names ")
    )
    env = os.environ | {"PATH": f"{project}/bin:/usr/bin:/bin"}
    (project / "told").unlink(missing_ok=True)
    subprocess.run(command, shell=True, cwd=project, env=env, check=True)
    assert not (project / "pwned").exists()
    assert (project / "told").read_text().split("\0").count("'; touch pwned; '") == len(SCALARS) - 1


def test_every_stage_that_names_reach_comes_after_the_stage_names() -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    reached = {"names"}
    outs = {name: str(stage.get("do", stage).get("outs")) for name, stage in stages.items()}
    while more := {
        name
        for name, stage in stages.items()
        if name not in reached
        for dep in stage.get("do", stage).get("deps", [])
        if any(dep in outs[other] for other in reached)
    }:
        reached |= more
    assert set(stages) - reached == {"render"}  # its name is that of a file, a dependency that DVC looks for first


@pytest.mark.parametrize("dataset", ["demo", "group/demo", "caf\u00e9", "my_set.v2+x=1"])
def test_a_name_as_files_have_it_is_written_down(dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in names.FOLDERS.values():
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.symlink_to(ROOT / folder)
    assert names.run(Options(dataset, "folder", "yamnet", "", "frames")) == {"n_names": 5}
    assert (tmp_path / "cache" / dataset / "lists/names.txt").read_text().splitlines()[0] == f"dataset: {dataset}"


@pytest.mark.parametrize(
    "value", [*HOSTILE, "", "..", "../demo", "/etc", "a//b", "-x", "a b", "\u202ex", "a'b", ".hidden"]
)
def test_a_name_that_no_file_should_have_is_one_line(
    value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in names.FOLDERS.values():
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.symlink_to(ROOT / folder)
    for name in ("dataset", "recipe", "tagger", "variant", "backbone"):
        if (name, value) == ("variant", ""):
            continue
        changed = Options(**(vars(DEFAULT) | {name: value}))
        with pytest.raises(OptionsError, match=r"give letters, digits|is no file of"):
            names.run(changed)
    assert not (tmp_path / "cache").exists()

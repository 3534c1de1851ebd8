"""What DVC would run: the README's third use reruns adapt and report and nothing before them."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.places import ROOT, copy_project


def dvc(folder: Path, *args: str) -> str:
    command = [sys.executable, "-W", "ignore", "-m", "dvc", *args]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def pipeline_that_has_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project's files in which every output exists and dvc.lock says that all is up to date."""
    folder = tmp_path_factory.mktemp("clone")
    copy_project(folder)
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    code = "import json; from dvc.repo import Repo; print(json.dumps([o.fs_path for o in Repo().index.outs]))"
    listed = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=folder, capture_output=True, text=True, check=True
    ).stdout
    for path in map(Path, json.loads(listed)):
        content = path if path.suffix else path / "made"  # outputs without an ending are folders
        content.parent.mkdir(parents=True, exist_ok=True)
        content.write_text("made")
    (folder / "cache/demo/settings/made").unlink()
    dvc(folder, "repro", "--force", "--single-item", "--quiet", "choose")
    dvc(folder, "commit", "--force", "--quiet")
    return folder


def changed_stages(folder: Path) -> set[str]:
    return {name.split("@")[0] for name in json.loads(dvc(folder, "status", "--json"))}


def dry_run(folder: Path) -> set[str]:
    """The modules that `dvc repro` would start."""
    return {
        shlex.split(line)[3] for line in dvc(folder, "repro", "--dry").splitlines() if line.startswith("> python -m")
    }


@pytest.mark.slow
def test_a_pipeline_that_has_run_has_nothing_to_do(pipeline_that_has_run: Path) -> None:
    assert changed_stages(pipeline_that_has_run) == set()
    assert dry_run(pipeline_that_has_run) == set()


@pytest.mark.slow
def test_changing_a_setting_reruns_the_methods_that_read_it(pipeline_that_has_run: Path) -> None:
    params = pipeline_that_has_run / "params.yaml"
    before = params.read_text()
    assert "max_iterations: 5" in before
    params.write_text(before.replace("max_iterations: 5", "max_iterations: 3"))
    try:
        assert dry_run(pipeline_that_has_run) == {"adapt.choose"}  # what its files say, a dry run cannot know
        dvc(pipeline_that_has_run, "repro", "--single-item", "--quiet", "choose")
        changed = json.loads(dvc(pipeline_that_has_run, "status", "--json"))
        assert set(changed) == {"adapt@audio"}  # report follows once its rows have changed
    finally:
        params.write_text(before)
        dvc(pipeline_that_has_run, "repro", "--single-item", "--quiet", "choose")


@pytest.mark.slow
def test_perturbing_the_sound_decodes_again_and_trains_nothing(pipeline_that_has_run: Path) -> None:
    params = pipeline_that_has_run / "params.yaml"
    before = params.read_text()
    assert "perturb: none" in before
    params.write_text(before.replace("perturb: none", "perturb: swap"))
    try:
        assert dry_run(pipeline_that_has_run) == {"pipeline.decode"}  # the rest follows once its rows have changed
    finally:
        params.write_text(before)


@pytest.mark.slow
def test_a_new_clip_does_not_ask_for_a_new_label_map(pipeline_that_has_run: Path) -> None:
    video = pipeline_that_has_run / "data/videos/demo/new"
    video.write_text("new")
    try:
        assert "map_labels" not in changed_stages(pipeline_that_has_run)
    finally:
        video.unlink()


@pytest.mark.slow
def test_another_data_sets_list_map_and_replies_run_neither_scan_nor_map_labels(pipeline_that_has_run: Path) -> None:
    files = [
        pipeline_that_has_run / "data" / name for name in ("labels/other.txt", "maps/other.csv", "replies/other.jsonl")
    ]
    for file in files:
        file.write_text("new")
    try:
        assert changed_stages(pipeline_that_has_run) == {"lists"}  # which writes what it wrote (test_lists.py)
        assert dry_run(pipeline_that_has_run) == {"pipeline.lists"}
    finally:
        for file in files:
            file.unlink()


def test_every_settings_folder_uses_the_one_pipeline_and_knows_every_parameter_of_it() -> None:
    import yaml

    def keys(path: Path) -> set[str]:
        return set(yaml.safe_load(path.read_text()))

    for folder in (ROOT / "data/settings").iterdir():
        assert (folder / "dvc.yaml").resolve() == ROOT / "dvc.yaml"
        assert keys(folder / "params.yaml") == keys(ROOT / "params.yaml")

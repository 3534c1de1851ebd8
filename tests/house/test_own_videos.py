"""The README's way to version one's own videos, done as it says in a clone of the project: DVC and git take them, and
experiments find them.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.datasets import SPLITS
from tests.places import ROOT, copy_project
from tests.sounds import encode

SECTION = (ROOT / "README.md").read_text(encoding="utf-8").split("## Your own videos")[1].split("\n## ")[0]
BLOCK = next(block for block in re.findall(r"```bash\n(.*?)```", SECTION, re.DOTALL) if "dvc add" in block)
VERSION, STAGE, EXPERIMENT = (line.split("   #")[0].split() for line in BLOCK.splitlines())
QUICK = ["train.epochs=1", "streams.corruptions=[gauss]", "report.methods=[audio]", "report.against=[audio]",
"video.frames=4", "video.resize=32",
         "video.size=32"]  # fmt: skip


def run(folder: Path, *command: str) -> str:
    """What a command prints, `dvc` being the one beside this Python, and the project's modules those of `folder`."""
    words = [sys.executable, "-W", "ignore", "-m", "dvc", *command[1:]] if command[0] == "dvc" else list(command)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = os.environ | {
        "PATH": path,
        "PYTHONPATH": "",
        "GIT_AUTHOR_NAME": "a",
        "GIT_COMMITTER_NAME": "a",
        "EMAIL": "a@localhost",
    }
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


def gitignores(folder: Path) -> dict[str, str]:
    tracked = run(folder, "git", "ls-files", "*.gitignore").split()
    return {name: (folder / name).read_text() for name in tracked}


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of the project's files as they are, whose params.yaml names the user's data set NAME; its videos lie
    where they should.
    """
    folder = tmp_path_factory.mktemp("clone")
    copy_project(folder)
    for command in (["git", "init", "-q"], ["git", "add", "."], ["git", "commit", "-qm", "the project"]):
        run(folder, *command)
    params = (folder / "params.yaml").read_text()
    for old, new in (
        ("dataset: demo ", "dataset: NAME "),
        ("render: [demo]", "render: []"),
        ("mapper: llm ", "mapper: lexical "),
    ):
        assert old in params
        params = params.replace(old, new)
    (folder / "params.yaml").write_text(params)
    for label, colour, pitch in (("snow", "white", 440), ("night", "0x202020", 880)):
        source = [
            "-f",
            "lavfi",
            "-t",
            "1",
            "-i",
            f"color={colour}:size=64x64:rate=8",
            "-f",
            "lavfi",
            "-t",
            "1",
            "-i",
            f"sine={pitch}",
        ]
        film = encode(
            folder / "film.mp4",
            *source,
            "-c:v",
            "libx264",
            "-preset",
            "ultrafast",
            "-pix_fmt",
            "yuv420p",
            "-c:a",
            "aac",
        )
        for split in SPLITS:
            (folder / f"data/videos/NAME/{split}/{label}").mkdir(parents=True)
            shutil.copy(film, folder / f"data/videos/NAME/{split}/{label}/1.mp4")
        film.unlink()
    return folder


@pytest.fixture(scope="module")
def versioned(clone: Path) -> Path:
    """The clone after the README's commands, but for the last one."""
    before = gitignores(clone)
    for command in (VERSION, STAGE):
        run(clone, *command)
    assert gitignores(clone) == before
    return clone


def test_git_tracks_what_dvc_writes_and_no_video(versioned: Path) -> None:
    assert set(run(versioned, "git", "status", "--short").splitlines()) == {"A  data/videos/NAME.dvc", "M  params.yaml"}
    assert "nfiles: 6" in (versioned / "data/videos/NAME.dvc").read_text()


def test_git_ignores_every_output_that_dvc_stores_so_that_dvc_changes_no_gitignore(versioned: Path) -> None:
    code = (
        "import json; from dvc.repo import Repo; print(json.dumps([[o.fspath, o.use_cache] for o in "
        "Repo().index.outs]))"
    )
    stored = dict(json.loads(run(versioned, sys.executable, "-W", "ignore", "-c", code)))
    assert any(stored.values()) and not all(stored.values())
    for path, use_cache in stored.items():
        ignored = subprocess.run(["git", "check-ignore", "-q", path], cwd=versioned, check=False).returncode == 0
        assert ignored == use_cache, path


@pytest.mark.slow
def test_an_experiment_in_a_folder_of_its_own_has_the_videos(versioned: Path) -> None:
    said = run(versioned, *EXPERIMENT, *(word for setting in QUICK for word in ("-S", setting)))
    scanned = next(
        json.loads(line) for line in said.splitlines() if line.startswith('{"n_clips"') and "n_labels" in line
    )
    assert (scanned["n_clips"], scanned["n_failed"], scanned["n_left_out"]) == (6, 0, 0)
    assert "Ran experiment(s)" in said
    run(versioned, "dvc", "exp", "apply", said.split("Ran experiment(s): ")[1].split()[0])
    assert "| audio |" in (versioned / "cache/metrics/NAME/report.md").read_text()

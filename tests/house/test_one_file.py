"""A method, a fusion and a backbone are each one file: written into a copy of the package they are there, with their
settings, everywhere.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from adapt import command
from adapt.tables import code

METHOD = '''"""Answers by the source model, its logarithms divided by a temperature."""
from dataclasses import dataclass

from adapt.contract import Answer
from adapt.core.settings import setting
from adapt.core.state import Stateful


@dataclass(frozen=True)
class Settings:
    """Of cooling."""

    temperature: float = setting(2.0, unit="logit", above=True, source="a test")
    """what log p is divided by"""


class Cooling(Stateful):
    """Divide."""

    def __init__(self, model, settings):
        self.model, self.temperature = model.eval(), settings.temperature

    def adapt(self, batch):
        """Predict."""
        log_p = (self.source_answer(batch) / self.temperature).log_softmax(1)
        return Answer(before=log_p, after=log_p)

    def source_answer(self, batch):
        """log p."""
        return self.model(batch.centre[:, 0]).log_softmax(1).detach()


def build(model, statistics, n_classes, settings):
    """Around a model."""
    return Cooling(model, settings)
'''
FUSION = '''"""The sound alone where there is any, above a share of evidence."""
from dataclasses import dataclass

import torch

from adapt.core.settings import setting
from adapt.core.state import Stateful


@dataclass(frozen=True)
class Settings:
    """Of ears."""

    loudness: float = setting(0.5, unit="evidence", high=1, source="a test")
    """evidence from which the sound decides"""


class Ears(Stateful):
    """Listen."""

    needs_source = False

    def __init__(self, settings):
        self.loudness = settings.loudness

    def fuse(self, answer, batch):
        """The evidence, or the picture."""
        return torch.where(batch.s.amax(1, keepdim=True) > self.loudness, batch.s, answer.after)


def build(n_classes, settings):
    """Ears."""
    return Ears(settings)
'''
BACKBONE = '''"""A linear layer on the mean colour."""
from torch import nn


class Colour(nn.Module):
    """Frames (N, 3, T, H, W) -> logits (N, K)."""

    def __init__(self, n_classes):
        super().__init__()
        self.norm, self.head = nn.BatchNorm3d(3), nn.Linear(3, n_classes)

    def forward(self, frames):
        """Logits."""
        return self.head(self.norm(frames).mean((2, 3, 4)))


VARIANTS = ("",)


def build(n_classes, n_frames, weights="", variant=""):
    """Of random weights."""
    return Colour(n_classes)
'''
AS_COMMANDS = """
import runpy, sys

def command(module, *words):
    sys.argv[1:] = words
    runpy.run_module(module, run_name="__main__", alter_sys=True)

"""  # as `python -m module words`, in one process, as torch takes seconds to load
ONE_CLIP = """
import torch
from adapt.contract import Batch

torch.manual_seed(0)
frames = torch.rand(1, 2, 3, 4, 8, 8)
s = torch.tensor([[0.0, 0.9, 0.0]])
clip = Batch(frames, frames[:, :1], s / s.sum(), s, s.amax(1), ("ok",), ("clip",))
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A copy of the package, and of what it reads in the working directory."""
    shutil.copytree(code.PACKAGE, tmp_path / "adapt", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "cache").mkdir()
    shutil.copy(code.PACKAGE.parent / "cache/schema.sql", tmp_path / "cache/schema.sql")
    return tmp_path


def run(root: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    """Python in the copy, which knows no other package of ours."""
    env = os.environ | {"PYTHONPATH": str(root), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run([sys.executable, *words], cwd=root, env=env, capture_output=True, text=True, check=False)
    assert Path(command.__file__).parents[1] == code.PACKAGE  # this process is not the copy
    return done


def said(root: Path, *words: str) -> str:
    done = run(root, *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def words_of_a_run(method: str, fusion: str) -> list[str]:
    """Of the adapter's: there is no data, so right words are answered with that."""
    words = ["--dataset", "none", "--backbone", "tanet", "--corruptions", "gauss"]
    return [*words, "--method", method, "--fusion", fusion]


def test_a_method_is_one_file(root: Path) -> None:
    (root / "adapt/methods/cooling.py").write_text(METHOD)
    words = ["--dataset", "d", "--methods", "cooling", "source", "--temperature", "4"]
    done = run(
        root,
        "-c",
        ONE_CLIP
        + AS_COMMANDS
        + f"""
command("adapt.settings")
command("adapt.choose", *{words})
from adapt import methods, wrap
from adapt.backbones import build
model = build("tanet", 3, 4)
cold, source = (methods.build(name, "plain", model, None, 3, given).adapt(clip)
                for name, given in (("cooling", {{"temperature": 3.0}}), ("source", {{}})))
assert torch.allclose(cold.after, (source.after / 3).log_softmax(1))
assert cold.fused.shape == (1, 3)
try:
    methods.choose("cooling", "none", {{"temperature": 0.0}})
except methods.MethodError as error:
    assert str(error) == "temperature is 0.0: give above 0"
else:
    raise AssertionError
answer = wrap(model, "cooling", classes=["a", "b", "c"], temperature=3.0)(frames[:, 0])
assert answer.shape == (1, 3)
command("adapt", *{words_of_a_run("cooling", "trusted")})
""",
    )
    *page, counts = done.stdout.splitlines()
    assert "### cooling" in page, done.stderr
    assert "| `--temperature` | 2 | logit | above 0 | what log p is divided by | a test |" in page
    assert json.loads(counts) == {"cooling": 1, "source": 0}
    assert json.loads((root / "cache/d/settings/cooling.json").read_text()) == {"temperature": 4.0}
    assert (done.returncode, "labels.txt is missing" in done.stderr) == (1, True), done.stderr  # all else is right


@pytest.mark.slow
def test_a_fusion_is_one_file(root: Path) -> None:
    (root / "adapt/fusion/ears.py").write_text(FUSION)
    page = said(root, "-m", "adapt.settings")
    assert "### ears\n" in page
    assert "| `--loudness` | 0.5 | evidence | 0 to 1 | evidence from which the sound decides | a test |" in page
    words = ["--dataset", "d", "--methods", "vitta+ears", "vitta", "--loudness", "0.3"]
    assert json.loads(said(root, "-m", "adapt.choose", *words)) == {"vitta+ears": 1, "vitta": 0}
    assert "labels.txt is missing" in run(root, "-m", "adapt", *words_of_a_run("vitta", "ears")).stderr
    said(
        root,
        "-c",
        ONE_CLIP
        + """
from adapt import fusion, methods
from adapt.backbones import build
assert "ears" in fusion.names()
for name in methods.names():
    if methods.needs_labels(name):
        continue
    answer = methods.build(name, "ears", build("tanet", 3, 4), None, 3, {"loudness": 0.3}).adapt(clip)
    assert torch.equal(answer.fused, clip.s), name
""",
    )


@pytest.mark.slow
def test_a_backbone_is_one_file(root: Path) -> None:
    (root / "adapt/backbones/colour.py").write_text(BACKBONE)
    assert "colour" in said(root, "-m", "adapt.backbones")
    said(
        root,
        "-c",
        ONE_CLIP
        + """
import dataclasses
from adapt import backbones, methods
from adapt.source import checkpoints
assert "colour" in backbones.names()
labels, path = ["a", "b", "c"], checkpoints.model_path("d", "colour")
checkpoints.save_model(path, backbones.build("colour", 3, 4), "colour", labels, 4)
source = checkpoints.load_model(path, "colour", labels, 4)
for name in methods.names():
    if not methods.needs_labels(name):
        model = checkpoints.load_model(path, "colour", labels, 4).model
        answer = methods.build(name, "trusted", model, None, 3, {}).adapt(clip)
        assert answer.after.isfinite().all() and answer.fused.isfinite().all(), name
""",
    )


@pytest.mark.slow
@pytest.mark.parametrize(("room", "content", "unexplained"), [
    ("methods", METHOD, '    """what log p is divided by"""\n'), ("fusion", FUSION,
    '    """evidence from which the sound decides"""\n'),
])  # fmt: skip
def test_a_setting_without_a_line_that_explains_it_is_not_forgotten(
    room: str, content: str, unexplained: str, root: Path
) -> None:
    assert unexplained in content
    (root / f"adapt/{room}/new.py").write_text(content.replace(unexplained, ""))
    done = run(root, "-m", "adapt.settings")
    assert done.returncode == 1
    assert "is not explained: say below the field what it is" in done.stderr

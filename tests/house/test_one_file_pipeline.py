"""A data set, a tagger and a mapper are each one file: written into a copy of the packages they are there, in every
stage.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.places import ROOT
from tests.sounds import encode

RECIPE = '''"""Files named class_split_number, all in one folder."""
VARIANTS = ("",)


def labels(dataset, root):
    """The first part of the names."""
    return sorted({path.name.split("_")[0] for path in root.glob("*.mp4")})


def rows(root, labels, variant=""):
    """One row a file."""
    for path in sorted(root.glob("*.mp4")):
        label, split, _ = path.name.split("_")
        yield path.name, split, label
'''
TAGGER = '''"""Hears how loud it is: sound 0 above a root mean square of 0.1, else sound 1."""
from pathlib import Path

import numpy as np

from pipeline import taggers

SAMPLE_RATES = {"": 8000}
PRECISIONS = ("fp32",)


class Loudness:
    """Two sounds."""

    name, sample_rate, concurrent = "loudness", 8000, True
    labels_file = Path("data/labels/loudness.csv")

    def __init__(self):
        self.labels = taggers.read_labels(self.labels_file)

    def provenance(self):
        """It has no weights."""
        return taggers.provenance(self, "", "fp32", "0" * 64, "1")

    def logits(self, waveforms, n_samples):
        """(B, S) -> (B, 2)."""
        rms = [np.sqrt(np.mean(row[:n] ** 2)) for row, n in zip(waveforms, n_samples)]
        loud = np.array([6.0 if value > 0.1 else -6.0 for value in rms], np.float32)
        return np.stack([loud, -loud], axis=1)


def build(checkpoint, device, variant, precision):
    """Nothing to load."""
    return Loudness()
'''
SOUNDS = "index,mid,display_name\n0,/m/09x0r,Speech\n1,/m/05zppz,Whispering\n"
MAPPER = '''"""Each class is pointed to by the first sound of AudioSet whose name begins with the same four letters."""
from pipeline.mappers import LabelMap, Pair


def map_labels(lists, settings):
    """One pair a class."""
    pairs = []
    for label_id, label in enumerate(lists.classes):
        audio_id = next(i for i, sound in enumerate(lists.sounds) if sound[:4].lower() == label[:4])
        pairs.append(Pair(audio_id, label_id, 0.5, False, "same letters"))
    return LabelMap(pairs, "initials", {})
'''
COMPILED_ONCE = {"PYTHONDONTWRITEBYTECODE": ""}  # by the first of the commands, for the others
TONE = {"speech": 0.5, "whisper": 0.01}  # class -> peak


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of both packages and the label lists, a set of four clips, and the three files."""
    root = tmp_path_factory.mktemp("copy")
    for package in ("adapt", "pipeline", "data/labels"):
        shutil.copytree(ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__"))
    (root / "cache").mkdir()
    for name in ("schema.sql", "views.sql"):
        shutil.copy(ROOT / "cache" / name, root / "cache" / name)
    for label, peak in TONE.items():
        for split in ("train", "test"):
            tone = f"aevalsrc='{peak}*sin(2*PI*440*t)':d=1"
            picture = ("-f", "lavfi", "-t", "1", "-i", "color=gray:size=32x32:rate=8")
            encode(root / f"data/videos/own/{label}_{split}_0.mp4", *picture, "-f", "lavfi", "-i", tone, "-c:a", "aac")
    (root / "pipeline/datasets/parts.py").write_text(RECIPE)
    (root / "pipeline/taggers/loudness.py").write_text(TAGGER)
    (root / "data/labels/loudness.csv").write_text(SOUNDS)
    (root / "pipeline/mappers/initials.py").write_text(MAPPER)
    return root


def counts(root: Path, *words: str) -> dict[str, object]:
    """Run `python -m words` in the copy, which knows no other package of ours, and return its JSON line."""
    env = os.environ | {"PYTHONPATH": str(root), "PYTHONWARNINGS": "ignore", **COMPILED_ONCE}
    command = [sys.executable, "-m", *words]
    done = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


def asked(root: Path, sql: str) -> list[str]:
    """The lines, below the names, of a query's CSV."""
    env = os.environ | {"PYTHONPATH": str(root), **COMPILED_ONCE}
    command = [sys.executable, "-m", "pipeline.query", "own", sql, "--csv"]
    done = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[1:]


@pytest.fixture(scope="module")
def scanned(root: Path) -> dict[str, object]:
    return counts(root, "pipeline.scan", "--dataset", "own", "--recipe", "parts")


@pytest.fixture(scope="module")
def tagged(root: Path, scanned: dict[str, object]) -> dict[str, object]:
    counts(root, "pipeline.decode", "--dataset", "own", "--tagger", "loudness")
    return counts(root, "pipeline.tag", "--dataset", "own", "--tagger", "loudness")


def test_a_data_set_is_one_file(root: Path, scanned: dict[str, object]) -> None:
    assert (scanned["n_clips"], scanned["n_failed"]) == (4, 0)
    assert (root / "cache/own/labels.txt").read_text() == "speech\nwhisper\n"
    assert asked(root, "SELECT clip_id, split, label FROM clips ORDER BY clip_id") == [
        f"{label}_{split}_0,{split},{label}" for label in TONE for split in ("test", "train")
    ]


def test_a_tagger_is_one_file(root: Path, tagged: dict[str, object]) -> None:
    assert tagged["n_clips"] == 4
    sql = "SELECT c.label, t.logits[1] AS speech, t.logits[2] AS whispering FROM tags t JOIN clips c USING (clip_id)"
    assert set(asked(root, sql)) == {"speech,6.0,-6.0", "whisper,-6.0,6.0"}


def test_a_mapper_is_one_file_and_its_map_reaches_the_labels(root: Path, tagged: dict[str, object]) -> None:
    assert counts(root, "pipeline.map_labels", "--dataset", "own", "--mapper", "initials")["n_pairs"] == 2
    assert counts(root, "pipeline.pseudo_label", "--dataset", "own", "--tagger", "loudness")["n_clips"] == 4
    # sigmoid(6) = 0.99753, half of which is the map's weight
    sql = "SELECT c.label, p.top_label, round(p.mass, 3) AS m FROM pseudo_labels p JOIN clips c USING (clip_id)"
    assert set(asked(root, sql)) == {"speech,speech,0.499", "whisper,whisper,0.499"}

"""A tiny data set with a trained model: two classes of flat grey clips, dark and bright.  The dark ones sound, the
bright ones are silent.
"""

import dataclasses
import fcntl
import os
import shutil
from pathlib import Path

import pytest

from adapt.source import statistics, train
from adapt.stream.options import Options
from adapt.tables import classes, files, parquet
from tests import built, greys
from tests.greys import LABELS, VIDEO

N_TEST = 9  # clips of the test split, one of which cannot be read


def pseudo_label(clip_id: str, label_id: int | None) -> dict[str, object]:
    """A row of `pseudo_labels` for a clip whose sound points to a class, or is silent."""
    heard = label_id is not None
    s = [0.9 if c == label_id else 0.0 for c in range(2)]
    q = [0.95 if c == label_id else 0.05 for c in range(2)] if heard else [0.5, 0.5]
    return {
        "clip_id": clip_id, "status": "ok" if heard else "silent", "probs": q, "evidence": s, "absent": [0.0, 0.0],
        "mass": 0.9 if heard else 0.0,
        "top_label": LABELS[label_id] if label_id is not None else None, "causes": [],
    }  # fmt: skip


def write_sounds(rows: list[dict[str, object]]) -> None:
    """Write what the sounds of the clips in the working directory's project say, as `pseudo_label` does."""
    folder = Path("cache/tiny")
    made_of = {
        "classes_sha256": classes.sha256(LABELS), "clips_sha256": files.sha256_file(folder / "clips.parquet")
    }  # fmt: skip
    parquet.write_table(folder / "pseudo_labels.parquet", "pseudo_labels", rows, made_of)


def make(base: Path) -> Path:
    """The project's folder below `base`, made by the first of all processes that asks: nobody should change it."""
    folder = base / "tiny_project"
    with (base / "tiny_project.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # let go of when the file is closed
        if not folder.exists():
            fill(making := base / "tiny_project.making")
            making.rename(folder)
    return folder


def fill(folder: Path) -> None:
    """Write clips, pseudo-labels, a trained model and its statistics into the new `folder`."""
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        rows = greys.make(Path(), "tiny", {"train": 8, "val": 2, "test": 4})
        broken = Path("data/videos/tiny/test/dark/broken.mp4")
        broken.write_bytes(b"not a video")
        rows.append(
            rows[-1]
            | {
                "clip_id": "test/dark/broken",
                "path": "test/dark/broken.mp4",
                "label_id": 0,
                "label": "dark",
                "status": "failed",
            }
        )
        greys.write_clips(Path("cache/tiny"), rows)
        heard = [pseudo_label(str(r["clip_id"]), 0 if r["label"] == "dark" else None) for r in rows]
        write_sounds(heard)
        done = train.run(
            train.Options("tiny", "tanet", video=VIDEO, epochs=6, batch_size=8, lr=0.01, flip=False, augment=False)
        )
        assert (
            done["val_accuracy"] == 1.0
        )  # on any processor: answers are right by 1 to 2 logits, and kernels differ by 0.1
        assert statistics.run(statistics.Options("tiny", "tanet", video=VIDEO))["n_clips"] == 16


def copy(factory: pytest.TempPathFactory) -> Path:
    """A copy of the project, for one file of tests."""
    base = factory.getbasetemp()
    folder = factory.mktemp("project")
    made = make(
        base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    )  # a worker's own folder lies in that of the run
    shutil.copytree(made, folder, dirs_exist_ok=True)
    return folder


def options(method: str, **changes: object) -> Options:
    """A short run in this process: the clean and the noisy stream, at most three steps a clip; `method` may be
    method+fusion.
    """
    name, _, fusion = method.partition("+")
    settings = built.fitting(name, fusion or "trusted", max_iterations=3)
    made = Options("tiny", "tanet", method, ("clean", "gauss"), video=VIDEO, settings=settings, jobs=1)
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]

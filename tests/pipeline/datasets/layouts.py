"""What the tests of the recipes share: a project of their own to lay a data set out in, and one tiny film to lay
out.
"""

import tempfile
from functools import cache as once
from pathlib import Path

import pytest

from adapt.tables import parquet
from pipeline import scan
from tests.clips import write_video
from tests.sounds import make_project


@once
def film() -> bytes:
    """The bytes of a film of eight frames."""
    with tempfile.TemporaryDirectory() as folder:
        return write_video(Path(folder) / "film.mp4", [0, 255] * 4, (64, 64)).read_bytes()


def enter_project(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a project in `root`, make it the working directory until the test ends, and return its data/videos."""
    make_project(root / "project")
    monkeypatch.chdir(root / "project")
    return Path("data/videos")


def put(root: Path, files: dict[str, bytes | str]) -> None:
    """Write `files`, path below `root` -> content."""
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content.encode() if isinstance(content, str) else content)


def run(dataset: str, recipe: str | None = None, variant: str = "") -> dict[str, int]:
    """The counts of `scan` of that data set."""
    return scan.run(scan.Options(dataset, recipe or dataset, variant, jobs=1))


def clips(dataset: str) -> dict[str, dict[str, object]]:
    """clip_id -> row, as `scan` wrote them."""
    return {
        row["clip_id"]: row
        for row in parquet.read_table(Path("cache") / dataset / "clips.parquet", "clips").to_pylist()
    }


def splits(dataset: str) -> dict[str, str]:
    """clip_id -> split."""
    return {clip_id: str(row["split"]) for clip_id, row in clips(dataset).items()}

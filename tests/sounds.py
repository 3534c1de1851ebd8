"""What the tests of the sound side share: a project root of their own, and clips that they make and know."""
import shutil
import subprocess
from pathlib import Path

import imageio_ffmpeg

from pipeline import cache

PROJECT = Path(__file__).parent.parent


def make_project(root: Path) -> Path:
    """Give `root` the files that a stage finds in the project's root."""
    (root / "cache").mkdir(parents=True)
    (root / "data").mkdir()
    for name in ("schema.sql", "views.sql"):
        shutil.copy(PROJECT / "cache" / name, root / "cache" / name)
    (root / "data/labels").symlink_to(PROJECT / "data/labels")
    return root


def encode(path: Path, *arguments: str) -> Path:
    """Run ffmpeg with `arguments` (inputs, codecs) into `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-y", "-loglevel", "error", *arguments, f"file:{path}"]
    subprocess.run(command, stdin=subprocess.DEVNULL, check=True, timeout=60)
    return path


def write_clips(dataset: str, names: list[str]) -> None:
    """Write clips.parquet for files that lie in data/videos/<dataset>, relative to the working directory."""
    folder = Path("data/videos") / dataset
    rows = [
        {"clip_id": Path(name).stem, "path": name, "split": "test", "label_id": 0, "label": "any", "status": "ok",
         "duration_s": 1.0, "n_frames": 8, "content_sha256": cache.sha256_file(folder / name), "error": None}
        for name in names
    ]  # fmt: skip
    cache.write_table(cache.folder(dataset) / "clips.parquet", "clips", rows)

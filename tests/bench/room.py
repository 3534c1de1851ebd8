"""Work that is not done: a second scan of unchanged files, and how soon a command that needs no network has started."""

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.bench import Row, median_ms
from tests.clips import write_video
from tests.places import ROOT

N_CLIPS = 5_000
STARTS = ("pipeline.map_labels", "pipeline.pseudo_label", "pipeline.query")
SCAN = """
import sys
from pipeline import scan
done = scan.run(scan.Options("many", rehash=sys.argv[1] == "all"))
print(done["n_clips"])
"""


def rows() -> Iterator[Row]:
    """CPU of a scan, children included, and wall time until a command's help is printed."""
    with tempfile.TemporaryDirectory() as folder:
        _clips(Path(folder))
        time.sleep(3)  # files that have just changed are not remembered
        for name, which in (("first", "all"), ("again, nothing changed", "changed"), ("again, all files", "all")):
            yield Row(f"scan {N_CLIPS} clips, {name}", _scan(folder, which), "CPU s")
    for module in STARTS:
        command = [sys.executable, "-m", module, "--help"]
        env = os.environ | {"PYTHONPATH": str(ROOT)}
        ms = median_ms(
            lambda command=command, env=env: subprocess.run(command, env=env, capture_output=True, check=True),  # type: ignore[misc]
            runs=3,
        )
        yield Row(f"start of {module}", ms, "ms")


def _clips(root: Path) -> None:
    """Many small videos: copies, not links, of one."""
    folder = root / "data/videos/many/test/cat"
    content = write_video(folder / "0.mp4", [0, 255] * 8, size=(128, 128)).read_bytes()
    for i in range(1, N_CLIPS):
        (folder / f"{i}.mp4").write_bytes(content)
    (root / "cache").mkdir()
    (root / "cache/schema.sql").write_bytes((ROOT / "cache/schema.sql").read_bytes())


def _scan(folder: str, which: str) -> float:
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)  # the decoding processes' too, which `scan` waits for
    done = subprocess.run(
        [sys.executable, "-c", SCAN, which], cwd=folder, env=env, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) == N_CLIPS
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

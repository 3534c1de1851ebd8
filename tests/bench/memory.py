"""Peak memory of the sound side, each run in a process of its own: it must not grow with the data set nor with a clip's
length.

`python -m tests.bench memory`; about five minutes.  The baseline is the bare network: the same tagger, one batch, no
stage.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.bench import Row
from tests.places import ROOT
from tests.sounds import encode, make_project

ALLOWED_MB = 300.0  # above the bare network
CLIP_S, LONG_S = 2, 7200
PEAK = """
import re
from pathlib import Path
# ru_maxrss would count the parent's pages as well
print(int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024)
"""
BARE = """
import numpy as np
from pipeline import taggers
tagger = taggers.build("yamnet")
tagger.logits(np.zeros((8, 10 * tagger.sample_rate), np.float32), np.full(8, 10 * tagger.sample_rate))
"""
STAGE = """
from pipeline import {stage}
{stage}.run({stage}.Options("bench", "yamnet"))
"""


def _peak_mb(code: str, folder: Path) -> float:
    """Megabytes that a Python process held at most while it ran `code`."""
    command = [sys.executable, "-W", "ignore", "-c", f"{code}\n{PEAK}"]
    done = subprocess.run(
        command, cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True
    )
    return float(done.stdout.split()[-1])


def _project(folder: Path, n_clips: int, seconds: int) -> Path:
    """A project whose data set `bench` has so many clips, each the same noise."""
    root = make_project(folder)
    videos = root / "data/videos/bench"
    first = encode(
        videos / "00000.flac",
        "-f",
        "lavfi",
        "-i",
        f"anoisesrc=duration={seconds}:sample_rate=16000:amplitude=0.3:seed=1",
    )
    for i in range(1, n_clips):
        os.link(first, videos / f"{i:05d}.flac")
    code = "from pathlib import Path\nfrom tests.sounds import write_clips\n"
    code += "write_clips('bench', sorted(path.name for path in Path('data/videos/bench').iterdir()))"
    subprocess.run([sys.executable, "-c", code], cwd=root, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True)
    return root


def rows() -> Iterator[Row]:
    """Both stages for 100 clips, for 2,000, and for one of two hours, against the bare network."""
    with tempfile.TemporaryDirectory() as folder:
        bare = _peak_mb(BARE, _project(Path(folder) / "bare", 1, CLIP_S))
        yield Row("yamnet alone, one batch of 8 x 10 s", bare, "MB")
        for name, n_clips, seconds in (
            ("100 clips", 100, CLIP_S),
            ("2,000 clips", 2000, CLIP_S),
            ("one clip of 2 hours", 1, LONG_S),
        ):
            root = _project(Path(folder) / str(n_clips), n_clips, seconds)
            for stage in ("decode", "tag"):
                above = _peak_mb(STAGE.format(stage=stage), root) - bare
                yield Row(
                    f"{stage}, {name}: above yamnet alone", above, "MB", f"<= {ALLOWED_MB:.0f}", above <= ALLOWED_MB
                )

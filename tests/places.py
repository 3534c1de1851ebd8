"""Where the project lies, and what a copy of it holds."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]


def copy_project(root: Path) -> None:
    """Copy the project's files into `root` as they are now, those that git does not know yet included; neither tests
    nor results.
    """
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        is_left_out = name.startswith(("data/settings", "tests/", "cache/metrics")) or name == "dvc.lock"
        if (ROOT / name).is_file() and not is_left_out:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes((ROOT / name).read_bytes())

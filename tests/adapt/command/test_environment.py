"""A machine that has no room, forbids to write, or has no files or memory left: one line, exit 1, earlier files intact.

A limit on the size of files (RLIMIT_FSIZE) stands for a full disk, which a test cannot have without being root: the
system answers a write with "File too large" then, in the same places.
"""

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from adapt.command import _environment, reserve
from adapt.errors import NoSpaceError
from tests.places import ROOT

HEAD = """
import resource, sys
from dataclasses import dataclass
from pathlib import Path
from adapt import command

@dataclass(frozen=True)
class Options:
    \"\"\"None.\"\"\"

def limit(n, what=resource.RLIMIT_FSIZE): resource.setrlimit(what, (n, resource.getrlimit(what)[1]))
"""
RUN = '\ncommand.main(Options, run, prog="demo.write", args=[])'
FULL = "{}: File too large: "
WRITES = {  # of what is written, the file "target" holds something before
    "text": "from adapt.tables.files import write_text\ndef write(): write_text(Path('target'), 'x' * 10**6)",
    "Parquet": (
        "import numpy as np, pyarrow as pa\nfrom adapt.tables import parquet\n"
        "def rows(): return [{'audio_id': i, 'audio_label': str(i), 'label_id': 0, 'label': 'a', 'weight': 1.0, "
        "'necessary': False, 'reason': str(np.random.default_rng(i).random()), 'source': 's'} for i in range(9999)]\n"
        "def write(): parquet.write_table(Path('target'), 'label_map', rows())"
    ),
    "two tables at once": (
        "import numpy as np, pyarrow as pa\nfrom contextlib import ExitStack\nfrom adapt.tables import parquet\n"
        "def write():\n  limit(100)  # less than either needs\n  with ExitStack() as stack:\n"
        "    files = [stack.enter_context(parquet.Writer(Path(name), 'label_map')) for name in ('new', 'target')]\n"
        "    rows = [{'audio_id': i, 'audio_label': f'{i:05d}', 'label_id': 0, 'label': 'a', 'weight': 1.0, "
        "'source': 's', 'necessary': False, 'reason': str(np.random.default_rng(i).random())} for i in range(3000)]\n"
        "    for file in files: file.add(pa.Table.from_pylist(rows, schema=file.schema))"
    ),
    "a checkpoint of torch": (
        "import torch\nfrom adapt.source import checkpoints\n"
        "def write(): checkpoints.save(Path('target'), {'weights': torch.ones(10**6)})"
    ),
    "a memory map": (
        "def write():\n    with open('new', 'w+b') as file: command.reserve(file, 10**6, Path.cwd())"
    ),
    "a temporary file": (
        "import tempfile\ndef write():\n    with tempfile.SpooledTemporaryFile(10) as file: file.write(b'x' * 10**6)"
    ),
}  # fmt: skip


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a file that is not to be harmed."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/schema.sql").write_text((ROOT / "cache/schema.sql").read_text())
    (tmp_path / "target").write_text("before")
    return tmp_path


def said(code: str, stdout: int = subprocess.PIPE, **env: str) -> tuple[int, str]:
    """(exit code, stderr) of a command."""
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(ROOT)} | env, text=True, check=False,
        stdout=stdout, stderr=subprocess.PIPE,
    )  # fmt: skip
    return done.returncode, done.stderr


@pytest.mark.parametrize("what", WRITES)
def test_a_disk_that_takes_no_more_is_one_line_and_the_old_file_stays(what: str, here: Path) -> None:
    code, line = said(HEAD + WRITES[what] + "\ndef run(options): limit(10_000); write()" + RUN)
    assert (code, line.count("\n")) == (1, 1), line
    assert line.startswith("demo.write: ")
    assert "are free" in line
    assert "run the same command again" in line
    assert (here / "target").read_text() == "before"
    assert sorted(path.name for path in here.iterdir() if path.name != "new") == ["cache", "target"]


def test_a_full_disk_behind_stdout_is_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        code, line = said(HEAD + "def run(options): return {'n': 1}" + RUN, stdout=full.fileno())
    assert (code, line.count("\n")) == (1, 1), line
    assert line.startswith("demo.write: No space left on device")


def test_a_file_where_a_folder_is_wanted_is_named(here: Path) -> None:
    run = "from adapt.tables.files import write_text\ndef run(options): write_text(Path('target/new'), 'x')"
    code, line = said(HEAD + run + RUN)
    assert (code, line) == (1, "demo.write: target: File exists: move it away\n")


def test_no_files_left_is_one_line_with_what_to_raise() -> None:
    run = "def run(options): limit(30, resource.RLIMIT_NOFILE); files = [open('/dev/null') for _ in range(99)]"
    code, line = said(HEAD + run + RUN)
    assert (code, line.count("\n")) == (1, 1), line
    assert line.startswith("demo.write: /dev/null: Too many open files: raise the limit (ulimit -n) or lower --jobs")


@pytest.mark.parametrize(
    "array", ["import numpy\ndef make(): numpy.empty(1 << 50)", "import torch\ndef make(): torch.empty(1 << 50)"]
)
def test_no_memory_is_one_line(array: str) -> None:
    code, line = said(HEAD + array + "\ndef run(options): make()" + RUN)
    assert (code, line.count("\n")) == (1, 1), line
    assert line.startswith("demo.write: out of memory (")


def test_a_fault_of_the_code_keeps_its_traceback() -> None:
    code, lines = said(HEAD + "def run(options): return {}['x']" + RUN)
    assert code == 1
    assert lines.splitlines()[0] == "Traceback (most recent call last):"
    assert lines.splitlines()[-1] == "KeyError: 'x'"


def test_a_folder_for_temporary_files_that_is_none_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """The words are Python's: tempfile.gettempdir where no folder that it knows can be written."""
    monkeypatch.setenv("TMPDIR", "/nowhere")
    error = FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/nowhere', '/tmp']")
    assert str(_environment.line(error)).startswith("no temporary file can be made in /nowhere: set TMPDIR to a folder")


@pytest.mark.parametrize(
    ("error", "begins"),
    [
        (OSError(errno.EROFS, "Read-only file system", "cache/a"), "cache/a: Read-only file system: make it writable"),
        (OSError(errno.EACCES, "Permission denied", "cache/a"), "cache/a: Permission denied: give this user the right"),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0"), "No space left on device"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "out of memory (DefaultCPUAllocator"),
    ],
)
def test_what_libraries_say_is_told_apart(error: Exception, begins: str) -> None:
    assert str(_environment.line(error)).startswith(begins)


@pytest.mark.parametrize(
    "error", [OSError("no number"), ValueError("No space left on device"), FileNotFoundError(errno.ENOENT, "no name")]
)
def test_what_only_looks_like_an_error_of_the_machine_is_none(error: Exception) -> None:
    assert _environment.line(error) is None


def test_room_for_a_memory_map_is_taken_before_it_is_mapped(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w+b") as file:
        reserve(file, 1 << 20, tmp_path)
        blocks = os.fstat(file.fileno()).st_blocks
        assert 512 * blocks >= 1 << 20  # a sparse file has none
        np.memmap(file, np.uint8, "r+", shape=(1 << 20,))[:] = 1
        total = os.statvfs(tmp_path).f_blocks * os.statvfs(tmp_path).f_frsize
        with pytest.raises(NoSpaceError, match=r"GB are needed there for a while and .* are free, .* GB too few"):
            reserve(file, 4 * total, tmp_path)


def test_nothing_to_map_takes_no_room(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w+b") as file:
        reserve(file, 0, tmp_path)
        assert file.seek(0, os.SEEK_END) == 0

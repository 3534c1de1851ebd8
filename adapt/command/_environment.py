"""Errors of the machine and not of the code: a full or read-only disk, a forbidden folder, no file or memory left.

Each becomes one line: what, where, how much is free.  Libraries say it in their own ways: Python and pyarrow raise
OSError with a number, DuckDB and torch put the system's words, or none, into their own errors.
"""

import errno
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from adapt.errors import NoSpaceError

AGAIN = "then run the same command again: what was finished is kept"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
REMEDIES = {  # what to do, by the system's number
    errno.EROFS: f"make it writable, {AGAIN}",
    errno.EACCES: f"give this user the right to it, {AGAIN}",
    errno.EPERM: f"give this user the right to it, {AGAIN}",
    errno.EIO: f"the device failed: check it, {AGAIN}",
    errno.EMFILE: f"raise the limit (ulimit -n) or lower --jobs, {AGAIN}",
    errno.ENFILE: f"close other programs, {AGAIN}",
    errno.ENOTDIR: "a file stands where a folder is wanted: move it away",
    errno.EISDIR: "a folder stands where a file is wanted: move it away",
    errno.EEXIST: "move it away",
    errno.ENAMETOOLONG: "give it a shorter name",
    errno.ELOOP: "a link that leads to itself: remove it",
    errno.ENOENT: "was it removed meanwhile?",
} | dict.fromkeys(FULL, f"free some, {AGAIN}")  # fmt: skip
SAID = {  # what libraries say in place of a number
    r"No space left on device|file write failed|unexpected pos \d|failed writing file": errno.ENOSPC,
    "Disk quota exceeded": errno.EDQUOT,
    "File too large": errno.EFBIG,
    "Read-only file system": errno.EROFS,
    "Permission denied": errno.EACCES,
    "Too many open files": errno.EMFILE,
    r"(?i)out of memory|can.?t allocate memory|cannot allocate|not enough memory|failed to allocate": errno.ENOMEM,
}
LIBRARIES = ("torch", "duckdb", "_duckdb", "pyarrow", "soundfile", "safetensors")
NO_FOLDER = "No usable temporary directory found"
GB, MB = 1e9, 1e6


def line(error: BaseException) -> str | None:
    """One line on an error of the machine, None for any other, which is a fault of the code."""
    for one in _chain(error):
        number = _number(one)
        if number is None:
            continue
        if number == errno.ENOMEM:
            return f"out of memory ({_one_line(one)}): lower --jobs or --batch_size, {AGAIN}"
        place = getattr(one, "filename", None) or getattr(one, "filename2", None)
        if NO_FOLDER in str(one):
            folder = os.environ.get("TMPDIR") or "/tmp"  # noqa: S108 - named, not used
            return f"no temporary file can be made in {folder}: set TMPDIR to a folder that has room, {AGAIN}"
        if number in FULL:
            return f"{os.strerror(number)}: {_room(place)}: {REMEDIES[number]}"
        return f"{place or _one_line(one)}: {os.strerror(number)}: {REMEDIES[number]}"
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and those that led to it: torch fails anew while it closes the file that could not be written."""
    seen = list[BaseException]()
    found: BaseException | None = error
    while found is not None and found not in seen:
        seen.append(found)
        found = found.__cause__ or found.__context__
    return iter(seen)


def _number(error: BaseException) -> int | None:
    """The system's number of an error of the machine."""
    if isinstance(error, MemoryError):
        return errno.ENOMEM
    if isinstance(error, OSError) and error.errno is not None:
        is_known = error.errno in REMEDIES and (
            error.errno != errno.ENOENT or error.filename or NO_FOLDER in str(error)
        )
        return error.errno if is_known or error.errno == errno.ENOMEM else None
    of_library = type(error).__module__.partition(".")[0] in LIBRARIES
    if of_library or type(error) in (RuntimeError, OSError):
        return next((number for pattern, number in SAID.items() if re.search(pattern, str(error))), None)
    return None


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _room(place: object) -> str:
    """Where there is no room, and how much there is."""
    if isinstance(place, (str, bytes, os.PathLike)):
        return f"{os.fsdecode(place)} ({_free(Path(os.fsdecode(place)))})"
    free = {folder: _free_bytes(folder) for folder in (Path("cache"), Path.cwd(), Path(_temporary()))}
    fullest = min(free, key=lambda folder: free[folder])
    return f"{fullest} ({_free(fullest)})"


def _temporary() -> str:
    try:
        return tempfile.gettempdir()
    except OSError:
        return "."


def _existing(path: Path) -> Path:
    """`path`, or the folder above it that is there."""
    return next((folder for folder in (path, *path.absolute().parents) if folder.exists()), Path("/"))


def _free_bytes(path: Path) -> int:
    about = os.statvfs(_existing(path))
    return about.f_bavail * about.f_frsize


def _free(path: Path) -> str:
    about = os.statvfs(_existing(path))
    return f"{size(about.f_bavail * about.f_frsize)} of {size(about.f_blocks * about.f_frsize)} are free there"


def size(n_bytes: float) -> str:
    """Bytes as a person reads them."""
    return f"{n_bytes / GB:.1f} GB" if n_bytes >= GB else f"{n_bytes / MB:.1f} MB"


def reserve(file: IO[bytes], n_bytes: int, place: Path) -> None:
    """Give `file` a size of `n_bytes` and the room on the disk for it, so that a memory map of it cannot fail: where
    a page has no room the process is killed by SIGBUS.

    Raises NoSpaceError, which says how much is missing; `place` is the folder that it names.
    """
    if n_bytes == 0:
        return
    if n_bytes > (free := _free_bytes(place)):  # before it is tried, which would fill the disk first
        raise _too_large(place, n_bytes, free)
    try:
        os.posix_fallocate(file.fileno(), 0, n_bytes)
    except OSError as error:
        file.truncate(0)  # it may have taken all that there was
        if error.errno not in FULL:
            raise
        raise _too_large(place, n_bytes, min(_free_bytes(place), n_bytes)) from error


def _too_large(place: Path, n_bytes: int, free: int) -> NoSpaceError:
    return NoSpaceError(
        f"{place}: {size(n_bytes)} are needed there for a while and {size(free)} are free, {size(n_bytes - free)} too "
        f"few: {REMEDIES[errno.ENOSPC]}"
    )

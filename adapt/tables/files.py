"""Files of both packages: hashed, and written whole or not at all."""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name beside `path`, where an empty file lies, and make the folder.

    What is written under that name becomes `path` when the block ends, and is deleted where it raises.  Whoever reads
    `path` meanwhile, or after a run that was killed, finds the old file or the new one, whole.  The name is nobody
    else's: two that write `path` at once do not touch each other's file, and the last to end has it.  An OSError for
    lack of room, which names no file where it is a write's, names `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path.parent, path.name)
    temporary, descriptor = _create(path)
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        if error.errno in FULL and error.filename is None:  # a write knows no name, and only a write fails so
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)
        os.close(descriptor)


def _create(path: Path) -> tuple[Path, int]:
    """(a new name beside `path`, its open file, which is locked for as long as it is in use)."""
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(temporary, flags, 0o666)
        if _is_ours(descriptor) and os.fstat(descriptor).st_nlink:
            return temporary, descriptor
        os.close(descriptor)  # a sweep came in between, and took it for an orphan


def sweep(folder: Path, name: str = "") -> None:
    """Delete temporary files of `name`, or of any name, in `folder` that a killed process left; those in use stay."""
    if not folder.is_dir():
        return
    start, end = (f".{name}." if name else "."), ".tmp"
    for file in sorted(folder.iterdir()):
        if not (file.name.startswith(start) and file.name.endswith(end)):
            continue
        try:
            descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:  # gone meanwhile, or a link, which is none of ours
            continue
        try:
            if _is_ours(descriptor):
                file.unlink(missing_ok=True)
        finally:
            os.close(descriptor)


def _is_ours(descriptor: int) -> bool:
    """Lock an open file, unless another process holds it."""
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def sha256_text(*parts: object) -> str:
    """Hash the JSON of `parts`: the key under which derived rows are kept."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def sha256_file(path: Path) -> str:
    """Hash a file's bytes in constant memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

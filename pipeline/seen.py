"""What `scan` found in each file the last time, so that an unchanged file is neither hashed nor decoded again.

A file is unchanged where its size, its inode and both of its times are: when it was written (mtime), which anyone may
set, and when the system last changed anything about it (ctime), which nobody can.  A file that changed within SETTLED_S
of being looked at is not remembered: a write in the same tick of the file system's clock would not show.  What a
decoder found also depends on the decoder, so it counts only for the same code and libraries.

This is a memo, no table of the cache: without it, all files are looked at.
"""

import logging
import os
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from adapt.tables import parquet
from adapt.tables.code import code_sha256
from adapt.tables.files import sha256_text

log = logging.getLogger("scan")
NAME = "scan_memory.parquet"  # in the data set's folder of the cache
FORM = "1"  # of this file
SETTLED_S = 2.0  # two ticks of the coarsest clock of a file system, FAT's
COLUMNS = pa.schema(
    [("path", pa.binary()), ("size", pa.int64()), ("inode", pa.uint64()), ("mtime_ns", pa.int64()),
     ("ctime_ns", pa.int64()), ("content_sha256", pa.string()), ("n_frames", pa.int64()), ("duration_s", pa.float64()),
     ("reader", pa.string())]
)  # fmt: skip


class State(NamedTuple):
    """What tells whether a file has changed."""

    size: int
    inode: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, about: os.stat_result) -> "State":
        """From what the system says of a file."""
        return cls(about.st_size, about.st_ino, about.st_mtime_ns, about.st_ctime_ns)


@dataclass(frozen=True)
class Entry:
    """What was found in a file."""

    state: State
    content_sha256: str
    facts: dict[str, object] | None = None  # n_frames, duration_s and reader; None: not probed, or not readable


class Memory:
    """The entries of one data set, by path; threads may share it."""

    def __init__(self, path: Path) -> None:
        """Read `path`; what is no such file is as good as none, and said."""
        self._path, self._started_ns = path, time.time_ns()
        self._decoder = _decoder()
        self._known: dict[bytes, Entry] = {}
        self._found: dict[bytes, Entry] = {}
        self.n_known = 0  # of this run's files, those that were not hashed again

    def read(self) -> None:
        """Take up what the last run wrote."""
        if not self._path.exists():
            return
        try:
            if not parquet.is_whole(self._path):
                raise pa.ArrowInvalid("it is damaged, or another version wrote it")
            table = pq.read_table(self._path)
            said = table.schema.metadata or {}
            if said.get(b"earshot.form") != FORM.encode() or table.schema.remove_metadata() != COLUMNS:
                raise pa.ArrowInvalid("it has another form")
        except (OSError, pa.ArrowException) as error:
            log.info("%s cannot be used (%s): every file is looked at", self._path, error)
            return
        is_same_decoder = said.get(b"earshot.decoder") == self._decoder.encode()
        for row in table.to_pylist():
            state = State(row["size"], row["inode"], row["mtime_ns"], row["ctime_ns"])
            facts = {name: row[name] for name in ("n_frames", "duration_s", "reader")}
            is_probed = is_same_decoder and row["reader"] is not None
            self._known[row["path"]] = Entry(state, row["content_sha256"], facts if is_probed else None)

    def get(self, path: str, state: State) -> Entry | None:
        """What was found in the file at `path` when it was in this state."""
        entry = self._known.get(os.fsencode(path))
        return entry if entry is not None and entry.state == state else None

    def put(self, path: str, entry: Entry) -> None:
        """Remember it for the next run, unless its file has changed just now."""
        changed_ns = max(entry.state.mtime_ns, entry.state.ctime_ns)
        if changed_ns < self._started_ns - SETTLED_S * 1e9:
            self._found[os.fsencode(path)] = entry

    def write(self) -> None:
        """Write what this run found, and forget what it did not."""
        entries = sorted(self._found.items())
        columns: dict[str, list[object]] = {name: [] for name in COLUMNS.names}
        for path, entry in entries:
            values = {"path": path, **entry.state._asdict(), "content_sha256": entry.content_sha256}
            for name in COLUMNS.names:
                columns[name].append(values[name] if name in values else (entry.facts or {}).get(name))
        table = pa.table(columns, schema=COLUMNS)
        table = table.replace_schema_metadata({"earshot.form": FORM, "earshot.decoder": self._decoder})
        with parquet.sealed(
            self._path, table.schema
        ) as file:  # a bit that flips in a hash would get into clips.parquet
            file.write_table(table)


def _decoder() -> str:
    """All that what a probe finds depends on, but for the file."""
    return sha256_text(FORM, code_sha256(["adapt.video.decoding"]), _version("av"), _version("decord"))


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"  # decord, on processors other than x86-64

"""Folders of Parquet shards that grow with a data set: keep what is still valid, make what is missing, drop what is
gone.

A stage killed half-way loses the shard in hand and a second run does nothing.  Rows go from old shards and from the
stage to new shards as a stream, so memory grows neither with the data set nor with a clip's length.
"""

import hashlib
import heapq
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from adapt.errors import CacheError
from adapt.tables import parquet
from adapt.tables.files import sweep
from adapt.tables.schema import schema_of

log = logging.getLogger(__name__)
CLIPS_PER_SHARD = 64
ROWS_PER_GROUP = {"waveforms": 8}  # of 30 s: about 10 MB
DEFAULT_ROWS_PER_GROUP = 1024
TableRow = tuple[str, parquet.Row]  # (table, row)
Make = Callable[[list[str]], Iterable[TableRow]]


def shard_name(clip_id: str, n_shards: int) -> str:
    """The shard that holds `clip_id`: by hash, so that a new clip touches one shard only."""
    return f"part-{int(hashlib.sha256(clip_id.encode()).hexdigest()[:8], 16) % n_shards:05d}-of-{n_shards:05d}.parquet"


def n_shards(n_clips: int) -> int:
    """A power of two that keeps shards near CLIPS_PER_SHARD clips and steady while a data set grows."""
    return 1 << max(0, (n_clips - 1) // CLIPS_PER_SHARD).bit_length()


@dataclass(frozen=True)
class Group:
    """Tables that one stage makes together, sharded alike; a clip is stored when all of them hold it."""

    index: str  # the table whose rows say which clips there are
    folders: Mapping[str, Path]  # table -> its folder
    n_rows: Mapping[str, str]  # table -> the index's column that tells how many of its rows a clip has


def sync(
    group: Group, wanted: Mapping[str, str], make: Make, provenance: Mapping[str, str], n_clips: int | None = None
) -> dict[str, int]:
    """Bring the group's folders in line with `wanted` (clip_id -> cache_key); return counts of kept, made and dropped
    clips.

    Rows whose clip and key are still wanted are kept, whatever shard they lie in; `make(clip_ids)` is asked, shard by
    shard, for the rows of the others, as (table, row), clip by clip in the order of `clip_ids`, each row with its
    clip_id and cache_key.  A clip for which `make` gives no row is asked for again by the next run.  `n_clips` decides
    the number of shards (default: of `wanted`), so that a table about some of the clips can be sharded like the table
    about all.
    """
    total = n_shards(len(wanted) if n_clips is None else n_clips)
    stored = Stored.read(group, wanted)
    shards: dict[str, list[str]] = {}
    for clip_id in sorted(wanted):
        shards.setdefault(shard_name(clip_id, total), []).append(clip_id)
    n_made = 0
    for name, clip_ids in sorted(shards.items()):
        missing = [clip_id for clip_id in clip_ids if clip_id not in stored.where]
        n_made += len(missing)
        if missing or not stored.is_exactly(name, clip_ids, provenance):
            _write_shard(group, name, [*stored.rows(clip_ids, wanted), make(missing) if missing else ()], provenance)
    for folder in group.folders.values():
        for file in _shards(folder):
            if file.name not in shards:
                file.unlink()
    return {"n_kept": len(wanted) - n_made, "n_made": n_made, "n_dropped": len(stored.seen - wanted.keys())}


@dataclass(frozen=True)
class Stored:
    """What lies in a group's folders before a run."""

    group: Group
    where: Mapping[str, Mapping[str, Path]]  # of every wanted clip that is whole: table -> the shard with its rows
    seen: set[str]  # every clip of the index, wanted or not
    holds: Mapping[Path, set[str]]  # shard -> clips that it has rows of, whatever their key

    @classmethod
    def read(cls, group: Group, wanted: Mapping[str, str]) -> "Stored":
        """Verify every shard and look at its clip_id and cache_key.  A damaged shard, or one of another schema, counts
        as absent, which is said.
        """
        holds: dict[Path, set[str]] = {}
        rows_of: dict[str, dict[tuple[str, str], dict[Path, int]]] = {table: {} for table in group.folders}
        for table, folder in group.folders.items():
            folder.mkdir(parents=True, exist_ok=True)
            sweep(folder)
            for file in _usable_shards(folder, table):
                keys = parquet.read_file(file, table, ["clip_id", "cache_key"])
                counted = Counter(zip(keys.column(0).to_pylist(), keys.column(1).to_pylist(), strict=True))
                holds[file] = {clip_id for clip_id, _ in counted}
                for key, n in counted.items():
                    rows_of[table].setdefault(key, {})[file] = n
        where = {}
        for file in [file for file in holds if file.parent == group.folders[group.index]]:
            columns = ["clip_id", "cache_key", *group.n_rows.values()]
            for row in parquet.read_file(file, group.index, columns).to_pylist():
                clip_id, key = row["clip_id"], (row["clip_id"], row["cache_key"])
                if wanted.get(clip_id) != row["cache_key"]:
                    continue
                found = {group.index: file}
                for table, column in group.n_rows.items():
                    whole = [f for f, n in rows_of[table].get(key, {}).items() if n == row[column]]
                    if whole or row[column] == 0:
                        found[table] = next(
                            (f for f in whole if f.name == file.name),
                            whole[0] if whole else group.folders[table] / file.name,
                        )
                if len(found) == len(group.folders):
                    where[clip_id] = found
        seen = set().union(*(clips for file, clips in holds.items() if file.parent == group.folders[group.index]))
        return cls(group, where, seen, holds)

    def is_exactly(self, name: str, clip_ids: Sequence[str], provenance: Mapping[str, str]) -> bool:
        """Whether the shard `name` is there in every folder, with the rows of these clips and no others."""
        for table, folder in self.group.folders.items():
            file = folder / name
            if file not in self.holds or any(self.where[clip_id][table] != file for clip_id in clip_ids):
                return False
            foreign = self.holds[file] - set(clip_ids)
            missing = set(clip_ids) - self.holds[file] if table == self.group.index else set()
            known = parquet.provenance(file)
            if foreign or missing or any(known.get(key) != value for key, value in provenance.items()):
                return False
        return True

    def rows(self, clip_ids: Sequence[str], wanted: Mapping[str, str]) -> list[Iterator[TableRow]]:
        """The stored rows of those of `clip_ids` that are whole: one iterator a shard, each in clip order."""
        files: dict[tuple[str, Path], set[str]] = {}
        for clip_id in clip_ids:
            for table, file in self.where.get(clip_id, {}).items():
                files.setdefault((table, file), set()).add(clip_id)
        return [
            _stored_rows(table, file, {clip: wanted[clip] for clip in clips})
            for (table, file), clips in files.items()
            if file in self.holds
        ]


def read_rows(file: Path, table: str, clip_ids: Iterable[str], columns: Sequence[str]) -> Iterator[dict[str, object]]:
    """Yield rows of one shard, of the clips asked for, in key order, a row group's rows at a time.

    Raises CacheError where the shard is missing, damaged, or of another version of cache/schema.sql.
    """
    parquet.verify(file, table)
    n, wanted = ROWS_PER_GROUP.get(table, DEFAULT_ROWS_PER_GROUP), pa.array(sorted(clip_ids), pa.string())
    with pq.ParquetFile(file, pre_buffer=False, page_checksum_verification=True) as opened:
        batches = opened.iter_batches(batch_size=n, columns=[*columns], use_threads=False)
        while True:
            try:
                batch = next(batches, None)
            except (OSError, pa.ArrowException) as error:  # it was verified: the disk changes what it gives
                raise parquet.damaged(file, table, error) from error
            if batch is None:
                return
            yield from batch.filter(pc.is_in(batch.column("clip_id"), wanted)).to_pylist()


def _stored_rows(table: str, file: Path, keys: Mapping[str, str]) -> Iterator[TableRow]:
    for row in read_rows(file, table, keys, schema_of(table).names):
        if keys[str(row["clip_id"])] == row["cache_key"]:
            yield table, row


def _write_shard(group: Group, name: str, sources: Sequence[Iterable[TableRow]], provenance: Mapping[str, str]) -> None:
    """Merge rows that come in clip order into one shard a table.  The index is renamed last: its rows promise the
    others'.
    """
    tables = [group.index, *(table for table in group.folders if table != group.index)]
    with ExitStack() as stack:
        writers = {
            table: stack.enter_context(parquet.Writer(group.folders[table] / name, table, provenance))
            for table in tables
        }
        held: dict[str, list[parquet.Row]] = {table: [] for table in tables}
        for table, row in heapq.merge(*sources, key=lambda item: str(item[1]["clip_id"])):
            held[table].append(row)
            if len(held[table]) == ROWS_PER_GROUP.get(table, DEFAULT_ROWS_PER_GROUP):
                _add(writers[table], held[table])
        for table in tables:
            _add(writers[table], held[table])


def _add(writer: parquet.Writer, rows: list[parquet.Row]) -> None:
    writer.add(pa.Table.from_pylist([dict(row) for row in rows], schema=writer.schema))
    rows.clear()


def _shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("part-*.parquet"))


def _usable_shards(folder: Path, table: str) -> list[Path]:
    def look(file: Path) -> str:
        try:
            parquet.verify(file, table)
        except CacheError as error:
            return str(error)
        return ""

    files = _shards(folder)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        problems = list(pool.map(look, files))
    for problem in filter(None, problems):
        log.warning("%s: counts as absent, and is made again", problem.rpartition(": run ")[0])
    return [file for file, problem in zip(files, problems, strict=True) if not problem]

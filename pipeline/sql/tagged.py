"""The tags of a data set's clips, read shard by shard and checked against `clips` and `audio`."""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from adapt.errors import CacheError
from adapt.tables import parquet
from adapt.tables.files import sha256_text
from pipeline.sql import tables

WITH_SOUND = ("ok", "truncated")
WINDOWS_AT_ONCE = 2048


@dataclass(frozen=True)
class Clips:
    """The clips of a data set, sorted by id."""

    ids: list[str]
    statuses: pa.Array  # of their sound
    keys: list[str | None]  # of their rows of `audio`

    def ranks(self, clip_ids: Sequence[str]) -> npt.NDArray[np.int64]:
        """Where each of `clip_ids` stands in `ids`, -1 for those that are not clips of today."""
        found = [bisect_left(self.ids, clip_id) for clip_id in clip_ids]
        return np.array(
            [r if r < len(self.ids) and self.ids[r] == c else -1 for r, c in zip(found, clip_ids, strict=True)],
            dtype=np.int64,
        )


@dataclass(frozen=True)
class Tagged:
    """Some clips' tags."""

    ranks: npt.NDArray[np.int64]  # (N,) where each clip stands among `Clips`
    starts: npt.NDArray[np.int64]  # (N,) of its windows in `logits`
    logits: npt.NDArray[np.floating]  # (W, A)


def read_clips(folder: Path, connection: duckdb.DuckDBPyConnection) -> Clips:
    """Every clip with the status of its sound.  Raises CacheError where `audio` is not about these clips."""
    for table in ("clips", "audio"):
        files = tables.needed(folder, table)
        tables.check(table, files, connection)
        tables.add(table, files, connection)
    joined = (
        "SELECT clip_id, audio.status, audio.cache_key, clips.clip_id IS NOT NULL AS is_listed FROM clips "
        "FULL JOIN audio USING (clip_id) ORDER BY clip_id"
    )
    try:
        found = connection.sql(joined).to_arrow_table()
    except duckdb.Error as error:
        raise CacheError(
            f"{folder}: clips and audio have rows that cannot be read ({tables.one_line(error)}): "
            f"{tables.repair('audio')}"
        ) from error
    is_odd = pc.or_(pc.is_null(found.column("status")), pc.invert(found.column("is_listed")))
    if odd := found.column("clip_id").filter(is_odd).to_pylist():
        raise CacheError(
            f"{folder / 'audio'} was made of other clips than clips.parquet lists: {len(odd)} differ, first "
            f"{odd[0]!r}: {tables.repair('audio')}"
        )
    keys = found.column("cache_key").to_pylist()
    return Clips(found.column("clip_id").to_pylist(), found.column("status").combine_chunks(), keys)


def tagged(tags: Path, clips: Clips, n_sounds: int) -> Iterator[Tagged]:
    """Yield the tags of every clip that has some, a few clips at a time, in the order of shards.

    Raises CacheError where they are not of these clips' sound, not `n_sounds` logits, or where a clip with sound was
    never tagged.
    """
    is_tagged = np.zeros(len(clips.ids), np.bool_)
    for block, tagging in _blocks(sorted(tags.glob("part-*.parquet"))):
        if pc.any(pc.not_equal(pc.list_value_length(block.column("logits")), n_sounds)).as_py():
            raise CacheError(
                f"{tags} has rows without {n_sounds} logits, one a sound of its label list: {tables.repair('tags')}"
            )
        logits = block.column("logits").combine_chunks().flatten().to_numpy().reshape(-1, n_sounds)
        ranks = clips.ranks(block.column("clip_id").to_pylist())
        _check_keys(tags, clips, ranks, block.column("cache_key").to_pylist(), tagging)
        order = np.argsort(ranks, kind="stable")[(ranks < 0).sum() :]
        ranks = ranks[order]
        starts = np.flatnonzero(np.diff(ranks, prepend=-1))
        found = ranks[starts]
        if is_tagged[found].any():
            raise CacheError(
                f"{tags}: clip {clips.ids[found[is_tagged[found]][0]]!r} has rows in two shards: "
                f"{tables.repair('tags')}"
            )
        is_tagged[found] = True
        yield Tagged(found, starts, logits[order])
    sounding = pc.is_in(clips.statuses, pa.array(WITH_SOUND)).to_numpy(zero_copy_only=False)
    if (untagged := np.flatnonzero(sounding & ~is_tagged)).size:
        raise CacheError(
            f"{tags} lacks {untagged.size} clips that have sound, first {clips.ids[untagged[0]]!r}: "
            f"{tables.repair('tags')}"
        )


def _check_keys(
    tags: Path, clips: Clips, ranks: npt.NDArray[np.int64], keys: Sequence[str], tagging: Sequence[str]
) -> None:
    """Raise CacheError where rows were made of other sound than `audio` describes.

    Row i is of the clip at ranks[i]; tagging[i] says how its shard was tagged.
    """
    wanted: dict[tuple[int, str], str] = {}
    for rank, key, how in zip(ranks.tolist(), keys, tagging, strict=True):
        if rank < 0:
            continue
        if (rank, how) not in wanted:
            wanted[rank, how] = sha256_text(how, clips.keys[rank])
        if wanted[rank, how] != key:
            raise CacheError(
                f"{tags}: clip {clips.ids[rank]!r} was tagged from other sound than {tags.parent / 'audio'} describes: "
                f"{tables.repair('tags')}"
            )


def _blocks(files: Sequence[Path]) -> Iterator[tuple[pa.Table, list[str]]]:
    """(rows of some shards at a time, for each row how its shard was tagged)."""
    parts: list[pa.Table] = []
    tagging: list[str] = []
    for i, path in enumerate(files):
        parts.append(parquet.read_file(path, "tags", ["clip_id", "cache_key", "logits"]))
        how = parquet.provenance(path).get("tagging")
        if how is None:
            raise CacheError(f"{path} does not say how it was tagged: {tables.repair('tags')}")
        tagging += [how] * parts[-1].num_rows
        if len(tagging) >= WINDOWS_AT_ONCE or i + 1 == len(files):
            yield pa.concat_tables(parts), tagging
            parts, tagging = [], []

"""Shards of any clips, whatever was there before and wherever each run before was ended: the bytes of a fresh run."""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st

from adapt.tables import parquet
from pipeline.workers import shards
from tests.pipeline.workers.test_shards import audio_row, sounds_in
from tests.sounds import bytes_of

CLIPS = st.dictionaries(st.text(max_size=6).filter(lambda name: name.isprintable()), st.sampled_from("abc"), max_size=9)
ENDS = st.integers(0, 30)  # the row at which a run is ended


class Ended(BaseException):
    """The run was ended."""


def n_blocks(clip_id: str, key: str) -> int:
    return (len(clip_id) + ord(key)) % 3


def bring(folder: Path, wanted: dict[str, str], end: int | None = None) -> None:
    """Sync, ended by an exception at the row `end`."""

    def make(clip_ids: Sequence[str]) -> Iterator[shards.TableRow]:
        for clip in clip_ids:
            key = wanted[clip]
            for block in range(n_blocks(clip, key)):
                row = {"clip_id": clip, "block": block, "n_samples": 1, "flac": key.encode(), "cache_key": key}
                yield from step("waveforms", row)
            yield from step("audio", audio_row(clip, n_blocks(clip, key), key))

    def step(table: str, row: parquet.Row) -> Iterator[shards.TableRow]:
        nonlocal end
        if end is not None and (end := end - 1) < 0:
            raise Ended
        yield table, row

    with mock.patch.object(shards, "CLIPS_PER_SHARD", 2):  # so that a few clips need many shards
        shards.sync(sounds_in(folder), wanted, make, {"made": "by a test"})


@settings(max_examples=8)
@given(st.lists(st.tuples(CLIPS, ENDS), max_size=3), CLIPS)
def test_any_runs_before_and_any_ends_of_them_leave_the_bytes_of_a_fresh_run(
    before: list[tuple[dict[str, str], int]], wanted: dict[str, str]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for clips, end in before:
            try:
                bring(Path(folder) / "here", clips, end)
            except Ended:
                continue
        bring(Path(folder) / "here", wanted)
        bring(Path(folder) / "fresh", wanted)
        assert bytes_of(Path(folder) / "here") == bytes_of(Path(folder) / "fresh")

"""shards: folders of Parquet that follow a data set, whatever kills the stage that fills them."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from adapt.errors import CacheError
from adapt.tables import parquet
from pipeline.workers import shards


def tag_rows(clip_ids: list[str]) -> Iterator[shards.TableRow]:
    for clip in clip_ids:
        yield (
            "tags",
            {"clip_id": clip, "window_start_s": 0.0, "padded_share": 0.0, "cache_key": f"key {clip}", "logits": [1.0]},
        )


def keys(n_clips: int) -> dict[str, str]:
    return {f"clip{i:03d}": f"key clip{i:03d}" for i in range(n_clips)}


def tags_in(folder: Path) -> shards.Group:
    return shards.Group("tags", {"tags": folder}, {})


def sounds_in(folder: Path) -> shards.Group:
    return shards.Group(
        "audio", {"audio": folder / "audio", "waveforms": folder / "waveforms"}, {"waveforms": "n_blocks"}
    )


def audio_row(clip: str, n_blocks: int, key: str) -> parquet.Row:
    empty = dict.fromkeys(
        ("track", "mix", "n_channels", "duration_s", "expected_s", "level_dbfs", "rms_dbfs", "peak_dbfs", "error")
    )
    return empty | {
        "clip_id": clip,
        "status": "ok",
        "sample_rate": 8000,
        "n_samples": 1,
        "n_blocks": n_blocks,
        "cache_key": key,
    }


def sound_rows(clip_ids: list[str]) -> Iterator[shards.TableRow]:
    """Clips with as many blocks as the last digit of their names says."""
    for clip in clip_ids:
        for block in range(int(clip[-1])):
            yield (
                "waveforms",
                {"clip_id": clip, "block": block, "n_samples": 1, "flac": clip.encode(), "cache_key": f"key {clip}"},
            )
        yield "audio", audio_row(clip, int(clip[-1]), f"key {clip}")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.parquet"))}


def asking(asked: list[str], rows: Callable[[list[str]], Iterator[shards.TableRow]]) -> shards.Make:
    def make(clip_ids: list[str]) -> Iterator[shards.TableRow]:
        asked.extend(clip_ids)
        return rows(clip_ids)

    return make


def test_shards_make_what_is_missing_once_and_drop_what_is_gone(tmp_path: Path) -> None:
    asked: list[str] = []
    make, group, wanted = asking(asked, tag_rows), tags_in(tmp_path / "tags"), keys(150)
    assert shards.sync(group, wanted, make, {}) == {"n_kept": 0, "n_made": 150, "n_dropped": 0}
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "tags").iterdir()}
    assert shards.sync(group, wanted, make, {})["n_made"] == 0
    assert {p.name: p.stat().st_mtime_ns for p in (tmp_path / "tags").iterdir()} == before
    asked.clear()
    changed = {k: v for k, v in wanted.items() if k != "clip007"} | {"new": "key new"}
    assert shards.sync(group, changed, make, {}) == {"n_kept": 149, "n_made": 1, "n_dropped": 1}
    assert asked == ["new"]
    assert set(parquet.read_table(tmp_path / "tags", "tags").column("clip_id").to_pylist()) == set(changed)


def test_two_tables_grow_together_and_a_grown_set_gives_the_bytes_of_a_fresh_one(tmp_path: Path) -> None:
    asked: list[str] = []
    shards.sync(sounds_in(tmp_path / "grown"), keys(100), asking(asked, sound_rows), {"a": "1"})
    asked.clear()
    shards.sync(sounds_in(tmp_path / "grown"), keys(130), asking(asked, sound_rows), {"a": "1"})  # 2 shards become 4
    assert asked == sorted(set(keys(130)) - set(keys(100)), key=lambda c: (shards.shard_name(c, 4), c))
    shards.sync(sounds_in(tmp_path / "fresh"), keys(130), sound_rows, {"a": "1"})
    assert contents(tmp_path / "grown") == contents(tmp_path / "fresh")


@pytest.mark.slow
@pytest.mark.parametrize("at_clip", [0, 1, 70, 99, 199])
def test_a_stage_killed_anywhere_goes_on_and_ends_with_the_same_bytes(tmp_path: Path, at_clip: int) -> None:
    def killed(clip_ids: list[str]) -> Iterator[shards.TableRow]:
        for item in sound_rows(clip_ids):
            if len(done) == at_clip:
                raise KeyboardInterrupt
            done.add(str(item[1]["clip_id"]))
            yield item

    done: set[str] = set()
    wanted, asked = keys(200), list[str]()
    with pytest.raises(KeyboardInterrupt):
        shards.sync(sounds_in(tmp_path / "killed"), wanted, killed, {})
    assert not list(tmp_path.rglob("*.tmp"))
    shards.sync(sounds_in(tmp_path / "killed"), wanted, asking(asked, sound_rows), {})
    assert len(asked) <= 200 - at_clip + 2 * shards.CLIPS_PER_SHARD
    shards.sync(sounds_in(tmp_path / "whole"), wanted, sound_rows, {})
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_a_clip_whose_blocks_are_gone_is_made_again(tmp_path: Path) -> None:
    wanted, asked = keys(10), list[str]()
    shards.sync(sounds_in(tmp_path), wanted, sound_rows, {})
    before = contents(tmp_path)
    next((tmp_path / "waveforms").iterdir()).unlink()
    shards.sync(sounds_in(tmp_path), wanted, asking(asked, sound_rows), {})
    assert asked == [clip for clip in wanted if not clip.endswith("0")]  # a clip without blocks lost none
    assert contents(tmp_path) == before


def test_a_kill_between_the_renames_of_a_shard_loses_that_shard_only(tmp_path: Path) -> None:
    wanted = keys(10)
    shards.sync(sounds_in(tmp_path), dict(list(wanted.items())[:5]), sound_rows, {})
    old_index = contents(tmp_path)["audio/part-00000-of-00001.parquet"]
    shards.sync(sounds_in(tmp_path), wanted, sound_rows, {})
    (tmp_path / "audio/part-00000-of-00001.parquet").write_bytes(old_index)  # the blocks are renamed first
    asked: list[str] = []
    shards.sync(sounds_in(tmp_path), wanted, asking(asked, sound_rows), {})
    assert asked == list(wanted)[5:]
    shards.sync(sounds_in(tmp_path / "whole"), wanted, sound_rows, {})
    assert contents(tmp_path / "whole") == {
        name: data for name, data in contents(tmp_path).items() if not name.startswith("whole")
    }


def test_a_new_key_makes_a_clips_rows_again_in_every_table(tmp_path: Path) -> None:
    def other(clip_ids: list[str]) -> Iterator[shards.TableRow]:
        for table, row in sound_rows(clip_ids):
            yield table, dict(row) | {"cache_key": "other"}

    shards.sync(sounds_in(tmp_path), keys(10), sound_rows, {})
    assert shards.sync(sounds_in(tmp_path), keys(10) | {"clip003": "other"}, other, {})["n_made"] == 1
    rows = parquet.read_table(tmp_path / "waveforms", "waveforms").to_pylist()
    assert [row["cache_key"] for row in rows if row["clip_id"] == "clip003"] == ["other"] * 3
    assert len(rows) == sum(range(10))


def test_a_broken_shard_is_made_again(tmp_path: Path) -> None:
    wanted, group = keys(100), tags_in(tmp_path)
    shards.sync(group, wanted, tag_rows, {})
    shard = sorted(tmp_path.iterdir())[0]
    n_in_shard = pq.read_metadata(shard).num_rows
    shard.write_bytes(shard.read_bytes()[:99])
    assert shards.sync(group, wanted, tag_rows, {})["n_made"] == n_in_shard
    assert parquet.read_table(tmp_path, "tags").num_rows == 100


@pytest.mark.parametrize("table", ["audio", "waveforms"])
@pytest.mark.parametrize("where", ["pages", "footer", "empty", "other"])
def test_a_damaged_shard_counts_as_absent_is_named_and_is_made_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, table: str, where: str
) -> None:
    wanted = keys(10)
    shards.sync(sounds_in(tmp_path), wanted, sound_rows, {})
    before, shard = contents(tmp_path), next((tmp_path / table).iterdir())
    damaged = bytearray(shard.read_bytes())
    place = pq.read_metadata(shard).row_group(0).column(0).dictionary_page_offset + 30 if where == "pages" else -40
    damaged[place] ^= 1
    shard.write_bytes({"empty": b"", "other": b"PAR1" + bytes(20) + b"PAR1"}.get(where, bytes(damaged)))
    (orphan := shard.with_name(f".{shard.name}.0123.tmp")).write_bytes(b"of a killed run")
    asked: list[str] = []
    shards.sync(sounds_in(tmp_path), wanted, asking(asked, sound_rows), {})
    assert contents(tmp_path) == before
    assert set(asked) >= {clip for clip in wanted if not clip.endswith("0")}
    assert [record.getMessage().partition(": ")[0].split(" ")[0] for record in caplog.records] == [
        str(shard).rstrip(":")
    ]
    assert not orphan.exists()


def test_a_shard_of_another_provenance_is_written_again_from_its_own_rows(tmp_path: Path) -> None:
    asked: list[str] = []
    shards.sync(tags_in(tmp_path), keys(10), tag_rows, {"tagger": "a"})
    assert shards.sync(tags_in(tmp_path), keys(10), asking(asked, tag_rows), {"tagger": "b"})["n_kept"] == 10
    assert asked == []
    assert parquet.provenance(next(tmp_path.iterdir()))["tagger"] == "b"


def test_a_table_about_some_clips_is_sharded_like_the_one_about_all(tmp_path: Path) -> None:
    shards.sync(tags_in(tmp_path), keys(10), tag_rows, {}, n_clips=1000)
    assert {path.name for path in tmp_path.iterdir()} == {shards.shard_name(clip, 16) for clip in keys(10)}


def test_rows_out_of_order_are_refused_and_leave_no_file(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="do not come in the order of"):
        shards.sync(tags_in(tmp_path), keys(10), lambda clip_ids: tag_rows(clip_ids[::-1]), {})
    assert list(tmp_path.iterdir()) == []


def test_read_rows_streams_the_clips_asked_for(tmp_path: Path) -> None:
    shards.sync(sounds_in(tmp_path), keys(10), sound_rows, {})
    file = next((tmp_path / "waveforms").iterdir())
    rows = list(shards.read_rows(file, "waveforms", ["clip002", "clip009"], ["clip_id", "block"]))
    assert rows == [{"clip_id": "clip002", "block": b} for b in range(2)] + [
        {"clip_id": "clip009", "block": b} for b in range(9)
    ]

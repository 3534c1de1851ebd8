"""parquet: a bit that flips anywhere in a file of the cache is noticed by whoever reads it."""

import hashlib
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from adapt.errors import CacheError
from adapt.tables import parquet
from adapt.tables.schema import schema_of


def row(i: int) -> dict[str, object]:
    return {
        "clip_id": f"clip{i}",
        "window_start_s": 0.0,
        "padded_share": 0.0,
        "cache_key": "k",
        "logits": [0.5 * i, 1.0],
    }


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with parquet.Writer(path := tmp_path / "part-00000-of-00001.parquet", "tags", {"tagger": "x"}) as file:
        for start in (0, 3):
            file.add(pa.Table.from_pylist([row(i) for i in range(start, start + 3)], schema=schema_of("tags")))
    return path


def test_a_byte_that_changes_anywhere_in_a_file_is_an_error(path: Path) -> None:
    whole, chosen = path.read_bytes(), random.Random(7)
    for i in range(len(whole)):
        damaged = bytearray(whole)
        damaged[i] ^= 1 << chosen.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(CacheError):
            parquet.verify(path, "tags")
    path.write_bytes(whole)
    assert parquet.verify(path, "tags")["tagger"] == "x"


@pytest.mark.parametrize("n_bytes", [0, 4, 7, 8, 100, -1, -8, -100])
def test_a_file_that_was_cut_is_an_error(path: Path, n_bytes: int) -> None:
    path.write_bytes(path.read_bytes()[:n_bytes])
    with pytest.raises(CacheError):
        parquet.verify(path, "tags")


def test_the_seal_is_the_hash_of_the_file_with_zeros_in_its_place(path: Path) -> None:
    whole, stated = path.read_bytes(), pq.read_metadata(path).metadata[parquet.SEAL.encode()]
    assert whole.count(stated) == 1
    assert hashlib.sha256(whole.replace(stated, b"0" * 64)).hexdigest().encode() == stated


def test_pages_carry_checksums_that_parquet_itself_verifies(path: Path) -> None:
    whole = bytearray(path.read_bytes())
    place = pq.read_metadata(path).row_group(0).column(4)  # logits
    end = place.data_page_offset + place.total_compressed_size
    whole[end - 3] ^= 1
    path.write_bytes(whole)
    with pytest.raises(OSError, match="CRC checksum"):
        pq.read_table(path, columns=["logits"], page_checksum_verification=True)
    with pytest.raises(CacheError, match=r"is damaged \(.*CRC.*\): run `dvc repro tag`"):
        parquet.read_file(path, "tags", ["logits"])


def test_a_damaged_table_is_one_line_that_names_the_stage_to_run_again(path: Path) -> None:
    whole = bytearray(path.read_bytes())
    whole[4] ^= 1  # the first page's header
    path.write_bytes(whole)
    with pytest.raises(CacheError, match=r"is damaged \(its bytes are not those.*\): run `dvc repro tag`"):
        parquet.read_table(path.parent, "tags")


def test_a_folder_in_place_of_a_table_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "clips.parquet").mkdir()
    with pytest.raises(CacheError, match=r"clips.parquet is a folder, but a table is a file: delete it and run"):
        parquet.read_table(tmp_path / "clips.parquet", "clips")

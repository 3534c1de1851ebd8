"""SQL over many shards of tags, as `pipeline.query` reads them (Arrow's readers, each page's checksum verified),
against DuckDB's own reader of the same files, which could write them and verifies nothing.
"""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

from adapt.tables import parquet
from adapt.tables.schema import schema_of
from pipeline.sql import tables
from tests.bench import Row, median_ms

N_SHARDS, ROWS_PER_SHARD, N_SOUNDS = 800, 128, 527
QUERIES = {
    "count rows": "SELECT count(*) FROM tags",
    "one clip's sounds": "SELECT list_max(logits) FROM tags WHERE clip_id = '00007-003'",
    "maximum of one sound over all rows": "SELECT max(logits[1]) FROM tags",
}


def rows() -> Iterator[Row]:
    """The time of each query over that of DuckDB's own reader."""
    with tempfile.TemporaryDirectory() as folder:
        files = [_write(Path(folder), shard) for shard in range(N_SHARDS)]
        for name, sql in QUERIES.items():
            ours, own = (_ms(add, files, sql) for add in (tables.add_read_only, tables.add))
            yield Row(f"{name}, {N_SHARDS} shards", ours, "ms")
            yield Row(f"{name}, over DuckDB's own reader", ours / own, "ratio")


def _ms(add: Callable[[str, list[Path], duckdb.DuckDBPyConnection], None], files: list[Path], sql: str) -> float:
    with duckdb.connect() as connection:
        add("tags", files, connection)
        return median_ms(lambda: connection.sql(sql).fetchall())


def _write(folder: Path, shard: int) -> Path:
    """A shard of made-up tags."""
    random = np.random.default_rng(shard)
    logits = (2 * random.standard_normal(ROWS_PER_SHARD * N_SOUNDS) - 6).astype(np.float32)
    offsets = np.arange(0, logits.size + 1, N_SOUNDS)
    values = {
        "clip_id": [f"{shard:05d}-{i:03d}" for i in range(ROWS_PER_SHARD)],
        "window_start_s": np.zeros(ROWS_PER_SHARD),
        "padded_share": np.zeros(ROWS_PER_SHARD),
        "cache_key": ["k" * 64] * ROWS_PER_SHARD,
        "logits": pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(logits)),
    }
    path = folder / f"part-{shard:05d}.parquet"
    schema = schema_of("tags")
    with parquet.sealed(path, schema, ["clip_id", "cache_key"]) as file:
        file.write_table(pa.table(values).select(schema.names).cast(schema))
    return path

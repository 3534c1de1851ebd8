"""The cache as data sets grow: writing shards, and finding on a second run that there is nothing to do."""
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from pipeline import cache
from tests.bench import Row, median_ms


def _tags(clip_ids: list[str]) -> list[dict[str, object]]:
    logits = [0.5] * 521
    return [{"clip_id": c, "window_start_s": 0.0, "padded_share": 0.0, "cache_key": c, "logits": logits} for c in clip_ids]


def rows() -> Iterator[Row]:
    """Milliseconds a clip at two sizes."""
    for n_clips in (500, 2_000):
        wanted = {f"clip{i:06d}": f"clip{i:06d}" for i in range(n_clips)}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "tags"
            started = time.perf_counter()
            cache.sync_shards(path, "tags", wanted, _tags, {})
            yield Row(f"write shards of tags, {n_clips} clips", 1000 * (time.perf_counter() - started) / n_clips, "ms/clip")
            again = median_ms(lambda path=path, wanted=wanted: cache.sync_shards(path, "tags", wanted, _tags, {}), runs=3)  # type: ignore[misc]
            yield Row(f"find nothing to do, {n_clips} clips", again / n_clips, "ms/clip")

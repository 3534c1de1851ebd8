"""The cache as data sets grow: writing shards, and finding on a second run that there is nothing to do."""
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from pipeline import shards
from tests.bench import Row, median_ms


def _tags(clip_ids: list[str]) -> Iterator[shards.TableRow]:
    for clip in clip_ids:
        yield "tags", {"clip_id": clip, "window_start_s": 0.0, "padded_share": 0.0, "cache_key": clip, "logits": [0.5] * 521}


def rows() -> Iterator[Row]:
    """Milliseconds a clip at two sizes."""
    for n_clips in (500, 2_000):
        wanted = {f"clip{i:06d}": f"clip{i:06d}" for i in range(n_clips)}
        with tempfile.TemporaryDirectory() as folder:
            group = shards.Group("tags", {"tags": Path(folder) / "tags"}, {})
            started = time.perf_counter()
            shards.sync(group, wanted, _tags, {})
            yield Row(f"write shards of tags, {n_clips} clips", 1000 * (time.perf_counter() - started) / n_clips, "ms/clip")
            again = median_ms(lambda group=group, wanted=wanted: shards.sync(group, wanted, _tags, {}), runs=3)  # type: ignore[misc]
            yield Row(f"find nothing to do, {n_clips} clips", again / n_clips, "ms/clip")

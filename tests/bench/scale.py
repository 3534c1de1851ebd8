"""The cache as data sets grow: shards of tags, and the pseudo-labels of 10 k and 100 k clips x 527 sounds x 101
classes, all made up.

`EARSHOT_BENCH_CLIPS=1000000` adds a larger one (a million take a few minutes and 4 GB of disk in the temporary folder).
"""

import csv
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from adapt.tables import parquet
from adapt.tables.files import sha256_file, sha256_text
from adapt.tables.schema import SCHEMA, schema_of, schema_sha256
from pipeline.workers import shards
from tests.bench import Row, median_ms

CLIP_COUNTS = (10_000, 100_000)
CLIPS_PER_SHARD, N_CLASSES = 64, 101
SOUNDS = Path("data/labels/audioset.csv").absolute()
ONE_MORE = "EARSHOT_BENCH_CLIPS"
STAGE = """
import os, re, sys
from pathlib import Path
from pipeline import pseudo_label
pseudo_label.run(pseudo_label.Options("big", "made"))
# ru_maxrss would count the parent's pages as well
peak_kib = re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]
print(sum(os.times()[:2]), int(peak_kib) / 1024, file=sys.stderr)
"""


def rows() -> Iterator[Row]:
    """Writing shards and finding nothing to do, then pseudo-labels: the cost of a clip at several sizes."""
    yield from _shards()
    yield from _pseudo_labels((*CLIP_COUNTS, *([int(os.environ[ONE_MORE])] if os.environ.get(ONE_MORE) else [])))


def _shards() -> Iterator[Row]:
    for n_clips in (500, 2_000):
        wanted = {f"clip{i:06d}": f"clip{i:06d}" for i in range(n_clips)}
        with tempfile.TemporaryDirectory() as folder:
            group = shards.Group("tags", {"tags": Path(folder) / "tags"}, {})
            started = time.perf_counter()
            shards.sync(group, wanted, _tags, {})
            yield Row(
                f"write shards of tags, {n_clips} clips", 1000 * (time.perf_counter() - started) / n_clips, "ms/clip"
            )
            again = median_ms(lambda group=group, wanted=wanted: shards.sync(group, wanted, _tags, {}), runs=3)  # type: ignore[misc]
            yield Row(f"find nothing to do, {n_clips} clips", again / n_clips, "ms/clip")


def _tags(clip_ids: list[str]) -> Iterator[shards.TableRow]:
    for clip in clip_ids:
        yield (
            "tags",
            {"clip_id": clip, "window_start_s": 0.0, "padded_share": 0.0, "cache_key": clip, "logits": [0.5] * 521},
        )


def _pseudo_labels(sizes: tuple[int, ...]) -> Iterator[Row]:
    """The stage in a process of its own: CPU microseconds a clip beyond those of one clip, and its peak memory."""
    cost: dict[int, float] = {}
    memory: dict[int, float] = {}
    start_s, _ = _run_stage(1)
    for n_clips in sizes:
        cpu_s, memory[n_clips] = _run_stage(n_clips)
        cost[n_clips] = 1e6 * (cpu_s - start_s) / n_clips
        yield Row(f"pseudo-labels, {n_clips} clips x 527 x {N_CLASSES}", cost[n_clips], "CPU us/clip")
        yield Row(f"pseudo-labels, {n_clips} clips, peak memory", memory[n_clips], "MiB")
    ratio = cost[sizes[-1]] / cost[sizes[0]]
    yield Row(f"pseudo-labels, a clip of {sizes[-1]} over one of {sizes[0]}", ratio, "ratio", "<= 1.3", ratio <= 1.3)
    growth = 1024 * 1024 * (memory[sizes[-1]] - memory[sizes[0]]) / (sizes[-1] - sizes[0])
    yield Row("pseudo-labels, memory a clip (2108 are its logits)", growth, "bytes/clip", "<= 700", growth <= 700)


def _run_stage(n_clips: int) -> tuple[float, float]:
    """(CPU seconds, peak MiB) of the stage on a data set made up here."""
    with tempfile.TemporaryDirectory() as root:
        _make_up(Path(root), n_clips)
        command = [sys.executable, "-c", STAGE]
        environment = os.environ | {"PYTHONPATH": str(Path.cwd())}
        done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=True)
    cpu_s, mib = map(float, done.stderr.splitlines()[-1].split())
    return cpu_s, mib


def _make_up(root: Path, n_clips: int) -> None:
    """A project with data set `big`: one window a clip, each sound mapped to two classes, clips spread over the
    shards.
    """
    random = np.random.default_rng(0)
    (root / "data").mkdir()
    (root / "data/labels").symlink_to(SOUNDS.parent)
    folder = root / "cache/big"
    folder.mkdir(parents=True)
    (root / "cache/schema.sql").symlink_to(SCHEMA.absolute())
    classes = [f"class {i}" for i in range(N_CLASSES)]
    (folder / "labels.txt").write_text("\n".join(classes) + "\n", encoding="utf-8")
    by_class = {"classes_sha256": hashlib.sha256("\n".join(classes).encode()).hexdigest()}
    with SOUNDS.open(encoding="utf-8", newline="") as file:
        sounds = [row["display_name"] for row in csv.DictReader(file)]
    pairs = [
        {"audio_id": i, "audio_label": sound, "label_id": int(c), "label": classes[c],
        "weight": float(random.uniform(0.1, 1)),
         "necessary": bool(random.random() < 0.2), "reason": "made up", "source": "made up"}
        for i, sound in enumerate(sounds) for c in random.choice(N_CLASSES, 2, replace=False)
    ]  # fmt: skip
    parquet.write_table(folder / "label_map.parquet", "label_map", pairs, by_class)
    ids = np.array([f"clip{i:07d}" for i in range(n_clips)])
    clip = {
        "path": "-",
        "split": "test",
        "label_id": 0,
        "label": classes[0],
        "status": "ok",
        "content_sha256": "0" * 64,
    }
    _write(folder / "clips.parquet", "clips", ids, clip, by_class)
    audio = {"status": "ok", "sample_rate": 16000, "n_samples": 0, "cache_key": "-", "n_blocks": 0}
    _write(folder / "audio/part-00000.parquet", "audio", ids, audio, {})
    logits = (2 * random.standard_normal((4096, len(sounds))) - 6).astype(np.float32)
    n_shards = -(-n_clips // CLIPS_PER_SHARD)
    made_by = {
        "tagger": "made",
        "tagging": "-",
        "labels_file": "data/labels/audioset.csv",
        "labels_sha256": sha256_file(SOUNDS),
    }
    for shard in range(n_shards):
        tags = {"window_start_s": 0.0, "padded_share": 0.0, "cache_key": sha256_text("-", "-")}
        here = ids[shard::n_shards]
        _write(
            folder / f"tags/part-{shard:05d}.parquet",
            "tags",
            here,
            tags,
            made_by,
            logits[random.integers(0, len(logits), len(here))],
        )


def _write(
    path: Path, table: str, clip_ids: npt.NDArray[np.str_], values: Mapping[str, object], provenance: Mapping[str, str],
    logits: npt.NDArray[np.float32] | None = None,
) -> None:  # fmt: skip
    """A file of `table` in which all clips have the same `values`, unchecked: checking a million made-up rows takes
    longer than the stage.
    """
    schema = schema_of(table)
    columns = {"clip_id": pa.array(clip_ids)}
    if logits is not None:
        offsets = pa.array(np.arange(len(logits) + 1, dtype=np.int32) * logits.shape[1])
        columns["logits"] = pa.ListArray.from_arrays(
            offsets, pa.array(logits.ravel()), type=schema.field("logits").type
        )
    for field in schema:
        if field.name not in columns:
            columns[field.name] = pa.repeat(pa.scalar(values.get(field.name), field.type), len(clip_ids))
    metadata = {"earshot.schema": schema_sha256(table)} | {
        f"earshot.{name}": value for name, value in provenance.items()
    }
    path.parent.mkdir(exist_ok=True)
    pq.write_table(
        pa.table(columns).select(schema.names).cast(schema).replace_schema_metadata(metadata), path, compression="zstd"
    )

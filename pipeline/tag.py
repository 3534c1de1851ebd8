"""The `tag` stage: what a tagger hears in every window of every clip with sound, as logits in cache/<dataset>/tags.

Clips without sound have no rows here; `audio` says why.  Shards are read and written one at a time, so memory does not grow with
the data set, and a clip's logits do not depend on the clips that shared its batch.
"""
import logging
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline import cache, stage, taggers
from pipeline.errors import CacheError, TaggerError

VERSION = "1"  # raise it when the same sound and tagger would give other rows: every clip is then tagged again
WITH_SOUND = ("ok", "truncated")
FULL_SCALE = 32768.0  # of int16

log = logging.getLogger("tag")


@dataclass(frozen=True)
class Options:
    """Tag the decoded sound of a data set."""

    dataset: str  # names cache/<dataset>
    tagger: str  # pipeline/taggers/<tagger>.py
    checkpoint: str = ""  # path of its weights, where they are not packaged
    window_s: float = 10.0  # what the tagger hears at once; a shorter clip is one window
    hop_s: float = 5.0  # from one window's start to the next one's, at most window_s
    batch_size: int = 8  # windows at a time; changes speed and memory only
    device: str = "cpu"  # cpu, cuda or cuda:1


@dataclass(frozen=True)
class Window:
    """A stretch of a clip's sound, without the zeros that fill it up."""

    clip_id: str
    start: int  # in samples
    samples: npt.NDArray[np.int16]  # at least one


def run(options: Options) -> dict[str, int]:
    """Bring cache/<dataset>/tags in line with cache/<dataset>/audio and return the counts.

    Raises TaggerError where an option or the tagger cannot be used, CacheError where `decode` has not run for this tagger.
    """
    if not 0 < options.hop_s <= options.window_s or options.batch_size < 1:
        raise TaggerError(
            f"window_s={options.window_s}, hop_s={options.hop_s}, batch_size={options.batch_size}: "
            "set tag.args so that 0 < hop_s <= window_s and batch_size >= 1"
        )
    tagger = taggers.build(options.tagger, options.checkpoint, options.device)
    folder = cache.folder(options.dataset)
    n_clips, sound = _clips_with_sound(folder / "audio", tagger)
    provenance = tagger.provenance()
    common = ("tag", VERSION, provenance, options.window_s, options.hop_s)
    wanted = {clip_id: cache.sha256_text(*common, audio_key) for clip_id, (_, audio_key) in sound.items()}

    def make(clip_ids: list[str]) -> Iterator[cache.Row]:
        windows = _windows_of_shard(clip_ids, {clip_id: sound[clip_id][0] for clip_id in clip_ids}, tagger.sample_rate, options)
        for row in tag_windows(tagger, windows, options):
            yield row | {"cache_key": wanted[str(row["clip_id"])]}
        log.info("tagged %d clips", len(clip_ids))

    provenance |= {"code_version": f"{VERSION}.{provenance['code_version']}"}
    counts = cache.sync_shards(folder / "tags", "tags", wanted, make, provenance)
    return {"n_clips": n_clips, "n_with_sound": len(sound)} | counts


def windows_of(clip_id: str, samples: npt.NDArray[np.int16], window: int, hop: int) -> Iterator[Window]:
    """Cut a clip's sound into windows (all sizes in samples) until its end is heard; the last may be short.  0 < hop <= window."""
    for i in range(1 + max(0, math.ceil((samples.size - window) / hop))):
        yield Window(clip_id, i * hop, samples[i * hop : i * hop + window])


def tag_windows(tagger: taggers.Tagger, windows: Iterable[Window], options: Options) -> Iterator[dict[str, object]]:
    """Yield a row of `tags`, without its cache_key, for each window in order.  Raises TaggerError where a logit is not finite."""
    window = round(options.window_s * tagger.sample_rate)
    windows = iter(windows)
    while batch := list(islice(windows, options.batch_size)):
        waveforms = np.zeros((len(batch), window), dtype=np.float32)
        for row, heard in zip(waveforms, batch, strict=True):
            row[: heard.samples.size] = heard.samples / np.float32(FULL_SCALE)
        logits = tagger.logits(waveforms, np.array([heard.samples.size for heard in batch]))
        if not np.isfinite(logits).all():
            clip_ids = sorted({heard.clip_id for heard in batch})
            raise TaggerError(f"{tagger.name} gave logits that are not finite for one of {clip_ids}: is its checkpoint whole?")
        for heard, row in zip(batch, logits, strict=True):
            yield {
                "clip_id": heard.clip_id,
                "window_start_s": heard.start / tagger.sample_rate,
                "padded_share": 1 - heard.samples.size / window,
                "logits": row,
            }


def _clips_with_sound(audio: Path, tagger: taggers.Tagger) -> tuple[int, dict[str, tuple[Path, str]]]:
    """How many clips there are, and of those with sound (clip_id -> shard, cache_key)."""
    if not audio.is_dir():
        raise CacheError(f"{audio} is missing: run `dvc repro decode` first")
    n_clips, found = 0, {}
    for shard in sorted(audio.glob("part-*.parquet")):
        for row in cache.read_table(shard, "audio", ["clip_id", "status", "sample_rate", "cache_key"]).to_pylist():
            n_clips += 1
            if row["sample_rate"] != tagger.sample_rate:
                raise CacheError(
                    f"{shard} holds sound at {row['sample_rate']} Hz, but {tagger.name} hears at {tagger.sample_rate} Hz: "
                    f"run `dvc repro decode` with tag.tagger={tagger.name}"
                )
            if row["status"] in WITH_SOUND:
                found[row["clip_id"]] = (shard, row["cache_key"])
    return n_clips, found


def _windows_of_shard(clip_ids: list[str], shards: dict[str, Path], sample_rate: int, options: Options) -> Iterator[Window]:
    """Read the clips' sound, one shard of `audio` at a time."""
    window, hop = round(options.window_s * sample_rate), round(options.hop_s * sample_rate)
    for shard in sorted(set(shards.values())):
        table = cache.read_table(shard, "audio", ["clip_id", "pcm"])
        for clip_id, pcm in zip(table.column("clip_id").to_pylist(), table.column("pcm"), strict=True):
            if shards.get(clip_id) == shard:
                yield from windows_of(clip_id, np.frombuffer(pcm.as_buffer(), dtype="<i2"), window, hop)


if __name__ == "__main__":
    stage.main(Options, run, prog="pipeline.tag")

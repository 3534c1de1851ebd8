"""The `tag` stage: what a tagger hears in every window of every clip with sound, as logits in cache/<dataset>/tags.

Clips without sound have no rows here; `audio` says why.  Sound comes block by block from `waveforms`, or straight from
ffmpeg where `decode` did not keep it, so memory grows neither with the data set nor with a clip's length; and a clip's
logits do not depend on the clips that shared its batch.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import groupby, islice
from pathlib import Path

from adapt import command

if __name__ == "__main__":
    command.begin("pipeline.tag")  # before what takes time to import

import numpy as np
import numpy.typing as npt

from adapt.errors import CacheError, TaggerError
from adapt.tables import cache, lock, parquet
from adapt.tables.files import sha256_text
from pipeline import decode, taggers
from pipeline.audio import sound
from pipeline.audio.windows import Windows
from pipeline.workers import engine, shards
from pipeline.workers.progress import progress

VERSION = "2"  # raise it when the same sound and tagger would give other rows: every clip is then tagged again
WITH_SOUND = ("ok", "truncated")
Sound = tuple[str, Iterator[sound.Block]]  # (clip_id, its blocks)


@dataclass(frozen=True)
class Options:
    """Tag the decoded sound of a data set."""

    dataset: str  # names cache/<dataset>
    tagger: str  # pipeline/taggers/<tagger>.py
    variant: str = ""  # one of the tagger's published models; empty: its first
    checkpoint: str = ""  # path of its weights, where they are not packaged
    implementation: taggers.Implementation = "ours"  # whose network runs; package: panns by panns-inference, to compare
    window_s: float = command.number(10.0, low=0, high=600, above=True)
    """seconds that the tagger hears at once; a shorter clip is one window"""
    hop_s: float = command.number(5.0, low=0, high=600, above=True)
    """seconds from one window's start to the next one's, at most window_s"""
    batch_size: int = command.number(8, low=1, high=4096)  # windows at a time; changes speed and memory only
    device: str = "cpu"  # cpu, cuda or cuda:1
    precision: str = "fp32"  # fp32, bf16 or fp16, where the tagger and the device can
    jobs: int = command.number(2, low=1, high=256)
    """batches at a time, for taggers that use one core each; also ffmpeg processes where the sound was not kept"""


@dataclass(frozen=True)
class Window:
    """A stretch of a clip's sound, without the zeros that fill it up."""

    clip_id: str
    start: int  # in samples
    samples: sound.Block  # at least one


@dataclass(frozen=True)
class Heard:
    """A clip of `audio` that has sound."""

    cache_key: str
    n_blocks: int  # 0 where the sound was not kept


@lock.alone("tag")
def run(options: Options) -> dict[str, int]:
    """Bring cache/<dataset>/tags in line with cache/<dataset>/audio and return the counts.

    Raises TaggerError where an option or the tagger cannot be used, CacheError where `decode` has not run for this
    tagger.
    """
    check_windows(options.window_s, options.hop_s, options.batch_size)
    tagger = taggers.build(
        options.tagger, options.checkpoint, options.device, options.variant, options.precision, options.implementation
    )
    folder = cache.folder(options.dataset)
    n_clips, heard = _clips_with_sound(folder / "audio", tagger)
    decode.check(options.dataset)
    provenance = tagger.provenance()
    tagging = sha256_text("tag", VERSION, provenance, options.window_s, options.hop_s)
    wanted = {clip_id: sha256_text(tagging, clip.cache_key) for clip_id, clip in heard.items()}
    unkept = any(not clip.n_blocks for clip in heard.values())
    again = decode.reopen(options.dataset) if unkept else None
    with progress("tag", len(heard)) as bar:

        def make(clip_ids: list[str]) -> Iterator[shards.TableRow]:
            if again is not None:
                sounds = engine.stream(again, clip_ids, options.jobs)
            else:
                sounds = _kept_sounds(
                    folder / "waveforms" / shards.shard_name(clip_ids[0], shards.n_shards(n_clips)), clip_ids, heard
                )
            for row in tag_sounds(tagger, sounds, options.window_s, options.hop_s, options.batch_size, options.jobs):
                yield "tags", row | {"cache_key": wanted[str(row["clip_id"])]}
            bar.update(len(clip_ids))

        group = shards.Group("tags", {"tags": folder / "tags"}, {})
        stated = provenance | {"code_version": f"{VERSION}.{provenance['code_version']}", "tagging": tagging}
        counts = shards.sync(group, wanted, make, stated, n_clips)
    return {"n_clips": n_clips, "n_with_sound": len(heard)} | counts


def check_windows(window_s: float, hop_s: float, batch_size: int) -> None:
    """Raise TaggerError where sound cannot be cut so."""
    if not 0 < hop_s <= window_s < math.inf or batch_size < 1:
        raise TaggerError(
            f"window_s={window_s}, hop_s={hop_s}, batch_size={batch_size}: give 0 < hop_s <= window_s and batch_size "
            ">= 1"
        )


def windows_of(clip_id: str, blocks: Iterable[sound.Block], window: int, hop: int) -> Iterator[Window]:
    """Cut a clip's sound into windows (sizes in samples) until its end is heard; the last may be short.  0 < hop <=
    window.

    `blocks` follow one another; no more is held than a window and a block.
    """
    cut = Windows(window, hop)
    for block in blocks:
        yield from (Window(clip_id, start, samples) for start, samples in cut.add(block))
    yield from (Window(clip_id, start, samples) for start, samples in cut.end())


def tag_sounds(
    tagger: taggers.Tagger, sounds: Iterable[Sound], window_s: float, hop_s: float, batch_size: int = 8, jobs: int = 1
) -> Iterator[dict[str, object]]:
    """Yield a row of `tags`, without its cache_key, for each window of each sound, in order.

    The next batches are read while the tagger works on this one.  Raises TaggerError where the windows cannot be cut
    so, or a logit is not finite.
    """
    check_windows(window_s, hop_s, batch_size)
    window, hop = round(window_s * tagger.sample_rate), round(hop_s * tagger.sample_rate)
    windows = (cut for clip_id, blocks in sounds for cut in windows_of(clip_id, blocks, window, hop))
    batches = iter(lambda: list(islice(windows, batch_size)), [])
    for batch, logits in engine.imap(partial(_tag_batch, tagger, window), batches, jobs if tagger.concurrent else 1):
        for heard, row in zip(batch, logits, strict=True):
            start_s, padded_share = heard.start / tagger.sample_rate, 1 - heard.samples.size / window
            yield {"clip_id": heard.clip_id, "window_start_s": start_s, "padded_share": padded_share, "logits": row}


def _tag_batch(
    tagger: taggers.Tagger, window: int, batch: list[Window]
) -> tuple[list[Window], npt.NDArray[np.float32]]:
    waveforms = np.zeros((len(batch), window), dtype=np.float32)
    for row, heard in zip(waveforms, batch, strict=True):
        np.divide(heard.samples, np.float32(sound.FULL_SCALE), out=row[: heard.samples.size])
    logits = tagger.logits(waveforms, np.array([heard.samples.size for heard in batch]))
    if not np.isfinite(logits).all():
        clip_ids = sorted({heard.clip_id for heard in batch})
        raise TaggerError(
            f"{tagger.name} gave logits that are not finite for one of {clip_ids}: is its checkpoint whole?"
        )
    return batch, logits


def _clips_with_sound(audio: Path, tagger: taggers.Tagger) -> tuple[int, dict[str, Heard]]:
    """How many clips there are, and those with sound."""
    if not audio.is_dir():
        raise CacheError(f"{audio} is missing: run `dvc repro decode` first")
    rows = parquet.read_table(audio, "audio", ["clip_id", "status", "sample_rate", "n_blocks", "cache_key"]).to_pylist()
    for row in rows:
        if row["sample_rate"] != tagger.sample_rate:
            raise CacheError(
                f"{audio} holds sound at {row['sample_rate']} Hz, but {tagger.name} hears at {tagger.sample_rate} Hz: "
                f"run `dvc repro decode` with tag.tagger={tagger.name}"
            )
    return len(rows), {
        row["clip_id"]: Heard(row["cache_key"], row["n_blocks"]) for row in rows if row["status"] in WITH_SOUND
    }


def _kept_sounds(file: Path, clip_ids: list[str], heard: dict[str, Heard]) -> Iterator[Sound]:
    """The sound of clips of one shard of `waveforms`, in order.  Raises CacheError where it is not what `audio`
    promises.
    """
    rows = shards.read_rows(file, "waveforms", clip_ids, ["clip_id", "block", "flac", "cache_key"])
    by_clip = groupby(rows, key=lambda row: str(row["clip_id"]))
    for clip_id in clip_ids:
        found, of_clip = next(by_clip, (None, iter(())))
        if found != clip_id:
            raise CacheError(f"{file} lacks the sound of {clip_id}: run `dvc repro decode`")
        yield clip_id, _kept_blocks(file, clip_id, of_clip, heard[clip_id])


def _kept_blocks(file: Path, clip_id: str, rows: Iterable[dict[str, object]], clip: Heard) -> Iterator[sound.Block]:
    n = 0
    for row in rows:
        if row["block"] != n or row["cache_key"] != clip.cache_key:
            raise CacheError(
                f"{file}: block {row['block']} of {clip_id} is not what `audio` promises: run `dvc repro decode`"
            )
        yield sound.read_flac(row["flac"])  # type: ignore[arg-type]
        n += 1
    if n != clip.n_blocks:
        raise CacheError(f"{file} holds {n} of the {clip.n_blocks} blocks of {clip_id}: run `dvc repro decode`")


if __name__ == "__main__":
    command.main(Options, run, prog="pipeline.tag")

"""The `decode` stage: the sound track of every clip, as mono blocks at the tagger's sample rate, in
cache/<dataset>/{audio,waveforms}.

A clip without a track, with a silent one, or with a broken one is a row of `audio` with a status; the stage fails only
when too many clips did.  `audio` also says how the sound was made, so that `tag` can make it again where it was not
kept.
"""

import json
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Literal

from adapt import command

if __name__ == "__main__":
    command.begin("pipeline.decode")  # before what takes time to import

import numpy as np

from adapt.errors import CacheError, DatasetError, DecodeError
from adapt.tables import cache, lock, parquet
from adapt.tables.files import sha256_file, sha256_text
from pipeline import taggers
from pipeline.audio import perturb, sound
from pipeline.audio.perturb import Kind
from pipeline.workers import engine, shards
from pipeline.workers.progress import progress

VERSION = "3"  # raise it when the same clip would give other rows: every clip is then decoded again


@dataclass(frozen=True)
class Options:
    """Decode the sound of a data set's clips for a tagger."""

    dataset: str  # names cache/<dataset> and data/videos/<dataset>
    tagger: str  # pipeline/taggers/<tagger>.py, which knows the sample rate
    variant: str = ""  # one of the tagger's published models; empty: its first
    ffmpeg: Literal["packaged", "path"] = "packaged"  # the binary of imageio-ffmpeg, or the one on PATH
    track: sound.Track = "default"
    """which sound track: default (the one marked so, else the first), or its position counted from 0"""
    silent_below_dbfs: float = command.number(-60.0, low=-200, high=0)
    """dB; a track with a lower RMS level in every channel is silent (0 = full scale)"""
    keep_audio: bool = True
    """store the sound (FLAC, about 18 kB a second at 16 kHz); off: tag decodes once more by itself"""
    jobs: int = command.number(2, low=1, high=256)  # clips at a time
    max_failed_share: float = command.number(0.5, low=0, high=1)
    """0 to 1; the stage fails when more than this share of the clips did"""
    perturb: Kind = "none"
    """for studies: white noise, shift in time, swap with another clip of the split, mute, a music bed"""
    snr_db: float = command.number(10.0, low=-40, high=60)
    """dB, -40 to 60; of noise and music, the ratio of the clip's energy to theirs in each 30 s"""
    shift_s: float = command.number(1.0, low=-60, high=60)
    """seconds, -60 to 60; positive: the sound comes later; the length stays, zeros come in"""
    music_file: str = ""  # of music: its first 120 s, looped; empty: four chords that are synthesised
    seed: int = command.number(0, low=0)  # of noise, swap and music, together with the clip's name


@dataclass(frozen=True)
class Settings:
    """All that decides what a file sounds like; `audio` carries it as JSON."""

    ffmpeg: str  # packaged or path
    sample_rate: int
    silent_below_dbfs: float
    track: sound.Track
    keep_audio: bool
    perturbation: perturb.Perturbation

    def to_json(self) -> str:
        """One line, the same for equal settings."""
        return json.dumps(asdict(self) | {"perturbation": self.perturbation.used()}, sort_keys=True)

    def key(self) -> dict[str, object]:
        """What of it changes a row: not which ffmpeg, whose version counts, and not the music's name, whose content
        counts.
        """
        perturbation = {name: value for name, value in self.perturbation.used().items() if name != "music_file"}
        return {name: value for name, value in asdict(self).items() if name != "ffmpeg"} | {
            "perturbation": perturbation
        }

    @classmethod
    def from_json(cls, text: str) -> "Settings":
        """Read what `to_json` wrote.  Raises CacheError where it is something else."""
        try:
            stated = json.loads(text)
            settings = cls(**stated | {"perturbation": perturb.Perturbation(**stated["perturbation"])})
        except (ValueError, TypeError, KeyError) as error:
            raise CacheError(
                f"{text[:100]!r} are not the settings that decode wrote ({error}): run `dvc repro decode`"
            ) from error
        return settings


@dataclass(frozen=True)
class Source:
    """The file that a clip's sound comes from, as `scan` found it."""

    path: Path
    sha256: str | None  # of its content; None where `scan` could not read it
    unread: str | None  # why not

    @classmethod
    def of(cls, clip: Mapping[str, str | None], root: Path) -> "Source":
        """The file of a row of `clips` whose videos lie under `root`."""
        path, sha256 = (
            (clip["sound_path"], clip["sound_sha256"]) if clip["sound_path"] else (clip["path"], clip["content_sha256"])
        )
        return cls(root / str(path), sha256, None if sha256 else f"scan could not read {path}: {clip['error']}")


@dataclass(frozen=True)
class Plan:
    """How every clip of a data set is decoded."""

    decoder: sound.Decoder
    version: str  # of ffmpeg
    perturbation: perturb.Perturbation
    bed: sound.Block | None  # of music
    sources: Mapping[str, Source]  # clip_id -> the file whose sound it gets
    keys: Mapping[str, str]  # clip_id -> cache_key

    def stream(self, clip_id: str) -> Generator[sound.Block | sound.Heard, None, None]:
        """Yield a clip's blocks, then what was heard of them.  Raises DatasetError where its file is not there any
        more.
        """
        source = self.sources[clip_id]
        if source.unread is not None:
            return sound.unread(self.decoder, source.unread)
        if not source.path.exists():
            raise DatasetError(f"{source.path} is listed in clips.parquet but is not there: run `dvc repro scan`")

        def change(blocks: Iterator[sound.Block]) -> Iterator[sound.Block]:
            return perturb.apply(self.perturbation, clip_id, blocks, self.decoder.sample_rate, self.bed)

        return sound.stream(self.decoder, source.path, change)


@lock.alone("decode")
def run(options: Options) -> dict[str, int]:
    """Bring cache/<dataset>/audio and waveforms in line with clips.parquet and return the counts.

    Raises DecodeError where an option or ffmpeg cannot be used or more than `max_failed_share` of the clips failed,
    DatasetError where a clip of clips.parquet is not there any more.
    """
    if not 0 <= options.max_failed_share <= 1:
        raise DecodeError(f"max_failed_share is {options.max_failed_share}: give 0 to 1")
    perturbation = perturb.choose(options.perturb, options.snr_db, options.shift_s, options.music_file, options.seed)
    rate = taggers.sample_rate(options.tagger, options.variant)
    settings = Settings(
        options.ffmpeg, rate, options.silent_below_dbfs, options.track, options.keep_audio, perturbation
    )
    plan = make_plan(options.dataset, settings)
    folder = cache.folder(options.dataset)
    with progress("decode", len(plan.keys)) as bar:

        def make(clip_ids: list[str]) -> Iterator[shards.TableRow]:
            for _, rows in engine.stream(partial(_rows, plan, options.keep_audio), clip_ids, options.jobs):
                yield from rows
                bar.update(1)

        group = shards.Group(
            "audio", {name: folder / name for name in ("audio", "waveforms")}, {"waveforms": "n_blocks"}
        )
        provenance = {
            "sample_rate": str(rate),
            "ffmpeg": plan.version,
            "code_version": VERSION,
            "decoder": settings.to_json(),
        }
        counts = shards.sync(group, plan.keys, make, provenance)
    rows = parquet.read_table(folder / "audio", "audio", ["clip_id", "status", "error"]).to_pylist()
    _check_failures(rows, options.max_failed_share)
    by_status = {f"n_{status}": sum(row["status"] == status for row in rows) for status in sound.STATUSES}
    return {"n_clips": len(rows)} | by_status | counts


def make_plan(dataset: str, settings: Settings) -> Plan:
    """Find out how each clip of clips.parquet is decoded.  Raises DecodeError where the settings cannot be used."""
    decoder = sound.Decoder(
        sound.ffmpeg_binary(settings.ffmpeg), settings.sample_rate, settings.silent_below_dbfs, settings.track
    )
    version, what = sound.ffmpeg_version(decoder.binary), settings.perturbation
    sources, keys = _sources(dataset, settings, version)
    return Plan(decoder, version, what, _bed(decoder, what), sources, keys)


def _sources(dataset: str, settings: Settings, version: str) -> tuple[dict[str, Source], dict[str, str]]:
    """clip_id -> (the file whose sound it gets), clip_id -> (its cache_key), of an ffmpeg of that version."""
    columns = ["clip_id", "path", "split", "content_sha256", "sound_path", "sound_sha256", "error"]
    clips = {
        clip["clip_id"]: clip
        for clip in parquet.read_table(cache.folder(dataset) / "clips.parquet", "clips", columns).to_pylist()
    }
    heard, what = {clip_id: clip_id for clip_id in clips}, settings.perturbation
    if what.kind == "swap":
        heard = perturb.partners(((clip_id, clip["split"]) for clip_id, clip in clips.items()), what.seed or 0)
    common = ("decode", VERSION, version, settings.key())
    sources = {clip_id: Source.of(clips[of], Path("data/videos") / dataset) for clip_id, of in heard.items()}
    keys = {clip_id: sha256_text(*common, source.sha256 or source.unread) for clip_id, source in sources.items()}
    return sources, keys


def check(dataset: str) -> None:
    """Raise CacheError where `audio` was decoded from other files than clips.parquet lists now, or does not say how."""
    folder = cache.folder(dataset) / "audio"
    for file in parquet.files_of(folder, "audio")[:1]:
        known = parquet.provenance(file)
        if not {"decoder", "ffmpeg"} <= known.keys():
            raise CacheError(f"{folder} does not say how it was decoded: run `dvc repro decode`")
        _, keys = _sources(dataset, Settings.from_json(known["decoder"]), known["ffmpeg"])
        stored = parquet.read_table(folder, "audio", ["clip_id", "cache_key"])
        found = dict(zip(stored.column("clip_id").to_pylist(), stored.column("cache_key").to_pylist(), strict=True))
        if odd := sorted(clip for clip in {**keys, **found} if keys.get(clip) != found.get(clip)):
            raise CacheError(
                f"{folder} was made of other files than clips.parquet lists: {len(odd)} clips differ ({odd[0]}...): "
                "run `dvc repro decode`"
            )


def reopen(dataset: str) -> Callable[[str], Generator[sound.Block, None, None]]:
    """Return a function from a clip_id to the blocks that a `decode` without keep_audio measured and did not keep.

    Raises CacheError where `decode` has not run; the function does so where a clip would sound otherwise by now.
    """
    folder = cache.folder(dataset) / "audio"
    file = next(iter(sorted(folder.glob("part-*.parquet"))), None)
    if file is None:
        raise CacheError(f"{folder} is missing: run `dvc repro decode` first")
    plan = make_plan(dataset, Settings.from_json(parquet.provenance(file).get("decoder", "")))
    stored = parquet.read_table(folder, "audio", ["clip_id", "cache_key"])
    keys = dict(zip(stored.column("clip_id").to_pylist(), stored.column("cache_key").to_pylist(), strict=True))

    def blocks(clip_id: str) -> Generator[sound.Block, None, None]:
        if clip_id not in keys or plan.keys.get(clip_id) != keys[clip_id]:
            raise CacheError(f"{clip_id} would sound otherwise than when {folder} was made: run `dvc repro decode`")
        for part in plan.stream(clip_id):
            if not isinstance(part, sound.Heard):
                yield part

    return blocks


def _rows(plan: Plan, keep_audio: bool, clip_id: str) -> Generator[shards.TableRow, None, None]:
    """The rows of one clip: its blocks, then its row of `audio`."""
    common: dict[str, object] = {"clip_id": clip_id, "cache_key": plan.keys[clip_id]}
    n_blocks = 0
    for part in plan.stream(clip_id):
        if isinstance(part, sound.Heard):
            yield (
                "audio",
                common | {field.name: getattr(part, field.name) for field in fields(part)} | {"n_blocks": n_blocks},
            )
        elif keep_audio:
            flac = sound.write_flac(part, plan.decoder.sample_rate)
            yield "waveforms", common | {"block": n_blocks, "n_samples": part.size, "flac": flac}
            n_blocks += 1


def _bed(decoder: sound.Decoder, what: perturb.Perturbation) -> sound.Block | None:
    """The music of kind music."""
    if what.kind != "music":
        return None
    if what.music_file is None:
        return perturb.synthesise(decoder.sample_rate)
    path = Path(what.music_file)
    if not path.is_file() or sha256_file(path) != what.music_sha256:
        raise DecodeError(f"music_file {what.music_file!r} is not what it was: run `dvc repro decode`")
    parts = islice(sound.stream(replace(decoder, track="default"), path), round(perturb.MUSIC_S / sound.BLOCK_S))
    return np.concatenate([np.empty(0, np.int16), *(part for part in parts if not isinstance(part, sound.Heard))])


def _check_failures(rows: list[dict[str, object]], max_failed_share: float) -> None:
    failed = [row for row in rows if row["status"] == "failed"]
    if rows and len(failed) / len(rows) > max_failed_share:
        names = ", ".join(str(row["clip_id"]) for row in failed[:5])
        raise DecodeError(
            f"{len(failed)} of {len(rows)} clips could not be decoded, more than "
            f"decode.max_failed_share={max_failed_share}: "
            f"{names}; first error: {failed[0]['error']}"
        )


if __name__ == "__main__":
    command.main(Options, run, prog="pipeline.decode")

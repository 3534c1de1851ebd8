"""The `scan` stage: which clips a data set has, with their split, label, hash, length and whether a picture can be
read.

In: data/videos/<dataset>, through the recipe that knows its folders.  Out: cache/<dataset>/clips.parquet and
labels.txt, one class a line in label_id order.  A file without a readable picture, or that cannot be opened or named at
all, is a row with a status; a file that a list or a link names and that is not there, and whatever else becomes no
clip, is counted and named.  Where there is a folder data/videos/<dataset>/sound, the sound of a clip is that of the
file of the same name in it: so media that were corrupted and encoded without sound keep the original's.
"""

import errno
import hashlib
import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath

from adapt import command

if __name__ == "__main__":
    command.begin("pipeline.scan")  # before what takes time to import

from adapt.errors import DatasetError
from adapt.tables import cache, classes, lock, parquet
from adapt.tables.classes import ClassesError
from adapt.tables.files import write_text
from adapt.video.decoding import TIMEOUT_S, DecodeError, Decoders, UnreadableError, open_file
from pipeline import datasets, seen
from pipeline.datasets import NAMED, SOUND, SPLITS, LeftOut, Listed
from pipeline.seen import Entry, Memory, State
from pipeline.workers import engine

log = logging.getLogger("scan")
NONE_LEFT = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # no fault of the file that was to be opened


@dataclass(frozen=True)
class Options:
    """List a data set's clips."""

    dataset: str  # names data/videos/<dataset> and cache/<dataset>
    recipe: str = "folder"  # pipeline/datasets/<recipe>.py, which knows the folders
    variant: str = ""  # what the recipe offers a choice of, such as ucf101's split 1, 2 or 3; "" for its first
    jobs: int = command.number(2, low=1, high=256)  # files at a time
    decode_timeout_s: float = command.number(TIMEOUT_S, low=0, high=86400, above=True)
    """a file that takes longer to look into is a failed row"""
    rehash: bool = False  # read every file again, also one whose size, inode and times are those of the last time


@lock.alone("scan", makes_folder=True)
def run(options: Options) -> dict[str, int]:
    """Write clips.parquet and labels.txt of `options.dataset` and return counts.

    Raises DatasetError for an unknown recipe or variant, no videos, folders or lists that do not fit, a class name that
    no list can hold, or two clips that would share a clip_id.
    """
    recipe, root = datasets.build(options.recipe), Path("data/videos") / options.dataset
    variant = options.variant or recipe.VARIANTS[0]
    if variant not in recipe.VARIANTS:
        raise DatasetError(f"recipe {options.recipe} has no variant {variant!r}: choose one of {list(recipe.VARIANTS)}")
    labels = _labels(recipe, options.dataset, root)
    found = list(recipe.rows(root, labels, variant))
    listed = sorted(
        (_named(Listed(*row)) for row in found if not isinstance(row, LeftOut)),
        key=lambda clip: (clip.clip_id, clip.path),
    )
    _check(listed, labels, root)
    clips = _found(listed, root, options.dataset)
    sounds, lost_sounds = _sounds(root, clips)
    left_out = [row for row in found if isinstance(row, LeftOut)] + lost_sounds
    datasets.say_left_out(options.dataset, left_out)
    label_ids = {label: i for i, label in enumerate(labels)}
    folder = cache.folder(options.dataset)
    memory = Memory(folder / seen.NAME)
    if not options.rehash:
        memory.read()
    look = partial(_row, root, label_ids, sounds, memory)
    with Decoders(options.decode_timeout_s) as decoders:
        rows = engine.map_clips(partial(look, decoders), clips, options.jobs, stop=decoders.close)
    known = {"recipe": options.recipe, "variant": variant, "classes_sha256": classes.sha256(labels)}
    parquet.write_table(folder / "clips.parquet", "clips", rows, known)
    write_text(folder / "labels.txt", classes.text_of(labels))
    memory.write()
    failed = [row for row in rows if row["status"] == "failed"]
    for row in [row for row in rows if row.get("error")][:NAMED]:
        log.warning("%s: %s", row["path"], row["error"])
    by_split = {f"n_{split}": sum(clip.split == split for clip in clips) for split in SPLITS}
    counts = {
        "n_missing": len(listed) - len(clips),
        "n_left_out": len(left_out),
        "n_failed": len(failed),
        "n_labels": len(labels),
    }
    return {"n_clips": len(rows)} | counts | by_split


def _labels(recipe: datasets.Recipe, dataset: str, root: Path) -> list[str]:
    """The recipe's classes, each of them one line and no two alike, so that labels.txt holds them."""
    labels = recipe.labels(dataset, root)
    try:
        classes.check(labels, f"the class list of {dataset}")
    except ClassesError as error:
        raise DatasetError(str(error)) from error
    return labels


def _named(clip: Listed) -> Listed:
    return clip._replace(clip_id=classes.escaped(clip.clip_id or str(PurePosixPath(clip.path).with_suffix(""))))


def _check(clips: Sequence[Listed], labels: Sequence[str], root: Path) -> None:
    if not clips:
        raise DatasetError(
            f"no video under {root}: put them at {root}/<split>/<class>/<name>.mp4, split one of {', '.join(SPLITS)}"
        )
    known = set(labels)
    for clip, following in zip(clips, [*clips[1:], None], strict=True):
        path = classes.escaped(clip.path)
        if following and clip.clip_id == following.clip_id:
            if clip.path == following.path:
                raise DatasetError(
                    f"{root}: {path} is listed twice, as {clip.split} and {following.split}: leave one of the lines"
                )
            both = f"{path} and {classes.escaped(following.path)}"
            raise DatasetError(f"{root}: {both} would both be clip {clip.clip_id!r}: rename one of them")
        if not known.issuperset({clip.label, *clip.labels}) or clip.split not in SPLITS:
            raise DatasetError(
                f"{root}/{path}: label {clip.label!r} or split {clip.split!r} is unknown: the recipe has a fault"
            )


def _found(clips: Sequence[Listed], root: Path, dataset: str) -> list[Listed]:
    """The clips whose files are there; how many are not is said, the first of them named."""
    absent = {clip: why for clip in clips if (why := datasets.absence(root / clip.path)) is not None}
    found = [clip for clip in clips if clip not in absent]
    named = datasets.named([f"{clip.path} ({why})" if why else clip.path for clip, why in absent.items()])
    if not found:
        raise DatasetError(f"{dataset}: none of the {len(clips):,} videos that its lists name is under {root}: {named}")
    if absent:
        log.warning("%s: %s of %s videos found; missing: %s", dataset, f"{len(found):,}", f"{len(clips):,}", named)
    else:
        log.info("%s: %s of %s videos found", dataset, f"{len(found):,}", f"{len(clips):,}")
    return found


def _sounds(root: Path, clips: Sequence[Listed]) -> tuple[dict[str, str], list[LeftOut]]:
    """(path of a clip -> the file of the same name under `sound`, for those that have one; what of `sound` could not be
    looked at).

    Where a name occurs more than once, the folder that holds the file decides.  Raises DatasetError where it does not.
    """
    originals, left_out = datasets.find_videos(root, SOUND)
    n_of_name = Counter(PurePosixPath(path).stem for path in {clip.path for clip in clips})
    sounds: dict[str, str] = {}
    for path in (PurePosixPath(clip.path) for clip in clips):
        candidates = originals.get(path.stem, [])
        if len(candidates) > 1 or n_of_name[path.stem] > 1:
            candidates = [found for found in candidates if PurePosixPath(found).parent.name == path.parent.name]
        if len(candidates) > 1:
            both = " and ".join(map(classes.escaped, candidates[:2]))
            raise DatasetError(
                f"{root}: {both} would both be the sound of {classes.escaped(str(path))}: leave one of them"
            )
        if candidates:
            sounds[str(path)] = candidates[0]
    if originals:
        log.info(
            "%d of %d clips have the sound of a file of the same name in %s", len(sounds), len(clips), root / SOUND
        )
    return sounds, left_out


def _row(
    root: Path,
    label_ids: Mapping[str, int],
    sounds: Mapping[str, str],
    memory: Memory,
    decoders: Decoders,
    clip: Listed,
) -> parquet.Row:
    path, sound = root / clip.path, sounds.get(clip.path)
    entry, unread = _look(root, clip.path, memory)
    sound_entry, unheard = (None, None) if sound is None else _look(root, sound, memory)
    if sound is not None and sound_entry is not None:
        memory.put(sound, sound_entry)
    row: dict[str, object] = {
        "clip_id": clip.clip_id, "path": classes.escaped(clip.path), "split": clip.split, "label": clip.label,
        "label_id": label_ids[clip.label], "label_ids": [label_ids[label] for label in clip.labels] or None,
        "content_sha256": entry and entry.content_sha256,
        "sound_path": None if sound is None else classes.escaped(sound),
        "sound_sha256": sound_entry and sound_entry.content_sha256,
        "error": unread or (f"of its sound, {unheard}" if unheard else None),
    }  # fmt: skip
    if entry is None:
        return row | {"status": "failed"}
    try:
        facts = entry.facts or probe(path, decoders)
    except DecodeError as error:
        memory.put(clip.path, entry)
        return row | {"status": "failed", "error": str(error)}
    memory.put(clip.path, replace(entry, facts=facts))
    return row | facts | {"status": "ok"}


def _look(root: Path, path: str, memory: Memory) -> tuple[Entry | None, str | None]:
    """(what a file holds, None), or (None, why that is not known): its name cannot stand in a table, or it is no file
    or cannot be read.
    """
    if fault := classes.fault(path):
        return None, f"the name {fault}: rename it"
    try:
        with open_file(root / path) as file:
            state = State.of(os.fstat(file.fileno()))
            if (known := memory.get(path, state)) is not None:
                return known, None
            return Entry(state, hashlib.file_digest(file, "sha256").hexdigest()), None
    except UnreadableError as error:
        why = error.__cause__
        if isinstance(why, OSError) and why.errno in NONE_LEFT:
            raise why from None
        return None, f"the file cannot be read ({why.strerror})" if isinstance(why, OSError) else str(error)
    except OSError as error:
        return None, f"the file cannot be read ({error.strerror})"


def probe(path: Path, decoders: Decoders) -> dict[str, object]:
    """What adapting will find in `path`: duration_s, n_frames and which reader reads it.  Raises DecodeError where no
    picture can be read.
    """
    facts = decoders.probe(path)
    return {"n_frames": facts.n_frames, "duration_s": facts.duration_s, "reader": facts.reader}


if __name__ == "__main__":
    command.main(Options, run, prog="pipeline.scan")

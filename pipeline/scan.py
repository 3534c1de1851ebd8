"""The `scan` stage: which clips a data set has, with their split, label, hash, length and whether a picture can be read.

In: data/videos/<dataset>, through the recipe that knows its folders.  Out: cache/<dataset>/clips.parquet and labels.txt, one class
a line in label_id order.  A file without a readable picture is a row with a status; a file that a list names and that is not there is counted
and said.  Where there is a folder data/videos/<dataset>/sound, the sound of a clip is that of the file of the same name in it: so media that
were corrupted and encoded without sound keep the original's.
"""
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from adapt.decoding import TIMEOUT_S, DecodeError, Decoders
from adapt.errors import AdaptError
from pipeline import cache, datasets, engine, stage
from pipeline.datasets import SOUND, SPLITS, Listed
from pipeline.errors import DatasetError, EarshotError

NAMED = 5  # missing or failed files that are named

log = logging.getLogger("scan")


@dataclass(frozen=True)
class Options:
    """List a data set's clips."""

    dataset: str  # names data/videos/<dataset> and cache/<dataset>
    recipe: str = "folder"  # pipeline/datasets/<recipe>.py, which knows the folders
    variant: str = ""  # what the recipe offers a choice of, such as ucf101's split 1, 2 or 3; "" for its first
    jobs: int = 2  # files at a time
    decode_timeout_s: float = TIMEOUT_S  # a file that takes longer to look into is a failed row


def run(options: Options) -> dict[str, int]:
    """Write clips.parquet and labels.txt of `options.dataset` and return counts.

    Raises DatasetError for an unknown recipe or variant, no videos, folders or lists that do not fit, or two clips that would share a clip_id.
    """
    recipe, root = datasets.build(options.recipe), Path("data/videos") / options.dataset
    variant = options.variant or recipe.VARIANTS[0]
    if variant not in recipe.VARIANTS:
        raise DatasetError(f"recipe {options.recipe} has no variant {variant!r}: choose one of {list(recipe.VARIANTS)}")
    labels = recipe.labels(options.dataset, root)
    listed = sorted((_named(Listed(*row)) for row in recipe.rows(root, labels, variant)), key=lambda clip: (clip.clip_id, clip.path))
    _check(listed, labels, root)
    clips = _found(listed, root, options.dataset)
    label_ids = {label: i for i, label in enumerate(labels)}
    look = partial(_row, root, label_ids, _sounds(root, clips))
    try:
        with Decoders(options.decode_timeout_s) as decoders:
            rows = engine.map_clips(partial(look, decoders), clips, options.jobs, stop=decoders.close)
    except AdaptError as error:  # no worker can be started
        raise EarshotError(str(error)) from error
    folder = cache.folder(options.dataset)
    known = {"recipe": options.recipe, "variant": variant, "classes_sha256": cache.classes_sha256(labels)}
    cache.write_table(folder / "clips.parquet", "clips", rows, known)
    cache.write_text(folder / "labels.txt", "".join(f"{label}\n" for label in labels))
    failed = [row for row in rows if row["status"] == "failed"]
    for row in failed[:NAMED]:
        log.warning("%s: %s", row["path"], row["error"])
    by_split = {f"n_{split}": sum(clip.split == split for clip in clips) for split in SPLITS}
    return {"n_clips": len(rows), "n_missing": len(listed) - len(clips), "n_failed": len(failed), "n_labels": len(labels), **by_split}


def _named(clip: Listed) -> Listed:
    return clip._replace(clip_id=clip.clip_id or str(PurePosixPath(clip.path).with_suffix("")))


def _check(clips: Sequence[Listed], labels: Sequence[str], root: Path) -> None:
    if not clips:
        raise DatasetError(f"no video under {root}: put them at {root}/<split>/<class>/<name>.mp4, split one of {', '.join(SPLITS)}")
    known = set(labels)
    for clip, following in zip(clips, [*clips[1:], None], strict=True):
        if following and clip.clip_id == following.clip_id:
            if clip.path == following.path:
                raise DatasetError(f"{root}: {clip.path} is listed twice, as {clip.split} and {following.split}: leave one of the lines")
            raise DatasetError(f"{root}: {clip.path} and {following.path} would both be clip {clip.clip_id!r}: rename one of them")
        if not known.issuperset({clip.label, *clip.labels}) or clip.split not in SPLITS:
            raise DatasetError(f"{root}/{clip.path}: label {clip.label!r} or split {clip.split!r} is unknown: the recipe has a fault")


def _found(clips: Sequence[Listed], root: Path, dataset: str) -> list[Listed]:
    """The clips whose files are there; how many are not is said, the first of them named."""
    found = [clip for clip in clips if (root / clip.path).is_file()]
    missing = [clip.path for clip in clips if not (root / clip.path).is_file()]
    named = ", ".join(missing[:NAMED]) + (f" and {len(missing) - NAMED:,} more" if len(missing) > NAMED else "")
    if not found:
        raise DatasetError(f"{dataset}: none of the {len(clips):,} videos that its lists name is under {root}: {named}")
    if missing:
        log.warning("%s: %s of %s videos found; missing: %s", dataset, f"{len(found):,}", f"{len(clips):,}", named)
    else:
        log.info("%s: %s of %s videos found", dataset, f"{len(found):,}", f"{len(clips):,}")
    return found


def _sounds(root: Path, clips: Sequence[Listed]) -> dict[str, str]:
    """Path of a clip -> the file of the same name under `sound`, for those that have one.

    Where a name occurs more than once, the folder that holds the file decides.  Raises DatasetError where it does not.
    """
    originals = datasets.find_videos(root, SOUND)
    n_of_name = Counter(PurePosixPath(path).stem for path in {clip.path for clip in clips})
    sounds: dict[str, str] = {}
    for path in (PurePosixPath(clip.path) for clip in clips):
        candidates = originals.get(path.stem, [])
        if len(candidates) > 1 or n_of_name[path.stem] > 1:
            candidates = [found for found in candidates if PurePosixPath(found).parent.name == path.parent.name]
        if len(candidates) > 1:
            raise DatasetError(f"{root}: {candidates[0]} and {candidates[1]} would both be the sound of {path}: leave one of them")
        if candidates:
            sounds[str(path)] = candidates[0]
    if originals:
        log.info("%d of %d clips have the sound of a file of the same name in %s", len(sounds), len(clips), root / SOUND)
    return sounds


def _row(
    root: Path, label_ids: Mapping[str, int], sounds: Mapping[str, str], decoders: Decoders, clip: Listed
) -> cache.Row:
    path, sound = root / clip.path, sounds.get(clip.path)
    row: dict[str, object] = {
        "clip_id": clip.clip_id, "path": clip.path, "split": clip.split, "label": clip.label, "label_id": label_ids[clip.label],
        "label_ids": [label_ids[label] for label in clip.labels] or None, "content_sha256": cache.sha256_file(path),
        "sound_path": sound, "sound_sha256": None if sound is None else cache.sha256_file(root / sound),
    }  # fmt: skip
    try:
        return row | probe(path, decoders) | {"status": "ok"}
    except DecodeError as error:
        return row | {"status": "failed", "error": str(error)}


def probe(path: Path, decoders: Decoders) -> dict[str, object]:
    """What adapting will find in `path`: duration_s, n_frames and which reader reads it.  Raises DecodeError where no picture can be read."""
    facts = decoders.probe(path)
    return {"n_frames": facts.n_frames, "duration_s": facts.duration_s, "reader": facts.reader}


if __name__ == "__main__":
    stage.main(Options, run, prog="pipeline.scan")

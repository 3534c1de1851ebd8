"""AVA Actions: key frames of films, one a second, each with every one of 60 evaluated actions that a person in it does.

From https://research.google.com/ava (v2.2; the films from https://github.com/cvdfoundation/ava-dataset), as

    data/videos/ava/annotations/{ava_train_v2.2.csv,ava_val_v2.2.csv}
    video_id,timestamp,x1,y1,x2,y2,action_id,person_id
    data/videos/ava/annotations/ava_{train,val}_excluded_timestamps_v2.2.csv                                  (optional)
    data/videos/ava/clips/<video_id>/<timestamp>.mp4                     3 s with sound around each key frame

`python -m pipeline.datasets.ava --videos FOLDER` cuts the clips out of the films (FOLDER/<video_id>.mkv, .mp4 or .webm,
in their own time: key frames lie at 902 to 1798 s); 3 s is what the annotators saw.  235 films are for training and 64
for validation; the 131 test films have no labels.  The validation split is streamed, and 5 % of the training films
validate [ours].

A clip has several labels: `clips.label_ids` has all, `label_id` the first of them in label order.  An answer is right
where it is any of them (top-1 by any-of); mean average precision ranks all clips for each class.  Persons' boxes are
not used, so that figures are those of whole frames and no published AVA figures.  A key frame none of whose actions is
evaluated is left out.
"""

import logging
import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from adapt import command

if __name__ == "__main__":
    command.begin("pipeline.datasets.ava")  # before what takes time to import

import imageio_ffmpeg

from adapt.errors import DatasetError
from adapt.tables.files import replacing
from adapt.video.decoding import ONE_FILE, refusal
from pipeline import datasets
from pipeline.datasets import QUOTED, Listed
from pipeline.workers import engine

VARIANTS = ("",)
N_VIDEOS = {"train": 235, "val": 64}
LABEL = re.compile(r"(?P<id>[0-9]{1,3}): (?P<name>.+)")
TIMESTAMP = re.compile(r"[0-9]{4}")  # seconds
VIDEO_ID = re.compile(r"[\w-]+")
HOW = "take it from ava_v2.2.zip"
DURATION_S = 3.0  # of a clip, the key frame in its middle
KeyFrame = tuple[str, str]  # (video id, timestamp)

log = logging.getLogger("ava")


def labels(dataset: str, root: Path) -> list[str]:
    """The names of data/labels/ava60.txt, or of data/labels/<dataset>.txt: lines `action_id: name`."""
    return list(_actions(dataset).values())


def rows(root: Path, labels: Sequence[str], variant: str = "") -> Iterator[Listed]:
    """Yield the key frames of both splits that show an evaluated action.  Raises DatasetError for a missing list or a
    malformed line.
    """
    for split in N_VIDEOS:
        frames = key_frames(root / "annotations", split, labels)
        datasets.check_count(f"ava, {split}", "films", len({video_id for video_id, _ in frames}), N_VIDEOS[split])
        for (video_id, timestamp), found in frames.items():
            chosen = "test" if split == "val" else "val" if datasets.held_out(video_id) else "train"
            yield Listed(_clip(video_id, timestamp), chosen, found[0], found)


def key_frames(annotations: Path, split: str, labels: Sequence[str]) -> dict[KeyFrame, tuple[str, ...]]:
    """(video id, timestamp) -> the evaluated actions there, in label order; excluded key frames and those without any
    are left out.
    """
    names = {number: label for number, label in _actions("ava").items() if label in labels}
    excluded = _excluded(annotations / f"ava_{split}_excluded_timestamps_v2.2.csv")
    found: dict[KeyFrame, set[str]] = {}
    for where, line in datasets.lines(annotations / f"ava_{split}_v2.2.csv", HOW):
        parts = line.split(",")
        if (
            len(parts) != 8
            or not VIDEO_ID.fullmatch(parts[0])
            or not TIMESTAMP.fullmatch(parts[1])
            or not datasets.NUMBER.fullmatch(parts[6])
        ):
            raise DatasetError(
                f"{where}: {line[:QUOTED]!r} is not `video_id,timestamp,x1,y1,x2,y2,action_id,person_id`"
            )
        actions = found.setdefault((parts[0], parts[1]), set())
        if int(parts[6]) in names:
            actions.add(names[int(parts[6])])
    kept = {
        key: tuple(label for label in labels if label in found[key])
        for key in sorted(found)
        if found[key] and key not in excluded
    }
    if len(kept) < len(found):
        log.info(
            "ava, %s: %d of %d key frames are excluded or show no evaluated action",
            split,
            len(found) - len(kept),
            len(found),
        )
    return kept


def _actions(dataset: str) -> dict[int, str]:
    """AVA's action id -> name, in label order."""
    actions: dict[int, str] = {}
    for line in datasets.label_list(dataset, "ava60"):
        match = LABEL.fullmatch(line)
        if not match:
            raise DatasetError(
                f"{datasets.LABEL_LISTS}: {line[:QUOTED]!r} of AVA's label list is not `action_id: name`"
            )
        actions[int(match["id"])] = match["name"]
    return actions


def _excluded(path: Path) -> set[KeyFrame]:
    if not path.exists():
        return set()
    pairs = [(where, tuple(line.split(","))) for where, line in datasets.lines(path)]
    if bad := [where for where, pair in pairs if len(pair) != 2]:
        raise DatasetError(f"{bad[0]}: not `video_id,timestamp`")
    return {(pair[0], pair[1].zfill(4)) for _, pair in pairs}


def _clip(video_id: str, timestamp: str) -> str:
    return f"clips/{video_id}/{timestamp}.mp4"


@dataclass(frozen=True)
class Options:
    """Cut AVA's key frames out of the films."""

    videos: Path  # a folder of films, <video_id>.<ending>
    root: Path = Path("data/videos/ava")  # holds annotations/, gets clips/
    jobs: int = 2  # clips at a time


def cut(options: Options) -> dict[str, int]:
    """Cut what is not there yet and return counts.  Raises DatasetError where ffmpeg fails; a film that is missing is
    counted.
    """
    films, left_out = datasets.find_videos(options.videos, ".")
    datasets.say_left_out("ava", left_out)
    wanted = {
        key
        for split in N_VIDEOS
        for key in key_frames(options.root / "annotations", split, labels("ava", options.root))
    }
    missing = sorted({video_id for video_id, _ in wanted if video_id not in films})
    if missing:
        log.warning("%d films are not under %s: %s", len(missing), options.videos, ", ".join(missing[:5]))
    todo = sorted(key for key in wanted if key[0] in films and not (options.root / _clip(*key)).exists())
    problems = [
        problem for problem in engine.map_clips(partial(_cut_one, options, films), todo, options.jobs) if problem
    ]
    for problem in problems[:5]:
        log.warning("%s", problem)
    if problems and len(problems) == len(todo):
        raise DatasetError(f"none of {len(todo)} key frames could be cut: {problems[0]}")
    return {
        "n_key_frames": len(wanted),
        "n_cut": len(todo) - len(problems),
        "n_failed": len(problems),
        "n_films_missing": len(missing),
    }


def _cut_one(options: Options, films: dict[str, list[str]], key: KeyFrame) -> str:
    """Write one clip, and return why that failed, or ""."""
    film, target = options.videos / films[key[0]][0], options.root / _clip(*key)
    if (why := refusal(film)) is not None:
        return f"{film}: {why}"
    start_s = max(0.0, int(key[1]) - DURATION_S / 2)
    command = [
        imageio_ffmpeg.get_ffmpeg_exe(),
        "-nostdin",
        "-loglevel",
        "error",
        "-y",
        "-ss",
        str(start_s),
        *(word for name, value in ONE_FILE.items() for word in (f"-{name}", value)),
        "-i",
        f"file:{film}",
    ]
    command += [
        "-t",
        str(DURATION_S),
        "-c:v",
        "libx264",
        "-preset",
        "veryfast",
        "-crf",
        "18",
        "-c:a",
        "aac",
        "-f",
        "mp4",
    ]
    try:
        with replacing(target) as temporary:
            done = subprocess.run(
                [*command, f"file:{temporary}"], stdin=subprocess.DEVNULL, capture_output=True, check=False
            )
            if done.returncode:
                raise DatasetError(
                    f"{film}: ffmpeg cannot cut it at {key[1]} s: {done.stderr.decode(errors='replace').strip()[-200:]}"
                )
    except DatasetError as error:
        return str(error)
    return ""


if __name__ == "__main__":
    command.main(Options, cut, prog="pipeline.datasets.ava")

"""A fixed order of a split's clips, read from a file.

A line names a clip by its clip_id or by its file's path, which may be followed by `n_frames class_id`, as in the lists
that ViTTA's authors ship (gauss_shuffled.txt).  `{}` in the file's name stands for the corruption, each of which then
has an order of its own.
"""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from adapt.errors import AdaptError
from adapt.tables.cache import Clip


def order_file(name: str, corruption: str) -> Path:
    """The file of that name for a corruption."""
    return Path(name.replace("{}", corruption))


def read_order(path: Path, clips: Sequence[Clip]) -> list[Clip]:
    """The clips in the order of the file.  Raises AdaptError where it is not an order of just these clips."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").split("\n")]
    except (OSError, ValueError) as error:
        raise AdaptError(
            f"order_file {path} cannot be read ({error}): give a line a clip, or path n_frames class"
        ) from error
    by_id = {clip.clip_id: clip for clip in clips}
    by_stem: dict[str, list[Clip]] = {}
    for clip in clips:
        by_stem.setdefault(clip.path.stem, []).append(clip)
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        clip_id = line if line in by_id else _named(path, number, line, by_stem).clip_id
        if clip_id in seen:
            raise AdaptError(
                f"{path} line {number}: clip {clip_id} stands in line {seen[clip_id]} already: once is enough"
            )
        seen[clip_id] = number
    if missing := [clip.clip_id for clip in clips if clip.clip_id not in seen]:
        raise AdaptError(
            f"{path} lacks {len(missing)} of {len(clips)} clips ({missing[0]}): name each clip of the split"
        )
    return [by_id[clip_id] for clip_id in seen]


def _named(path: Path, number: int, line: str, by_stem: dict[str, list[Clip]]) -> Clip:
    """The clip of a line's file; of several of one name, that in the folder of the same name."""
    parts = line.rsplit(maxsplit=2)
    is_listed = len(parts) == 3 and all(part.isascii() and part.isdigit() for part in parts[1:])
    name = PurePosixPath(parts[0] if is_listed else line)
    found = by_stem.get(name.stem, [])
    if len(found) > 1:
        found = [clip for clip in found if clip.path.parent.name == name.parent.name]
    if len(found) != 1:
        raise AdaptError(
            f"{path} line {number}: {line[:80]!r} names {len(found) or 'no'} clips of the split: give a clip_id, or "
            "the path of its file"
        )
    return found[0]

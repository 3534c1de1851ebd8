"""Ready-made corrupted files in the layout and list format in which ViTTA's authors ship them.

A folder holds `list_video_perturbations*/<corruption>.txt` (or `<corruption>_shuffled.txt`) and the videos in
`level_<severity>_*/`; both may lie in the folder itself instead.  A line of a list is `path n_frames class_id`, the
path relative to the videos' folder, and may hold spaces.  A clip's file is the one of the same name, whatever its
ending; n_frames and class_id are checked for their form and not used, since frames are counted and labels come from
`clips`.  Sound is the original's: these files have none.
"""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path, PurePosixPath

from adapt.errors import AdaptError, VideoError


def find(folder: Path, corruption: str, severity: int, original: Path) -> Path:
    """The corrupted file of the clip whose file is `original`.

    Raises AdaptError where `folder` has no list for the corruption or one that is malformed, VideoError where the list
    lacks the clip.
    """
    listed = _one(
        _list_files(folder, corruption), f"{folder} has no list {corruption}.txt or {corruption}_shuffled.txt"
    )
    videos = _one(_video_folders(folder, severity), f"{folder} has no folder level_{severity}_*, but others")
    by_name = _read(listed, listed.stat().st_mtime_ns)
    candidates = by_name.get(original.stem, ())
    if len(candidates) > 1:  # the same name in several folders: the folder decides
        candidates = tuple(path for path in candidates if PurePosixPath(path).parent.name == original.parent.name)
    if len(candidates) != 1:
        found = "no line" if not candidates else f"{len(candidates)} lines"
        raise VideoError(
            f"{listed} has {found} for {original}: add its file, or adapt on the clips that the list names"
        )
    return videos / candidates[0]


def _one(paths: list[Path], problem: str) -> Path:
    if not paths:
        raise AdaptError(
            f"{problem}: put lists into list_video_perturbations/ and videos into level_<severity>_<name>/ there"
        )
    if len(paths) > 1:
        raise AdaptError(f"{paths[0]} and {paths[1]} would both do: leave one of them")
    return paths[0]


def _list_files(folder: Path, corruption: str) -> list[Path]:
    places = [folder, *sorted(folder.glob("list_video_perturbations*"))]
    return [
        path
        for place in places
        for name in (corruption, f"{corruption}_shuffled")
        if (path := place / f"{name}.txt").is_file()
    ]


def _video_folders(folder: Path, severity: int) -> list[Path]:
    levels = sorted(folder.glob("level_*_*"))
    return [path for path in levels if path.name.startswith(f"level_{severity}_")] if levels else [folder]


@lru_cache(maxsize=16)
def _read(path: Path, modified_ns: int) -> Mapping[str, tuple[str, ...]]:
    """name without ending -> the paths of that name, of one list; read again when the file has changed."""
    found: dict[str, tuple[str, ...]] = {}
    for number, line in enumerate(path.read_bytes().decode(errors="replace").split("\n"), 1):
        if not line.strip():
            continue
        parts = line.strip().rsplit(maxsplit=2)
        if len(parts) != 3 or not all(part.isascii() and part.isdigit() for part in parts[1:]):
            raise AdaptError(f"{path} line {number}: {line[:80]!r} is not `path n_frames class_id`")
        name = PurePosixPath(parts[0])
        if name.is_absolute() or ".." in name.parts:
            raise AdaptError(
                f"{path} line {number}: path {parts[0][:80]!r} leads out of the videos' folder: make it relative"
            )
        found[name.stem] = (*found.get(name.stem, ()), parts[0])
    return found

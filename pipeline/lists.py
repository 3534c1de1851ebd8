"""The `lists` stage: which files of data/labels, data/maps and data/replies are a data set's own, and their hashes.

Out: cache/<dataset>/lists/scan.sha256, map_labels.sha256 and map_classes.sha256, a line a file, as `sha256sum` writes
it.  DVC knows no dependency that may be missing, and a class list, a map and replies may each be missing.  So `scan`,
`map_labels` and `map_classes` depend on these three, which stay as they are when the files of another data set come or
change.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from adapt import command

if __name__ == "__main__":
    command.begin("pipeline.lists")  # before what takes time to import

from adapt.tables import cache, lock
from adapt.tables.files import sha256_file, write_text

LABELS, MAPS, REPLIES = Path("data/labels"), Path("data/maps"), Path("data/replies")


@dataclass(frozen=True)
class Options:
    """Hash the lists, the map and the replies of a data set, those that are there."""

    dataset: str  # names the files, and cache/<dataset>
    recipe: str = "folder"  # pipeline/datasets/<recipe>.py, whose class list serves where the data set has none
    table: str = ""  # what map_labels is told to read; empty: data/maps/<dataset>.csv
    mapper: str = ""  # also of map_labels, as the next: taken so that DVC can pass all that it is told, and not used
    min_cosine: float = 0.0
    backbone: str = ""  # of the model, as the next
    variant: str = ""
    classes: str = ""  # model.classes, a list that names the outputs of the model's head


@lock.alone("lists", makes_folder=True)
def run(options: Options) -> dict[str, int]:
    """Write the files; return how many files each names."""
    folder = cache.folder(options.dataset) / "lists"
    read_by = {
        "scan": [LABELS / f"{options.dataset}.txt", LABELS / f"{options.recipe}.txt"],
        "map_classes": [
            Path(options.classes),
            MAPS / f"{options.dataset}.classes.csv",
            REPLIES / f"{options.dataset}.classes.jsonl",
        ],
        "map_labels": [Path(options.table or MAPS / f"{options.dataset}.csv"), REPLIES / f"{options.dataset}.jsonl"],
    }
    found = {stage: sorted(path for path in set(paths) if path.is_file()) for stage, paths in read_by.items()}
    for stage, paths in found.items():
        write_text(folder / f"{stage}.sha256", _hashes(paths))
    return {f"n_{stage}": len(paths) for stage, paths in found.items()}


def _hashes(paths: Iterable[Path]) -> str:
    return "".join(f"{sha256_file(path)}  {path.as_posix()}\n" for path in paths)


if __name__ == "__main__":
    command.main(Options, run, prog="pipeline.lists")

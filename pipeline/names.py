"""The `names` stage: names of params.yaml that stand in paths and commands are harmless, before anything uses them.

DVC quotes the values of a section that it unpacks (`${scan}`), and not a value by itself (`${tag.tagger}`), which goes
to a shell as it is.  This stage gets the names unpacked, every other stage comes after it, and in their commands names
stand in quotes.  Out: cache/<dataset>/lists/names.txt, the names.
"""

import re
from dataclasses import asdict, dataclass
from pathlib import Path

from adapt import command

if __name__ == "__main__":
    command.begin("pipeline.names")  # before what takes time to import

from adapt.errors import OptionsError
from adapt.tables import cache
from adapt.tables.files import write_text

WORD = r"\w[\w.+=@-]*"  # of a file's name anywhere, in any script
FOLDERS = {  # a name is that of a file here
    "recipe": Path("pipeline/datasets"),
    "tagger": Path("pipeline/taggers"),
    "backbone": Path("adapt/backbones"),
}


@dataclass(frozen=True)
class Options:
    """Check the names that stand in paths and commands."""

    dataset: str  # names cache/<dataset> and data/videos/<dataset>; group/name puts several in one folder
    recipe: str  # scan.recipe
    tagger: str  # tag.tagger
    variant: str  # tag.variant
    backbone: str  # model.backbone


def run(options: Options) -> dict[str, int]:
    """Write the names; return how many.  Raises OptionsError for one that is none."""
    _check("dataset", options.dataset, rf"({WORD}/)*{WORD}")
    _check("tag.variant", options.variant, rf"({WORD})?")
    for name, folder in FOLDERS.items():
        there = sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("_"))
        if (value := getattr(options, name)) not in there:
            raise OptionsError(f"{name} {value!r} is no file of {folder}: choose one of {there}")
    names = asdict(options)
    text = "".join(f"{name}: {value}\n" for name, value in names.items())
    write_text(cache.folder(options.dataset) / "lists" / "names.txt", text)
    return {"n_names": len(names)}


def _check(name: str, value: str, pattern: str) -> None:
    if re.fullmatch(pattern, value) is None:
        raise OptionsError(f"{name} is {value!r}: give letters, digits and _ . + = @ -, as in a file's name")


if __name__ == "__main__":
    command.main(Options, run, prog="pipeline.names")

"""The door of the mappers: two lists of names in, pairs of sound and class out.

A file of this folder *is* the mapper of that name: `llm` replays recorded replies of a language model, `embedding`
compares sentence embeddings, `lexical` compares words, `table` reads what a person wrote.  A mapper sees names only,
never a clip, so its map is made once per pair of label lists and fits every tagger.
"""

import dataclasses
import functools
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from adapt.errors import MapperError
from adapt.tables import parquet
from pipeline.labels.lists import LabelLists


@dataclass(frozen=True)
class Settings:
    """What a mapper can be told; each reads what concerns it."""

    table: str = ""  # path of the CSV of `table`; "" is data/maps/<dataset>.csv
    # of `embedding`.  Mean precision and F1 over the six sets of data/maps/reference: 0.60 .63 .46, 0.68 .81 .44, 0.76
    # .89 .37; a wrong pair does more harm than a missing one
    min_cosine: float = 0.68


@dataclass(frozen=True)
class Pair:
    """Hearing sound `audio_id` supports class `label_id` with `weight` in (0, 1]."""

    audio_id: int
    label_id: int
    weight: float
    necessary: bool  # the class cannot go without this sound
    reason: str


@dataclass(frozen=True)
class LabelMap:
    """What a mapper found: at most one pair per sound and class, in any order."""

    pairs: list[Pair]
    source: (
        str  # the mapper, and for a language model which; "edited" or "hand" for a table that a person changed or wrote
    )
    provenance: dict[str, str]


class Mapper(Protocol):
    """The function `map_labels` of each file in this folder."""

    def __call__(self, lists: LabelLists, settings: Settings) -> LabelMap:
        """Connect `lists.sounds` with `lists.classes`; the same lists and settings give the same map.  Raises
        MapperError.
        """
        ...


def names() -> list[str]:
    """The mappers there are: the files of this folder."""
    return sorted(file.stem for file in Path(__file__).parent.glob("*.py") if not file.stem.startswith("_"))


def build(name: str, settings: Settings | None = None) -> Callable[[LabelLists], LabelMap]:
    """Import the mapper `name`.  Raises MapperError where the folder has none of that name."""
    if name not in names():
        raise MapperError(f"unknown mapper {name!r}: choose one of {names()}")
    mapper: Mapper = importlib.import_module(f"pipeline.mappers.{name}").map_labels
    return functools.partial(mapper, settings=settings or Settings())


def read(name: str, lists: LabelLists, settings: Settings | None = None) -> LabelMap:
    """The label map called `name`: a mapper's, a CSV's as `table` reads it, or a label_map.parquet's of the cache.

    Raises MapperError where it is none of these, or names a sound or class that `lists` does not.
    """
    settings = settings or Settings()
    if name in names():
        return build(name, settings)(lists)
    if not Path(name).is_file():
        raise MapperError(
            f"{name!r} is neither a mapper nor a file: choose one of {names()}, a CSV or a label_map.parquet"
        )
    if Path(name).suffix != ".parquet":
        return build("table", dataclasses.replace(settings, table=name))(lists)
    rows = parquet.read_table(Path(name), "label_map").to_pylist()
    audio_ids = {sound: i for i, sound in enumerate(lists.sounds)}
    label_ids = {label: i for i, label in enumerate(lists.classes)}
    for row in rows:
        if row["audio_label"] not in audio_ids or row["label"] not in label_ids:
            raise MapperError(
                f"{name}: {row['audio_label']!r} -> {row['label']!r} is no sound of AudioSet or no class of "
                f"{lists.dataset or 'these'}: name the data set it was made for, or run `dvc repro map_labels`"
            )
    pairs = [
        Pair(audio_ids[r["audio_label"]], label_ids[r["label"]], r["weight"], r["necessary"], r["reason"]) for r in rows
    ]
    return LabelMap(pairs, rows[0]["source"] if rows else name, {})

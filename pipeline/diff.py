"""What one label map says otherwise than another: `python -m pipeline.map_labels diff A B`.

A and B are each a mapper, a CSV that the mapper `table` reads, or a label_map.parquet of the cache.  Pairs are compared
by name; clips by their sound's top class, with the tags and the options of the cached pseudo-labels.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import tyro

from adapt import command
from adapt.errors import MapperError
from adapt.tables import cache
from pipeline import mappers, pseudo_label
from pipeline.labels.lists import LabelLists, label_lists, read_classes
from pipeline.mappers import Pair, Settings, table

Key = tuple[int, int]  # audio_id, label_id


@dataclass(frozen=True)
class Options:
    """Show which pairs of sound and class differ between two label maps, and which clips' top class."""

    before: tyro.conf.Positional[str]  # a mapper, a CSV of a map, or a label_map.parquet
    after: tyro.conf.Positional[str]  # the same
    dataset: str = ""  # empty: what a CSV's first line or a Parquet file's folder says
    min_change: float = 0.001  # of a weight; smaller ones are no change
    min_cosine: float = Settings.min_cosine  # for the mapper embedding
    json: Annotated[bool, tyro.conf.arg(name="json")] = False  # print JSON instead of text


@dataclass(frozen=True)
class Change:
    """A pair that one of the maps lacks (its weight is None there), or has with another weight or necessity."""

    sound: str
    label: str
    before: float | None
    after: float | None
    necessary: bool  # as the later map has it, of those that have the pair
    reason: str  # likewise


@dataclass(frozen=True)
class Turn:
    """A clip whose sound's top class differs; None where no sound of the map is heard."""

    clip_id: str
    before: str | None
    after: str | None


@dataclass(frozen=True)
class Difference:
    """All that differs, pairs in sound order, clips by id."""

    dataset: str
    sources: tuple[str, str]
    n_pairs: tuple[int, int]
    added: list[Change]
    removed: list[Change]
    changed: list[Change]
    n_clips: int  # that were compared
    turns: list[Turn]
    why_no_clips: str  # "" where clips were compared


def run(options: Options) -> Difference:
    """Compare the two maps.  Raises MapperError where one cannot be read, CacheError where the tags cannot."""
    if not 0 <= options.min_change <= 1:
        raise MapperError(f"--min_change {options.min_change}: give a part of a weight, 0 to 1")
    dataset = options.dataset or _named_dataset(options)
    lists = label_lists(dataset, read_classes(dataset))
    settings = Settings(min_cosine=options.min_cosine)
    maps = [mappers.read(name, lists, settings) for name in (options.before, options.after)]
    old, new = ({(pair.audio_id, pair.label_id): pair for pair in found.pairs} for found in maps)
    tops, why = _tops(lists, old, new)
    return Difference(
        dataset=dataset,
        sources=(maps[0].source, maps[1].source),
        n_pairs=(len(old), len(new)),
        added=[_change(None, new[key], lists) for key in sorted(new.keys() - old.keys())],
        removed=[_change(old[key], None, lists) for key in sorted(old.keys() - new.keys())],
        changed=[
            _change(old[key], new[key], lists)
            for key in sorted(old.keys() & new.keys())
            if _differ(old[key], new[key], options.min_change)
        ],
        n_clips=len(tops),
        turns=[turn for turn in tops if turn.before != turn.after],
        why_no_clips=why,
    )


def _named_dataset(options: Options) -> str:
    """The data set that the maps name.  Raises MapperError where none does, or they name two."""
    names = {name for map_ in (options.before, options.after) if (name := _dataset_of(map_))}
    if len(names) != 1:
        raise MapperError(f"the maps name {' and '.join(sorted(names)) or 'no data set'}: say --dataset")
    return names.pop()


def _dataset_of(name: str) -> str:
    path = Path(name)
    if name in mappers.names() or not path.is_file():
        return ""
    return path.absolute().parent.name if path.suffix == ".parquet" else table.dataset_of(path)


def _change(old: Pair | None, new: Pair | None, lists: LabelLists) -> Change:
    (*_, last) = (pair for pair in (old, new) if pair)
    before, after = (pair.weight if pair else None for pair in (old, new))
    return Change(lists.sounds[last.audio_id], lists.classes[last.label_id], before, after, last.necessary, last.reason)


def _differ(old: Pair, new: Pair, min_change: float) -> bool:
    return abs(old.weight - new.weight) > min_change or old.necessary != new.necessary


def _tops(lists: LabelLists, *maps: Mapping[Key, Pair]) -> tuple[list[Turn], str]:
    """(every clip's top class under both maps, why there are none)."""
    made = pseudo_label.recorded_options(lists.dataset)
    if made is None:
        return [], f"{cache.folder(lists.dataset) / 'pseudo_labels.parquet'} is missing: run `dvc repro pseudo_label`"
    weights = [{(lists.sounds[pair.audio_id], pair.label_id): pair.weight for pair in m.values()} for m in maps]
    return [Turn(clip_id, *tops) for clip_id, tops in pseudo_label.top_labels(made, lists.classes, weights)], ""


def text(found: Difference) -> str:
    """The difference for a person: a line a pair and a clip, what is gone first."""
    first, second = (f"{source} ({n} pairs)" for source, n in zip(found.sources, found.n_pairs, strict=True))
    n_each = f"{len(found.removed)} removed, {len(found.added)} added, {len(found.changed)} changed"
    lines = [f"{found.dataset}: {first} -> {second}: {n_each}"]
    for mark, changes in (("-", found.removed), ("+", found.added), ("~", found.changed)):
        lines += [f"{mark} {c.sound} -> {c.label}  {_weights(c)}  {c.reason}" for c in changes]
    if found.why_no_clips:
        return "\n".join([*lines, f"clips are not compared: {found.why_no_clips}"])
    lines.append(f"{len(found.turns)} of {found.n_clips} clips change their sound's top class")
    return "\n".join([*lines, *(f"  {t.clip_id}: {t.before or 'none'} -> {t.after or 'none'}" for t in found.turns)])


def _weights(change: Change) -> str:
    told = " -> ".join(f"{weight:.3f}" for weight in (change.before, change.after) if weight is not None)
    return told + (" necessary" if change.necessary else "")


def report(options: Options) -> None:
    """Print what `run` finds: text, or JSON."""
    found = run(options)
    with command.until_the_reader_leaves():
        print(json.dumps(asdict(found), ensure_ascii=False) if options.json else text(found))


def main(args: list[str] | None = None) -> None:
    """Run as a command."""
    command.main(Options, report, prog="pipeline.map_labels diff", args=args)

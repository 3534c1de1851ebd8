"""Where tables find runs: the cache (here), or an archive (adapt/report/_archive.py)."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from adapt.errors import CacheError
from adapt.report._condensed import Row, condensed
from adapt.report.metrics import Heard, Labelled
from adapt.tables import cache, parquet

METRICS = Path("cache/metrics")
Truth = tuple[Sequence[Labelled], Mapping[str, Heard]]


class Place(Protocol):
    """Runs of a data set, by name."""

    @property
    def dataset(self) -> str:
        """Which it is."""

    def path(self, name: str) -> Path:
        """The file that a run's rows lie in."""

    def exists(self, name: str) -> bool:
        """Whether there is a finished run of that name."""

    def rows(self, name: str) -> list[Row]:
        """What the run answered, as `condensed` has it.  Raises CacheError where it is missing, damaged, or of other
        clips than the place's.
        """

    def sees_labels(self, name: str) -> bool:
        """Whether the run is an upper bound."""

    def truth(self, split: str) -> Truth:
        """(the clips of a split, what is known of each one's sound by clip id).  Raises CacheError where there is
        none.
        """


class Cache:
    """cache/<dataset>/adapt/<folder>/<run>/predictions.parquet, cache/metrics/<dataset>/<folder>/<run>.json for whether
    the run saw labels, and the clips and their sounds as they are now.
    """

    def __init__(self, dataset: str, folder: str) -> None:
        """`folder` is that of runs named FOLDER/NAME, or ""."""
        self.dataset, self._folder = dataset, folder

    def full(self, name: str) -> str:
        """The name that `python -m adapt` knows the run by."""
        return str(Path(self._folder) / name)

    def path(self, name: str) -> Path:
        """As `Place` has it."""
        return cache.folder(self.dataset) / "adapt" / self._folder / name / "predictions.parquet"

    def _scores(self, name: str) -> Path:
        return METRICS / self.dataset / self._folder / f"{name}.json"

    def exists(self, name: str) -> bool:
        """As `Place` has it."""
        return self.path(name).exists() and self._scores(name).exists()

    def finished(self) -> list[str]:
        """The names of all runs that are."""
        folder = cache.folder(self.dataset) / "adapt" / self._folder
        return sorted(path.parent.name for path in folder.glob("*/predictions.parquet"))

    def rows(self, name: str) -> list[Row]:
        """As `Place` has it."""
        path = self.path(name)
        for needed in (path, self._scores(name)):
            if not needed.exists():
                stage = "" if self._folder else f"`dvc repro adapt@{name}`, or "
                as_its_stage = f"`python -m adapt` as its stage does, with --name {self.full(name)}"
                raise CacheError(f"{needed} is missing: run {stage}{as_its_stage}")
        rows = cache.read_predictions(path)
        now, place = cache.data_sha256(self.dataset), cache.folder(self.dataset)
        stage = "adapt" if self._folder else f"adapt@{name}"
        made_of = place / "{clips,pseudo_labels}.parquet"
        cache.check_stated(path, parquet.provenance(path), "data_sha256", now, made_of, stage)
        return condensed(rows)

    def sees_labels(self, name: str) -> bool:
        """As `Place` has it."""
        return bool(json.loads(self._scores(name).read_text(encoding="utf-8")).get("sees_labels", False))

    def truth(self, split: str) -> Truth:
        """As `Place` has it."""
        sounds = cache.read_sounds(self.dataset, cache.read_labels(self.dataset))
        return [clip for clip in cache.read_clips(self.dataset, split) if clip.clip_id in sounds], sounds

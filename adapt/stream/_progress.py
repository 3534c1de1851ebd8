"""A run's rows on disk while it goes on, so that one killed at any time is gone on with, and memory does not grow with
the number of clips.

Until the run is done its output folder holds `progress/` with a folder a lane (adapt/stream/_lanes.py): the rows so far
as Parquet parts, and state.pt with the run's fingerprint, the lane's position, everything that the method carries and
torch's generators.  Parts are written first and state.pt, by a rename, last: what it does not know of is made again.
At the end the parts of all lanes become one file a table, ordered by key, whatever parts there were, and `progress/`
goes.
"""

import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from adapt.contract import Method
from adapt.errors import CacheError, is_of_the_machine
from adapt.stream._batches import Row
from adapt.stream._fingerprint import differences
from adapt.stream._streams import Rows, Stream
from adapt.tables import cache, lock, parquet, schema
from adapt.tables.files import replacing

log = logging.getLogger("adapt")
TABLES = ("predictions", "traces")
SAVE_EVERY_S = 60.0  # a save is due after this time too, however few clips it was

STATE = {"fingerprint", "number", "position", "method", "generator", "cuda_generator"}  # what state.pt holds
N_NAMED = 8  # changes, where a run starts anew


def output(folder: Path, table: str) -> Path:
    """The file of a table of a finished run."""
    return folder / f"{table}.parquet"


def metadata_of(path: Path, table: str) -> dict[str, str] | None:
    """What a whole file of `table` says it was made of; None where there is no such file, or a damaged one."""
    if not path.exists():
        return None
    try:
        return parquet.verify(path, table)
    except CacheError as error:
        log.warning("%s: made again", str(error).rpartition(": run ")[0])
        return None


def is_finished(folder: Path, fingerprint: Mapping[str, str]) -> bool:
    """Whether the folder holds what a run of this fingerprint would make; a run of another one is named in one line."""
    found = [metadata_of(output(folder, table), table) for table in TABLES]
    known = [{name: value for name, value in (one or {}).items() if name not in ("table", "schema")} for one in found]
    if all(one == fingerprint for one in known):
        shutil.rmtree(folder / "progress", ignore_errors=True)  # of a run killed while it let go of them
        return True
    if all(known):
        log.info("%s is of another run (%s): adapting anew", folder, _named(differences(known[0], fingerprint)))
    return False


def _named(changed: Sequence[str]) -> str:
    return ", ".join([*changed[:N_NAMED], *(["..."] if len(changed) > N_NAMED else [])])


def _sync(path: Path) -> None:
    """Wait until a file or folder is on the disk itself."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write(path: Path, write: Callable[[Path], object]) -> None:
    """Have `write` fill a temporary name, then rename: after a crash the file is there whole, or not at all."""
    with replacing(path) as temporary:
        write(temporary)
        _sync(temporary)
    _sync(path.parent)


def _save(content: Mapping[str, Any], path: Path) -> None:
    with path.open("wb") as file:
        torch.save(content, file)  # by a name, torch does not say why it cannot be written


class Progress:
    """The progress of a whole run: its lock, its lanes, and how their rows become the run's tables."""

    def __init__(self, folder: Path, fingerprint: Mapping[str, str], save_every: int) -> None:
        """`save_every` clips of a lane a save is due."""
        self.target, self.folder = folder, folder / "progress"
        self.fingerprint, self.save_every = dict(fingerprint), save_every

    def __enter__(self) -> "Progress":
        """Take hold of the folder.  Raises BusyError where another run has it."""
        place = self.target.relative_to(cache.ROOT)
        path = lock.path_of(place.parts[0], "adapt." + "/".join(place.parts[2:]))
        self.folder.mkdir(parents=True, exist_ok=True)
        self._held = lock.holding(path, f"{self.target}")
        self._held.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._held.__exit__(*error)

    def lane(self, numbers: range) -> "Lane":
        """The progress of the streams with these numbers, which follow one another."""
        return Lane(self.folder / f"{numbers.start:05d}", self.fingerprint, self.save_every, numbers)

    def finish(self, streams: Sequence[Stream]) -> None:
        """Make one file a table of all lanes' parts, then let go of them."""
        ordered = sorted(
            range(len(streams)), key=lambda n: (streams[n].corruption, streams[n].severity, streams[n].order_seed)
        )
        for table in TABLES:
            if not self._parts(table):
                cache.write_table(output(self.target, table), table, [], self.fingerprint)
                continue
            self._merge(table, ordered, output(self.target, table))
        self.drop()

    def _merge(self, table: str, ordered: Sequence[int], path: Path) -> None:
        """A row group a stream: the same bytes whatever parts its rows came in."""
        parts: dict[int, list[Path]] = {}
        for part in self._parts(table):
            parts.setdefault(_place(part)[0], []).append(part)
        names = schema.schema_of(table).names
        columns = schema.schema_of(table).with_metadata(pq.read_schema(self._parts(table)[0]).metadata)
        with parquet.sealed(path, columns) as writer:
            for number in ordered:
                if number in parts:
                    read = [parquet.read_file(part, table, names) for part in parts[number]]
                    rows = pa.concat_tables(read).combine_chunks()
                    writer.write_table(rows.cast(columns), row_group_size=len(rows))
        _sync(path)
        _sync(path.parent)

    def _parts(self, table: str) -> list[Path]:
        """Of all lanes, in the order of stream and position."""
        return sorted(self.folder.glob(f"*/{table}-*.parquet"), key=_place)

    def drop(self) -> None:
        """Forget all that is on disk of a run that is done, or not worth going on with."""
        shutil.rmtree(self.folder)


class Lane:
    """Where a lane stands: `position` clips of stream `number` are done, and all of those before it."""

    def __init__(self, folder: Path, fingerprint: Mapping[str, str], save_every: int, numbers: range) -> None:
        """`numbers` are those of its streams; `save_every` clips a save is due."""
        self.folder, self.fingerprint, self.save_every, self.numbers = folder, dict(fingerprint), save_every, numbers
        self.number, self.position = numbers.start, 0
        self._rows: dict[str, list[Row]] = {table: [] for table in TABLES}
        self._start, self._saved = (
            (self.number, 0),
            time.monotonic(),
        )  # of the rows in memory; when they were last put on disk

    def restore(self, method: Method, n_clips: int, device: torch.device) -> None:
        """Go on where a killed run of the same fingerprint stood, else start with nothing and say why; parts of no use
        are removed.

        `n_clips` is the length of every stream.
        """
        self.folder.mkdir(exist_ok=True)
        saved, problem = self._read(device)
        if saved is not None and (changed := differences(saved["fingerprint"], self.fingerprint)):
            saved, problem = None, f"{_named(changed)} changed since"
        if saved is not None:
            self.number, self.position = self._start = saved["number"], saved["position"]
            if self._n_rows() != [n_clips] * (self.number - self.numbers.start) + [self.position] * (
                self.number in self.numbers
            ):
                saved, problem = None, "its rows are not all there"
        if saved is None:
            self.number, self.position = self._start = self.numbers.start, 0
        else:
            method.load_state(saved["method"])
            torch.set_rng_state(saved["generator"].cpu())
            if device.type == "cuda":
                torch.cuda.set_rng_state(saved["cuda_generator"].cpu(), device)
            if self.number in self.numbers:
                log.info("going on at clip %d of stream %d", self.position + 1, self.number + 1)
        for path in self._parts():
            if _place(path) >= self._start:
                path.unlink()
        if problem:
            log.info("%s cannot be gone on with (%s): adapting anew", self.folder, problem)

    def _read(self, device: torch.device) -> tuple[dict[str, Any] | None, str]:
        """(what state.pt holds or None, what is wrong with it); tensors on the device of the model."""
        path = self.folder / "state.pt"
        if not path.exists():
            return None, ""
        try:
            saved = torch.load(path, map_location=device, weights_only=True)
        except Exception as error:  # torch.load raises many kinds for a file that is not its own
            if is_of_the_machine(error):
                raise
            return None, f"state.pt is broken, {type(error).__name__}"
        if not isinstance(saved, dict) or not saved.keys() >= STATE:
            return None, f"state.pt is broken, it holds a {type(saved).__name__} of another form"
        return saved, ""

    def n_done(self, n_clips: int) -> int:
        """How many of the lane's clips are done, of `n_clips` a stream."""
        return n_clips * (self.number - self.numbers.start) + self.position

    def add(self, rows: Rows, n_clips: int) -> None:
        """Take in the rows of the next `n_clips` clips."""
        for table, more in zip(TABLES, rows, strict=True):
            self._rows[table] += more
        self.position += n_clips

    def is_due(self) -> bool:
        """Whether enough clips or time have gone by since rows were last put on disk."""
        number, first = self._start
        return (
            self.position - (first if number == self.number else 0) >= self.save_every
            or time.monotonic() - self._saved >= SAVE_EVERY_S
        )

    def end_stream(self) -> None:
        """The next clip is the first of the next stream."""
        self.number, self.position = self.number + 1, 0

    def save(self, method: Method, device: torch.device) -> None:
        """Put all on disk."""
        for table, rows in self._rows.items():
            if rows:
                path = self.folder / f"{table}-{self._start[0]:05d}-{self._start[1]:09d}.parquet"
                cache.write_table(path, table, rows, self.fingerprint)
                _sync(path)
                rows.clear()
        content = {
            "fingerprint": self.fingerprint,
            "number": self.number,
            "position": self.position,
            "method": method.state(),
        }
        content |= {
            "generator": torch.get_rng_state(),
            "cuda_generator": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        }
        _write(self.folder / "state.pt", lambda path: _save(content, path))
        self._start, self._saved = (self.number, self.position), time.monotonic()

    def predictions(self, number: int) -> list[Row]:
        """The rows of a stream that is on disk."""
        rows: list[Row] = pa.concat_tables(
            [
                parquet.read_file(part, "predictions", schema.schema_of("predictions").names)
                for part in self._parts("predictions")
                if _place(part)[0] == number
            ]
        ).to_pylist()
        return rows

    def _parts(self, table: str = "*") -> list[Path]:
        """In the order of stream and position."""
        return sorted(self.folder.glob(f"{table}-*.parquet"), key=_place)

    def _n_rows(self) -> list[int]:
        """Predictions on disk of each stream of the lane up to the one in hand."""
        counts = [0] * (min(self.number + 1, self.numbers.stop) - self.numbers.start)
        for part in self._parts("predictions"):
            if _place(part) < self._start and metadata_of(part, "predictions") is not None:
                counts[_place(part)[0] - self.numbers.start] += pq.read_metadata(part).num_rows
        return counts


def _place(part: Path) -> tuple[int, int]:
    """(stream, position) of the first row of a part."""
    _, number, position = part.stem.split("-")
    return int(number), int(position)

"""What was heard in each clip, kept in a file: clips are read in the order of shards and written in that of ids."""

from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from adapt import command
from pipeline.labels.evidence import Heard


class Scratch:
    """What was heard in each clip, in a file and in the order of clips; zero where nothing was put."""

    def __init__(self, file: IO[bytes], folder: Path, n_clips: int, n_sounds: int, n_classes: int) -> None:
        """Lay out `n_clips` records of up to `n_sounds` sounds and the absences of `n_classes` classes, in a file of
        `folder`.  Raises NoSpaceError where they have no room there.
        """
        self._file, self._n_clips = file, n_clips
        self._record = np.dtype(
            [("sounds", "<i4", (n_sounds,)), ("probabilities", "<f8", (n_sounds,)), ("absent", "<f4", (n_classes,))]
        )
        command.reserve(file, n_clips * self._record.itemsize, folder)

    def put(self, ranks: npt.NDArray[np.int64], heard: Heard, absent: npt.NDArray[np.float32]) -> None:
        """Keep what was heard in the clips that stand at `ranks`."""
        rows = self._rows()
        rows["sounds"][ranks], rows["probabilities"][ranks], rows["absent"][ranks] = (
            heard.sounds,
            heard.probabilities,
            absent,
        )

    def get(self, start: int, stop: int) -> tuple[Heard, npt.NDArray[np.float32]]:
        """(what was heard, the absences) of the clips from `start` to `stop`."""
        rows = np.array(self._rows()[start:stop])
        return Heard(rows["sounds"], rows["probabilities"]), rows["absent"]

    def _rows(self) -> npt.NDArray[np.void]:
        return np.memmap(
            self._file, self._record, "r+", shape=(self._n_clips,)
        )  # mapped for one block only: pages seen must not pile up

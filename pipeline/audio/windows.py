"""Windows of sound that comes in pieces: the same ones however it is cut; no more is held than a window and a piece."""

from typing import Any

import numpy as np
import numpy.typing as npt

from adapt.errors import TaggerError

Samples = npt.NDArray[Any]  # (n,) or (channels, n)
Window = tuple[int, Samples]  # (the first sample's number, the samples)


class Windows:
    """Cuts `window` samples every `hop` samples, until the sound's end is heard; the last window may be short.

    Samples are those of the last axis.  A window is there as soon as its last sample is.
    """

    def __init__(self, window: int, hop: int) -> None:
        """Raises TaggerError unless 0 < hop <= window."""
        if not 0 < hop <= window:
            raise TaggerError(f"windows of {window} samples every {hop}: give 0 < hop <= window")
        self._window, self._hop = window, hop
        self._forget()

    def _forget(self) -> None:
        self._pieces: list[Samples] = []
        self._start = 0  # of the next window, and the first sample that is held
        self._n_held = self._n_heard = 0  # samples; those that a window has had already

    def add(self, piece: Samples) -> list[Window]:
        """Take in what follows, and give the windows that are whole now."""
        self._pieces.append(piece)
        self._n_held += piece.shape[-1]
        if self._n_held < self._window:
            return []
        held = self._joined()
        starts = range(0, self._n_held - self._window + 1, self._hop)
        found = [(self._start + start, held[..., start : start + self._window]) for start in starts]
        n_done = starts[-1] + self._hop
        self._pieces, self._start = [held[..., n_done:].copy()], self._start + n_done
        self._n_held, self._n_heard = self._n_held - n_done, self._window - self._hop
        return found

    def end(self) -> list[Window]:
        """No more comes: give the last window, where there are samples that none has had.  Another sound may follow."""
        last = []
        if self._n_held > self._n_heard:
            last = [(self._start, self._joined())]
        self._forget()
        return last

    def _joined(self) -> Samples:
        return self._pieces[0] if len(self._pieces) == 1 else np.concatenate(self._pieces, axis=-1)

"""How loud sound is: levels and peak of samples as they come, and which level is silence."""

import math

import numpy as np

from pipeline.audio._channels import FULL_SCALE, Choice
from pipeline.audio._ffmpeg_run import Block


class Meter:
    """Levels and peak of int16 samples by running sums of whole numbers, so that the cut into blocks does not
    matter.
    """

    def __init__(self) -> None:
        self.n_samples = 0
        self._sum = self._sum_of_squares = 0
        self._peak = 0

    def add(self, block: Block) -> None:
        """Measure some more."""
        if block.size:
            self.n_samples += block.size
            self._sum += int(block.sum(dtype=np.int64))
            self._sum_of_squares += int(np.square(block, dtype=np.int32).sum(dtype=np.int64))
            self._peak = max(self._peak, int(block.max()), -int(block.min()))

    @property
    def rms_dbfs(self) -> float | None:
        """In dB relative to full scale; None where there are no samples or all are zero."""
        return 10 * math.log10(self._sum_of_squares / self.n_samples / FULL_SCALE**2) if self._sum_of_squares else None

    @property
    def level_dbfs(self) -> float | None:
        """As `rms_dbfs` of what is left without the mean, since a constant is no sound."""
        squares = (
            self.n_samples * self._sum_of_squares - self._sum**2
        )  # of the differences from the mean, n times: a whole number
        return 10 * math.log10(squares / self.n_samples**2 / FULL_SCALE**2) if squares else None

    @property
    def peak_dbfs(self) -> float | None:
        """As `rms_dbfs`."""
        return 20 * math.log10(self._peak / FULL_SCALE) if self._peak else None


def loudest_dbfs(meter: Meter, choice: Choice) -> float | None:
    """The level of a track's loudest channel, where `meter` has measured what was chosen to be heard of it; None where
    that is nothing.
    """
    return None if meter.level_dbfs is None else meter.level_dbfs + choice.lost_db


def is_silent(level_dbfs: float | None, below_dbfs: float) -> bool:
    """Whether a track whose loudest channel has that level has no sound to hear."""
    return level_dbfs is None or level_dbfs < below_dbfs

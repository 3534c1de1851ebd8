"""What a track's channels hold before ffmpeg mixes them: how loud each is, and whether the mix still says what they
say.

ffmpeg mixes a track to one channel by weights of its own.  Channels in opposite phase cancel in such a mix, and a track
with one channel that sounds loses half of its level.  So ffmpeg writes the channels on a second pipe as well, as WAV;
here they are measured second by second of the track, whatever the pipe's cuts, and thrown away.  Levels are those
without the mean of each second: a constant offset is no sound.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO

import numpy as np
import numpy.typing as npt

from adapt.errors import DecodeError

# a second is cancelled where the mix has less than this share of the energy that unrelated channels would have there:
# 10 dB
CANCELLED = 0.1
# of the seconds that sound: where so many are cancelled, one channel is heard instead of the mix, all along
CANCELLED_SHARE = 0.1
INAUDIBLE = 1e-4  # of the loudest channel's energy: 40 dB below it
FULL_SCALE = 32768.0  # of int16
MOST_VALUES = (
    1 << 21
)  # measured at once, of all channels together: sums of their products are whole numbers that a double holds
STEREO = 0x3  # WAV's mask of places: front left, front right
PLAIN, EXTENSIBLE = 1, 0xFFFE  # WAV's formats; the second has a mask
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Form:
    """What a WAV file says of its samples."""

    n_channels: int
    sample_rate: int
    layout: str  # for ffmpeg: the mask of the channels' places, or their number where the places are not known


@dataclass(frozen=True)
class Choice:
    """What is to be heard of a track."""

    mix: str | None  # mean, or `channel 1` for the first; None where there is one channel only, or none was measured
    channel: int | None  # counted from 0; None for ffmpeg's mix
    lost_db: float  # how far its level is below that of the track's loudest channel


class Channels:
    """Measure the channels of one track, then choose what is to be heard of it."""

    def __init__(self, silent_below_dbfs: float, weigh: Callable[[Form], Floats]) -> None:
        """Seconds below the level `silent_below_dbfs` in every channel have no say; `weigh` gives the channels' weights
        in the mix.
        """
        self.n_channels: int | None = None  # not yet known
        self._silent_below = FULL_SCALE**2 * 10 ** (silent_below_dbfs / 10)
        self._weigh = weigh
        self._weights = np.empty(0)
        self._energy = np.empty((0, 0))  # sums of products of every two channels, without their means
        self._n_samples = self._n_sounding = self._n_cancelled = 0

    def read(self, file: IO[bytes]) -> None:
        """Measure all of `file`, a WAV of 16 bits as ffmpeg streams it; nothing where it is empty.  The file is closed,
        whatever happens.
        """
        with file:  # or ffmpeg would wait for ever for a reader that has failed
            form = read_form(file)
            if form is None:
                return
            buffer = bytearray(2 * form.n_channels * self.begin(form))
            while n_bytes := file.readinto(buffer):  # type: ignore[attr-defined]
                values = np.frombuffer(buffer, "<i2", n_bytes // (2 * form.n_channels) * form.n_channels)
                self.add(values.reshape(-1, form.n_channels))

    def begin(self, form: Form) -> int:
        """A track of `form` comes; how many of its samples belong into one `add`, but for the last: a second."""
        self._weights = self._weigh(form) if form.n_channels > 1 else np.ones(1)
        self._energy = np.zeros((form.n_channels, form.n_channels))
        self.n_channels = form.n_channels
        return max(1, min(form.sample_rate, MOST_VALUES // form.n_channels))

    def add(self, samples: npt.NDArray[np.int16]) -> None:
        """Measure some more: (n, channels).  Of one channel there is nothing to measure."""
        if samples.shape[1] > 1 and samples.size:
            self._add(samples.astype(np.float64))

    def choose(self) -> Choice:
        """Say what is to be heard: ffmpeg's mix, but the loudest channel where the mix cancels or hardly has it, or
        where it sounds alone.
        """
        if self.n_channels in (None, 1) or not self._n_samples:
            return Choice(None, None, 0.0)
        energies, mixed = self._energy.diagonal(), self._mixed(self._energy)
        loudest, channel = int(energies.argmax()), None
        others = float(np.delete(energies, loudest).max())
        if self._n_cancelled and self._n_cancelled >= CANCELLED_SHARE * self._n_sounding:
            channel = int(
                (energies * (self._weights > 0)).argmax()
            )  # not the one for low rumble, which ffmpeg leaves out
        elif self._n_sounding and min(others, mixed) <= INAUDIBLE * energies[loudest]:
            channel = loudest
        kept = mixed if channel is None else float(energies[channel])
        lost_db = 10 * float(np.log10(energies[loudest] / kept)) if kept > 0 else 0.0
        return Choice("mean" if channel is None else f"channel {channel + 1}", channel, lost_db)

    def _add(self, second: Floats) -> None:
        """Take in samples (n, channels)."""
        sums = np.ones(len(second)) @ second  # second.sum(axis=0) in a thirtieth of its time
        energy = second.T @ second - np.outer(sums, sums) / len(second)
        self._energy += energy
        self._n_samples += len(second)
        if energy.diagonal().max() >= self._silent_below * len(second):
            self._n_sounding += len(second)
            unrelated = float((self._weights**2 * energy.diagonal()).sum())
            self._n_cancelled += len(second) if self._mixed(energy) < CANCELLED * unrelated else 0

    def _mixed(self, energy: Floats) -> float:
        """Energy of the channels' weighted sum."""
        return float((np.outer(self._weights, self._weights) * energy).sum())


def read_form(file: IO[bytes]) -> Form | None:
    """Read a WAV file up to its first sample; None where it ends before.  Raises DecodeError where it is not WAV of 16
    bits.
    """
    head, form = file.read(12), None
    if head[:4] not in (b"RIFF", b""):
        raise DecodeError(f"ffmpeg wrote {head!r} where WAV was asked for: set decode.ffmpeg to packaged")
    while len(chunk := file.read(8)) == 8:
        name, size = struct.unpack("<4sI", chunk)
        if name == b"data":
            return form
        content = file.read(size)
        form = _form(content) if name == b"fmt " else form
    return None


def _form(stated: bytes) -> Form:
    kind, n_channels, sample_rate, _, _, n_bits = struct.unpack("<HHIIHH", stated[:16])
    if kind not in (PLAIN, EXTENSIBLE) or n_bits != 16 or not n_channels:
        raise DecodeError(
            f"ffmpeg wrote WAV of format {kind} with {n_channels} channels of {n_bits} bits, not 16: set decode.ffmpeg "
            "to packaged"
        )
    mask = struct.unpack("<I", stated[20:24])[0] if kind == EXTENSIBLE else {2: STEREO}.get(n_channels, 0)
    return Form(n_channels, sample_rate, f"0x{mask:x}" if mask.bit_count() == n_channels else f"{n_channels}c")

"""The room's other door: samples in memory in, mono int16 and a verdict out, as `sound` gives them of a file that holds
these samples.

Channels are measured and chosen by the same code.  Mixing and resampling are FFmpeg's own, by the library in PyAV's
wheel in place of a process a clip, which would cost several times what hearing the clip costs: the same samples, bit
for bit, as those of the packaged ffmpeg (a test compares).
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from av import AudioFrame
from av.audio.resampler import AudioResampler

from adapt.errors import DecodeError
from pipeline.audio._channels import Channels, Choice, Form
from pipeline.audio._ffmpeg_run import Block, Decoder, weights
from pipeline.audio._level import Meter, is_silent, loudest_dbfs
from pipeline.audio.sound import Heard

Samples = npt.NDArray[Any]  # (n,) or (channels, n)
FORMATS = {"uint8": "u8", "int16": "s16", "int32": "s32", "float32": "flt"}  # FFmpeg's name of each type of samples
# what FFmpeg takes so many channels for where nobody says their places
LAYOUTS = ("mono", "stereo", "2.1", "4.0", "5.0", "5.1", "6.1", "7.1")
LOUDEST = 16.0  # floats beyond this, 24 dB above full scale, are no sound of full scale 1
RATES = (1000, 768_000)  # Hz
AT_ONCE = 1 << 18  # samples a channel that FFmpeg is handed together


def check(waveform: Samples, sample_rate: int) -> Samples:
    """`waveform` as (channels, n) of a type in FORMATS.

    Raises DecodeError where it is no sound: another type or shape, no sample, a value that is not finite or far beyond
    full scale, or a rate that none has.
    """
    if not RATES[0] <= sample_rate <= RATES[1] or int(sample_rate) != sample_rate:
        raise DecodeError(f"sample_rate is {sample_rate}: give Hz, a whole number from {RATES[0]} to {RATES[1]}")
    shape = waveform.shape
    if waveform.ndim not in (1, 2) or 0 in shape:
        raise DecodeError(f"the waveform is {shape}: pass (samples,) or (channels, samples), at least one sample")
    samples = np.atleast_2d(waveform)
    if len(samples) > len(LAYOUTS):
        raise DecodeError(
            f"the waveform is {shape}, which is {len(samples)} channels: pass (channels, samples), up to {len(LAYOUTS)}"
        )
    if samples.dtype.kind == "f":
        samples = samples.astype(np.float32, copy=False)
        peak = float(np.abs(samples).max())
        if not peak <= LOUDEST:
            raise DecodeError(f"the waveform's peak is {peak:.4g}: pass floats of full scale 1, or int16")
    elif samples.dtype.name not in FORMATS:
        raise DecodeError(f"the waveform is {samples.dtype}: pass float of full scale 1, or one of int16, int32, uint8")
    return samples


def hear(waveform: Samples, sample_rate: int, decoder: Decoder) -> tuple[Block, Heard]:
    """What a track of these samples is at the decoder's rate, mixed to one channel, and what became of it: status `ok`
    or `silent`.

    `waveform` is (n,) or (channels, n), float of full scale 1, int16, int32 or uint8; it is not changed.  Floats beyond
    full scale are clipped, as in a file of 16 bits.  Raises DecodeError as `check` does.
    """
    samples = _as_in_a_file(check(waveform, sample_rate))
    choice = _choose(samples, sample_rate, decoder)
    chosen = samples if choice.channel is None else samples[choice.channel : choice.channel + 1]
    heard = _converted(chosen, sample_rate, "mono", decoder.sample_rate)[:, 0]
    meter = Meter()
    meter.add(heard)
    level_dbfs = loudest_dbfs(meter, choice)
    status = "silent" if is_silent(level_dbfs, decoder.silent_below_dbfs) else "ok"
    return heard, Heard(
        status, decoder.sample_rate, None, len(samples), choice.mix, heard.size / decoder.sample_rate, None, heard.size,
        level_dbfs, meter.rms_dbfs, meter.peak_dbfs, None,
    )  # fmt: skip


def _as_in_a_file(samples: Samples) -> Samples:
    """Floats that were read from a file of 16 or 24 bits as such a file's whole numbers, which FFmpeg does not turn
    into floats everywhere; others as they are.
    """
    if samples.dtype != np.float32 or not ((samples >= -1) & (samples < 1)).all():
        return samples
    for n_bits, kind in ((16, np.int16), (24, np.int32)):
        steps = samples * np.float32(1 << n_bits - 1)  # exact: a power of two
        if (steps == np.rint(steps)).all():
            return np.left_shift(steps.astype(kind), np.iinfo(kind).bits - n_bits)
    return samples


def _choose(samples: Samples, sample_rate: int, decoder: Decoder) -> Choice:
    """Which channel of (channels, n) is to be heard, or their mix."""
    channels = Channels(decoder.silent_below_dbfs, lambda form: weights(decoder.binary, form))
    layout = LAYOUTS[len(samples) - 1]
    at_once = channels.begin(Form(len(samples), sample_rate, layout))
    if len(samples) > 1:
        measured = _converted(samples, sample_rate, layout, sample_rate)
        for start in range(0, len(measured), at_once):
            channels.add(measured[start : start + at_once])
    return channels.choose()


def _converted(samples: Samples, sample_rate: int, layout: str, to_rate: int) -> Block:
    """(channels, n) -> (n', channels of `layout`) int16 at `to_rate`."""
    kind, places = FORMATS[samples.dtype.name], LAYOUTS[len(samples) - 1]
    if (kind, places, sample_rate) == ("s16", layout, to_rate):
        return np.ascontiguousarray(samples.T)
    resampler = AudioResampler("s16", layout, to_rate)
    parts = []
    for start in range(0, samples.shape[1], AT_ONCE):
        frame = AudioFrame.from_ndarray(_interleaved(samples[:, start : start + AT_ONCE]), kind, places)
        frame.sample_rate = sample_rate
        parts += [part.to_ndarray() for part in resampler.resample(frame)]
    parts += [part.to_ndarray() for part in resampler.resample(None)]
    n_channels = LAYOUTS.index(layout) + 1
    return np.concatenate([np.empty((1, 0), np.int16), *parts], axis=1).reshape(-1, n_channels)


def _interleaved(samples: Samples) -> Samples:
    return np.ascontiguousarray(samples.T).reshape(1, -1)

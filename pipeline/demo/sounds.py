"""What the clips of the demo set sound like: a class and a random generator in, three seconds of waveform out.

Each instrument is played in the way in which YAMNet was found to know it in the notes of a small soundfont: the
register, tempo, loudness and room of `STYLES` come from a search over some 5,000 phrases (a timpani has to be far away,
a steelpan close and loud).  Inside these ranges every clip plays its own melody.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.audio.soundfont import DRUMS, Note, SoundFont

SAMPLE_RATE = 32000  # Hz
DURATION_S = 3.0
MAJOR = (0, 2, 4, 5, 7, 9, 11)
PENTATONIC = (0, 2, 4, 7, 9)
SEASHORE = 122  # program, counted from 0
HIGHEST_KEY = 108  # the last that the soundfont plays
KICK, SNARE, CLOSED_HAT, OPEN_HAT, CRASH, LOW_TOM, HIGH_TOM = 36, 38, 42, 46, 49, 45, 50

Waveform = NDArray[np.float32]
Range = tuple[float, float]


@dataclass(frozen=True)
class Style:
    """How an instrument is played; a clip draws each (low, high) range evenly."""

    programs: tuple[int, ...]
    lowest_key: Range
    span: Range  # semitones above the lowest key
    beat_s: Range
    voices: tuple[int, ...]  # notes struck together
    held: Range  # of the beat
    hall: Range  # level of the room's echo, 1: as loud as the instrument
    hall_s: Range  # until the echo has fallen by 60 dB
    peak: Range  # of full scale
    hiss: float = 0.0  # rms of the recording's noise


STYLES = {
    "flute": Style((73,), (64, 82), (5, 12), (0.18, 0.7), (1,), (0.9, 1.1), (0.1, 0.7), (0.6, 1.2), (0.2, 0.9)),
    "glockenspiel": Style((9,), (92, 97), (7, 11), (0.25, 0.5), (1, 2), (0.9, 1.3), (0.5, 1.0), (0.4, 1.0), (0.1, 0.4)),
    "organ": Style((19,), (52, 67), (12, 16), (0.2, 0.8), (1, 2, 3), (0.9, 1.0), (0.2, 0.8), (0.8, 1.6), (0.4, 0.9)),
    "saxophone": Style((65,), (49, 53), (7, 10), (0.12, 0.32), (1,), (1.1, 1.4), (0.2, 0.4), (0.8, 1.6), (0.6, 0.9)),
    "steelpan": Style(
        (114,), (55, 64), (7, 12), (0.19, 0.3), (1,), (0.9, 1.3), (0.0, 0.2), (0.6, 1.0), (0.7, 0.95), hiss=0.003
    ),
    "timpani": Style((47,), (30, 37), (5, 10), (0.3, 0.8), (2, 3), (0.9, 1.3), (0.6, 1.0), (1.4, 2.4), (0.05, 0.15)),
    "trumpet": Style((56,), (55, 64), (5, 11), (0.25, 0.6), (1,), (0.85, 1.0), (0.1, 0.5), (0.6, 1.2), (0.3, 0.9)),
    "drum_kit": Style((0,), (0, 0), (0, 0), (0.12, 0.22), (1,), (0.9, 0.9), (0.2, 0.5), (0.3, 0.8), (0.3, 0.9)),
}


def play(label: str, font: SoundFont, rng: np.random.Generator) -> Waveform:
    """A phrase on the instrument `label`: (DURATION_S x SAMPLE_RATE,) float32 in [-1, 1]."""
    style = STYLES[label]
    if label == "drum_kit":
        notes, bank = _beat(style, rng), DRUMS
    else:
        notes, bank = _melody(style, rng), 0
    program = int(rng.choice(style.programs))
    dry = font.render(notes, bank=bank, program=program, sample_rate=SAMPLE_RATE, duration_s=DURATION_S)
    wet = dry + np.float32(rng.uniform(*style.hall)) * _echo(dry, rng.uniform(*style.hall_s), rng)
    return _levelled(wet, rng.uniform(*style.peak)) + style.hiss * rng.standard_normal(len(wet), np.float32)


def play_seashore(font: SoundFont, rng: np.random.Generator) -> Waveform:
    """Waves on a beach, which say nothing about a class: (DURATION_S x SAMPLE_RATE,) float32."""
    notes = [
        Note(float(start), 2.0, int(rng.integers(66, 82)), int(rng.integers(70, 120)))
        for start in (0.0, rng.uniform(0.5, 1.5))
    ]
    waves = font.render(notes, program=SEASHORE, sample_rate=SAMPLE_RATE, duration_s=DURATION_S)
    return _levelled(waves, rng.uniform(0.1, 0.5))


def _melody(style: Style, rng: np.random.Generator) -> list[Note]:
    """A walk over a scale, with rests and a loudness of its own; several voices move in thirds."""
    lowest, span = round(rng.uniform(*style.lowest_key)), round(rng.uniform(*style.span))
    tonic, scale = int(rng.integers(12)), MAJOR if rng.random() < 0.6 else PENTATONIC
    keys = [key for key in range(lowest, min(lowest + span, HIGHEST_KEY) + 1) if (key - tonic) % 12 in scale]
    beat_s, held, voices = rng.uniform(*style.beat_s), rng.uniform(*style.held), int(rng.choice(style.voices))
    loudness, at, start_s, notes = int(rng.integers(85, 112)), int(rng.integers(len(keys))), rng.uniform(0, 0.15), []
    while start_s < DURATION_S - 0.05:
        for voice in range(voices):
            key = keys[min(at + 2 * voice, len(keys) - 1)]
            notes.append(Note(start_s, beat_s * held, key, loudness + int(rng.integers(-12, 13))))
        at = int(np.clip(at + rng.choice([-2, -1, 1, 2]), 0, len(keys) - 1))
        start_s += beat_s * (1 if rng.random() < 0.8 else 2)
    return notes


def _beat(style: Style, rng: np.random.Generator) -> list[Note]:
    """Eighths on a hi-hat over kick and snare, with ghost strokes and a fill on the toms."""
    beat_s, loudness, hat = (
        rng.uniform(*style.beat_s),
        int(rng.integers(85, 115)),
        int(rng.choice([CLOSED_HAT, OPEN_HAT])),
    )
    first, notes = int(rng.integers(8)), []
    for step in range(int(DURATION_S / beat_s)):
        in_bar = (first + step) % 8
        struck = [hat] if rng.random() < 0.9 else []
        struck += [KICK] if in_bar in (0, 5) or rng.random() < 0.15 else []
        struck += [SNARE] if in_bar in (2, 6) or rng.random() < 0.1 else []
        struck += [int(rng.choice([HIGH_TOM, LOW_TOM]))] if in_bar == 7 else []
        struck += [CRASH] if in_bar == 0 and rng.random() < 0.6 else []
        notes += [Note(step * beat_s, 0.1, key, loudness + int(rng.integers(-12, 13))) for key in struck]
    return notes


def _echo(dry: Waveform, fall_s: float, rng: np.random.Generator) -> Waveform:
    """`dry` in a room: convolved with noise that falls by 60 dB in `fall_s`, of unit energy."""
    n = int(fall_s * SAMPLE_RATE)
    room = rng.standard_normal(n) * 10 ** (-3 * np.arange(n) / n)
    room /= np.sqrt((room**2).sum())
    size = 1 << (len(dry) + n - 1).bit_length()
    wet = np.fft.irfft(np.fft.rfft(dry, size) * np.fft.rfft(room, size), size)
    return wet[: len(dry)].astype(np.float32)


def _levelled(waveform: Waveform, peak: float) -> Waveform:
    return waveform * np.float32(peak / np.abs(waveform).max())

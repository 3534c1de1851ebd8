"""Play notes of a SoundFont 2 file: bytes and notes in, a mono waveform out, the same bits every time.

A small sampler in place of a library because of what was found: symusic 0.5.8 adds its notes onto memory that it never
cleared (samples of 16,000 full scales, other bits on every call), and TinySoundFont's Python package needs PortAudio to
install.  Against TinySoundFont the waveforms correlate by 0.98 to 1.00 on six of the demo's instruments.  What it plays
is the part of the SoundFont 2.04 specification that shapes a note (sections 8.1 and 9.1): key and velocity ranges,
tuning, loops, attenuation, the volume envelope, the low-pass filter under its own envelope, and vibrato.  Tremolo,
effects, modulators and panning are left out.
"""

import importlib.util
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapt.errors import DatasetError
from adapt.tables.files import sha256_file

SOUNDFONT_SHA256 = "82475b91a76de15cb28a104707d3247ba932e228bada3f47bba63c6b31aaf7a1"
Waveform = NDArray[np.float32]
FULL_SCALE = 32768.0
SILENT_DB = 100.0  # the envelope's floor, section 8.1.2, generator 36
DRUMS = 128  # the bank of percussion
HOP = 256  # samples between frames of the filter

# Generators by number (section 8.1.2).
OFFSETS = (("start", 0, 4), ("end", 1, 12), ("loop_start", 2, 45), ("loop_end", 3, 50))  # field, fine, coarse
LFOS = ((21, 22, 5), (23, 24, 6))  # delay, rate, depth on pitch
CUTOFF, RESONANCE, ENVELOPE_TO_CUTOFF = 8, 9, 11
FILTER_ENVELOPE, VOLUME_ENVELOPE = 25, 33  # the first generator of each
DELAY, ATTACK, HOLD, DECAY, SUSTAIN, RELEASE, _, KEY_TO_DECAY = range(8)  # counted from there
INSTRUMENT, KEY_RANGE, VELOCITY_RANGE, ATTENUATION = 41, 43, 44, 48
COARSE_TUNE, FINE_TUNE, SAMPLE, MODES, SCALE_TUNING, ROOT_KEY = 51, 52, 53, 54, 56, 58
STAGES = (DELAY, ATTACK, HOLD, DECAY, RELEASE)
DEFAULTS = {first + stage: -12000 for first in (FILTER_ENVELOPE, VOLUME_ENVELOPE) for stage in STAGES} | {
    CUTOFF: 13500,
    SCALE_TUNING: 100,
    ROOT_KEY: -1,
}
NOT_ADDED = {
    INSTRUMENT,
    KEY_RANGE,
    VELOCITY_RANGE,
    SAMPLE,
    MODES,
    ROOT_KEY,
}  # a preset's value never adds to these of an instrument

RECORDS: dict[str, Any] = {
    "phdr": [("name", "S20"), ("program", "<u2"), ("bank", "<u2"), ("bag", "<u2"), ("unused", "<u4", 3)],
    "pbag": [("generator", "<u2"), ("modulator", "<u2")],
    "pgen": [("number", "<u2"), ("amount", "<i2")],
    "inst": [("name", "S20"), ("bag", "<u2")],
    "ibag": [("generator", "<u2"), ("modulator", "<u2")],
    "igen": [("number", "<u2"), ("amount", "<i2")],
    "shdr": [
        ("name", "S20"),
        ("start", "<u4"),
        ("end", "<u4"),
        ("loop_start", "<u4"),
        ("loop_end", "<u4"),
        ("rate", "<u4"),
        ("key", "u1"),
        ("correction", "i1"),
        ("link", "<u2"),
        ("type", "<u2"),
    ],
}
Zone = dict[int, int]


@dataclass(frozen=True)
class Note:
    start_s: float
    duration_s: float  # until the key is let go; the release follows
    key: int  # MIDI: 60 is middle C
    velocity: int  # 1 to 127


class SoundFont:
    """A SoundFont 2 file that was read into memory."""

    def __init__(self, path: Path) -> None:
        """Read `path`.  Raises DatasetError where it is missing or no SoundFont 2 file."""
        try:
            data = path.read_bytes()
        except OSError as error:
            raise DatasetError(f"{path}: cannot read the soundfont ({error})") from error
        chunks = dict(_chunks(data))
        missing = sorted({"smpl", *RECORDS} - chunks.keys())
        if missing:
            raise DatasetError(f"{path}: not a SoundFont 2 file: no chunk {', '.join(missing)}")
        self.path = path
        self._samples = np.frombuffer(chunks["smpl"], "<i2").astype(np.float32) / FULL_SCALE
        self._records: dict[str, NDArray[np.void]] = {
            name: np.frombuffer(chunks[name], np.dtype(fields)) for name, fields in RECORDS.items()
        }

    @cached_property
    def presets(self) -> dict[tuple[int, int], str]:
        """(bank, program) -> name of what the file can play; programs count from 0."""
        return {
            (int(p["bank"]), int(p["program"])): p["name"].split(b"\0")[0].decode("latin-1")
            for p in self._records["phdr"][:-1]
        }

    def render(
        self, notes: Sequence[Note], *, bank: int = 0, program: int = 0, sample_rate: int, duration_s: float
    ) -> Waveform:
        """Play `notes` into (duration_s x sample_rate,) float32; what rings longer is cut off.  Full scale is 1 and may
        be exceeded.

        Raises DatasetError for a preset that the file does not have.
        """
        mixed = np.zeros(round(duration_s * sample_rate), np.float32)
        for note in notes:
            for zone in self._zones(bank, program, note):
                first = round(note.start_s * sample_rate)
                if 0 <= first < len(mixed):
                    voice = self._voice(zone, note, sample_rate, len(mixed) - first)
                    mixed[first : first + len(voice)] += voice
        return mixed

    def _zones(self, bank: int, program: int, note: Note) -> list[Zone]:
        """The generators of every sample that sounds for `note`, the preset's added to the instrument's (section
        9.4).
        """
        headers = self._records["phdr"]
        found = np.flatnonzero((headers["bank"][:-1] == bank) & (headers["program"][:-1] == program))
        if not len(found):
            raise DatasetError(f"{self.path}: no preset for bank {bank}, program {program}")
        voices = []
        for outer in self._matching("p", int(found[0]), INSTRUMENT, note):
            for inner in self._matching("i", outer[INSTRUMENT], SAMPLE, note):
                zone = DEFAULTS | inner
                voices.append(zone | {n: zone.get(n, 0) + amount for n, amount in outer.items() if n not in NOT_ADDED})
        return voices

    def _matching(self, level: str, index: int, last: int, note: Note) -> Iterator[Zone]:
        """The zones of preset ("p") or instrument ("i") `index` that `note` falls into, with the global zone's values
        below them.
        """
        owners, bags, generators = (
            self._records["phdr" if level == "p" else "inst"],
            self._records[f"{level}bag"],
            self._records[f"{level}gen"],
        )
        common: Zone = {}
        for bag in range(owners["bag"][index], owners["bag"][index + 1]):
            rows = generators[bags["generator"][bag] : bags["generator"][bag + 1]]
            zone = {int(row["number"]): int(row["amount"]) for row in rows}
            if last not in zone:
                common = zone
                continue
            zone = common | zone
            if _within(zone, KEY_RANGE, note.key) and _within(zone, VELOCITY_RANGE, note.velocity):
                yield zone

    def _voice(self, zone: Zone, note: Note, sample_rate: int, n_most: int) -> Waveform:
        """One sample at one pitch under its envelope, at most `n_most` samples long."""
        header = self._records["shdr"][zone[SAMPLE]]
        root = zone[ROOT_KEY] if zone[ROOT_KEY] >= 0 else int(header["key"])
        cents = (
            (note.key - root) * zone[SCALE_TUNING]
            + 100 * zone.get(COARSE_TUNE, 0)
            + zone.get(FINE_TUNE, 0)
            + int(header["correction"])
        )
        step = 2 ** (cents / 1200) * int(header["rate"]) / sample_rate
        release = _seconds(zone[VOLUME_ENVELOPE + RELEASE])
        time = np.arange(min(n_most, int((note.duration_s + release) * sample_rate) + 1)) / sample_rate
        steps = step * 2 ** (_vibrato(zone, time) / 1200)
        raw = self._looped(zone, header, steps, round(note.duration_s * sample_rate))
        raw = _filtered(raw, zone, note, sample_rate)
        envelope = _volume(zone, note, time[: len(raw)])
        decibels = 40 * np.log10(127 / note.velocity) + 0.1 * zone.get(ATTENUATION, 0)
        return (raw * envelope * 10 ** (-decibels / 20)).astype(np.float32)

    def _looped(self, zone: Zone, header: np.void, steps: NDArray[np.float64], n_held: int) -> NDArray[np.float32]:
        """The sample read at `steps` samples a point, linear between samples; sampleModes 1 loops on, 3 until the key
        is let go.
        """
        start, end, loop_start, loop_end = (
            int(header[name]) + zone.get(fine, 0) + 32768 * zone.get(coarse, 0) for name, fine, coarse in OFFSETS
        )
        position = start + np.concatenate([[0.0], np.cumsum(steps[:-1])])
        mode = zone.get(MODES, 0) & 3
        n_looped = {1: len(steps), 3: min(len(steps), n_held)}.get(mode, 0) if loop_end > loop_start else 0
        if n_looped:
            unrolled = position[n_looped - 1]
            head = position[:n_looped]
            head[:] = np.where(head < loop_end, head, loop_start + (head - loop_start) % (loop_end - loop_start))
            position[n_looped:] += head[-1] - unrolled
        if n_looped < len(steps):
            position = position[position < end - 1]
        below = position.astype(np.int64)
        above = below + 1
        above[:n_looped][above[:n_looped] >= loop_end] = loop_start
        share = (position - below).astype(np.float32)
        return np.asarray(self._samples[below] * (1 - share) + self._samples[above] * share)


def _within(zone: Zone, number: int, value: int) -> bool:
    amount = zone.get(number, 127 << 8)
    return amount & 255 <= value <= (amount >> 8) & 255


def _seconds(timecents: int) -> float:
    return float(2 ** (timecents / 1200))


def _vibrato(zone: Zone, time: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pitch in cents that the two low-frequency oscillators (triangles, section 9.1.6) add at `time`."""
    cents = np.zeros_like(time)
    for delay, rate, depth in LFOS:
        if zone.get(depth, 0):
            phase = np.maximum(time - _seconds(zone.get(delay, -12000)), 0) * 8.176 * 2 ** (zone.get(rate, 0) / 1200)
            cents += zone[depth] * (1 - 4 * np.abs((phase + 0.25) % 1 - 0.5))
    return cents


def _stages(zone: Zone, first: int, key: int) -> tuple[float, float, float, float, float]:
    """Delay, attack, hold, decay and release of the envelope whose generators begin at `first`, in seconds."""
    decay = zone[first + DECAY] + (60 - key) * zone.get(first + KEY_TO_DECAY, 0)
    return (
        *(_seconds(zone[first + stage]) for stage in (DELAY, ATTACK, HOLD)),
        _seconds(decay),
        _seconds(zone[first + RELEASE]),
    )  # type: ignore[return-value]


def _volume(zone: Zone, note: Note, time: NDArray[np.float64]) -> NDArray[np.float64]:
    """Amplitude in [0, 1] at `time` seconds after the note's start: attack linear, decay and release linear in
    decibels.
    """
    delay, attack, hold, decay, release = _stages(zone, VOLUME_ENVELOPE, note.key)
    sustain_db = min(max(zone.get(VOLUME_ENVELOPE + SUSTAIN, 0) / 10, 0), SILENT_DB)
    rise = np.clip((time - delay) / attack, 0, 1)
    fallen_db = np.clip((time - delay - attack - hold) / decay * SILENT_DB, 0, sustain_db)
    let_go_db = np.maximum(time - note.duration_s, 0) / release * SILENT_DB
    return np.asarray(rise * 10 ** (-(fallen_db + let_go_db) / 20))


def _openness(zone: Zone, note: Note, time: NDArray[np.float64]) -> NDArray[np.float64]:
    """The filter's envelope in [0, 1] at `time`: every part linear, sustain in tenths of a percent below full
    (generator 29).
    """
    delay, attack, hold, decay, release = _stages(zone, FILTER_ENVELOPE, note.key)
    sustain = min(max(zone.get(FILTER_ENVELOPE + SUSTAIN, 0) / 1000, 0), 1)
    rise = np.clip((time - delay) / attack, 0, 1)
    fallen = np.clip((time - delay - attack - hold) / decay, 0, sustain)
    return np.asarray(np.maximum(rise - fallen - np.maximum(time - note.duration_s, 0) / release, 0))


def _filtered(raw: NDArray[np.float32], zone: Zone, note: Note, sample_rate: int) -> NDArray[np.float32]:
    """The zone's two-pole low-pass filter, its gain (no phase) laid on overlapping frames, so that the cutoff may
    move.
    """
    cents = zone[CUTOFF] + zone.get(ENVELOPE_TO_CUTOFF, 0)
    if min(zone[CUTOFF], cents) >= 13500 or not len(raw):
        return raw
    n_frames = len(raw) // HOP + 2
    padded = np.zeros((n_frames + 1) * HOP, np.float32)
    padded[HOP : HOP + len(raw)] = raw
    time = np.arange(n_frames) * HOP / sample_rate  # of the frames' middles
    cutoff = 8.176 * 2 ** ((zone[CUTOFF] + zone.get(ENVELOPE_TO_CUTOFF, 0) * _openness(zone, note, time)) / 1200)
    ratio = np.fft.rfftfreq(2 * HOP, 1 / sample_rate) / cutoff[:, None]
    quality = 10 ** ((zone.get(RESONANCE, 0) / 10 - 3.01) / 20)
    gain = 1 / np.sqrt((1 - ratio**2) ** 2 + (ratio / quality) ** 2)
    window = np.sin(np.pi * (np.arange(2 * HOP) + 0.5) / (2 * HOP))
    frames = np.lib.stride_tricks.sliding_window_view(padded, 2 * HOP)[::HOP] * window
    shaped = np.fft.irfft(np.fft.rfft(frames) * gain) * window
    padded[:] = 0
    padded[:-HOP] += shaped[:, :HOP].ravel()
    padded[HOP:] += shaped[:, HOP:].ravel()
    return padded[HOP : HOP + len(raw)]


def load_soundfont() -> SoundFont:
    """Read the soundfont that the wheel of pretty_midi carries, without importing that package.

    Raises DatasetError where the package is missing or its soundfont is another one.
    """
    found = importlib.util.find_spec("pretty_midi")
    if found is None or found.origin is None:
        raise DatasetError(
            "pretty_midi, which carries the soundfont, is not installed: pip install 'earshot[pipeline]'"
        )
    path = Path(found.origin).with_name("TimGM6mb.sf2")
    if not path.exists() or sha256_file(path) != SOUNDFONT_SHA256:
        raise DatasetError(
            f"{path} is missing, or not the soundfont whose sha256 is {SOUNDFONT_SHA256}: pip install "
            "'pretty-midi>=0.2.11,<0.3'"
        )
    return SoundFont(path)


def _chunks(data: bytes) -> Iterator[tuple[str, bytes]]:
    """(name, content) of every chunk of a RIFF file, lists opened.  Yields nothing for another kind of file."""
    if data[:4] != b"RIFF" or data[8:12] != b"sfbk":
        return
    at = 12
    while at + 8 <= len(data):
        name, size = data[at : at + 4], struct.unpack_from("<I", data, at + 4)[0]
        if name == b"LIST":
            at += 12
            continue
        yield name.decode("latin-1"), data[at + 8 : at + 8 + size]
        at += 8 + size + size % 2

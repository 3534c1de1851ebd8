"""Sound made worse on purpose, for studies: blocks of a clip's sound in, as many blocks of the same sizes out.

noise and music hold their signal-to-noise ratio in each block of 30 s (sound.BLOCK_S) by itself, so that a long file
streams; shift, swap and mute leave the level alone.  Everything random comes from (seed, clip_id, block), so neither
order nor company changes it.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from adapt.errors import DecodeError
from adapt.tables.files import sha256_file, sha256_text
from pipeline.audio.soundfont import Note, load_soundfont

Block = npt.NDArray[np.int16]
Kind = Literal["none", "noise", "shift", "swap", "mute", "music"]
SNR_DB = (-40.0, 60.0)  # beyond, int16 cannot hold both
MOST_SHIFT_S = 60.0  # which is also held in memory
LOUDEST = 32767.0  # of int16
MUSIC_S = 120.0  # of a music file are played, over and over
BEAT_S, BEATS_A_CHORD, TAIL_S = 0.5, 4, 2.0
CHORDS = ((60, 64, 67), (57, 60, 64), (53, 57, 60), (55, 59, 62))  # C, a minor, F, G as MIDI keys
PIANO, BASS, STRINGS = 0, 32, 48  # programs, counted from 0


@dataclass(frozen=True)
class Perturbation:
    """What is done to every clip.  A field that `kind` does not use is None, so equal perturbations are equal keys."""

    kind: Kind = "none"
    snr_db: float | None = None  # of noise and music: 10 log10 of the ratio of energies, clip to addition
    shift_s: float | None = None  # of shift; positive: the sound comes later
    seed: int | None = None  # of noise, swap and music
    music_file: str | None = None  # of music, where it is not synthesised
    music_sha256: str | None = None

    def used(self) -> dict[str, object]:
        """The fields that `kind` uses."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def choose(kind: Kind, snr_db: float, shift_s: float, music_file: str, seed: int) -> Perturbation:
    """Check what `kind` uses and forget the rest.  Raises DecodeError where a value cannot be used, or there is no such
    music file.
    """
    if kind in ("noise", "music") and not SNR_DB[0] <= snr_db <= SNR_DB[1]:
        raise DecodeError(f"snr_db is {snr_db}: give {SNR_DB[0]} to {SNR_DB[1]} dB for perturb={kind}")
    if kind == "shift" and not abs(shift_s) <= MOST_SHIFT_S:
        raise DecodeError(f"shift_s is {shift_s}: give {-MOST_SHIFT_S} to {MOST_SHIFT_S} seconds for perturb=shift")
    of_file = kind == "music" and music_file != ""
    if of_file and not Path(music_file).is_file():
        raise DecodeError(
            f"music_file {music_file!r} is not there: give a media file, or nothing for a bed that is synthesised"
        )
    return Perturbation(
        kind,
        snr_db if kind in ("noise", "music") else None,
        shift_s if kind == "shift" else None,
        seed if kind in ("noise", "swap", "music") else None,
        music_file if of_file else None,
        sha256_file(Path(music_file)) if of_file else None,
    )


def apply(
    what: Perturbation, clip_id: str, blocks: Iterator[Block], sample_rate: int, bed: Block | None = None
) -> Iterator[Block]:
    """Return `blocks` of one clip changed; for swap, they are already those of its partner.

    `bed` is the music of kind music.  A block that is all zeros, or falls on a silent stretch of the bed, stays as it
    is; a mix that would exceed full scale is turned down, so that its ratio holds.
    """
    if what.kind == "mute":
        return (np.zeros_like(block) for block in blocks)
    if what.kind == "shift":
        return _shifted(blocks, round((what.shift_s or 0.0) * sample_rate))
    if what.kind == "noise":
        return (
            _mixed(block, _noise(what, clip_id, i, block.size), what.snr_db or 0.0) for i, block in enumerate(blocks)
        )
    if what.kind == "music":
        if bed is None or not bed.any():
            raise DecodeError(
                f"music_file {what.music_file!r} has no sound: give another, or nothing for a bed that is synthesised"
            )
        return _over_music(what, clip_id, blocks, bed)
    return blocks


def partners(splits: Iterable[tuple[str, str]], seed: int) -> dict[str, str]:
    """Give every clip of (clip_id, split) the sound of another of its split: clip_id -> clip_id, each exactly once.

    The clips of a split stand in a ring in the order of a hash of (seed, clip_id), and each hears the next one; so a
    new clip changes one other's partner.  Raises DecodeError where a split has one clip only.
    """
    rings: dict[str, list[str]] = {}
    for clip_id, split in splits:
        rings.setdefault(split, []).append(clip_id)
    found: dict[str, str] = {}
    for split, ring in rings.items():
        if len(ring) == 1:
            raise DecodeError(f"perturb=swap needs two clips a split, but {split!r} has {ring[0]!r} only")
        ring.sort(key=lambda clip_id: sha256_text("swap", seed, clip_id))
        found |= dict(pairwise([*ring, ring[0]]))
    return found


def synthesise(sample_rate: int) -> Block:
    """A music bed of 16 s that can be looped: four chords on piano and strings over a bass, mono."""
    font, chord_s = load_soundfont(), BEAT_S * BEATS_A_CHORD
    piano, bass, strings = [], [], []
    for i in range(2 * len(CHORDS)):
        chord, start_s = CHORDS[i % len(CHORDS)], i * chord_s
        strings += [Note(start_s, chord_s, key, 70) for key in chord]
        bass += [Note(start_s + j * 2 * BEAT_S, 2 * BEAT_S, chord[0] - 24, 95) for j in range(BEATS_A_CHORD // 2)]
        piano += [Note(start_s + j * BEAT_S, BEAT_S, (*chord, chord[1])[j % 4] + 12, 90) for j in range(BEATS_A_CHORD)]
    loop_s = 2 * len(CHORDS) * chord_s
    parts = ((PIANO, piano), (BASS, bass), (STRINGS, strings))
    mixed = sum(
        font.render(notes, program=program, sample_rate=sample_rate, duration_s=loop_s + TAIL_S)
        for program, notes in parts
    )
    played = np.asarray(mixed, np.float64)
    n_loop = round(loop_s * sample_rate)
    bed, tail = played[:n_loop].copy(), played[n_loop:]
    bed[: tail.size] += tail  # what rings on at the end rings into the beginning
    return np.rint(bed * (0.9 * LOUDEST / np.abs(bed).max())).astype(np.int16)


def _generator(what: Perturbation, clip_id: str, block: int) -> np.random.Generator:
    return np.random.default_rng(int(sha256_text(what.kind, what.seed, clip_id, block), 16))


def _noise(what: Perturbation, clip_id: str, block: int, n_samples: int) -> npt.NDArray[np.float64]:
    """White and Gaussian."""
    return _generator(what, clip_id, block).standard_normal(n_samples)


def _over_music(what: Perturbation, clip_id: str, blocks: Iterator[Block], bed: Block) -> Iterator[Block]:
    """The bed runs on from block to block; where it begins is the clip's own."""
    at = int(_generator(what, clip_id, 0).integers(bed.size))
    for block in blocks:
        music = bed.take(np.arange(at, at + block.size), mode="wrap").astype(np.float64)
        yield _mixed(block, music, what.snr_db or 0.0)
        at += block.size


def _mixed(block: Block, addition: npt.NDArray[np.float64], snr_db: float) -> Block:
    import torch  # here, since only a study needs them and they take seconds to import
    from torchaudio.functional import add_noise

    if not block.any() or not addition.any():
        return block
    clean, noise = torch.from_numpy(block.astype(np.float64)), torch.from_numpy(addition)
    mixed: npt.NDArray[np.float64] = add_noise(clean, noise, torch.tensor(snr_db, dtype=torch.float64)).numpy()
    peak = float(np.abs(mixed).max())
    return np.rint(mixed * min(1.0, LOUDEST / peak)).astype(np.int16)


def _shifted(blocks: Iterator[Block], n_later: int) -> Iterator[Block]:
    """Zeros come in where sound goes out, so the length stays."""
    held = np.zeros(max(0, n_later), np.int16)
    n_skipped, sizes = max(0, -n_later), deque[int]()
    for block in blocks:
        sizes.append(block.size)
        skip = min(n_skipped, block.size)
        n_skipped -= skip
        held = np.concatenate([held, block[skip:]])
        while sizes and held.size >= sizes[0]:
            size = sizes.popleft()
            yield held[:size]
            held = held[size:]
    held = np.concatenate([held, np.zeros(max(0, sum(sizes) - held.size), np.int16)])
    for size in sizes:
        yield held[:size]
        held = held[size:]

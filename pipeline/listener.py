"""From a waveform to what it says of the classes, in memory: what the stages decode, tag, map_labels and pseudo_label
make of a file, for a program that has samples and wants an answer now.

    listener = pipeline.Listener(classes=names)
    logits = model(frames, sound=listener(waveform, sample_rate))  # model = adapt.wrap(my_video_model, classes=names)

Every formula is the stages' own, called here: the same samples give the evidence of `pseudo_labels`.  Label lists are
read from data/labels, so a program runs in the project's root.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from adapt.errors import DecodeError, MapperError, OptionsError
from adapt.tables import classes as class_lists
from adapt.wrapper import Sound
from pipeline import decode, mappers, tag, taggers
from pipeline.audio import sound
from pipeline.audio.waveform import check, hear
from pipeline.audio.windows import Windows
from pipeline.labels import evidence, meaning
from pipeline.labels.lists import label_lists
from pipeline.labels.meaning import Rules, Sounds
from pipeline.mappers import table

Samples = npt.NDArray[Any] | Tensor  # (samples,) or (channels, samples)


@dataclass(frozen=True)
class HeardSound:
    """A sound that the tagger hears."""

    sound: str  # as AudioSet calls it
    probability: float


@dataclass(frozen=True)
class Link:
    """A heard sound and a class that it supports, as the view `why` of the cached tables has it."""

    sound: str
    probability: float
    label: str
    weight: float  # of the label map
    necessary: bool  # the class cannot go without this sound
    counts: bool  # False where a stronger one of the sound's parents or kinds counts for the class in its place
    score: float  # the class's evidence, all its sounds together


@dataclass(frozen=True)
class Hearing:
    """What was heard in one waveform, or in one window of a stream."""

    status: str  # ok, or silent: below -60 dBFS in every channel
    start_s: float  # of a window, since the stream began; 0 for a waveform
    duration_s: float
    level_dbfs: float | None  # RMS of the loudest channel, 0 is full scale; None where all samples are the same
    sound: Sound | None  # what it says of the classes, (K,); None where it is silent
    heard: list[HeardSound]  # loudest first
    why: list[Link]  # by the class's score, then strongest first


class Listener:
    """Turns waveforms into what `adapt.wrap` takes as sound.  Not for several threads at once."""

    def __init__(
        self, classes: Sequence[str], *, label_map: str | Path = "combined", dataset: str = "", tagger: str = "yamnet",
        variant: str = "", checkpoint: str = "", device: str = "cpu", precision: str = "fp32",
        window_s: float = tag.Options.window_s, hop_s: float = tag.Options.hop_s,
        batch_size: int = tag.Options.batch_size, silent_below_dbfs: float = decode.Options.silent_below_dbfs,
        **rules: Any,
    ) -> None:  # fmt: skip
        """`classes` are those of the network, in its order.  `label_map` is a mapper's name, or the path of a CSV or of
        a label_map.parquet of the cache; `dataset` says whose recorded replies of a language model a mapper may read.

        All else are options of the stages, with their defaults: `tagger` to `batch_size` of `python -m pipeline.tag`,
        `silent_below_dbfs` of `pipeline.decode`, `rules` (combine, related, reduce, threshold, top_k, temperature) of
        `pipeline.pseudo_label`.  Raises MapperError, TaggerError, OptionsError, OntologyError, each for its part.
        """
        if unknown := rules.keys() - set(Rules.__dataclass_fields__):
            raise OptionsError(f"unknown option {min(unknown)!r}: choose among {list(Rules.__dataclass_fields__)}")
        self._rules = Rules(**rules)
        self._rules.check()
        tag.check_windows(window_s, hop_s, batch_size)
        self.window_s, self.hop_s, self._batch_size = window_s, hop_s, batch_size
        self.classes, self._dataset = _checked(classes), dataset
        self.tagger = taggers.build(tagger, checkpoint, device, variant, precision)
        binary = sound.ffmpeg_binary("packaged")  # asked how it mixes channels, once for each number of them
        self._decoder = sound.Decoder(binary, self.tagger.sample_rate, silent_below_dbfs)
        self._rows, self.map_source, self._sounds = self._read_map(label_map)
        self.clips: list[Hearing] = []  # of the last call, one a waveform

    def __call__(self, waveform: Samples | Sequence[Samples], sample_rate: int) -> Sound | None:
        """Listen to a clip: (samples,) or (channels, samples), float of full scale 1, int16, int32 or uint8, at any
        rate in Hz.  Gives its sound, (K,), or None where it is silent.

        A list of such, or (B, channels, samples), is a batch: see `batch`.  Raises DecodeError for what is no sound.
        """
        if isinstance(waveform, list | tuple) or np.ndim(waveform) == 3:
            return self.batch(waveform, sample_rate)
        self.clips = self._listen([_samples(waveform)], sample_rate)
        return self.clips[0].sound

    def batch(self, waveforms: Samples | Sequence[Samples], sample_rate: int) -> Sound:
        """Listen to B clips: a list of waveforms of any lengths, (B, samples) or (B, channels, samples).

        Gives (B, K); in the row of a silent clip nothing is heard.  Raises DecodeError for what is no sound.
        """
        found = [_samples(one) for one in waveforms]
        if not found:
            raise DecodeError("the batch has no waveform: give one or more")
        self.clips = self._listen(found, sample_rate)
        rows = [clip.sound or self._nothing() for clip in self.clips]
        return Sound(*(torch.stack([getattr(row, name) for row in rows]) for name in ("q", "s", "mass", "absent")))

    def stream(self, sample_rate: int) -> "Stream":
        """Sound that never ends: give it chunks as they come, and take an answer a window."""
        return Stream(self, sample_rate)

    @property
    def heard(self) -> list[HeardSound]:
        """The sounds of the last clip that was listened to, loudest first: at most `top_k`, from `threshold` on."""
        return self._last().heard

    @property
    def why(self) -> list[Link]:
        """How the last clip's sounds came to its classes."""
        return self._last().why

    def save_map(self, path: str | Path) -> None:
        """Write the label map as a CSV that a person can correct, and that `label_map=` reads in no time.

        Raises MapperError where `path` holds what a person wrote.
        """
        table.write(Path(path), self._dataset, self._rows, self.map_source)

    def listen(self, waveforms: Iterable[tuple[int, Samples]], sample_rate: int) -> list[Hearing]:
        """What is heard in (its first sample, its samples) of each; of a stream's windows."""
        starts, found = zip(*waveforms, strict=True)
        return self._listen(list(found), sample_rate, starts)

    def _last(self) -> Hearing:
        if len(self.clips) != 1:
            raise OptionsError(f"the last call listened to {len(self.clips)} clips: see `clips`, one entry each")
        return self.clips[0]

    def _read_map(self, name: str | Path) -> tuple[list[table.Row], str, Sounds]:
        """(the label map's rows, who made it, what the tagger's sounds mean)."""
        lists = label_lists(self._dataset, self.classes)
        found = mappers.read(str(name), lists)
        pairs = sorted(found.pairs, key=lambda pair: (pair.audio_id, pair.label_id))
        rows = [
            table.Row(lists.sounds[p.audio_id], lists.classes[p.label_id], p.weight, p.necessary, p.reason)
            for p in pairs
        ]
        said = ((lists.sounds[p.audio_id], p.label_id, p.weight, p.necessary) for p in pairs)
        weights, necessary = meaning.matrices(said, self.tagger.labels, len(self.classes))
        if not weights.any():
            raise MapperError(f"{name}: no sound of {self.tagger.name} points to any of {self.classes}: set label_map")
        kin = meaning.kin(self._rules, taggers.read_mids(self.tagger.labels_file))
        return rows, found.source, Sounds(self.tagger.labels, weights, necessary, kin)

    def _listen(
        self, waveforms: Sequence[npt.NDArray[Any]], sample_rate: int, starts: Sequence[int] = ()
    ) -> list[Hearing]:
        decoded = [hear(samples, sample_rate, self._decoder) for samples in waveforms]
        sounding = [i for i, (_, verdict) in enumerate(decoded) if verdict.status in tag.WITH_SOUND]
        said = dict(zip(sounding, self._tagged([decoded[i][0] for i in sounding]), strict=True))
        return [
            Hearing(
                verdict.status, starts[i] / sample_rate if starts else 0.0, waveforms[i].shape[-1] / sample_rate,
                verdict.level_dbfs, *said.get(i, (None, [], [])),
            )
            for i, (_, verdict) in enumerate(decoded)
        ]  # fmt: skip

    def _tagged(self, blocks: Sequence[sound.Block]) -> Iterator[tuple[Sound, list[HeardSound], list[Link]]]:
        """What each of some clips' sounds, at the tagger's rate, says."""
        if not blocks:
            return
        sounds = ((str(i), iter([block])) for i, block in enumerate(blocks))
        rows = list(tag.tag_sounds(self.tagger, sounds, self.window_s, self.hop_s, self._batch_size))
        starts = np.searchsorted([int(str(row["clip_id"])) for row in rows], np.arange(len(blocks)))
        logits = np.stack([np.asarray(row["logits"]) for row in rows])
        heard, absences = meaning.hear(logits, starts, self._sounds, self._rules)
        found, absent = meaning.judge(heard, self._sounds, self._rules), meaning.spread(absences, self._sounds)
        chain = evidence.chain(heard, self._sounds.weights, self._sounds.kin)
        for i in range(len(blocks)):
            q, s = (torch.from_numpy(np.float32(values[i])) for values in (found.q, found.s))
            yield (
                Sound(q, s, torch.tensor(found.mass[i], dtype=torch.float32), torch.from_numpy(absent[i])),
                self._names(heard, i),
                self._links(chain, found, i),
            )

    def _names(self, heard: evidence.Heard, i: int) -> list[HeardSound]:
        found = zip(heard.sounds[i], heard.probabilities[i], strict=True)
        return [HeardSound(self._sounds.names[a], float(p)) for a, p in found if p > 0]

    def _links(self, chain: evidence.Chain, found: evidence.Evidence, i: int) -> list[Link]:
        links = [
            Link(
                self._sounds.names[chain.sounds[m]], float(chain.probabilities[m]), self.classes[chain.classes[m]],
                float(chain.weights[m]), bool(self._sounds.necessary[chain.sounds[m], chain.classes[m]]),
                bool(chain.counts[m]), float(found.s[i, chain.classes[m]]),
            )
            for m in np.flatnonzero(chain.clips == i)
        ]  # fmt: skip
        return sorted(links, key=lambda link: -link.score)  # stable: then by class, then strongest first

    def _nothing(self) -> Sound:
        """A silent clip among others."""
        k = len(self.classes)
        return Sound(torch.full((k,), 1 / k), torch.zeros(k), torch.zeros(()), torch.zeros(k))


class Stream:
    """Sound in chunks of any length.  A window of it is heard as if it were a clip: the answer is the listener's to
    those samples, however the chunks are cut.
    """

    def __init__(self, listener: Listener, sample_rate: int) -> None:
        self._listener, self._rate = listener, sample_rate
        self._windows = Windows(round(listener.window_s * sample_rate), round(listener.hop_s * sample_rate))
        self._kind: tuple[object, ...] | None = None  # of the chunks: axes before the last, type

    def add(self, chunk: Samples) -> list[Hearing]:
        """Take in (samples,) or (channels, samples), and give what is heard in each window that is whole now.

        Raises DecodeError for what is no sound, or other channels or another type than before.
        """
        samples = _samples(chunk)
        if samples.ndim in (1, 2) and not samples.shape[-1]:
            return []
        check(samples, self._rate)
        kind = (*samples.shape[:-1], samples.dtype.name)
        if self._kind not in (None, kind):
            raise DecodeError(f"a chunk of {kind} follows one of {self._kind}: keep channels and type, or end() first")
        self._kind = kind
        return self._heard(self._windows.add(samples))

    def end(self) -> list[Hearing]:
        """No more comes: give what is heard in the last, short window, if there is one.  Another sound may follow."""
        self._kind = None
        return self._heard(self._windows.end())

    def _heard(self, windows: Sequence[tuple[int, npt.NDArray[Any]]]) -> list[Hearing]:
        return self._listener.listen(windows, self._rate) if windows else []


def _samples(samples: object) -> npt.NDArray[Any]:
    """As numpy; of torch from any device, half precision as float32.  Raises DecodeError for anything else."""
    if isinstance(samples, Tensor):
        samples = samples.detach().cpu()
        return (samples.float() if samples.is_floating_point() else samples).numpy()
    if not isinstance(samples, np.ndarray):
        raise DecodeError(f"a waveform is {type(samples).__name__}: pass an array of numpy or a tensor of torch")
    return samples


def _checked(classes: Sequence[str]) -> list[str]:
    """The class list.  Raises MapperError where it is none."""
    if isinstance(classes, str) or not classes:
        raise MapperError(f"classes={classes!r}: give the names of the network's classes, in its order")
    try:
        class_lists.check(list(classes), "classes=")
    except class_lists.ClassesError as error:
        raise MapperError(str(error)) from error
    return list(classes)

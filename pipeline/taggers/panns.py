"""The tagger `panns`: PANNs (Kong et al. 2020, arXiv 1912.10211), AudioSet's 527 classes, from a published checkpoint
on disk.

The networks are ours, built for inference out of the checkpoint's tensors, whose names and shapes must all fit; or, for
comparison, the package panns-inference runs its own (`build_package`).  `python -m pipeline.taggers.panns fetch Cnn14`
downloads a checkpoint.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from adapt import command

if __name__ == "__main__":
    command.begin("pipeline.taggers.panns")  # before what takes time to import

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from tyro.conf import Positional

from adapt.errors import TaggerError
from adapt.tables.files import sha256_file
from pipeline.taggers import Tagger, _fetch, _torch, choose, provenance, read_labels
from pipeline.taggers._convolution import Builder, channels_last, run
from pipeline.taggers._panns_networks import RECORD, VARIANTS

SAMPLE_RATES = {name: variant.sample_rate for name, variant in VARIANTS.items()}
PRECISIONS = tuple(_torch.DTYPES)
VERSION = "2"  # raise it when the same waveform would give other logits
LABELS = Path("data/labels/audioset.csv")
N_MELS = 64
POWER_FLOOR = 1e-10  # of the log, as in librosa.power_to_db
# shorter sounds are padded with zeros: five poolings by 2 need 0.32 s, and `efficientat` heard best from 1 s on
MIN_S = 1.0
EPSILON = 1e-5  # of the batch norms
SAME_WINDOW = 1e-4  # between a checkpoint's copy of the Hann window and ours

Floats = npt.NDArray[np.float32]


class Panns:
    """See `Tagger`.  Zeros after a short sound are left out, as PANNs' own inference hears a file whole and unpadded.

    A row's logits are the same in any batch and at any padding, up to 1e-4 in fp32.  On a CPU bf16 takes half of fp32's
    time; with random weights of Cnn14 it moves logits by 0.04 on average, 0.26 at most, of a spread of 1.8.
    """

    name = "panns"
    concurrent = False  # torch already spreads one call over the cores
    labels_file = LABELS

    def __init__(self, checkpoint: Path, device: torch.device, variant: str, precision: str) -> None:
        """Load a checkpoint of the published form, {"model": state_dict}.  Raises TaggerError where it is not one of
        `variant`.
        """
        model = VARIANTS[variant]
        self.labels = read_labels(LABELS)
        self.sample_rate = model.sample_rate
        self._variant, self._precision = variant, precision
        self._device, self._dtype = device, _torch.DTYPES[precision]
        self._n_fft, self._hop = model.n_fft, model.hop
        self._sha256 = sha256_file(checkpoint)
        checkpoint_of = _torch.read_checkpoint(checkpoint, variant, published(variant))
        try:
            build = Builder(_torch.tensors(checkpoint_of.pop("model", None)), device, self._dtype, EPSILON, turned=True)
            self._window, self._mel = self._front_end(build)
            self._norm = tuple(t[:, None].to(device) for t in build.norm("bn0", N_MELS))
            self._steps = model.steps(build)
            self._fc1 = build.linear("fc1", model.n_channels, model.n_embedding)
            self._last = build.linear("fc_audioset", model.n_embedding, len(self.labels))
            build.finish()
        except (KeyError, ValueError) as error:
            raise _torch.not_a_checkpoint(checkpoint, variant, published(variant), str(error.args[0])) from error

    def provenance(self) -> dict[str, str]:
        """See `Tagger`."""
        return provenance(self, self._variant, self._precision, self._sha256, VERSION)

    def logits(self, waveforms: Floats, n_samples: npt.NDArray[np.int64]) -> Floats:
        """See `Tagger`."""
        with _torch.exact(self._device, self._dtype):
            return _torch.by_length(self._hear, waveforms, n_samples, round(MIN_S * self.sample_rate), self._device)

    def _hear(self, waveforms: Tensor) -> Tensor:
        scale, shift = self._norm
        x = channels_last(self.log_mel(waveforms).mul_(scale).add_(shift), self._dtype)
        x = run(self._steps, x).float().mean(2)
        embedding = self._fc1(x.amax(2) + x.mean(2)).relu_()
        return self._last(embedding)

    def log_mel(self, waveforms: Tensor) -> Tensor:
        """Map samples (B, S) to decibels (B, 64, frames): power under a Hann window, reflected at both ends, mel, 10
        log10.
        """
        spectrum = torch.stft(
            waveforms, self._n_fft, self._hop, window=self._window, center=True, pad_mode="reflect", return_complex=True
        )
        power = torch.view_as_real(spectrum).square_().sum(-1)  # (B, bins, frames)
        return torch.matmul(self._mel, power).clamp_(min=POWER_FLOOR).log_().mul_(10 / math.log(10))

    def _front_end(self, build: Builder) -> tuple[Tensor, Tensor]:
        """The window, and the mel bank (64, bins) that the checkpoint carries.  Raises ValueError where the checkpoint
        was made with another window.

        Checkpoints hold the Fourier transform as the weights of a convolution (torchlibrosa): window times cosine and
        sine by bin.
        """
        n_bins = self._n_fft // 2 + 1
        hann = torch.hann_window(self._n_fft, periodic=True)
        cosine, _ = (
            build.take(f"spectrogram_extractor.stft.conv_{part}.weight", n_bins, 1, self._n_fft)
            for part in ("real", "imag")
        )
        if not torch.allclose(cosine[0, 0], hann, atol=SAME_WINDOW):
            raise ValueError("its spectrogram is not under a Hann window")
        mel = build.take("logmel_extractor.melW", n_bins, N_MELS)
        return hann.to(self._device), mel.T.contiguous().to(self._device)


@dataclass(frozen=True)
class Fetch:
    """Download a published checkpoint of PANNs from Zenodo: resumed where it was cut, checked against its published
    md5.
    """

    action: Positional[Literal["fetch"]]
    name: Positional[Literal["Cnn14", "Cnn6", "Cnn10", "Cnn14_16k", "MobileNetV1", "MobileNetV2"]]
    out: Path = Path("checkpoints")  # folder; the file is OUT/NAME.pth


def fetch(options: Fetch) -> dict[str, object]:
    """Download OUT/NAME.pth and return its path, size and sha256.  Raises TaggerError where that fails; what came is
    kept for the next run.
    """
    model = VARIANTS[options.name]
    path = options.out / f"{options.name}.pth"
    sha256 = _fetch.download(_fetch.Published(RECORD, model.file, model.md5), path)
    return {"checkpoint": path.as_posix(), "n_bytes": path.stat().st_size, "sha256": sha256}


def published(variant: str) -> str:
    """Where the checkpoint of `variant` is published, and how to get it."""
    model = VARIANTS[variant]
    return (
        f"`{model.file}` ({model.megabytes} MB) is published as Zenodo record {RECORD}: "
        f"`python -m pipeline.taggers.panns fetch {variant}`, then set tag.args.checkpoint to its path"
    )


def build(checkpoint: str, device: str, variant: str, precision: str) -> Tagger:
    """Load `variant` from the path `checkpoint` to `device` (cpu, cuda, cuda:1).

    Raises TaggerError where the checkpoint is missing or another, or the device is not there: neither is replaced by a
    default.
    """
    return Panns(_existing(checkpoint, variant), _torch.open_device(device, precision), variant, precision)


def build_package(checkpoint: str, device: str, variant: str, precision: str) -> Tagger:
    """As `build`, with the network of the package panns-inference.

    Raises TaggerError as well where the package is not there, or lacks `variant` or `precision`.
    """
    from pipeline.taggers import _panns_package  # here, since its front end imports librosa, which ours does without

    choose("panns by the package", "variant", variant, _panns_package.VARIANTS)
    choose("panns by the package", "precision", precision, ("fp32",))
    path = _existing(checkpoint, variant)
    return _panns_package.PannsPackage(
        path, _torch.open_device(device, precision), variant, published(variant), MIN_S, LABELS
    )


def _existing(checkpoint: str, variant: str) -> Path:
    if not Path(checkpoint).is_file():
        raise TaggerError(f"panns has no checkpoint at {checkpoint!r}: {published(variant)}")
    return Path(checkpoint)


if __name__ == "__main__":
    command.main(Fetch, fetch, prog="pipeline.taggers.panns")

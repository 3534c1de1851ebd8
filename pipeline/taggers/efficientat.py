"""The tagger `efficientat`: EfficientAT (Schmid et al. 2022, arXiv 2211.04772), AudioSet's 527 classes, from a
checkpoint on disk.

A checkpoint is a plain state dict, as EfficientAT publishes them.  The network is ours, built for inference out of its
tensors, whose names and shapes must all fit: MobileNetV3-Large (Howard et al. 2019, arXiv 1905.02244, table 1) at a
width, each count of channels rounded to a multiple of 8.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from adapt.errors import TaggerError
from adapt.tables.files import sha256_file
from pipeline.taggers import Tagger, _mel, _torch, provenance, read_labels
from pipeline.taggers._convolution import Builder, Step, channels_last, residual, run

SAMPLE_RATE = 32000  # Hz
WIDTHS = {"mn04_as": 0.4, "mn05_as": 0.5, "mn10_as": 1.0, "mn20_as": 2.0, "mn30_as": 3.0, "mn40_as": 4.0}
SAMPLE_RATES = dict.fromkeys(WIDTHS, SAMPLE_RATE)
PRECISIONS = tuple(_torch.DTYPES)
VERSION = "1"  # raise it when the same waveform would give other logits
LABELS = Path("data/labels/audioset.csv")
PUBLISHED = (
    "the .pt files of the release v0.0.1 of github.com/fschmid56/EfficientAT: download one and set "
    "tag.args.checkpoint to its path"
)

PRE_EMPHASIS = 0.97
N_FFT = 1024
WINDOW = 800  # samples: 25 ms
HOP = 320  # samples: 10 ms
N_MELS = 128
MEL_HZ = (0.0, 15000.0)
LOG_OFFSET = 1e-5
CENTRE, SPREAD = 4.5, 5.0  # (x + 4.5) / 5
MIN_SAMPLES = SAMPLE_RATE  # 1 s: shorter sounds are padded with zeros
EPSILON = 1e-3  # of the batch norms

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Block:
    """A row of MobileNetV3-Large's table 1, at width 1."""

    kernel: int
    n_wide: int
    n_out: int
    squeeze: bool
    activation: str
    stride: int


BLOCKS = (
    Block(3, 16, 16, False, "relu", 1),
    Block(3, 64, 24, False, "relu", 2),
    Block(3, 72, 24, False, "relu", 1),
    Block(5, 72, 40, True, "relu", 2),
    Block(5, 120, 40, True, "relu", 1),
    Block(5, 120, 40, True, "relu", 1),
    Block(3, 240, 80, False, "hardswish", 2),
    Block(3, 200, 80, False, "hardswish", 1),
    Block(3, 184, 80, False, "hardswish", 1),
    Block(3, 184, 80, False, "hardswish", 1),
    Block(3, 480, 112, True, "hardswish", 1),
    Block(3, 672, 112, True, "hardswish", 1),
    Block(5, 672, 160, True, "hardswish", 2),
    Block(5, 960, 160, True, "hardswish", 1),
    Block(5, 960, 160, True, "hardswish", 1),
)


class EfficientAt:
    """See `Tagger`.  Zeros after a short sound are left out, as EfficientAT's own inference hears a file whole and
    unpadded.

    A row's logits are the same in any batch and at any padding, up to 1e-4 in fp32.  Measured with mn04_as on 318
    recordings of four animals, 0.2 to 8 s, closed set: left out, with sounds below 1 s padded to it, 95.0 % top-1;
    padded to 10 s, 90.3 %. There bf16 moves logits by 0.14 on average, 2.5 at most, of a spread of 2.0 (94.7 % top-1),
    and is little faster on a CPU.
    """

    name = "efficientat"
    sample_rate = SAMPLE_RATE
    concurrent = False  # torch already spreads one call over the cores
    labels_file = LABELS

    def __init__(self, checkpoint: Path, device: torch.device, variant: str, precision: str) -> None:
        """Load a checkpoint of the published form, a state dict.

        Raises TaggerError where it is not one of `variant`.
        """
        self.labels = read_labels(LABELS)
        self._variant, self._precision = variant, precision
        self._device, self._dtype = device, _torch.DTYPES[precision]
        self._sha256 = sha256_file(checkpoint)
        weights = _torch.read_checkpoint(checkpoint, variant, PUBLISHED)
        try:
            build = Builder(_torch.tensors(weights), device, self._dtype, EPSILON)
            self._steps, n_last = features(build, WIDTHS[variant])
            n_hidden = rounded(1280 * WIDTHS[variant])
            self._hidden = build.linear("classifier.2", n_last, n_hidden)
            self._last = build.linear("classifier.5", n_hidden, len(self.labels))
            build.finish()
        except (KeyError, ValueError) as error:
            raise _torch.not_a_checkpoint(checkpoint, variant, PUBLISHED, str(error.args[0])) from error
        self._window = torch.hann_window(WINDOW, periodic=False, device=device)
        self._mel = torch.from_numpy(_mel.triangles(N_MELS, N_FFT, SAMPLE_RATE, *MEL_HZ).T.copy()).to(device)

    def provenance(self) -> dict[str, str]:
        """See `Tagger`."""
        return provenance(self, self._variant, self._precision, self._sha256, VERSION)

    def logits(self, waveforms: Floats, n_samples: npt.NDArray[np.int64]) -> Floats:
        """See `Tagger`."""
        with _torch.exact(self._device, self._dtype):
            return _torch.by_length(self._hear, waveforms, n_samples, MIN_SAMPLES, self._device)

    def _hear(self, waveforms: Tensor) -> Tensor:
        x = channels_last(self.log_mel(waveforms), self._dtype)
        embedding = run(self._steps, x).float().mean((2, 3))
        return self._last(functional.hardswish(self._hidden(embedding)))

    def log_mel(self, waveforms: Tensor) -> Tensor:
        """Map samples (B, S) to (B, 128, frames): pre-emphasis, power under a symmetric Hann window, mel, ln(x + 1e-5),
        (x + 4.5) / 5.
        """
        emphasised = waveforms[:, 1:] - PRE_EMPHASIS * waveforms[:, :-1]
        spectrum = torch.stft(
            emphasised, N_FFT, HOP, WINDOW, self._window, center=True, pad_mode="reflect", return_complex=True
        )
        power = torch.view_as_real(spectrum).square_().sum(-1)
        return torch.matmul(self._mel, power).add_(LOG_OFFSET).log_().add_(CENTRE).div_(SPREAD)


def features(build: Builder, width: float) -> tuple[list[Step], int]:
    """The steps (B, 1, 128, frames) -> (B, C, 4, frames / 32), and C."""
    n_in = rounded(16 * width)
    found: list[Step] = [build.conv(("features.0.0", "features.0.1"), (1, n_in), 3, "hardswish", stride=2)]
    for i, block in enumerate(BLOCKS, start=1):
        n_out = rounded(block.n_out * width)
        steps = _block(build, f"features.{i}.block", block, n_in, rounded(block.n_wide * width), n_out)
        found += [residual(steps)] if block.stride == 1 and n_in == n_out else steps
        n_in = n_out
    i = len(BLOCKS) + 1
    found.append(build.conv((f"features.{i}.0", f"features.{i}.1"), (n_in, 6 * n_in), 1, "hardswish"))
    return found, 6 * n_in


def rounded(n_channels: float) -> int:
    """To the nearest multiple of 8, but not more than 10 % down (MobileNet's rule)."""
    nearest = max(8, int(n_channels + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * n_channels else nearest + 8


def _block(build: Builder, at: str, block: Block, n_in: int, n_wide: int, n_out: int) -> list[Step]:
    """Widen, look around in each channel, weigh the channels, narrow."""
    steps: list[Step] = []

    def conv(channels: tuple[int, int], kernel: int, activation: str, stride: int = 1, groups: int = 1) -> Step:
        names = (f"{at}.{len(steps)}.0", f"{at}.{len(steps)}.1")
        return build.conv(names, channels, kernel, activation, stride=stride, groups=groups)

    if n_wide != n_in:
        steps.append(conv((n_in, n_wide), 1, block.activation))
    steps.append(conv((n_wide, n_wide), block.kernel, block.activation, block.stride, groups=n_wide))
    if block.squeeze:
        steps.append(_squeeze(build, f"{at}.{len(steps)}.conc_se_layers.0", n_wide))
    steps.append(conv((n_wide, n_out), 1, "none"))
    return steps


def _squeeze(build: Builder, at: str, n_channels: int) -> Step:
    """Squeeze and excitation (Hu et al. 2018) over channels: each is scaled by what all their means say."""
    n_squeezed = rounded(n_channels // 4)
    down = build.linear(f"{at}.fc1", n_channels, n_squeezed)
    up = build.linear(f"{at}.fc2", n_squeezed, n_channels)

    def scale(x: Tensor) -> Tensor:
        weights = up(down(x.float().mean((2, 3))).relu_()).sigmoid_()
        return x.mul_(weights.to(x.dtype)[:, :, None, None])

    return scale


def build(checkpoint: str, device: str, variant: str, precision: str) -> Tagger:
    """Load `variant` from the path `checkpoint` to `device` (cpu, cuda, cuda:1).

    Raises TaggerError where the checkpoint is missing or another, or the device is not there: neither is replaced by a
    default.
    """
    if not Path(checkpoint).is_file():
        raise TaggerError(f"efficientat has no checkpoint at {checkpoint!r}: {variant} is among {PUBLISHED}")
    return EfficientAt(Path(checkpoint), _torch.open_device(device, precision), variant, precision)

"""The tagger `ast`: the Audio Spectrogram Transformer (Gong et al. 2021, arXiv 2104.01778) of transformers, AudioSet's
527 classes.

The checkpoint is a folder as transformers saves it, or the name of one on the Hugging Face hub, such as
`MIT/ast-finetuned-audioset-10-10-0.4593`.  Only safetensors are read.  The log-mel is ours, batched; it is that of
ASTFeatureExtractor.
"""

import hashlib
import re
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import numpy.typing as npt
import torch
import transformers
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from safetensors import SafetensorError
from torch import Tensor

from adapt.errors import TaggerError
from adapt.tables.files import sha256_file
from pipeline.taggers import Tagger, _mel, _torch, provenance, read_labels

SAMPLE_RATE = 16000  # Hz
SAMPLE_RATES = {"ast": SAMPLE_RATE}
PRECISIONS = tuple(_torch.DTYPES)
VERSION = "1"  # raise it when the same waveform would give other logits
LABELS = Path("data/labels/audioset.csv")
FILES = ("config.json", "preprocessor_config.json", "model.safetensors")  # of a checkpoint; they decide the logits
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")

FRAME = 400  # samples: 25 ms
HOP = 160  # samples: 10 ms
N_FFT = 512
LOWEST_HZ = 20.0
PRE_EMPHASIS = 0.97
ENERGY_FLOOR = float(np.finfo(np.float32).eps)

Floats = npt.NDArray[np.float32]


class Ast:
    """See `Tagger`.  Zeros after a row's sound are left out; the checkpoint's own filling, zeros in the log-mel, takes
    their place.

    A row's logits are the same in any batch and at any padding, up to 1e-4 in fp32.  A sound longer than the checkpoint
    hears at once (1,024 frames, 10.2 s) is an error.
    """

    name = "ast"
    sample_rate = SAMPLE_RATE
    concurrent = False  # torch already spreads one call over the cores
    labels_file = LABELS

    def __init__(self, folder: Path, device: torch.device, precision: str) -> None:
        """Load a folder of transformers.  Raises TaggerError where it holds no whole AST, or one with other classes
        than AudioSet's.
        """
        self.labels = read_labels(LABELS)
        self._precision, self._device, self._dtype = precision, device, _torch.DTYPES[precision]
        missing = [name for name in FILES if not (folder / name).is_file()]
        if missing:
            raise TaggerError(
                f"{folder} is no checkpoint of ast: {', '.join(missing)} missing; set tag.args.checkpoint to a folder "
                "that has it"
            )
        self._sha256 = hashlib.sha256("".join(sha256_file(folder / name) for name in FILES).encode()).hexdigest()
        network, settings = _load(folder, self._dtype)
        self._network = network.to(device)
        self._order = _order(dict(self._network.config.id2label), self.labels, folder)
        if settings.sampling_rate != SAMPLE_RATE or not settings.do_normalize:
            stated = f"sampling_rate {settings.sampling_rate}, do_normalize {settings.do_normalize}"
            raise TaggerError(
                f"{folder} has {stated}, but ast knows only {SAMPLE_RATE} and True: set tag.args.checkpoint to another"
            )
        self._n_frames, self._mean, self._spread = settings.max_length, settings.mean, 2 * settings.std
        self._mel = torch.from_numpy(
            _mel.triangles(settings.num_mel_bins, N_FFT, SAMPLE_RATE, LOWEST_HZ, SAMPLE_RATE / 2)
        ).to(device)
        self._mel[-1] = 0  # Kaldi leaves the highest bin out
        self._hann = torch.hann_window(FRAME, periodic=False, device=device)

    def provenance(self) -> dict[str, str]:
        """See `Tagger`.  The checkpoint's hash is that of the hashes of FILES."""
        return provenance(self, "ast", self._precision, self._sha256, VERSION)

    def logits(self, waveforms: Floats, n_samples: npt.NDArray[np.int64]) -> Floats:
        """See `Tagger`.  Raises TaggerError where a sound is longer than the checkpoint hears at once."""
        longest = FRAME + (self._n_frames - 1) * HOP + HOP - 1
        if n_samples.max() > longest:
            raise TaggerError(
                f"this ast hears {longest / SAMPLE_RATE:.2f} s at once: set tag.args.window_s to that or less"
            )
        with _torch.exact(self._device, self._dtype):
            features = self.log_mel(
                torch.from_numpy(waveforms).to(self._device), torch.from_numpy(n_samples).to(self._device)
            )
            answers = self._network(input_values=features.to(self._dtype)).logits.float()
            logits: Floats = answers[:, self._order].cpu().numpy()
        return logits

    def log_mel(self, waveforms: Tensor, n_samples: Tensor) -> Tensor:
        """Map samples (B, S), of which row b has n_samples[b], to (B, n_frames, mels) as the network wants them.

        Kaldi's filter bank features: frames of 25 ms without their mean, pre-emphasis, symmetric Hann window, power,
        mel, log; then zeros for frames that are not there; then (x - mean) / (2 std).
        """
        n_wanted = FRAME + (self._n_frames - 1) * HOP
        padded = torch.nn.functional.pad(waveforms, (0, max(0, FRAME - waveforms.shape[1])))[:, :n_wanted]
        frames = padded.unfold(1, FRAME, HOP)
        frames = frames - frames.mean(2, keepdim=True)
        before = torch.cat([frames[..., :1], frames[..., :-1]], 2)  # the first sample's neighbour is itself
        power = (
            torch.view_as_real(torch.fft.rfft((frames - PRE_EMPHASIS * before) * self._hann, N_FFT)).square().sum(-1)
        )
        log_mels = torch.matmul(power, self._mel).clamp_(min=ENERGY_FLOOR).log_()
        n_heard = 1 + (n_samples.clamp(min=FRAME) - FRAME) // HOP
        log_mels *= torch.arange(log_mels.shape[1], device=n_samples.device)[None, :, None] < n_heard[:, None, None]
        filled = torch.nn.functional.pad(log_mels, (0, 0, 0, self._n_frames - log_mels.shape[1]))
        return (filled - self._mean) / self._spread


def build(checkpoint: str, device: str, variant: str, precision: str) -> Tagger:
    """Load the AST at `checkpoint`, a folder or a name on the hub, to `device` (cpu, cuda, cuda:1).

    Raises TaggerError where it is neither, or the device is not there: neither is replaced by a default.
    """
    opened = _torch.open_device(device, precision)
    folder = Path(checkpoint)
    if not checkpoint or not folder.is_dir():
        folder = _from_hub(checkpoint)
    return Ast(folder, opened, precision)


def _from_hub(name: str) -> Path:
    """The local copy of a checkpoint on the hub, downloaded if need be.  Raises TaggerError where there is none to be
    had.
    """
    if not HUB_NAME.fullmatch(name):
        raise TaggerError(
            f"ast has no checkpoint at {name!r}: set tag.args.checkpoint to a folder of transformers or a name on the "
            "Hugging Face hub"
        )
    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=list(FILES)))
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise TaggerError(
            f"ast found no folder {name!r}, and the Hugging Face hub did not answer with one ({reason})"
        ) from error


def _load(folder: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    """The network with every one of its weights from the folder, and the settings of its log-mel.

    Raises TaggerError where weights are missing or too many: transformers itself would fill gaps with chance.
    """
    try:
        loaded: Any = transformers.ASTForAudioClassification.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True, dtype=dtype
        )
        settings = transformers.ASTFeatureExtractor.from_pretrained(folder, local_files_only=True)
    except (OSError, RuntimeError, ValueError, TypeError, KeyError, SafetensorError) as error:
        raise TaggerError(
            f"{folder} is no checkpoint of ast ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
        ) from error
    network, found = loaded
    gaps = {kind: sorted(map(str, names))[:3] for kind, names in found.items() if kind.endswith("_keys") and names}
    if gaps:
        raise TaggerError(f"{folder} is no whole checkpoint of ast: {gaps}")
    return network.eval().requires_grad_(False), settings


def _order(id2label: dict[int, str], labels: list[str], folder: Path) -> list[int]:
    """Where each of `labels` stands in the network's answer.  Raises TaggerError where they are not the same names."""
    place = {name: i for i, name in id2label.items()}
    if len(place) != len(id2label) or set(place) != set(labels):
        strange = sorted(set(place) ^ set(labels))[:5]
        raise TaggerError(
            f"{folder}: {len(id2label)} classes that are not the {len(labels)} of {LABELS}; only on one side: {strange}"
        )
    return [place[name] for name in labels]

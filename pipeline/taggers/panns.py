"""The tagger `panns`: Cnn14 of PANNs (Kong et al. 2020, arXiv 1912.10211), AudioSet's 527 classes, from a checkpoint on disk.

The network is that of the package panns_inference.  Importing that package runs a download, and its `AudioTagging` replaces
checkpoints and devices that it does not like; so only its module of models is imported, and the weights are loaded here.
"""
import importlib
import importlib.util
import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import numpy as np
import numpy.typing as npt
import torch

from pipeline import cache
from pipeline.errors import TaggerError
from pipeline.taggers import Tagger, read_labels

SAMPLE_RATE = 32000  # Hz
VERSION = "1"  # raise it when the same waveform would give other logits
LABELS = Path("data/labels/audioset.csv")
PACKAGE = "panns_inference"
PUBLISHED = "`Cnn14_mAP=0.431.pth` (327 MB) is published as Zenodo record 3987831: download it and set tag.args.checkpoint to its path"
FRONT_END = {"sample_rate": SAMPLE_RATE, "window_size": 1024, "hop_size": 320, "mel_bins": 64, "fmin": 50, "fmax": 14000}
MIN_SAMPLES = 32 * FRONT_END["hop_size"]  # five poolings by 2 leave one frame of 32

Floats = npt.NDArray[np.float32]


class Panns:
    """See `Tagger`.  Zeros after a short sound are heard as they are: the published weights were trained on clips padded to 10 s."""

    name = "panns"
    sample_rate = SAMPLE_RATE
    labels_file = LABELS

    def __init__(self, checkpoint: Path, device: torch.device) -> None:
        """Load a checkpoint of the published form, {"model": state_dict}.  Raises TaggerError where it is not one."""
        self.labels = read_labels(LABELS)
        self._sha256 = cache.sha256_file(checkpoint)
        self._device = device
        try:
            weights = torch.load(checkpoint, map_location="cpu", weights_only=True)["model"]
            network: torch.nn.Module = models().Cnn14(**FRONT_END, classes_num=len(self.labels))
            network.load_state_dict(weights, strict=True)
        except (RuntimeError, KeyError, TypeError, EOFError, pickle.UnpicklingError) as error:
            reason = " ".join(str(error).split())[:200]
            raise TaggerError(f"{checkpoint} is not a checkpoint of Cnn14 ({type(error).__name__}: {reason}): {PUBLISHED}") from error
        self._network = network.eval().requires_grad_(False).to(device)

    def provenance(self) -> dict[str, str]:
        """See `Tagger`."""
        return {
            "tagger": self.name,
            "checkpoint_sha256": self._sha256,
            "labels_file": LABELS.as_posix(),
            "labels_sha256": cache.sha256_file(LABELS),
            "code_version": VERSION,
        }

    @torch.inference_mode()
    def logits(self, waveforms: Floats, n_samples: npt.NDArray[np.int64]) -> Floats:
        """See `Tagger`.  Raises TaggerError where a window is below 0.32 s."""
        if waveforms.shape[1] < MIN_SAMPLES:
            raise TaggerError(f"panns needs windows of {MIN_SAMPLES / SAMPLE_RATE} s or more: raise tag.args.window_s")
        embedding = self._network(torch.from_numpy(waveforms).to(self._device))["embedding"]
        last: torch.nn.Module = self._network.get_submodule("fc_audioset")  # the network's own answer is after the sigmoid
        logits: Floats = last(embedding).cpu().numpy()
        return logits


def build(checkpoint: str = "", device: str = "cpu") -> Tagger:
    """Load Cnn14 from the path `checkpoint` to `device` (cpu, cuda, cuda:1).

    Raises TaggerError where the checkpoint is missing or another, or the device is not there: neither is replaced by a default.
    """
    if not Path(checkpoint).is_file():
        raise TaggerError(f"panns has no checkpoint at {checkpoint!r}: {PUBLISHED}")
    return Panns(Path(checkpoint), _device(device))


def models() -> ModuleType:
    """Import panns_inference.models without running that package's `__init__`; sys.modules is left as it was."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise TaggerError(f"panns needs the package {PACKAGE}, which is not installed: pip install panns-inference")
    package, plots, pyplot = ModuleType(PACKAGE), ModuleType("matplotlib"), ModuleType("matplotlib.pyplot")
    package.__path__ = list(spec.submodule_search_locations)
    with _standing_in(package, plots, pyplot):  # the models import pyplot, slow and unused
        return importlib.import_module(f"{PACKAGE}.models")


@contextmanager
def _standing_in(*stubs: ModuleType) -> Iterator[None]:
    """Put `stubs` in sys.modules, with nothing of the real ones in sight; afterwards as before."""
    roots = {stub.__name__.partition(".")[0] for stub in stubs}
    before = {name: module for name, module in sys.modules.items() if name.partition(".")[0] in roots}
    for name in before:
        del sys.modules[name]
    sys.modules.update({stub.__name__: stub for stub in stubs})
    try:
        yield
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] in roots]:
            del sys.modules[name]
        sys.modules.update(before)


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise TaggerError(f"unknown device {name!r}: set tag.args.device to cpu, cuda or cuda:1") from error
    n_devices = torch.cuda.device_count() if device.type == "cuda" else 1
    if (device.index or 0) >= n_devices:
        raise TaggerError(f"device {name!r} is not there (CUDA devices: {n_devices}): set tag.args.device to cpu, or to one there is")
    return device

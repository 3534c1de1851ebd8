"""PANNs by the package `panns-inference`: its own Cnn14, so that anyone can compare it with ours inside the pipeline.

Importing the package downloads a label list into the home folder, so its class is imported without its `__init__`, and
its weights are loaded here.
"""

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from types import ModuleType

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from adapt.errors import TaggerError
from adapt.tables.files import sha256_file
from pipeline.taggers import _torch, provenance, read_labels

PACKAGE = "panns_inference"
VERSION = "1"  # raise it when the same waveform and package would give other logits
# Cnn14_16k is the same class at another rate, as audioset_tagging_cnn defines it; the package has no Cnn6, Cnn10 or
# MobileNet.
VARIANTS: dict[str, dict[str, int]] = {
    "Cnn14": {"sample_rate": 32000, "window_size": 1024, "hop_size": 320, "mel_bins": 64, "fmin": 50, "fmax": 14000},
    "Cnn14_16k": {"sample_rate": 16000, "window_size": 512, "hop_size": 160, "mel_bins": 64, "fmin": 50, "fmax": 8000},
}
Floats = npt.NDArray[np.float32]


class PannsPackage:
    """See `Tagger`.  The package's network as it is, in float32, on the same waveforms that ours is given."""

    name = "panns"
    concurrent = False  # torch already spreads one call over the cores

    def __init__(
        self, checkpoint: Path, device: torch.device, variant: str, published: str, min_s: float, labels_file: Path
    ) -> None:
        """Load a checkpoint of the published form into the package's class.

        Sounds shorter than `min_s` seconds are padded.  Raises TaggerError where the checkpoint is not one of
        `variant`, which is `published` somewhere, or the package is not installed.
        """
        self.labels_file, self.labels = labels_file, read_labels(labels_file)
        self.sample_rate = VARIANTS[variant]["sample_rate"]
        self._variant, self._device, self._n_least = variant, device, round(min_s * self.sample_rate)
        self._sha256 = sha256_file(checkpoint)
        weights = _torch.read_checkpoint(checkpoint, variant, published).get("model")
        network = models().Cnn14(**VARIANTS[variant], classes_num=len(self.labels))
        try:
            network.load_state_dict(_torch.tensors(weights), strict=True)
        except (ValueError, RuntimeError) as error:
            raise _torch.not_a_checkpoint(checkpoint, variant, published, " ".join(str(error).split())) from error
        self._network: nn.Module = network.to(device).eval()

    def provenance(self) -> dict[str, str]:
        """See `Tagger`."""
        return provenance(
            self, self._variant, "fp32", self._sha256, f"{VERSION}.{metadata.version(PACKAGE)}", "package"
        )

    def logits(self, waveforms: Floats, n_samples: npt.NDArray[np.int64]) -> Floats:
        """See `Tagger`."""
        with _torch.exact(self._device, torch.float32):
            return _torch.by_length(self._hear, waveforms, n_samples, self._n_least, self._device)

    def _hear(self, waveforms: Tensor) -> Tensor:
        return logits_of(self._network, waveforms)


def logits_of(network: nn.Module, waveforms: Tensor) -> Tensor:
    """Logits (B, 527) for samples (B, S): the class answers with probabilities and an embedding, so its last layer is
    asked again.
    """
    last: Callable[[Tensor], Tensor] = network.get_submodule("fc_audioset")
    return last(network(waveforms)["embedding"])


def models() -> ModuleType:
    """Import panns_inference.models without running that package's `__init__`; sys.modules is left as it was.

    Raises TaggerError where the package is not installed.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise TaggerError(
            "tag.args.implementation is package, but panns-inference is not installed: install earshot[pipeline], or "
            "set ours"
        )
    package, plots, pyplot = ModuleType(PACKAGE), ModuleType("matplotlib"), ModuleType("matplotlib.pyplot")
    package.__path__ = [str(Path(place)) for place in spec.submodule_search_locations]
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

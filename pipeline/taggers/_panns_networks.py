"""The networks of PANNs that `panns` runs, by the tensor names of their published checkpoints.

Kong et al. 2020, arXiv 1912.10211, table 3 and section III; shapes, order of layers and names: audioset_tagging_cnn,
pytorch/models.py. In the two MobileNets a mean pooling stands between a strided convolution and its batch norm; it is
joined to the kernel here.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch.nn import functional

from pipeline.taggers._convolution import Builder, Step, residual

RECORD = "3987831"  # on Zenodo; Kong et al. 2020, version 3, CC BY 4.0
CNN_WIDTHS = (64, 128, 256, 512, 1024, 2048)  # channels of a block
V1_BLOCKS = (
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    *[(512, 1)] * 5,
    (1024, 2),
    (1024, 1),
)  # channels out, stride
V2_BLOCKS = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 2),
    (6, 160, 3, 1),
    (6, 320, 1, 1),
)  # expansion, c, n, stride


@dataclass(frozen=True)
class Variant:
    """A published model."""

    steps: Callable[[Builder], list[Step]]  # (B, 1, 64, frames) -> (B, n_channels, 4 or 2, frames / 16 or 32)
    n_channels: int  # of the last step
    n_embedding: int  # of the layer before the classes
    file: str  # in Zenodo's record
    megabytes: int
    md5: str  # as the record states it; "" where we know of no copy of it: `fetch` then asks the record
    sample_rate: int = 32000  # Hz
    n_fft: int = 1024  # samples, also the window
    hop: int = 320  # samples: 10 ms


def _cnn(n_blocks: int, kernel: int, widths: Sequence[int] = CNN_WIDTHS) -> Callable[[Builder], list[Step]]:
    """Blocks of two 3 x 3 or one 5 x 5 convolution, each block followed by a mean pooling of 2 x 2, but the sixth."""

    def steps(build: Builder) -> list[Step]:
        found: list[Step] = []
        for block, (n_in, n_out) in enumerate(pairwise((1, *widths[:n_blocks])), start=1):
            for i, channels in enumerate([(n_in, n_out), (n_out, n_out)][: 1 if kernel == 5 else 2], start=1):
                names = (f"conv_block{block}.conv{i}", f"conv_block{block}.bn{i}")
                found.append(build.conv(names, channels, kernel, "relu"))
            if block < 6:
                found.append(lambda x: functional.avg_pool2d(x, 2))
        return found

    return steps


def _mobilenet_v1(build: Builder) -> list[Step]:
    """Howard et al. 2017: depthwise, then pointwise convolutions."""
    found: list[Step] = [build.conv(("features.0.0", "features.0.2"), (1, 32), 3, "relu", average=2)]
    n_in = 32
    for i, (n_out, stride) in enumerate(V1_BLOCKS, start=1):
        at = f"features.{i}"
        found.append(build.conv((f"{at}.0", f"{at}.2"), (n_in, n_in), 3, "relu", groups=n_in, average=stride))
        found.append(build.conv((f"{at}.4", f"{at}.5"), (n_in, n_out), 1, "relu"))
        n_in = n_out
    return found


def _mobilenet_v2(build: Builder) -> list[Step]:
    """Sandler et al. 2018: inverted residuals with linear bottlenecks."""
    found: list[Step] = [build.conv(("features.0.0", "features.0.2"), (1, 32), 3, "relu6", average=2)]
    n_in, at = 32, 1
    for expansion, n_out, n_repeats, first_stride in V2_BLOCKS:
        for stride in [first_stride] + [1] * (n_repeats - 1):
            block = _inverted_residual(build, f"features.{at}.conv", n_in, n_out, expansion, stride)
            found += [residual(block)] if stride == 1 and n_in == n_out else block
            n_in, at = n_out, at + 1
    found.append(build.conv((f"features.{at}.0", f"features.{at}.1"), (n_in, 1280), 1, "relu6"))
    return found


def _inverted_residual(build: Builder, at: str, n_in: int, n_out: int, expansion: int, stride: int) -> list[Step]:
    n_wide, first = n_in * expansion, 0 if expansion == 1 else 3
    expand = [] if expansion == 1 else [build.conv((f"{at}.0", f"{at}.1"), (n_in, n_wide), 1, "relu6")]
    names = (f"{at}.{first}", f"{at}.{first + 2}")
    depthwise = build.conv(names, (n_wide, n_wide), 3, "relu6", groups=n_wide, average=stride)
    project = build.conv((f"{at}.{first + 4}", f"{at}.{first + 5}"), (n_wide, n_out), 1, "none")
    return [*expand, depthwise, project]


VARIANTS = {
    "Cnn14": Variant(_cnn(6, 3), 2048, 2048, "Cnn14_mAP=0.431.pth", 327, "541141fa2ee191a88f24a3219fff024e"),
    "Cnn6": Variant(_cnn(4, 5), 512, 512, "Cnn6_mAP=0.343.pth", 24, "e25e26b84585b14c7754c91e48efc9be"),
    "Cnn10": Variant(_cnn(4, 3), 512, 512, "Cnn10_mAP=0.380.pth", 25, "bfb1f1f9968938fa8ef4012b8471f5f6"),
    "Cnn14_16k": Variant(
        _cnn(6, 3),
        2048,
        2048,
        "Cnn14_16k_mAP=0.438.pth",
        359,
        "362fc5ff18f1d6ad2f6d464b45893f2c",
        sample_rate=16000,
        n_fft=512,
        hop=160,
    ),
    "MobileNetV1": Variant(
        _mobilenet_v1, 1024, 1024, "MobileNetV1_mAP=0.389.pth", 24, "a419303e1c88aa1b9d2ac3811563d371"
    ),
    "MobileNetV2": Variant(_mobilenet_v2, 1280, 1024, "MobileNetV2_mAP=0.383.pth", 21, ""),
}

"""The taggers' networks as plain torch modules, layer by layer as their papers and published code describe them.

They make checkpoints of the published form (names and shapes of every tensor) with random weights, and say what a
tagger must answer with them: nothing is folded, fused or joined here.  Cnn14 is the published class itself, from the
package panns_inference.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchlibrosa.stft import LogmelFilterBank, Spectrogram

from pipeline.taggers import _panns_package

N_CLASSES = 527
SETTINGS_32K = {"sample_rate": 32000, "window_size": 1024, "hop_size": 320, "mel_bins": 64, "fmin": 50, "fmax": 14000}
SETTINGS_16K = {"sample_rate": 16000, "window_size": 512, "hop_size": 160, "mel_bins": 64, "fmin": 50, "fmax": 8000}


class Panns(nn.Module):
    """What the models of audioset_tagging_cnn share: torchlibrosa's front end, a norm over mel bins, and the head;
    answers with logits.
    """

    def __init__(self, n_channels: int, n_embedding: int, settings: dict[str, int] = SETTINGS_32K) -> None:
        super().__init__()
        n_fft, hop, rate = settings["window_size"], settings["hop_size"], settings["sample_rate"]
        self.spectrogram_extractor = Spectrogram(n_fft=n_fft, hop_length=hop, win_length=n_fft)
        self.logmel_extractor = LogmelFilterBank(
            sr=rate, n_fft=n_fft, n_mels=64, fmin=settings["fmin"], fmax=settings["fmax"], top_db=None
        )
        self.bn0 = nn.BatchNorm2d(64)
        self.fc1 = nn.Linear(n_channels, n_embedding)
        self.fc_audioset = nn.Linear(n_embedding, N_CLASSES)

    def forward(self, waveforms: Tensor) -> Tensor:
        x = self.logmel_extractor(self.spectrogram_extractor(waveforms))
        x = self.maps(self.bn0(x.transpose(1, 3)).transpose(1, 3)).mean(3)
        answer: Tensor = self.fc_audioset(functional.relu(self.fc1(x.max(2).values + x.mean(2))))
        return answer

    def maps(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class Cnn(Panns):
    """Cnn6 (5 x 5), Cnn10 and Cnn14 (two 3 x 3): a block for each width, and a pooling after each block but a sixth."""

    def __init__(
        self, kernel: int, widths: tuple[int, ...] = (64, 128, 256, 512), settings: dict[str, int] = SETTINGS_32K
    ) -> None:
        super().__init__(widths[-1], widths[-1], settings)
        self.n_blocks = len(widths)
        for block, (n_in, n_out) in enumerate(zip((1, *widths), widths, strict=False), start=1):
            layers = nn.Module()
            layers.conv1 = nn.Conv2d(n_in, n_out, kernel, padding=kernel // 2, bias=False)
            layers.bn1 = nn.BatchNorm2d(n_out)
            if kernel == 3:
                layers.conv2 = nn.Conv2d(n_out, n_out, kernel, padding=1, bias=False)
                layers.bn2 = nn.BatchNorm2d(n_out)
            setattr(self, f"conv_block{block}", layers)

    def maps(self, x: Tensor) -> Tensor:
        for block in range(1, self.n_blocks + 1):
            layers = getattr(self, f"conv_block{block}")
            x = functional.relu(layers.bn1(layers.conv1(x)))
            if hasattr(layers, "conv2"):
                x = functional.relu(layers.bn2(layers.conv2(x)))
            x = functional.avg_pool2d(x, 2) if block < 6 else x
        return x


def _strided(n_in: int, n_out: int, groups: int, stride: int, activation: type[nn.Module]) -> list[nn.Module]:
    return [
        nn.Conv2d(n_in, n_out, 3, 1, 1, groups=groups, bias=False),
        nn.AvgPool2d(stride),
        nn.BatchNorm2d(n_out),
        activation(),
    ]


class MobileNetV1(Panns):
    def __init__(self) -> None:
        super().__init__(1024, 1024)
        self.features = nn.Sequential(nn.Sequential(*_strided(1, 32, 1, 2, nn.ReLU)))
        widths = [32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024]
        for i, (n_in, n_out) in enumerate(zip(widths, widths[1:], strict=False)):
            depthwise = _strided(n_in, n_in, n_in, 2 if i in (1, 3, 5, 11) else 1, nn.ReLU)
            self.features.append(
                nn.Sequential(*depthwise, nn.Conv2d(n_in, n_out, 1, bias=False), nn.BatchNorm2d(n_out), nn.ReLU())
            )

    def maps(self, x: Tensor) -> Tensor:
        answer: Tensor = self.features(x)
        return answer


class _Inverted(nn.Module):
    def __init__(self, n_in: int, n_out: int, stride: int, expansion: int) -> None:
        super().__init__()
        n_wide = n_in * expansion
        widen = [] if expansion == 1 else [nn.Conv2d(n_in, n_wide, 1, bias=False), nn.BatchNorm2d(n_wide), nn.ReLU6()]
        narrow = [nn.Conv2d(n_wide, n_out, 1, bias=False), nn.BatchNorm2d(n_out)]
        self.conv = nn.Sequential(*widen, *_strided(n_wide, n_wide, n_wide, stride, nn.ReLU6), *narrow)
        self.adds = stride == 1 and n_in == n_out

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = x + self.conv(x) if self.adds else self.conv(x)
        return answer


class MobileNetV2(Panns):
    def __init__(self) -> None:
        super().__init__(1280, 1024)
        self.features = nn.Sequential(nn.Sequential(*_strided(1, 32, 1, 2, nn.ReLU6)))
        n_in = 32
        table = [
            (1, 16, 1, 1),
            (6, 24, 2, 2),
            (6, 32, 3, 2),
            (6, 64, 4, 2),
            (6, 96, 3, 2),
            (6, 160, 3, 1),
            (6, 320, 1, 1),
        ]
        for expansion, n_out, n_repeats, stride in table:
            for i in range(n_repeats):
                self.features.append(_Inverted(n_in, n_out, stride if i == 0 else 1, expansion))
                n_in = n_out
        self.features.append(nn.Sequential(nn.Conv2d(320, 1280, 1, bias=False), nn.BatchNorm2d(1280), nn.ReLU6()))

    def maps(self, x: Tensor) -> Tensor:
        answer: Tensor = self.features(x)
        return answer


class Squeeze(nn.Module):
    """Squeeze and excitation over channels, under the names of EfficientAT."""

    def __init__(self, n_channels: int, n_squeezed: int) -> None:
        super().__init__()
        layer = nn.Module()
        layer.fc1 = nn.Linear(n_channels, n_squeezed)
        layer.fc2 = nn.Linear(n_squeezed, n_channels)
        self.conc_se_layers = nn.ModuleList([layer])

    def forward(self, x: Tensor) -> Tensor:
        layer = self.conc_se_layers[0]
        weights = torch.sigmoid(layer.fc2(functional.relu(layer.fc1(x.mean((2, 3))))))  # type: ignore[operator]
        return x * weights[:, :, None, None]


class _Bottleneck(nn.Module):
    def __init__(
        self, n_in: int, kernel: int, n_wide: int, n_out: int, n_squeezed: int, activation: type[nn.Module], stride: int
    ) -> None:
        super().__init__()
        self.block = nn.Sequential()
        if n_wide != n_in:
            self.block.append(_normed(n_in, n_wide, 1, 1, 1, activation))
        self.block.append(_normed(n_wide, n_wide, kernel, stride, n_wide, activation))
        if n_squeezed:
            self.block.append(Squeeze(n_wide, n_squeezed))
        self.block.append(_normed(n_wide, n_out, 1, 1, 1, nn.Identity))
        self.adds = stride == 1 and n_in == n_out

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = x + self.block(x) if self.adds else self.block(x)
        return answer


def _normed(n_in: int, n_out: int, kernel: int, stride: int, groups: int, activation: type[nn.Module]) -> nn.Sequential:
    conv = nn.Conv2d(n_in, n_out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(n_out, eps=1e-3), activation())


class EfficientAt(nn.Module):
    """mn04_as: counts of channels read off the published checkpoint's tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(_normed(1, 8, 3, 2, 1, nn.Hardswish))
        relu, hard = nn.ReLU, nn.Hardswish
        n_in = 8
        for kernel, n_wide, n_out, n_squeezed, activation, stride in [
            (3, 8, 8, 0, relu, 1), (3, 24, 16, 0, relu, 2), (3, 32, 16, 0, relu, 1),
            (5, 32, 16, 8, relu, 2), (5, 48, 16, 16, relu, 1), (5, 48, 16, 16, relu, 1),
            (3, 96, 32, 0, hard, 2), (3, 80, 32, 0, hard, 1), (3, 72, 32, 0, hard, 1), (3, 72, 32, 0, hard, 1),
            (3, 192, 48, 48, hard, 1), (3, 272, 48, 72, hard, 1),
            (5, 272, 64, 72, hard, 2), (5, 384, 64, 96, hard, 1), (5, 384, 64, 96, hard, 1),
        ]:  # fmt: skip
            self.features.append(_Bottleneck(n_in, kernel, n_wide, n_out, n_squeezed, activation, stride))
            n_in = n_out
        self.features.append(_normed(64, 384, 1, 1, 1, nn.Hardswish))
        self.classifier = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(1),
            nn.Linear(384, 512),
            nn.Hardswish(),
            nn.Dropout(0.2),
            nn.Linear(512, N_CLASSES),
        )

    def forward(self, log_mels: Tensor) -> Tensor:
        answer: Tensor = self.classifier(self.features(log_mels[:, None]))
        return answer


def cnn14() -> nn.Module:
    """The published class, with random weights."""
    network: nn.Module = _panns_package.models().Cnn14(**SETTINGS_32K, classes_num=N_CLASSES)
    return network


def cnn14_logits(network: nn.Module, waveforms: Tensor) -> Tensor:
    """The published class answers with probabilities and an embedding: its last layer's sums."""
    answer: Tensor = network.get_submodule("fc_audioset")(network(waveforms)["embedding"])
    return answer


@torch.no_grad()
def settle(network: nn.Module, example: Tensor) -> nn.Module:
    """Give `network` norms that are neither idle nor extreme: its own statistics on `example`, random gains and
    offsets; evaluation mode.
    """
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
        norm.weight.uniform_(0.7, 1.3)
        norm.bias.normal_(0, 0.2)
    for module in network.modules():
        module.training = isinstance(module, nn.BatchNorm2d)  # no dropout, no augmentation
    network(example)
    return network.eval().requires_grad_(False)

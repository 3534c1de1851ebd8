"""TANet and one ViTTA step the way their authors work, in our words: what adapt's are tested and timed against.

TAM: a convolution with a group for each clip and channel, on copies in which time is next to space; batch norm in eval
mode as a layer of its own; statistics of outputs by forward hooks, the variance on a copy whose channels come first;
SGD over all weights. Parameter names are those of the published checkpoints without their leading "module.".
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import resnet18, resnet50
from torchvision.models.resnet import Bottleneck


class Tam(nn.Module):
    """The temporal adaptive module: (N*T, C, H, W) -> the same."""

    def __init__(self, c: int, t: int) -> None:
        super().__init__()
        self.t = t
        self.G = nn.Sequential(
            nn.Linear(t, 2 * t, bias=False),
            nn.BatchNorm1d(2 * t),
            nn.ReLU(True),
            nn.Linear(2 * t, 3, bias=False),
            nn.Softmax(-1),
        )
        self.L = nn.Sequential(
            nn.Conv1d(c, c // 4, 3, padding=1, bias=False),
            nn.BatchNorm1d(c // 4),
            nn.ReLU(True),
            nn.Conv1d(c // 4, c, 1, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        nt, c, h, w = x.shape
        n, t = nt // self.t, self.t
        x = x.view(n, t, c, h, w).permute(0, 2, 1, 3, 4).contiguous()
        pooled = F.adaptive_avg_pool2d(x.view(n * c, t, h, w), (1, 1)).view(-1, t)
        kernel = self.G(pooled).view(n * c, 1, -1, 1)
        x = x * self.L(pooled.view(n, c, t)).view(n, c, t, 1, 1)
        x = F.conv2d(x.view(1, n * c, t, h * w), kernel, padding=(1, 0), groups=n * c).view(n, c, t, h, w)
        return x.permute(0, 2, 1, 3, 4).contiguous().view(nt, c, h, w)


class Block(nn.Module):
    """A residual block with its module behind the first convolution."""

    def __init__(self, net: nn.Module, t: int) -> None:
        super().__init__()
        self.net, self.tam = net, Tam(net.conv1.out_channels, t)  # type: ignore[arg-type,union-attr]

    def forward(self, x: Tensor) -> Tensor:
        net: object = self.net
        y = self.tam(net.relu(net.bn1(net.conv1(x))))  # type: ignore[attr-defined]
        y = net.bn2(net.conv2(y))  # type: ignore[attr-defined]
        if isinstance(net, Bottleneck):
            y = net.bn3(net.conv3(net.relu(y)))
        y += x if net.downsample is None else net.downsample(x)  # type: ignore[attr-defined]
        return net.relu(y)  # type: ignore[attr-defined,no-any-return]


class PublishedTANet(nn.Module):
    """Normalised frames (N*T, 3, H, W) -> logits (N, K)."""

    def __init__(self, depth: int, n_classes: int, t: int, dropout: float = 0.8) -> None:
        super().__init__()
        self.t = t
        self.base_model = {18: resnet18, 50: resnet50}[depth]()
        for i in range(1, 5):
            setattr(
                self.base_model,
                f"layer{i}",
                nn.Sequential(*(Block(net, t) for net in getattr(self.base_model, f"layer{i}"))),
            )
        self.new_fc = nn.Linear(self.base_model.fc.in_features, n_classes)
        self.base_model.avgpool = nn.AdaptiveAvgPool2d(1)
        self.base_model.fc = nn.Dropout(dropout)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.new_fc(self.base_model(images))
        return logits.view(-1, self.t, logits.shape[1]).mean(1)


def settle(model: nn.Module) -> nn.Module:
    """Weights as a trained network could have them: no norm idle, its scale and shift and running statistics all
    different.
    """
    random = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            for name, low, high in (
                ("weight", 0.5, 1.0),
                ("bias", -0.2, 0.2),
                ("running_mean", -0.2, 0.2),
                ("running_var", 0.8, 2.0),
            ):
                tensor: Tensor = getattr(module, name)
                tensor.data.copy_(torch.rand(tensor.shape, generator=random) * (high - low) + low)
    return model.eval()


class Hook:
    """The regulariser of one layer: mean|mu - mu_source| + mean|var - var_source| of its output's moving statistics,
    from zero.
    """

    def __init__(self, module: nn.Module, source: tuple[Tensor, Tensor], t: int) -> None:
        self.source, self.t = source, t
        self.online = torch.zeros_like(source[0]), torch.zeros_like(source[1])
        self.module, self.handle = module, module.register_forward_hook(self)

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nt, c, h, w = output.shape
        x = output.view(nt // self.t, self.t, c, h, w).permute(0, 2, 1, 3, 4).contiguous()
        mean = x.mean((0, 2, 3, 4))
        variance = x.permute(1, 0, 2, 3, 4).contiguous().view(c, -1).var(1, unbiased=False)
        blended = [0.1 * new + 0.9 * old.detach() for new, old in zip((mean, variance), self.online, strict=True)]
        self.online = blended[0], blended[1]
        self.loss = F.l1_loss(blended[0], self.source[0]) + F.l1_loss(blended[1], self.source[1])


class PublishedVitta:
    """ViTTA on one clip after the other, no reset in between."""

    def __init__(
        self, model: PublishedTANet, source: Mapping[str, tuple[Tensor, Tensor]], lr: float, weight_decay: float
    ) -> None:
        self.model = model
        self.hooks = [Hook(model.get_submodule(name), pair, model.t) for name, pair in source.items()]
        self.optimiser = torch.optim.SGD(model.parameters(), lr, momentum=0.9, weight_decay=weight_decay)

    def step(self, views: Tensor, label: int, *, dropout: bool) -> float:
        """One step on normalised views (V*T, 3, H, W); the loss.

        The label is for a cross-entropy that is only logged.
        """
        self.model.train()
        for module in self.model.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) or (isinstance(module, nn.Dropout) and not dropout):
                module.eval()
        logits = self.model(views)
        p = [row.softmax(0) for row in logits]
        mean = torch.stack(p).mean(0)
        consistency = sum((row - mean).abs().sum() for row in p) / len(p)
        logged = F.cross_entropy(logits.mean(0, keepdim=True), torch.tensor([label]))
        loss = sum(hook.loss for hook in self.hooks) + 0.1 * consistency
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[union-attr]
        self.optimiser.step()
        return loss.item() + 0 * logged.item()  # type: ignore[union-attr]

    def predict(self, centre: Tensor) -> Tensor:
        """Logits (1, K) of the normalised centre view (T, 3, H, W), without hooks."""
        for hook in self.hooks:
            hook.handle.remove()
        with torch.no_grad():
            logits: Tensor = self.model.eval()(centre)
        for hook in self.hooks:
            hook.handle = hook.module.register_forward_hook(hook)
        return logits


def layers(model: nn.Module) -> Sequence[str]:
    """The 2D batch norms whose name holds layer3 or layer4 (ViTTA's chosen_blocks)."""
    return [
        name
        for name, m in model.named_modules()
        if isinstance(m, nn.BatchNorm2d) and ("layer3" in name or "layer4" in name)
    ]


MEAN, STD = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


def images(frames: Tensor) -> Tensor:
    """Frames (N, 3, T, H, W) as the authors' network takes them: (N*T, 3, H, W), normalised."""
    return (frames.transpose(1, 2).flatten(0, 1) - MEAN.to(frames)) / STD.to(frames)

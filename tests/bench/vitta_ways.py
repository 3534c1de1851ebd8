"""Ways to take one clip through ViTTA on TANet ResNet-50, each in a process of its own: `python -m
tests.bench.vitta_ways WAY CLIP [keep]`.

Reads commands, one a line, and answers each with a line of JSON: CPU seconds (user + system, all threads) by phase.
`theirs` works as ViTTA's published code does, `ours` as `python -m adapt`, `bare` runs the convolutions and linear
layers alone.  `keep` keeps freed memory.
"""

import json
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import decord
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms import CenterCrop, Resize

from adapt import backbones
from adapt.command import keep_freed_memory
from adapt.contract import Batch
from adapt.core import moments
from adapt.core.learner import Learner
from adapt.losses import consistency
from adapt.methods.vitta import Vitta
from adapt.tables.cache import Clip
from adapt.video.clips import ClipFrames, VideoOptions, read_clip
from tests import built
from tests.published_tanet import PublishedTANet, PublishedVitta, layers, settle

K, T, SIZE, SHORT, VIEWS = 101, 16, 224, 256, 2
LR, DECAY = 5e-5, 5e-4
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PUBLISHED: dict[str, Any] = {"scope": "all", "lr": LR, "weight_decay": DECAY, "ema_start": "zero", "dropout": True}
Seconds = dict[str, Any]


def cpu_s() -> float:
    """Of this process so far."""
    times = os.times()
    return times.user + times.system


class Meter:
    """CPU seconds by phase."""

    def __init__(self) -> None:
        self.seconds: Seconds = {}
        self.started = cpu_s()

    def during(self, phase: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """`work`, its seconds added to `phase`."""

        def metered(*args: Any, **kwargs: Any) -> Any:
            before = cpu_s()
            try:
                return work(*args, **kwargs)
            finally:
                self.seconds[phase] = self.seconds.get(phase, 0.0) + cpu_s() - before

        return metered

    def done(self) -> Seconds:
        """All phases, and the whole since the meter was made."""
        return self.seconds | {"whole": cpu_s() - self.started}


def published_network() -> PublishedTANet:
    """The same random weights in every process."""
    torch.manual_seed(0)
    model = PublishedTANet(50, K, T)
    settle(model)
    return model


def same_frames() -> Tensor:
    """Frames (3, 3, T, H, W) in [0, 1], two views and a centre view: the same in every process."""
    return torch.rand(VIEWS + 1, 3, T, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


class Theirs:
    """Decode in view order, the file opened again to predict, PIL images, hooks on every output, all weights."""

    def __init__(self, path: Path) -> None:
        self.path = path
        model = published_network()
        source = moments.from_buffers(model, layers(model))
        self.vitta = PublishedVitta(model, source, LR, DECAY)

    def parity(self) -> Seconds:
        """Loss and log-probabilities of a clip that both ways are given."""
        frames = (same_frames() - torch.tensor(MEAN).view(3, 1, 1, 1)) / torch.tensor(STD).view(3, 1, 1, 1)
        images = frames.transpose(1, 2)
        loss = self.vitta.step(images[:VIEWS].flatten(0, 1), 0, dropout=False)
        return {"loss": loss, "log_p": self.vitta.predict(images[VIEWS]).log_softmax(1)[0].tolist()}

    def clip(self, n_steps: int = 1) -> Seconds:
        """A clip from file to prediction."""
        meter = Meter()
        images = meter.during("decode", self._decode)(views=True)
        views = meter.during("transform", self._transform)(self._crops(images))
        for _ in range(n_steps):
            meter.during("step", self.vitta.step)(views, 0, dropout=True)
        images = meter.during("decode", self._decode)(views=False)
        centre = meter.during("transform", self._transform)(
            [CenterCrop(SIZE)(Resize(SHORT)(image)) for image in images]
        )
        meter.during("predict", self.vitta.predict)(centre)
        return meter.done()

    def decode(self) -> Seconds:
        """Frames alone, in memory as the decoder gives them."""
        meter = Meter()
        self._decode(views=True)
        self._decode(views=False)
        return meter.done()

    def _decode(self, views: bool) -> list[Image.Image]:
        reader = decord.VideoReader(str(self.path))
        tick = len(reader) / T
        starts = np.linspace(0, tick - 1, VIEWS, dtype=int).tolist() if views else [tick / 2]
        places = np.array([int(start + tick * i) % len(reader) for start in starts for i in range(T)]) + 1
        frames = reader.get_batch(np.minimum(places, len(reader) - 1)).asnumpy()
        return [Image.fromarray(frame).convert("RGB") for frame in frames]

    def _crops(self, images: list[Image.Image]) -> list[Image.Image]:
        """A multi-scale crop per view."""
        out = []
        for v in range(VIEWS):
            width, height = images[0].size
            sizes = [int(min(width, height) * scale) for scale in (1, 0.875, 0.75, 0.66)]
            sizes = [SIZE if abs(size - SIZE) < 3 else size for size in sizes]
            w, h = random.choice([(a, b) for i, a in enumerate(sizes) for j, b in enumerate(sizes) if abs(i - j) <= 1])
            x, y = random.choice(range(0, 5)) * ((width - w) // 4), random.choice(range(0, 5)) * ((height - h) // 4)
            view = [image.crop((x, y, x + w, y + h)) for image in images[v * T : (v + 1) * T]]
            out += [image.resize((SIZE, SIZE), Image.Resampling.BILINEAR) for image in view]
        return out

    def _transform(self, images: list[Image.Image]) -> Tensor:
        """Stacked on the channels, to [0, 1], normalised channel by channel: (frames, 3, H, W)."""
        stacked = (
            torch.from_numpy(np.concatenate([np.asarray(image) for image in images], axis=2))
            .permute(2, 0, 1)
            .contiguous()
        )
        stacked = stacked.float().div(255)
        for i, channel in enumerate(stacked):
            channel.sub_(MEAN[i % 3]).div_(STD[i % 3])
        return stacked.view(-1, 3, SIZE, SIZE)


class Ours:
    """One pass over the file, the network of adapt.backbones, the method of adapt.methods."""

    def __init__(self, path: Path) -> None:
        self.asked = Clip("clip", path, "test", 0, "ok")
        self.options = VideoOptions(frames=T, views=VIEWS, resize=SHORT, size=SIZE)
        self.method, self.made = self._method("vitta", PUBLISHED), "vitta"

    def _method(self, name: str, settings: dict[str, Any]) -> Learner:
        model = backbones.build("tanet", K, T, variant="resnet50")
        model.load_state_dict(published_network().state_dict())
        method = built.alone(name, model, None, K, **settings)
        assert isinstance(method, Learner)
        return method

    def _use(self, name: str, method: str, settings: dict[str, Any]) -> None:
        """One method at a time in memory."""
        if self.made != name:
            del self.method
            self.method, self.made = self._method(method, settings), name

    def parity(self) -> Seconds:
        """As Theirs'."""
        frames = same_frames()[None]
        quiet = torch.full((1, K), 1 / K), torch.zeros(1, K), torch.zeros(1)
        self.method.model.get_submodule("base_model.fc").p = 0.0  # type: ignore[assignment]
        answer = self.method.adapt(Batch(frames[:, :VIEWS], frames[:, VIEWS:], *quiet, ("silent",), ("clip",)))
        self.method.model.get_submodule("base_model.fc").p = 0.5  # type: ignore[assignment]
        return {"loss": answer.trace[0].loss, "log_p": answer.after[0].tolist()}

    def clip(self) -> Seconds:
        """A clip from file to prediction, by the published recipe."""
        self._use("vitta", "vitta", PUBLISHED)
        return self._whole(silent=True)

    def audio(self, silent: str = "") -> Seconds:
        """The same by the method `audio` at its defaults; its steps on noise say little of those on clips."""
        self._use("audio", "audio", {})
        return self._whole(silent=bool(silent))

    def reused(self, n_steps: int = 5, scope: str = "last") -> Seconds:
        """ViTTA's losses for so many steps, the last blocks adapting, or their norms alone."""
        self._use(f"reused, {scope}", "vitta", {"scope": scope, "lr": LR, "weight_decay": DECAY})
        method = self.method
        assert isinstance(method, Vitta)
        meter = Meter()
        batch = self._batch(self._read(), silent=True)
        for _ in range(n_steps):
            views = method.look(batch)
            method.optimiser.step(method.alignment.loss(views.seen) + 0.1 * consistency(views.log_p))
        method.alignment.commit(views.seen)
        method.predict(batch)
        return meter.done()

    def decode(self) -> Seconds:
        """Frames alone, resized and cropped."""
        meter = Meter()
        self._read()
        return meter.done()

    def _read(self) -> ClipFrames:
        return read_clip(self.asked, self.options, "clean", 0)

    def _batch(self, frames: ClipFrames, silent: bool) -> Batch:
        s = torch.zeros(1, K)
        s[0, 7] = 0.0 if silent else 0.9
        q = torch.full((1, K), 1 / K) if silent else (s + 0.1 / K) / (s + 0.1 / K).sum()
        views, centre = (part.float().div(255)[None] for part in (frames.views, frames.centre))
        return Batch(views, centre, q, s, s.amax(1), ("silent" if silent else "ok",), ("clip",))

    def _whole(self, silent: bool) -> Seconds:
        method, meter = self.method, Meter()
        inner, network = method.optimiser.inner, method.network
        assert network is not None
        kept = network.views, network.centre, inner.step
        network.views = meter.during("forward", network.views)  # type: ignore[method-assign]
        network.centre = meter.during("predict", network.centre)  # type: ignore[method-assign]
        inner.step = meter.during("optimiser", inner.step)  # type: ignore[method-assign]
        backward = Tensor.backward
        Tensor.backward = meter.during("backward", backward)  # type: ignore[method-assign]
        try:
            answer = method.adapt(self._batch(meter.during("decode", self._read)(), silent))
        finally:
            Tensor.backward = backward  # type: ignore[method-assign]
            network.views, network.centre, inner.step = kept  # type: ignore[method-assign]
        return meter.done() | {"steps": answer.steps}


class Bare:
    """The convolutions and linear layers of one clip, on maps of their shapes, channels last: two views there and back,
    the centre view there.
    """

    def __init__(self, path: Path) -> None:
        del path
        self.calls: list[tuple[nn.Module, tuple[int, ...]]] = []
        self.adapting: set[nn.Module] = set()  # what the scope `last` adapts
        model = backbones.build("tanet", K, T, variant="resnet50").eval()
        for module in model.modules():
            if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear):
                module.register_forward_hook(lambda m, given, out: self.calls.append((m, tuple(given[0].shape))))
        for name in ("base_model.layer3", "base_model.layer4", "new_fc"):
            self.adapting |= set(model.get_submodule(name).modules())
        with torch.no_grad():
            model(torch.rand(VIEWS, 3, T, SIZE, SIZE))
        self.maps: dict[tuple[int, ...], Tensor] = {}

    def clip(self) -> Seconds:
        """All of them, one after the other."""
        meter = Meter()
        with torch.no_grad():
            for i, (module, shape) in enumerate(self.calls):
                self._there_and_back(module, shape, of_input=i > 0)
            for module, shape in self.calls:
                self._forward(module, self._map((shape[0] // VIEWS, *shape[1:])))
        return meter.done()

    def reused(self, n_steps: int = 5) -> Seconds:
        """Those of so many steps on the last blocks, the others once a view."""
        meter = Meter()
        with torch.no_grad():
            for module, shape in self.calls:
                self._forward(module, self._map((shape[0] // VIEWS, *shape[1:])))
                if module not in self.adapting:
                    self._forward(module, self._map(shape))
            last = [(module, shape) for module, shape in self.calls if module in self.adapting]
            for _ in range(n_steps):
                for i, (module, shape) in enumerate(last):
                    self._there_and_back(module, shape, of_input=i > 0)
        return meter.done()

    def _map(self, shape: tuple[int, ...]) -> Tensor:
        if shape not in self.maps:
            made = torch.randn(shape)
            self.maps[shape] = made.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else made
        return self.maps[shape]

    def _forward(self, module: Any, x: Tensor) -> Tensor:
        if isinstance(module, nn.Linear):
            return F.linear(x, module.weight)
        return module._conv_forward(x, module.weight, None)  # type: ignore[no-any-return]

    def _there_and_back(self, module: Any, shape: tuple[int, ...], of_input: bool) -> None:
        x = self._map(shape)
        gradient = self._map(tuple(self._forward(module, x).shape))
        if isinstance(module, nn.Linear):
            gradient.mT @ x, gradient @ module.weight
            return
        window = module.stride, module.padding, module.dilation, False, [0] * len(module.stride), module.groups
        torch.ops.aten.convolution_backward(gradient, x, module.weight, None, *window, [of_input, True, False])


def main() -> None:
    """Answer commands until stdin ends."""
    way, path = sys.argv[1], Path(sys.argv[2])
    if "keep" in sys.argv[3:]:
        keep_freed_memory()
    torch.set_num_threads(2)
    random.seed(0)
    made = {"theirs": Theirs, "ours": Ours, "bare": Bare}[way](path)
    for line in sys.stdin:
        command, *arguments = line.split()
        answer = getattr(made, command)(*(int(a) if a.isdigit() else a for a in arguments))
        peak_mb = next(
            int(row.split()[1]) / 1024
            for row in Path("/proc/self/status").read_text().splitlines()
            if row.startswith("VmHWM")
        )
        print(json.dumps(answer | {"peak_mb": peak_mb}), flush=True)


if __name__ == "__main__":
    main()

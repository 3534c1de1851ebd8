"""Any video network, adapted clip by clip from Python: no tables, no files, no decoder.

    model = adapt.wrap(my_video_model, method="audio", classes=names)
    logits = model(frames, sound={"dog barking": 0.9})

Frames go in as (B, C, T, H, W) float in [0, 1]: that tensor is what the clip is predicted from.  The views to adapt on are sub-samples of it,
as adapt/video/clips.py takes them of a file: with `view_frames` below T a view is one frame from each of `view_frames` equal segments, at
equidistant offsets for the views and in the middle for the prediction; without, view v holds every V-th frame from the v-th on, each shown V
times, so that a network built for T frames gets T.  Or bring your own views, (B, V, C, T, H, W): the middle one is predicted from.
"""
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from adapt import methods
from adapt.contract import Answer, Batch, Block, SourceStatistics, Step, blocks_of
from adapt.core import moments
from adapt.errors import MethodError
from adapt.fusion import Fused


@dataclass(frozen=True)
class Sound:
    """What B clips' sounds say, for callers that know more than evidence; `pseudo_labels` has these as probs, evidence and mass."""

    q: Tensor  # (K,) or (B, K), sums to 1
    s: Tensor  # (K,) or (B, K) in [0, 1]
    mass: Tensor  # () or (B,) in [0, 1]
    absent: Tensor | None = None  # (K,) or (B, K) in [0, 1]: which classes lack a sound that they cannot go without


Heard = Mapping[str, float] | Tensor | Sound | None


class _Network(nn.Module):
    """The user's network between `prepare` and `read`, checked: frames (N, C, T, H, W) -> logits (N, K)."""

    def __init__(self, model: nn.Module, n_classes: int, prepare: Callable[[Tensor], Any] | None, read: Callable[[Any], Tensor] | None) -> None:
        super().__init__()
        self.model, self.n_classes, self.prepare, self.read = model, n_classes, prepare, read
        self.layers: list[str] = []

    def forward(self, frames: Tensor) -> Tensor:
        """Frames (N, C, T, H, W) -> logits (N, K).  Raises MethodError for anything else that the network answers."""
        return self._read(self.model(frames if self.prepare is None else self.prepare(frames)), len(frames))

    def _read(self, answer: Any, n_clips: int | None) -> Tensor:
        """Logits (N, K) of what the network answers; `n_clips` is None where it is not known here."""
        logits = answer if self.read is None else self.read(answer)
        if not isinstance(logits, Tensor):
            raise MethodError(f"{self._get_name()} answers {type(logits).__name__}, no tensor: pass read=, such as lambda answer: answer.logits")
        n, k = len(logits) if n_clips is None else n_clips, self.n_classes
        if logits.shape != (n, k):
            raise MethodError(f"{self._get_name()} answers {tuple(logits.shape)} to {n} clips, ({n}, {k}) is wanted: classes= has {k} names")
        return logits

    def blocks(self) -> list[Block]:
        """The network's own, from `prepare` to `read`; [] where it has none."""
        found = [replace(block, modules=tuple(f"model.{name}" for name in block.modules)) for block in blocks_of(self.model)]
        if found and self.prepare is not None:
            first, prepare = found[0].run, self.prepare
            found[0] = replace(found[0], run=lambda frames: first(prepare(frames)))
        if found:
            last = found[-1].run
            found[-1] = replace(found[-1], run=lambda x: self._read(last(x), None))
        return found

    def _get_name(self) -> str:
        """What errors call this: the user's own class."""
        return self.model._get_name()

    def alignment_layers(self) -> list[str]:
        """The layers asked for, else the network's own choice, else all norm layers."""
        prefix = "model."
        if self.layers:
            return [prefix + name for name in self.layers]
        return [prefix + name for name in moments.norm_layers(self.model)]


def wrap(
    model: nn.Module,
    method: str = "audio",
    *,
    classes: Sequence[str],
    fusion: str = "trusted",
    statistics: SourceStatistics | None = None,
    layers: Sequence[str] = (),
    prepare: Callable[[Tensor], Any] | None = None,
    read: Callable[[Any], Tensor] | None = None,
    views: int = 2,
    view_frames: int | None = None,
    predict: str = "fused",
    **settings: Any,
) -> "Wrapped":
    """Adapt `model` by `method`; its weights change in place, it goes to eval mode, and weights that do not adapt stop needing gradients.

    `model` takes frames (N, C, T, H, W) in [0, 1] to logits (N, K), K = len(classes), and normalises them itself; else `prepare` turns
    such frames into what it takes, and `read` its answer into logits.  `statistics` are those of `source_statistics`; without them they are
    read from batch norm buffers.  `layers` names the norm layers to align, all by default.  `predict` is the
    answer given where a method has two: fused with the sound, or the adapted model alone.  `settings` are fields of
    adapt.methods.Settings, such as lr=1e-4.  Raises MethodError for an unknown method or setting, and where the method cannot work with the model.
    """
    if predict not in ("fused", "alone"):
        raise MethodError(f"predict {predict!r}: choose 'fused' or 'alone'")
    if views < 1 or (view_frames is not None and view_frames < 1):
        raise MethodError(f"views={views}, view_frames={view_frames}: both count from 1")
    if strangers := [name for name in layers if name not in dict(model.named_modules())]:
        raise MethodError(f"{model._get_name()} has no layer {strangers[0]!r}: choose among its named_modules()")
    network = _Network(model, len(classes), prepare, read)
    network.layers = list(layers)
    prefixed = None if statistics is None else SourceStatistics(*({f"model.{name}": pair for name, pair in part.items()} for part in statistics))
    built = methods.build(method, fusion, network, prefixed, len(classes), settings)
    return Wrapped(network, built, list(classes), views, view_frames, alone=predict == "alone")


class Wrapped:
    """A network that adapts on each clip it is asked about."""

    def __init__(
        self, network: nn.Module, method: Fused, classes: list[str], n_views: int, view_frames: int | None, alone: bool = False
    ) -> None:
        self.method, self.classes, self._alone = method, classes, alone
        self._network, self._n_views, self._view_frames = network, n_views, view_frames
        self._forget()

    def _forget(self) -> None:
        self.answer: Answer | None = None  # the last one: before, after (alone), fused, stop reason, gate
        self._n_clips = 0

    @property
    def trace(self) -> list[Step]:
        """The steps taken on the last batch."""
        return [] if self.answer is None else self.answer.trace

    def __call__(self, frames: Tensor, sound: Heard = None) -> Tensor:
        """Adapt on frames (B, C, T, H, W) or (B, V, C, T, H, W) in [0, 1], then predict them: logits (B, K), scaled to log-probabilities.

        Where the method has a fused answer, that is given unless `predict` is "alone"; `answer` has both.
        `sound` is None where nothing is heard; evidence in [0, 1] per class, as a mapping from names (for all clips) or a tensor (K,) or
        (B, K); or a Sound.  Raises MethodError for frames or a sound that are not so.
        """
        self._check(frames)
        with torch.inference_mode(False), torch.enable_grad():  # adapting needs gradients whatever the caller's context
            batch = self._batch(frames.clone() if frames.is_inference() else frames.detach(), sound)
            self.answer = self.method.adapt(batch)
            self._n_clips += len(frames)
            fused = None if self._alone else self.answer.fused
            return (self.answer.after if fused is None else fused).clone()

    def reset(self) -> None:
        """Give back the source weights bit for bit and forget everything."""
        self.method.reset()
        self._forget()

    def save(self) -> dict[str, Tensor]:
        """A copy of the adapted weights: a state dict of the network that was wrapped."""
        inner = self._network.get_submodule("model")
        return {name: value.detach().clone() for name, value in inner.state_dict().items()}

    def state(self) -> dict[str, Any]:
        """Everything that changes from clip to clip; `torch.save` keeps it, `load_state` goes on from it bit for bit."""
        return self.method.state()

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken.  Raises MethodError where it is of another method or network."""
        self.method.load_state(state)

    def _check(self, frames: Tensor) -> None:
        if frames.dim() not in (5, 6) or 0 in frames.shape:
            raise MethodError(f"frames are {tuple(frames.shape)}: pass (B, C, T, H, W), or (B, V, C, T, H, W) with views of your own")
        if not frames.is_floating_point():
            raise MethodError(f"frames are {frames.dtype}: pass float in [0, 1], such as frames / 255")
        device = next((p.device for p in self._network.parameters()), frames.device)
        if frames.device != device:
            raise MethodError(f"frames are on {frames.device}, the model is on {device}: move one of them")
        low, high = (bound.item() for bound in frames.detach().aminmax())
        if low != low or high != high:
            raise MethodError("frames hold NaN: check how they were decoded")
        if low < 0 or high > 1:
            raise MethodError(f"frames lie in [{low:.4g}, {high:.4g}]: pass values in [0, 1]; normalisation is the model's, or prepare='s")

    def _batch(self, frames: Tensor, sound: Heard) -> Batch:
        if frames.dim() == 6:
            middle = frames.shape[1] // 2
            seen, centre = frames, frames[:, middle : middle + 1]
        else:
            seen, centre = views_of(frames, self._n_views, self._view_frames)
        heard = self._sound(sound, frames)
        statuses = tuple("ok" if mass > 0 else "no_track" for mass in heard.mass.tolist())
        clip_ids = tuple(f"clip {self._n_clips + i}" for i in range(len(frames)))
        return Batch(seen, centre, heard.q, heard.s, heard.mass, statuses, clip_ids, heard.absent)

    def _sound(self, sound: Heard, frames: Tensor) -> Sound:
        """q and s (B, K), mass (B,), on the frames' device."""
        b, k = len(frames), len(self.classes)

        def rows(values: Tensor, name: str) -> Tensor:
            if values.shape not in ((k,), (b, k)):
                raise MethodError(f"{name} is {tuple(values.shape)}: pass ({k},) or ({b}, {k}), one value a class")
            if not bool(((values >= 0) & (values <= 1)).all()):
                raise MethodError(f"{name} lies in [{values.min().item():.4g}, {values.max().item():.4g}]: pass values in [0, 1]")
            return values.to(frames).expand(b, k)

        if isinstance(sound, Sound):
            q, s, mass = rows(sound.q, "sound.q"), rows(sound.s, "sound.s"), sound.mass
            if mass.shape not in ((), (b,)) or not bool(((mass >= 0) & (mass <= 1)).all()) or not torch.allclose(q.sum(1), q.new_ones(b), atol=1e-3):
                raise MethodError(f"sound.mass is {mass.tolist()}, sound.q sums to {q.sum(1).tolist()}: pass a mass in [0, 1] and q that sums to 1")
            return Sound(q, s, mass.to(frames).expand(b), None if sound.absent is None else rows(sound.absent, "sound.absent"))
        if sound is None:
            sound = torch.zeros(k)
        elif isinstance(sound, Mapping):
            if unknown := sorted(sound.keys() - set(self.classes)):
                raise MethodError(f"sound names {unknown[0]!r}, which is no class: choose among {self.classes}")
            sound = torch.tensor([float(sound.get(name, 0.0)) for name in self.classes])
        return from_evidence(rows(sound, "sound"))


def from_evidence(s: Tensor) -> Sound:
    """Evidence (B, K) in [0, 1] -> q = s / sum, uniform where nothing is heard, and the mass.

    The mass that `pseudo_label` works out lies between max_c s_c and 1 - prod_c (1 - s_c); without the sounds themselves we take the former.
    """
    total = s.sum(1, keepdim=True)
    q = torch.where(total > 0, s / total.clamp_min(torch.finfo(s.dtype).tiny), torch.full_like(s, 1 / s.shape[1]))
    return Sound(q, s, s.amax(1))


def _segment_places(n_frames: int, frames: int, offset: float, device: torch.device) -> Tensor:
    """adapt.video.clips.view_indices, which needs a decoder to import: one frame from each of `frames` segments of `n_frames`."""
    places = (torch.arange(frames, device=device, dtype=torch.float64) + offset) * n_frames / frames
    return places.long().clamp_max(n_frames - 1)


def views_of(frames: Tensor, n_views: int, view_frames: int | None) -> tuple[Tensor, Tensor]:
    """Frames (B, C, T, H, W) -> views (B, V, C, T', H, W) and the view to predict from (B, 1, C, T', H, W); see the module.

    T' is `view_frames`, or T without.  Raises MethodError for fewer frames than a view takes.
    """
    t, device = frames.shape[2], frames.device
    if view_frames is None:
        held = torch.arange(t, device=device) // n_views * n_views
        places = [(held + v).clamp_max(t - 1) for v in range(n_views)]
        centre = torch.arange(t, device=device)
    elif view_frames > t:
        raise MethodError(f"the clip has {t} frames, a view takes {view_frames}: pass more frames or set view_frames to {t}")
    else:
        places = [_segment_places(t, view_frames, (v + 0.5) / n_views, device) for v in range(n_views)]
        centre = _segment_places(t, view_frames, 0.5, device)
    return torch.stack([frames[:, :, place] for place in places], 1), frames[:, None, :, centre]


def source_statistics(
    model: nn.Module, clips: Iterable[Tensor], layers: Sequence[str] = (), prepare: Callable[[Tensor], Any] | None = None
) -> SourceStatistics:
    """What alignment pulls towards: per norm layer, mean and variance of the output over clean source clips (1, C, T, H, W) in [0, 1].

    Needed for networks without batch norm, better than its buffers for those with.  Raises MethodError without clips or norm layers.
    """
    network = _Source(model.eval(), prepare)
    names = list(layers) or moments.norm_layers(model)
    found = moments.collect(network, [f"model.{name}" for name in names], clips)
    return SourceStatistics({name.removeprefix("model."): pair for name, pair in found.items()})


class _Source(nn.Module):
    """The user's network behind `prepare`."""

    def __init__(self, model: nn.Module, prepare: Callable[[Tensor], Any] | None) -> None:
        super().__init__()
        self.model, self.prepare = model, prepare

    def forward(self, frames: Tensor) -> object:
        """Frames (N, C, T, H, W) in [0, 1] -> whatever the network answers."""
        return self.model(frames if self.prepare is None else self.prepare(frames))

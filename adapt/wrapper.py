"""Any video network, adapted clip by clip from Python: no tables, no files, no decoder.

    model = adapt.wrap(my_video_model, method="audio", classes=names)
    logits = model(frames, sound={"dog barking": 0.9})

Frames go in as (B, C, T, H, W) float in [0, 1]: that tensor is what the clip is predicted from.  The views to adapt on
are sub-samples of it, as adapt/video/views.py takes them of a file: with `view_frames` below T a view is one frame from
each of `view_frames` equal segments, at equidistant offsets for the views and in the middle for the prediction;
without, view v holds every V-th frame from the v-th on, each shown V times, so that a network built for T frames gets
T.  Or bring your own views, (B, V, C, T, H, W): the middle one is predicted from.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from adapt import methods, presets, service
from adapt.contract import Answer, Batch, SourceStatistics, Step
from adapt.core.class_map import ClassMapped, Leads, between
from adapt.core.moments import source_statistics as source_statistics
from adapt.core.network import check_is_bare, check_logits, inside
from adapt.errors import MethodError
from adapt.fusion import Fused
from adapt.networks import hugging_face as hugging_face
from adapt.networks import timm_images as timm_images
from adapt.networks import torchvision_video as torchvision_video
from adapt.video.views import indices_of_views


@dataclass(frozen=True)
class Sound:
    """What B clips' sounds say, for callers that know more than evidence; `pseudo_labels` has these as probs, evidence
    and mass.
    """

    q: Tensor  # (K,) or (B, K), sums to 1
    s: Tensor  # (K,) or (B, K) in [0, 1]
    mass: Tensor  # () or (B,) in [0, 1]
    absent: Tensor | None = None  # (K,) or (B, K) in [0, 1]: which classes lack a sound that they cannot go without


Heard = Mapping[str, float] | Tensor | Sound | None


def wrap(
    model: nn.Module,
    method: str = "",
    *,
    classes: Sequence[str],
    model_classes: Sequence[str] = (),
    class_map: Leads | None = None,
    fusion: str = "trusted",
    statistics: SourceStatistics | None = None,
    layers: Sequence[str] = (),
    prepare: Callable[[Tensor], Any] | None = None,
    read: Callable[[Any], Tensor] | None = None,
    views: int | None = None,
    view_frames: int | None = None,
    predict: str = "fused",
    preset: str = "",
    **settings: Any,
) -> "Wrapped":
    """Adapt `model` by `method`, "audio" where none is named, in place: it goes to eval mode, and weights that do not
    adapt stop needing gradients.

    `model` takes frames (N, C, T, H, W) in [0, 1] to logits (N, K), K = len(classes), and normalises them itself; else
    `prepare` turns such frames into what it takes, and `read` its answer into logits (adapt/networks.py has both for
    networks of transformers, torchvision and timm).  A class may be masked by a logit of -inf.  Where the model's head
    has other classes, `model_classes` are their names, and `class_map` says which of `classes` each of them leads to,
    by name or as {name: weight in (0, 1]}; those that it leaves out answer nothing (adapt/core/class_map.py).
    `statistics` are those of `source_statistics`; without them they are read from batch norm buffers.  `layers` names
    the norm layers to align, all by default.  `predict` is the answer given where a method has two: fused with the
    sound, or the adapted model alone.  `settings` are those of the method and of the fusion, such as lr=1e-4.  `preset`
    is a baseline as published (adapt/presets.py): its method, and defaults of the settings, of `views` (else 2) and,
    with `view_frames`, of which frames these take; crops are the caller's.

    Raises MethodError for an unknown method, fusion, setting or preset, for a network in the wrapper of torch.compile,
    DataParallel or DistributedDataParallel, for a class map that does not fit the two lists, and where the method
    cannot work with the model.
    """
    chosen = presets.get(preset) if preset else None
    if chosen is not None and method not in ("", chosen.method):
        raise MethodError(f"preset {preset} is of {chosen.method}, and method names {method}: give one of them")
    method = method or (chosen.method if chosen is not None else "audio")
    video = dict(chosen.video) if chosen is not None else {}
    views = int(video.get("views", 2)) if views is None else views
    if predict not in ("fused", "alone"):
        raise MethodError(f"predict {predict!r}: choose 'fused' or 'alone'")
    if views < 1 or (view_frames is not None and view_frames < 1):
        raise MethodError(f"views={views}, view_frames={view_frames}: both count from 1")
    if strangers := [name for name in layers if name not in dict(model.named_modules())]:
        raise MethodError(f"{model._get_name()} has no layer {strangers[0]!r}: choose among its named_modules()")
    check_is_bare(model)
    network = between(model, classes, model_classes, class_map, prepare, read, layers)
    statistics = inside(network, model, statistics)
    given = settings if chosen is None else {**chosen.settings, **settings}
    built = methods.build(method, fusion, network, statistics, len(classes), given)
    return Wrapped(
        model, built, list(classes), views, view_frames, alone=predict == "alone", network=network,
        sampling=video.get("sampling", "even"),
    )  # fmt: skip


class Wrapped(nn.Module):
    """A network that adapts on each clip it is asked about.

    To the rest of torch it is the network: state dict, parameters and buffers are the network's, under its names.
    Moving it to another device or type moves the method's memory along.  `train` and `eval` neither stop nor start
    adapting, nor change how: the network stays in eval mode, dropout as the method's setting says.
    """

    def __init__(
        self, model: nn.Module, method: Fused, classes: list[str], n_views: int, view_frames: int | None,
        alone: bool = False, network: nn.Module | None = None, sampling: str = "even",
    ) -> None:  # fmt: skip
        """`network` is the model as the method has it; one of ours checks its own answers, else they are looked at
        once, on the first clip.
        """
        super().__init__()
        self.model = model
        self.method, self.classes, self._alone = method, classes, alone
        self._checked = network is not None and network is not model
        self._mapped = (network,) if isinstance(network, ClassMapped) else ()  # a tuple: no module of this one
        self._n_views, self._view_frames, self.training = n_views, view_frames, False
        self._sampling = sampling
        self._network = (model if network is None else network,)  # in a tuple: it is no second submodule
        self.register_load_state_dict_pre_hook(_under_model)  # type: ignore[no-untyped-call]
        self._forget()

    def _forget(self) -> None:
        self.answer: Answer | None = None  # the last one: before, after (alone), fused, stop reason, gate
        self._n_clips = 0

    @property
    def trace(self) -> list[Step]:
        """The steps taken on the last batch."""
        return [] if self.answer is None else self.answer.trace

    @property
    def n_not_finite(self) -> int:
        """Batches so far that gave no step since something was not finite; their stop reason is `not_finite`."""
        return int(getattr(self.method.method, "n_not_finite", 0))

    def forward(self, frames: Tensor, sound: Heard = None) -> Tensor:
        """Adapt on frames (B, C, T, H, W) or (B, V, C, T, H, W) in [0, 1], then predict them: log-probabilities (B, K).

        Where the method has a fused answer, that is given unless `predict` is "alone"; `answer` has both.
        `sound` is None where nothing is heard; evidence in [0, 1] per class, as a mapping from names (for all clips) or
        a tensor (K,) or (B, K); or a Sound.  Raises MethodError for frames or a sound that are not so.
        """
        self._check(frames)
        if self.model.training:  # its owner may have changed that behind our back
            self.model.eval()
        with torch.inference_mode(False), torch.enable_grad():  # adapting needs gradients whatever the caller's context
            batch = self._batch(frames.clone() if frames.is_inference() else frames.detach(), sound)
            if not self._checked:
                self._check_answer(batch)
            self.answer = self._adapt(batch)
            self._n_clips += len(frames)
            fused = None if self._alone else self.answer.fused
            return (self.answer.after if fused is None else fused).clone()

    def _adapt(self, batch: Batch) -> Answer:
        for network in self._mapped:
            network.begin()
        answer = self.method.adapt(batch)
        for network in self._mapped:
            answer = replace(answer, left_out=network.left_out())
        return answer

    def reset(self) -> None:
        """Give back the source weights bit for bit and forget everything."""
        self.method.reset()
        self._forget()

    def save(self) -> dict[str, Tensor]:
        """A copy of the adapted weights: a state dict of the network that was wrapped."""
        return {name: value.detach().clone() for name, value in self.state_dict().items()}

    def export(
        self, path: str | Path, example: Tensor, format: str = "", tolerance: float = service.TOLERANCE
    ) -> service.Exported:
        """Write the network as it is adapted now, with its normalisation, `prepare` and `read`, to a file that torch
        (.pt2) or onnxruntime (.onnx) alone runs: frames in [0, 1] to logits, no adapting, no sound.

        `example` is frames as a call takes them: what the file takes is the view that they are predicted from.  The
        file's answers to it are compared with the network's; see `adapt.service.export`, also for what is raised.
        """
        self._check(example)
        frames = self._batch(example.detach(), None).centre[:, 0]
        return service.export(self._network[0], frames, Path(path), self.classes, format, tolerance)

    def state(self) -> dict[str, Any]:
        """Everything that changes from clip to clip; `torch.save` keeps it, `load_state` goes on from it bit for
        bit.
        """
        return self.method.state()

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken.  Raises MethodError where it is of another method or network."""
        self.method.load_state(state)

    def train(self, mode: bool = True) -> Self:
        """Set `training`, and nothing else."""
        self.training = mode
        return self

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The wrapped network's own, adapted as it is now; see nn.Module."""
        return self.model.state_dict(*args, **kwargs)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Set the wrapped network's weights; see nn.Module.  What `reset` gives back stays, as the method's memory
        does.

        Raises MethodError for `assign`, which would put other parameters in the place of those that adapt.
        """
        if assign:
            raise MethodError("load_state_dict(assign=True) would replace the parameters that adapt: leave assign out")
        return self.model.load_state_dict(state_dict, strict)

    def named_parameters(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Parameter]]:
        """The wrapped network's own; see nn.Module."""
        return self.model.named_parameters(*args, **kwargs)

    def named_buffers(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, Tensor]]:
        """The wrapped network's own; see nn.Module."""
        return self.model.named_buffers(*args, **kwargs)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """What `to`, `cuda`, `double` and the like call: the method's memory moves with the network.

        Raises MethodError where torch replaced a parameter instead of moving it, as on the way to the meta device.
        """
        before = list(self.model.parameters())
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if any(old is not new for old, new in zip(before, self.model.parameters(), strict=True)):
            raise MethodError("the move replaced the parameters that adapt: move the network first, then wrap it")
        self.method.move(fn)
        return self

    def _check_answer(self, batch: Batch) -> None:
        """Raise MethodError where the network's answer to the first clip is not logits of the classes."""
        with torch.inference_mode():
            check_logits(self.model(batch.centre[:, 0]), len(batch.centre), len(self.classes), self.model._get_name())
        self._checked = True

    def _check(self, frames: Tensor) -> None:
        if frames.dim() not in (5, 6) or 0 in frames.shape:
            raise MethodError(
                f"frames are {tuple(frames.shape)}: pass (B, C, T, H, W), or (B, V, C, T, H, W) with views of your own"
            )
        if not frames.is_floating_point():
            raise MethodError(f"frames are {frames.dtype}: pass float in [0, 1], such as frames / 255")
        device = next((p.device for p in self.model.parameters()), frames.device)
        if frames.device != device:
            raise MethodError(f"frames are on {frames.device}, the model is on {device}: move one of them")
        low, high = (bound.item() for bound in frames.detach().aminmax())
        if low != low or high != high:
            raise MethodError("frames hold NaN: check how they were decoded")
        if low < 0 or high > 1:
            raise MethodError(
                f"frames lie in [{low:.4g}, {high:.4g}]: pass values in [0, 1]; the model or prepare= normalises"
            )

    def _batch(self, frames: Tensor, sound: Heard) -> Batch:
        if frames.dim() == 6:
            middle = frames.shape[1] // 2
            seen, centre = frames, frames[:, middle : middle + 1]
        else:
            seen, centre = views_of(frames, self._n_views, self._view_frames, self._sampling)
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
                raise MethodError(
                    f"{name} lies in [{values.min().item():.4g}, {values.max().item():.4g}]: pass values in [0, 1]"
                )
            return values.to(frames).expand(b, k)

        if isinstance(sound, Sound):
            q, s, mass = rows(sound.q, "sound.q"), rows(sound.s, "sound.s"), sound.mass
            if (
                mass.shape not in ((), (b,))
                or not bool(((mass >= 0) & (mass <= 1)).all())
                or not torch.allclose(q.sum(1), q.new_ones(b), atol=1e-3)
            ):
                raise MethodError(
                    f"sound.mass is {mass.tolist()}, sound.q sums to {q.sum(1).tolist()}: "
                    "pass a mass in [0, 1] and q that sums to 1"
                )
            return Sound(
                q, s, mass.to(frames).expand(b), None if sound.absent is None else rows(sound.absent, "sound.absent")
            )
        if sound is None:
            sound = torch.zeros(k)
        elif isinstance(sound, Mapping):
            if unknown := sorted(sound.keys() - set(self.classes)):
                raise MethodError(f"sound names {unknown[0]!r}, which is no class: choose among {self.classes}")
            sound = torch.tensor([float(sound.get(name, 0.0)) for name in self.classes])
        return from_evidence(rows(sound, "sound"))


def _under_model(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Load hook of a Wrapped inside another module, whose state dict has the wrapped network's own names."""
    for name in [name for name in state if name.startswith(prefix)]:
        state[f"{prefix}model.{name.removeprefix(prefix)}"] = state.pop(name)


def from_evidence(s: Tensor) -> Sound:
    """Evidence (B, K) in [0, 1] -> q = s / sum, uniform where nothing is heard, and the mass.

    The mass that `pseudo_label` works out lies between max_c s_c and 1 - prod_c (1 - s_c); without the sounds
    themselves we take the former.
    """
    total = s.sum(1, keepdim=True)
    q = torch.where(total > 0, s / total.clamp_min(torch.finfo(s.dtype).tiny), torch.full_like(s, 1 / s.shape[1]))
    return Sound(q, s, s.amax(1))


def views_of(frames: Tensor, n_views: int, view_frames: int | None, sampling: str = "even") -> tuple[Tensor, Tensor]:
    """Frames (B, C, T, H, W) -> views (B, V, C, T', H, W) and the view to predict from (B, 1, C, T', H, W).

    T' is `view_frames`, whose places `sampling` says (adapt/video/views.py), or T without.  Raises MethodError for
    fewer frames than a view takes.
    """
    t, device = frames.shape[2], frames.device
    if view_frames is None:
        held = torch.arange(t, device=device) // n_views * n_views
        places = [(held + v).clamp_max(t - 1) for v in range(n_views)]
        centre = torch.arange(t, device=device)
    elif view_frames > t:
        raise MethodError(
            f"the clip has {t} frames, a view takes {view_frames}: pass more frames or set view_frames to {t}"
        )
    else:
        *places, centre = torch.from_numpy(indices_of_views(t, view_frames, n_views, sampling)).to(device)
    return torch.stack([frames[:, :, place] for place in places], 1), frames[:, None, :, centre]

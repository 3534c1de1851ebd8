"""Ways to adapt at test time.  The folder is the registry: `adapt/methods/tent.py` would be the method named `tent`.

A method's module has `build(model, statistics, n_classes, settings) -> Method`.  A method knows the model it was given and a `Batch`; it never sees a
label, a path or a data set's name.
"""
import importlib
import pkgutil
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor, nn

from adapt.checkpoints import Statistics
from adapt.errors import MethodError


@dataclass(frozen=True)
class Batch:
    """All that a method may know of B clips."""

    frames: Tensor  # (B, V, C, T, H, W) float in [0, 1]: the views to adapt on
    centre: Tensor  # (B, 1, C, T, H, W) float in [0, 1]: the view to predict from
    q: Tensor  # (B, K) audio pseudo-label, sums to 1; uniform where nothing is heard
    s: Tensor  # (B, K) audio evidence in [0, 1]
    mass: Tensor  # (B,) m in [0, 1]: how much sound supports any class; 0 where nothing is heard
    status: tuple[str, ...]  # of each sound track: ok, no_track, silent, truncated, failed
    clip_ids: tuple[str, ...]


@dataclass(frozen=True)
class Step:
    """What one step did: a row of `traces`."""

    loss: float
    views_agree: bool
    ms: float
    alignment: float | None = None
    consistency: float | None = None
    audio: float | None = None  # the audio term, gate included


@dataclass(frozen=True)
class Answer:
    """What a method says about a batch."""

    before: Tensor  # (B, K) log-probabilities before the first step on this batch
    after: Tensor  # (B, K) log-probabilities of the centre view: the method's answer
    fused: Tensor | None = None  # (B, K) scores of `after` fused with the sound; None for methods without sound
    steps: int = 0
    stop_reason: str = "none"
    gate: float | None = None  # mean weight of the audio term; None for methods without
    trace: list[Step] = field(default_factory=list)


@dataclass(frozen=True)
class Settings:
    """Every method's settings; each method takes what it needs.  Sources: adapt/METHOD.md; "ours" is chosen on validation data."""

    scope: str = "norm"  # which weights adapt: norm (scale and shift of norm layers) or all
    lr: float = 1e-3  # SGD's learning rate
    momentum: float = 0.9  # of vitta's SGD
    weight_decay: float = 0.0
    dropout: bool = False  # left on while adapting (ViTTA: yes)
    ema: float = 0.1  # weight of the newest clip in the online statistics (ViTTA: 0.1 for TANet)
    ema_start: str = "source"  # "zero" is ViTTA's, without bias correction
    consistency: float = 0.1  # weight of the views' consistency (ViTTA)
    bn_prior: float = 0.3  # norm: weight of the clip's own statistics over the source's
    fusion_floor: float = 0.05  # e in p (e + s): how much a class without evidence keeps (ours)
    fusion_balance: float = 0.0  # exponent of the running class prior that audio's fused answer is divided by (ours)
    target: str = "soft"  # audio's target: soft, hard or candidate
    target_sound: float = 0.7  # w: the sound's share in the soft target's logarithm (ours)
    target_balance: float = 0.5  # exponent of the running target prior that the target is divided by (ours)
    candidate_threshold: float = 0.2  # evidence from which a class is a candidate
    audio_weight: float = 1.0  # of the audio term
    audio_lr: float = 0.05  # SGD's learning rate in a clip's own steps: it is learned hard, then let go (see commit)
    stream_audio: float = 0.0  # share of the audio term in the step that stays for the next clips (ours)
    commit: float = 0.0  # share of a clip's own further steps that stays for the next clips (ours)
    max_iterations: int = 5
    confident: float = 0.8  # confidence from which a clip may stop as agreed
    tolerance: float = 0.001  # relative change of the loss that counts as converged
    slack: float = 0.2  # relative rise of the loss that counts as diverged
    trust_prior: float = 2.0  # Beta(a, a) prior of the per-class trust


class Method(Protocol):
    """A model that adapts."""

    def adapt(self, batch: Batch) -> Answer:
        """Adapt on `batch`, then predict it."""

    def reset(self) -> None:
        """Give back every parameter, buffer and running estimate bit for bit."""


def names() -> list[str]:
    """The methods in this folder."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def build(name: str, model: nn.Module, statistics: Statistics | None, n_classes: int, settings: Settings) -> Method:
    """Build the method called `name` around `model`, which it changes in place.

    `statistics` are the source's per-layer moments; None takes them from the batch norm buffers (source-free).
    Raises MethodError for an unknown name.
    """
    if name not in names():
        raise MethodError(f"unknown method {name!r}: choose one of {names()}")
    method: Method = importlib.import_module(f"{__name__}.{name}").build(model, statistics, n_classes, settings)
    return method

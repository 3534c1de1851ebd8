"""Ways to adapt at test time.  The folder is the registry: `adapt/methods/tent.py` would be the method named `tent`.

A method's module has `build(model, statistics, n_classes, settings) -> Method`.  A method knows the model it was given and a `Batch`; it never sees a
label, a path or a data set's name.  The one exception is an upper bound: a module that declares NEEDS_LABELS takes an `Oracle` as a fifth argument.
"""
import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn

from adapt.contract import Moments
from adapt.core.oracle import Oracle
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
    absent: Tensor | None = None  # (B, K) in [0, 1]: which classes lack a sound that they cannot go without; None: nothing is known


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

    # all that take gradients
    scope: str = "norm"  # which weights adapt: norm (scale and shift of norm layers), all, last (those of the last stages), last_norm
    momentum: float = 0.9  # of SGD on the stream (ViTTA, Tent, EATA, SAR)
    weight_decay: float = 0.0
    dropout: bool = False  # left on while adapting (ViTTA: yes)
    budget_ms: float = 0.0  # milliseconds that a clip may take without decoding; steps that would not fit are left out; 0: no budget
    # vitta, vitta_fusion, audio
    lr: float = 1e-3  # SGD's learning rate
    ema: float = 0.1  # weight of the newest clip in the online statistics (ViTTA: 0.1 for TANet)
    ema_start: str = "source"  # "zero" is ViTTA's, without bias correction
    consistency: float = 0.1  # weight of the views' consistency (ViTTA)
    # late_fusion, late_fusion_prior, vitta_fusion, audio
    fusion_floor: float = 0.01  # e: how much of its probability a class without evidence keeps (ours)
    prior_balance: float = 0.5  # exponent of the running class prior that late_fusion_prior's answer is divided by (ours)
    # audio, oracle_gate: what is believed
    trust: float = 0.8  # prior probability that the stream's sounds belong to its pictures; 1 trusts them always (ours)
    trust_class: float = 0.9  # the same of one class's sounds, if the stream's do (ours)
    trust_share: float = 0.2  # the smallest share of clips in which picture and sound agree, if they belong together (ours)
    trust_doubt: float = 0.3  # how much uniform is mixed into the picture before it is compared with the sound (ours)
    information: float = 0.2  # mutual information of clip and answer, as a share of log K, from which the picture counts fully; 0: always (ours)
    information_start: float = 5.0  # clips that a full count from the start is worth (ours)
    recall: float = 1.0  # how much of the weight that its information gives the source model's answer beside the adapted one's; 0: none (ours)
    balance: float = 0.75  # exponent of the running class prior that the fused answer and the targets are divided by (ours)
    fusion_views: float = 0.67  # share in the fused answer's picture of the views, as first seen, beside the centre view (ours)
    negative: float = 0.0  # how much the absence of a sound that a class cannot go without speaks against it, 0 to 1 (ours)
    # audio, oracle_gate: what is learned
    target: str = "fused"  # of the audio term: fused, soft, hard or candidate (ours)
    target_sound: float = 0.7  # w: the sound's share in the soft target's logarithm (ours)
    candidate_threshold: float = 0.2  # evidence from which a class is a candidate
    gate: tuple[str, ...] = ("trust",)  # the factors of the audio term's gate: mass, sharpness, agreement, trust
    audio_weight: float = 1.0  # of the audio term; 0 leaves ViTTA
    stream_audio: float = 0.3  # share of the audio term in the step that stays for the next clips (ours)
    # audio, oracle_gate: a clip's own steps
    cycle: str = "flexible"  # stop by the rules of METHOD.md section 5, or fixed: max_iterations steps on every heard clip
    cycle_stages: str = "last"  # whose weights, of those in scope, take a clip's own steps: last (stages), or all
    audio_lr: float = 0.2  # SGD's learning rate in a clip's own steps: it is learned hard, then let go (see commit)
    commit: float = 0.0  # share of a clip's own further steps that stays for the next clips (ours)
    max_iterations: int = 5
    confident: float = 0.8  # share of the target's confidence from which a clip may stop as agreed; of 1, from which a guard calls the source sure
    tolerance: float = 0.001  # relative change of the loss that counts as converged
    slack: float = 0.2  # relative rise of the loss that counts as diverged
    # norm, tent, shot, eata, sar
    bn_prior: float = 0.3  # weight of the clip's own batch norm statistics over the source's; 1 in Tent, EATA and SAR, which have large batches
    bn_samples: float = 0.0  # N, in clips: above 0 that weight is n / (N + n) for n clips a batch (Schneider et al. 2020)
    # tent, shot, eata, sar
    entropy_lr: float = 2.5e-4  # SGD's learning rate (Tent and EATA on ImageNet, batches of 64)
    # eata, sar
    entropy_margin: float = 0.4  # E_0, as a share of log K: clips of higher entropy are unreliable (both papers)
    # eata
    eata_similarity: float = 0.4  # epsilon, a cosine: clips more similar than this to those before are redundant (CIFAR-10; ImageNet: 0.05)
    eata_fisher: float = 2000.0  # beta, weight of the Fisher regulariser where the statistics hold it (ImageNet; CIFAR-10: 1)
    # sar
    sar_radius: float = 0.05  # rho, how far the sharpness-aware step looks, in weight space (SAR)
    sar_reset: float = 0.029  # e_0, as a share of log K: a running loss below it is a collapse (SAR: 0.2 with K = 1000)
    sar_frozen: float = 0.25  # share of the norm layers, nearest to the output, that keep still (SAR: 3 of 12 blocks of a ViT, layer4 of a ResNet)
    # shot
    shot_labels: float = 0.3  # beta, weight of the pseudo-label term (SHOT); 0 is SHOT-IM, which needs no linear head
    # t3a
    t3a_supports: int = 20  # M, the supports of lowest entropy kept per class (of T3A's grid 1, 5, 20, 50, 100)
    # guards of every method that takes gradients
    ensemble: float = 1.0  # alpha in w <- alpha w + (1 - alpha) w_source after each clip (ROID: 0.99); 1 is off
    collapse_entropy: float = 0.0  # share of log K below which the running class marginal is suspiciously narrow (ours); 0 turns this guard off
    collapse_agreement: float = 0.5  # agreement with a sure source below which a narrow marginal is a collapse (ours); above 1 narrowness suffices
    collapse_memory: float = 0.95  # weight of the past in both running values, per clip (ours)
    collapse_every: int = 20  # clips between snapshots of good weights (ours)


class Method(Protocol):
    """A model that adapts."""

    def adapt(self, batch: Batch) -> Answer:
        """Adapt on `batch`, then predict it."""

    def reset(self) -> None:
        """Give back every parameter, buffer and running estimate bit for bit."""

    def state(self) -> dict[str, Any]:
        """A copy of everything that changes from clip to clip; `torch.load(weights_only=True)` reads it back."""

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on, bit for bit, where `state` was taken.  Raises MethodError for another method's or model's."""


def names() -> list[str]:
    """The methods in this folder."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def _module(name: str) -> Any:
    if name not in names():
        raise MethodError(f"unknown method {name!r}: choose one of {names()}")
    return importlib.import_module(f"{__name__}.{name}")


def needs_labels(name: str) -> bool:
    """Whether the method called `name` is an upper bound that sees labels.  Raises MethodError for an unknown name."""
    return bool(getattr(_module(name), "NEEDS_LABELS", False))


def build(
    name: str, model: nn.Module, statistics: Moments | None, n_classes: int, settings: Settings, oracle: Oracle | None = None
) -> Method:
    """Build the method called `name` around `model`, which it changes in place.

    `statistics` are the source's per-layer moments; None takes them from the batch norm buffers (source-free).  `oracle` reaches only a
    method that declares NEEDS_LABELS.  Raises MethodError for an unknown name, or such a method without an oracle.
    """
    module = _module(name)
    if not needs_labels(name):
        method: Method = module.build(model, statistics, n_classes, settings)
        return method
    if oracle is None:
        raise MethodError(f"{name} is an upper bound that sees labels: it runs where they are, in `python -m adapt`")
    bound: Method = module.build(model, statistics, n_classes, settings, oracle)
    return bound

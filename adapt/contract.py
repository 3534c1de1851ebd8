"""What the rooms of the adapter say to each other: a batch of clips, an answer, a method, a fusion, a network's blocks.

Nothing here computes.  A `Batch` has no field for a label, a path or a data set's name: what a method may know is what
stands here.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

from torch import Tensor, nn

Moments = dict[str, tuple[Tensor, Tensor]]  # layer name -> mean (C,) and biased variance (C,) of its output


class SourceStatistics(NamedTuple):
    """What is known of the source model's training data: for alignment, and for EATA's regulariser."""

    moments: Moments
    fisher: Moments = {}  # parameter name -> (omega, source value) of EATA's equation 8; {} where they were not taken


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
    absent: Tensor | None = None
    """(B, K) in [0, 1]: which classes lack a sound that they cannot go without; None: nothing is known"""


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
    """What a method says about a batch, and what a fusion makes of that."""

    before: Tensor  # (B, K) log-probabilities before the first step on this batch
    after: Tensor  # (B, K) log-probabilities of the centre view: what the method answers alone
    fused: Tensor | None = None  # (B, K) scores of picture and sound together; None without a fusion
    steps: int = 0
    stop_reason: str = "none"
    gate: float | None = None  # mean weight of the audio term; None for methods without
    trace: list[Step] = field(default_factory=list)
    unheard: Tensor | None = None
    """(B, K) log-probabilities to fuse in place of `after`, where the sound has shaped that; None: `after`"""
    source: Tensor | None = None
    """(B, K) log-probabilities of the source model, where the method has asked it; None: it has not"""
    pooled: bool = False
    """whether the source model's answer is part of `before` and `after` already: a fusion mixes in no other"""
    left_out: float | None = None
    """mean probability of head classes that lead to none of the K, where a class map lies in between; else None"""


class Method(Protocol):
    """A model that adapts."""

    def adapt(self, batch: Batch) -> Answer:
        """Adapt on `batch`, then predict it by the picture."""

    def source_answer(self, batch: Batch) -> Tensor:
        """Log-probabilities (B, K) of the centre view by the model as it was; nothing changes."""

    def reset(self) -> None:
        """Give back every parameter, buffer and running estimate bit for bit."""

    def state(self) -> dict[str, Any]:
        """A copy of everything that changes from clip to clip; `torch.load(weights_only=True)` reads it back."""

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on, bit for bit, where `state` was taken.  Raises MethodError for another method's or model's."""


class Fusion(Protocol):
    """Picture and sound to one answer."""

    needs_source: bool  # whether it wants the source model's answer beside the adapted one's

    def fuse(self, answer: Answer, batch: Batch) -> Tensor:
        """Scores (B, K) of a batch that a method has answered; the running estimates take it in."""

    def reset(self) -> None:
        """Forget the stream."""

    def state(self) -> dict[str, Any]:
        """A copy of everything that changes from clip to clip."""

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken.  Raises MethodError for another fusion's."""


@dataclass(frozen=True)
class Block:
    """A part of a network's forward: blocks run one after the other are the forward, exactly."""

    modules: tuple[str, ...]  # names of the submodules whose parameters and norm layers this block uses
    run: Callable[[Tensor], Tensor]  # the first takes frames (N, 3, T, H, W) in [0, 1]; the last gives logits (N, K)


@runtime_checkable
class Backbone(Protocol):
    """What is asked of a video network, besides being an nn.Module.

    It may also have `blocks() -> list[Block]`, whose tensors in between have a multiple of N as their first dimension:
    what comes before the first weight that adapts then runs once a clip (adapt/core/_prefix.py).
    """

    def __call__(self, frames: Tensor) -> Tensor:
        """Frames (N, C, T, H, W) in [0, 1] -> logits (N, K)."""

    def alignment_layers(self) -> list[str]:
        """Names of the norm layers whose output statistics are aligned by default."""


def blocks_of(model: nn.Module) -> list[Block]:
    """The blocks of a network that has them; [] for any other, such as one whose attribute `blocks` is a module of its
    own.
    """
    method = getattr(model, "blocks", None)
    if not inspect.ismethod(method) or len(inspect.signature(method).parameters):
        return []
    found = method()
    return found if isinstance(found, list) and all(isinstance(block, Block) for block in found) else []

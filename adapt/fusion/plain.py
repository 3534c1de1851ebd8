"""Plain late fusion: argmax p (e + s), in logarithms (ours).

A class without evidence keeps the share e of its probability (`fusion_floor`); where nothing is heard the picture
decides alone.
"""

from dataclasses import dataclass

from torch import Tensor

from adapt.contract import Answer, Batch
from adapt.core.settings import setting
from adapt.core.state import Stateful


@dataclass(frozen=True)
class Settings:
    """Of plain fusion."""

    fusion_floor: float = setting(0.01, unit="evidence", above=True)
    """e: how much of its probability a class without evidence keeps"""


def fuse(log_p: Tensor, s: Tensor, floor: float) -> Tensor:
    """log p + log(e + s): log_p (B, K), evidence s (B, K) in [0, 1] -> scores (B, K)."""
    return log_p + (floor + s).log()


class Plain(Stateful):
    """p (e + s)."""

    needs_source = False

    def __init__(self, settings: Settings) -> None:
        self.floor = settings.fusion_floor

    def fuse(self, answer: Answer, batch: Batch) -> Tensor:
        """Scores (B, K)."""
        return fuse(answer.after if answer.unheard is None else answer.unheard, batch.s, self.floor)


def build(n_classes: int, settings: Settings) -> Plain:
    """Plain fusion."""
    return Plain(settings)

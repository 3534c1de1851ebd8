"""Clips to a method's Batch, and its Answer back to rows of `predictions` and `traces`.

Ground truth enters the rows here, after the method has answered.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from adapt.contract import Answer, Batch
from adapt.tables.cache import Clip, Sound
from adapt.video.clips import ClipFrames

Row = dict[str, object]
NO_PROBS: Row = {"probs": None, "fused_probs": None}
NO_ANSWER: Row = NO_PROBS | {
    "before_id": None, "after_id": None, "fused_id": None, "steps": 0, "stop_reason": "failed", "gate": None,
    "left_out": None, "ms": 0.0,
}  # fmt: skip


@dataclass(frozen=True)
class Placed:
    """A clip and its position in the stream, from 0."""

    position: int
    clip: Clip

    def row(self) -> Row:
        """What its row of `predictions` holds besides the answer and the stream."""
        clip = self.clip
        return {
            "position": self.position,
            "clip_id": clip.clip_id,
            "label_id": clip.label_id,
            "label_ids": list(clip.label_ids) or None,
        }


def make_batch(
    clips: Sequence[Clip], frames: Sequence[ClipFrames], sounds: Mapping[str, Sound], device: torch.device
) -> Batch:
    """A batch of these clips on `device`: everything that a method may know of them."""
    heard = [sounds[clip.clip_id] for clip in clips]

    def pictures(parts: list[torch.Tensor]) -> torch.Tensor:
        return torch.stack(parts).to(device).float().div(255)  # uint8 on the way

    def rows(values: list[np.ndarray]) -> torch.Tensor:
        return torch.from_numpy(np.stack(values)).to(device)

    return Batch(
        frames=pictures([f.views for f in frames]),
        centre=pictures([f.centre for f in frames]),
        q=rows([sound.q for sound in heard]),
        s=rows([sound.s for sound in heard]),
        mass=torch.tensor([sound.mass for sound in heard], dtype=torch.float32, device=device),
        status=tuple(sound.status for sound in heard),
        clip_ids=tuple(clip.clip_id for clip in clips),
        absent=rows([sound.absent for sound in heard]),
    )


def prediction_rows(placed: Sequence[Placed], answer: Answer, ms: float) -> list[Row]:
    """A row a clip of the batch; it took `ms` together, of which every clip is charged its share.  Steps,
    reason, gate and what is left out are the batch's.
    """
    shared: Row = {
        "steps": answer.steps,
        "stop_reason": answer.stop_reason,
        "gate": answer.gate,
        "left_out": answer.left_out,
        "ms": ms / len(placed),
    }
    before, after = answer.before.argmax(1).tolist(), answer.after.argmax(1).tolist()
    fused = [None] * len(placed) if answer.fused is None else answer.fused.argmax(1).tolist()
    rows = []
    for i, one in enumerate(placed):
        scores = {"probs": answer.after, "fused_probs": answer.fused} if one.clip.label_ids else {}
        probs: Row = {name: None if x is None else x[i].float().softmax(0).tolist() for name, x in scores.items()}
        rows.append(
            one.row() | shared | NO_PROBS | probs | {"before_id": before[i], "after_id": after[i], "fused_id": fused[i]}
        )
    return rows


def trace_rows(placed: Sequence[Placed], answer: Answer) -> list[Row]:
    """A row a clip and step, as the key of `traces` has it: each clip of a batch has all of its steps, and its share of
    their milliseconds.
    """
    steps: list[Row] = [
        {"step": i + 1} | dataclasses.asdict(step) | {"ms": step.ms / len(placed)}
        for i, step in enumerate(answer.trace)
    ]
    return [{"position": one.position} | step for one in placed for step in steps]

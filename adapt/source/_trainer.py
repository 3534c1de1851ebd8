"""One training step after another: AdamW, a cosine with warm-up, automatic mixed precision; and all of it saved and
restored bit for bit.

Scope `head` trains the head alone, a linear probe from zeros: norm layers and dropout then work as in use, and no
gradient goes further.  The problem is convex, so that rounding hardly changes what it ends with; `all` ends with other
weights on every kind of processor.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.nn import functional as F

from adapt.errors import MethodError

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
SCOPES = ("all", "head")
WARM_UP = 0.15  # share of the steps in which the learning rate rises


def check_precision(precision: str, device: torch.device) -> None:
    """Raise MethodError for an unknown precision, or one that `device` does not compute in."""
    if precision not in PRECISIONS:
        raise MethodError(f"precision {precision!r}: choose one of {', '.join(PRECISIONS)}")
    if precision == "fp16" and device.type != "cuda":
        raise MethodError(
            f"precision fp16 needs a CUDA device, but device is {device}: set train.precision to bf16 or fp32"
        )


class Trainer:
    """A model in training: weights, optimiser, learning rate, and the scale of fp16's gradients."""

    def __init__(
        self, model: nn.Module, n_steps: int, *, lr: float, head_lr_factor: float, weight_decay: float,
        label_smoothing: float, precision: str,
        scope: str = "all",
    ) -> None:  # fmt: skip
        """`n_steps` is the length of the cosine; `model` is already on its device.  Raises MethodError as
        `check_precision` does, and for a scope.
        """
        if scope not in SCOPES:
            raise MethodError(f"scope {scope!r}: choose one of {', '.join(SCOPES)}")
        self.model, self.label_smoothing, self.precision, self.scope = model, label_smoothing, precision, scope
        self.device = next(model.parameters()).device
        check_precision(precision, self.device)
        self.optimiser = _optimiser(model, lr, head_lr_factor, weight_decay, scope)
        peaks = [group["lr"] for group in self.optimiser.param_groups]
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimiser, peaks, total_steps=n_steps + 1, pct_start=WARM_UP, cycle_momentum=False
        )
        self.scaler = GradScaler(self.device.type, enabled=precision == "fp16")

    def begin(self) -> None:
        """Put the model into the mode in which it is trained."""
        self.model.train(self.scope == "all")

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=PRECISIONS[self.precision])

    def step(self, frames: Tensor, label_ids: Tensor) -> Tensor:
        """One step on frames (B, C, T, H, W) in [0, 1] and labels (B,), both on the device; the loss, a scalar, before
        the step.
        """
        with self._autocast():
            logits = self.model(frames)
        loss = F.cross_entropy(logits.float(), label_ids, label_smoothing=self.label_smoothing)
        self.optimiser.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        scale = self.scaler.get_scale()
        self.scaler.step(self.optimiser)
        self.scaler.update()
        if self.scaler.get_scale() >= scale:  # else fp16's gradients overflowed and the optimiser took no step
            self.schedule.step()
        return loss.detach()

    def state(self) -> dict[str, Any]:
        """All that changes from step to step, torch's random generators included; tensors are not copied."""
        found = {name: part.state_dict() for name, part in self._parts().items()}
        found["torch_random"] = torch.get_rng_state()
        if self.device.type == "cuda":
            found["cuda_random"] = torch.cuda.get_rng_state(self.device)
        return found

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on, bit for bit, where `state` was taken."""
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        torch.set_rng_state(state["torch_random"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_random"], self.device)

    def _parts(self) -> dict[str, Any]:
        return {"model": self.model, "optimiser": self.optimiser, "schedule": self.schedule, "scaler": self.scaler}


def _optimiser(
    model: nn.Module, lr: float, head_lr_factor: float, weight_decay: float, scope: str
) -> torch.optim.Optimizer:
    """AdamW without weight decay on biases and norm layers; the head, by its place the last two parameters, at a rate
    of its own.
    """
    *body, weight, bias = model.parameters()
    head = {"params": [weight, bias], "weight_decay": weight_decay, "lr": lr * head_lr_factor}
    if scope == "head":
        for p in body:
            p.requires_grad_(False)
        nn.init.zeros_(weight)
        nn.init.zeros_(bias)
        return torch.optim.AdamW([head], lr=lr)
    decayed = {"params": [p for p in body if p.dim() > 1], "weight_decay": weight_decay}
    plain = {"params": [p for p in body if p.dim() <= 1], "weight_decay": 0.0}
    groups = [decayed, plain, head]
    return torch.optim.AdamW(groups, lr=lr)

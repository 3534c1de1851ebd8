"""The forward of a method that takes gradients: what no step on a clip can change is worked out once a clip.

A network with blocks (adapt/contract.py) runs them one after the other.  Those before the first that holds an adapting
weight, an aligned layer or noise run once without gradients, for the views and for the centre view; their outputs serve
every step and every prediction on the same clip, and go when the next clip comes.  A network without blocks runs whole
each time.
"""

from collections.abc import Hashable

import torch
from torch import Tensor, nn

from adapt.contract import Batch, Block, blocks_of
from adapt.core.batch_norm import Mixing


class _Part:
    """One block with what it uses of the network."""

    def __init__(self, model: nn.Module, block: Block) -> None:
        self.run = block.run
        self._modules = list(
            dict.fromkeys(module for name in block.modules for module in model.get_submodule(name).modules())
        )
        self.parameters = [parameter for module in self._modules for parameter in module.parameters(recurse=False)]
        self._tensors: list[Tensor] = [
            *self.parameters,
            *(buffer for module in self._modules for buffer in module.buffers(recurse=False)),
        ]

    def is_fixed(self) -> bool:
        """Whether it gives the same for the same input: nothing adapts, nothing is random, and no hook wants to see it
        run.

        Batch norms that mix in the input's own statistics are a function of the input, so their hooks do not count.
        """
        if any(parameter.requires_grad for parameter in self.parameters):
            return False
        return not any(
            module.training
            or module._forward_hooks
            or any(not isinstance(hook, Mixing) for hook in module._forward_pre_hooks.values())
            for module in self._modules
        )

    def key(self) -> Hashable:
        """What its output depends on besides its input: the weights, by their versions, and how batch norms mix their
        statistics.
        """
        mixing = tuple(
            hook.share
            for module in self._modules
            for hook in module._forward_pre_hooks.values()
            if isinstance(hook, Mixing)
        )
        return tuple(_version(tensor) for tensor in self._tensors), mixing


class Prefix:
    """A network's forward on batches, each asked for several times."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._parts = [_Part(model, block) for block in blocks_of(model)]
        in_blocks = {id(parameter) for part in self._parts for parameter in part.parameters}
        self._elsewhere = [
            parameter for parameter in model.parameters() if id(parameter) not in in_blocks
        ]  # any block may use these
        self._clip: tuple[tuple[Tensor, Tensor], Hashable] | None = None  # what is kept belongs to
        self._kept: dict[tuple[str, Hashable], tuple[Tensor, int]] = {}  # outputs, each with its version

    def __reduce__(self) -> tuple[type["Prefix"], tuple[nn.Module]]:
        """A copy is made anew around the copied network: a block's `run` may be a closure around the first one."""
        return Prefix, (self.model,)

    def views(self, batch: Batch) -> Tensor:
        """Logits of every view: (B V, K)."""
        return self._logits("views", batch.frames.flatten(0, 1), batch)

    def centre(self, batch: Batch) -> Tensor:
        """Logits of the centre view: (B, K)."""
        return self._logits("centre", batch.centre[:, 0], batch)

    def _logits(self, name: str, frames: Tensor, batch: Batch) -> Tensor:
        n_fixed = next((i for i, part in enumerate(self._parts) if not part.is_fixed()), len(self._parts))
        if n_fixed == 0 or any(parameter.requires_grad for parameter in self._elsewhere):
            logits: Tensor = self.model(frames)
            return logits
        x = self._after_fixed(n_fixed, name, frames, batch)
        for part in self._parts[n_fixed:]:
            x = part.run(x)
        return x

    def _after_fixed(self, n_fixed: int, name: str, frames: Tensor, batch: Batch) -> Tensor:
        """The output of the first `n_fixed` blocks: of this batch only, so that memory stays constant."""
        clip = (batch.frames, batch.centre), (_version(batch.frames), _version(batch.centre))
        if (
            self._clip is None
            or any(a is not b for a, b in zip(self._clip[0], clip[0], strict=True))
            or self._clip[1] != clip[1]
        ):
            self._clip, self._kept = clip, {}
        key = name, tuple(part.key() for part in self._parts[:n_fixed])
        kept = self._kept.get(key)
        if kept is None or _version(kept[0]) != kept[1]:  # a later block may work in place on what it is given
            with (
                torch.inference_mode(False),
                torch.no_grad(),
            ):  # not even inference mode's tensors: those could not go into a step
                x = frames
                for part in self._parts[:n_fixed]:
                    x = part.run(x)
            kept = x, _version(x)
            self._kept = {other: value for other, value in self._kept.items() if other[0] != name} | {key: kept}
        return kept[0]


def _version(tensor: Tensor) -> int:
    """How often it was changed in place; inference tensors do not count that, and are taken as they are."""
    return -1 if tensor.is_inference() else tensor._version

"""The network of a caller of `adapt.wrap`: what is asked of it, and what lies between it and a method."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from adapt.contract import Block, SourceStatistics, blocks_of
from adapt.core import moments
from adapt.errors import MethodError


def check_logits(answer: Any, n_clips: int | None, n_classes: int, name: str, option: str = "classes") -> Tensor:
    """What the network called `name` answers; `n_clips` is None where N is not known, `option` names the classes.

    Raises MethodError where that is not logits (N, K).
    """
    if not isinstance(answer, Tensor):
        raise MethodError(f"{name} answers {type(answer).__name__}, no tensor: pass read=, such as lambda x: x.logits")
    n = answer.shape[0] if n_clips is None else n_clips  # not len, which makes it a constant where torch traces
    if answer.shape != (n, n_classes):
        raise MethodError(
            f"{name} answers {tuple(answer.shape)} to {n} clips, ({n}, {n_classes}) is wanted: "
            f"{option}= has {n_classes} names"
        )
    return answer


def blocks_around(
    model: nn.Module, before: Callable[[Tensor], Any] | None, after: Callable[[Any], Tensor]
) -> list[Block]:
    """The blocks of a network that is called `model` in another, with what comes before the first and after the last;
    [] where it has none.
    """
    found = [replace(block, modules=tuple(f"model.{name}" for name in block.modules)) for block in blocks_of(model)]
    if found and before is not None:
        first = found[0].run
        found[0] = replace(found[0], run=lambda frames: first(before(frames)))
    if found:
        last = found[-1].run
        found[-1] = replace(found[-1], run=lambda x: after(last(x)))
    return found


class Network(nn.Module):
    """The user's network between `prepare` and `read`, or with layers of the user's choice.

    Frames (N, C, T, H, W) -> logits (N, K).
    """

    def __init__(
        self, model: nn.Module, n_classes: int, prepare: Callable[[Tensor], Any] | None,
        read: Callable[[Any], Tensor] | None, layers: Sequence[str], option: str = "classes",
    ) -> None:  # fmt: skip
        """`option` is what errors call the names of the network's classes."""
        super().__init__()
        self.model, self.n_classes, self.prepare, self.read, self.layers = model, n_classes, prepare, read, list(layers)
        self.option = option

    def forward(self, frames: Tensor) -> Tensor:
        """Frames (N, C, T, H, W) -> logits (N, K).  Raises MethodError for anything else that the network answers."""
        return self._read(self.model(frames if self.prepare is None else self.prepare(frames)), frames.shape[0])

    def _read(self, answer: Any, n_clips: int | None) -> Tensor:
        return check_logits(
            answer if self.read is None else self.read(answer), n_clips, self.n_classes, self._get_name(), self.option
        )

    def blocks(self) -> list[Block]:
        """The network's own, from `prepare` to `read`; [] where it has none."""
        return blocks_around(self.model, self.prepare, lambda answer: self._read(answer, None))

    def _get_name(self) -> str:
        """What errors call this: the user's own class."""
        return self.model._get_name()

    def alignment_layers(self) -> list[str]:
        """The layers asked for, else the network's own choice, else all norm layers."""
        return [f"model.{name}" for name in self.layers or moments.norm_layers(self.model)]


def inside(network: nn.Module, model: nn.Module, statistics: SourceStatistics | None) -> SourceStatistics | None:
    """The statistics of `model` under the names that its layers have in `network`, our wrapper or wrappers of it."""
    if statistics is None or network is model:
        return statistics
    renamed = SourceStatistics(*({f"model.{name}": pair for name, pair in part.items()} for part in statistics))
    return inside(network.get_submodule("model"), model, renamed)


def check_is_bare(model: nn.Module) -> None:
    """Raise MethodError for a network in a wrapper of torch, whose layers are out of reach, or one without weights
    yet.
    """
    for path, module in model.named_modules():
        what = f"{path or 'the model'} ({type(module).__name__})"
        inner = "_orig_mod" if "_orig_mod" in module._modules else "module"
        if inner == "_orig_mod" or isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            raise MethodError(f"{what} wraps a network, whose layers must be in reach: pass its attribute {inner}")
        if module._compiled_call_impl is not None:
            raise MethodError(
                f"{what} was compiled by its method compile, which hides its layers: pass one that was not"
            )
        if any(nn.parameter.is_lazy(tensor) for tensor in (*module._parameters.values(), *module._buffers.values())):
            raise MethodError(f"{what} is lazy and has no weights yet: forward one clip before wrapping")

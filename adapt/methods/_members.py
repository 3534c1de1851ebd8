"""Methods on one network: a member's weights and batch norm statistics are put in while it works (ours).

The network rests as the method that owns it has left it; what a member changed is kept here between two batches.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from adapt.contract import Answer, Batch, Method
from adapt.core.batch_norm import Buffers
from adapt.core.state import Stateful


class Member(Stateful):
    """A method on a network that is another's: outside of its work the network is as the other has left it."""

    def __init__(self, model: nn.Module, method: Method, parameters: Sequence[nn.Parameter]) -> None:
        """`parameters` are all that any method on the network adapts, at the source's values now."""
        self.method, self.parameters, self.buffers = method, tuple(parameters), Buffers(model)
        self.weights, self.statistics = self._copy(), self.buffers.copy()

    def _copy(self) -> list[Tensor]:
        return [parameter.detach().clone() for parameter in self.parameters]

    @torch.no_grad()
    def _put(self, weights: Sequence[Tensor], statistics: Mapping[str, Tensor]) -> None:
        for parameter, value in zip(self.parameters, weights, strict=True):
            parameter.copy_(value)
        self.buffers.put(statistics)

    @contextmanager
    def _at_work(self) -> Iterator[Method]:
        """Within the block the network is the member's; afterwards, bit for bit, that of before."""
        rest = self._copy(), self.buffers.copy()
        self._put(self.weights, self.statistics)
        try:
            yield self.method
        finally:
            self.weights, self.statistics = self._copy(), self.buffers.copy()
            self._put(*rest)

    def adapt(self, batch: Batch) -> Answer:
        """Adapt on `batch`, then predict it."""
        with self._at_work() as method:
            return method.adapt(batch)

    def source_answer(self, batch: Batch) -> Tensor:
        """Log-probabilities (B, K) of the centre view by the source model."""
        with self._at_work() as method:
            return method.source_answer(batch)

    def reset(self) -> None:
        """Back to the source."""
        with self._at_work() as method:
            method.reset()

    def state(self) -> dict[str, Any]:
        """What the method keeps, its weights and statistics among it."""
        with self._at_work() as method:
            return method.state()

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken.  Raises MethodError for another method's."""
        with self._at_work() as method:
            method.load_state(state)

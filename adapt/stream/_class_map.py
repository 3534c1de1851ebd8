"""A method around a network of other classes (adapt/core/class_map.py): its answers say how much was left out."""

import dataclasses

from adapt.contract import Answer, Batch
from adapt.core.class_map import ClassMapped
from adapt.fusion import Fused


class Counted(Fused):
    """`fused`, whose network is `network`, with `left_out` in each of its answers."""

    def __init__(self, fused: Fused, network: ClassMapped) -> None:
        super().__init__(fused.method, fused.fusion)
        self.network = network

    def adapt(self, batch: Batch) -> Answer:
        """Adapt on `batch` and predict it."""
        self.network.begin()
        answer = super().adapt(batch)
        return dataclasses.replace(answer, left_out=self.network.left_out())

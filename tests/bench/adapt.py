"""Milliseconds a clip that each method takes on the demo's TANet (random weights and frames; decode not included)."""

from collections.abc import Iterator

import torch

from adapt import backbones, methods
from adapt.contract import Batch
from adapt.core.oracle import Oracle
from tests import built
from tests.bench import Row, median_ms

N_CLASSES, N_FRAMES, SIZE = 10, 8, 96


def _batch() -> Batch:
    frames = torch.rand(1, 2, 3, N_FRAMES, SIZE, SIZE)
    s = torch.zeros(1, N_CLASSES)
    s[0, 3] = 0.9
    q = torch.full((1, N_CLASSES), 0.1 / (N_CLASSES - 1))
    q[0, 3] = 0.9
    return Batch(frames, frames[:, :1], q, s, s.amax(1), ("ok",), ("clip",))


def rows() -> Iterator[Row]:
    """One row a method; for audio also its cost relative to vitta's with every step taken."""
    torch.manual_seed(0)
    taken: dict[str, float] = {}
    for name in methods.names():
        model = backbones.build("tanet", N_CLASSES, N_FRAMES)
        # the cycle never stops early, and no clip is too unsure, too familiar or too collapsed for a step: the worst
        # case
        settings = built.fitting(
            name, cycle="fixed", entropy_margin=1.1, eata_similarity=1.1, sar_reset=0.0, deyo_drop=-1.0
        )
        method, batch = built.alone(name, model, None, N_CLASSES, Oracle({"clip": (3,)}), **settings), _batch()
        taken[name] = median_ms(lambda method=method, batch=batch: method.adapt(batch))  # type: ignore[misc]
        yield Row(f"{name}, one heard clip, 2 x {N_FRAMES} x {SIZE} x {SIZE}", taken[name], "ms/clip")
    for name in ("tent", "shot", "eata", "sar", "deyo"):
        yield Row(f"{name} over vitta, a step each", taken[name] / taken["vitta"], "ratio")
    yield Row("audio with all 5 steps over vitta with 1", taken["audio"] / taken["vitta"], "ratio")

"""From sounds to classes: the lexical map, and evidence from probabilities, on made-up numbers."""
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pipeline import mappers
from pipeline.pseudo_label import evidence
from tests.bench import Row, median_ms

N_SOUNDS, N_CLASSES = 527, 101


def rows() -> Iterator[Row]:
    """Milliseconds of a whole lexical map; microseconds a clip of pseudo-labels."""
    classes = Path("data/labels/demo.txt").read_text(encoding="utf-8").splitlines()
    lists = mappers.label_lists("demo", classes)
    yield Row("lexical map, 527 sounds x 10 classes", median_ms(lambda: mappers.build("lexical")(lists)), "ms")
    random = np.random.default_rng(0)
    weights = random.random((N_SOUNDS, N_CLASSES)) * (random.random((N_SOUNDS, N_CLASSES)) < 0.02)
    for n_clips in (1_000, 10_000):
        probabilities = random.random((n_clips, N_SOUNDS), np.float32) ** 8
        taken = median_ms(lambda p=probabilities: evidence(p, weights), runs=3)  # type: ignore[misc]
        yield Row(f"evidence, {n_clips} clips x {N_SOUNDS} x {N_CLASSES}", 1000 * taken / n_clips, "us/clip")

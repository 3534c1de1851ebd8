"""From sounds to classes: the maps, the cost of asking beside the model's own, and evidence from probabilities, on made-up numbers."""
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pipeline import ask, mappers
from pipeline.evidence import evidence
from tests import chat
from tests.bench import Row, median_ms

N_SOUNDS, N_CLASSES = 527, 101


def rows() -> Iterator[Row]:
    """Milliseconds of whole maps of UCF101; of one request to an endpoint that answers at once; microseconds a clip of evidence."""
    lists = mappers.label_lists("ucf101", mappers.listed_classes("ucf101"))
    for name in ("lexical", "llm"):
        yield Row(f"{name} map, {N_SOUNDS} sounds x {N_CLASSES} classes", median_ms(lambda n=name: mappers.build(n)(lists)), "ms")  # type: ignore[misc]
    for concurrency in (1, 8):
        yield Row(f"asking in blocks of one, {concurrency} in flight", _ms_per_request(concurrency), "ms/request")
    random = np.random.default_rng(0)
    weights = random.random((N_SOUNDS, N_CLASSES)) * (random.random((N_SOUNDS, N_CLASSES)) < 0.02)
    for n_clips in (1_000, 10_000):
        probabilities = random.random((n_clips, N_SOUNDS), np.float32) ** 8
        taken = median_ms(lambda p=probabilities: evidence(p, weights), runs=3)  # type: ignore[misc]
        yield Row(f"evidence, {n_clips} clips x {N_SOUNDS} x {N_CLASSES}", 1000 * taken / n_clips, "us/clip")


def _ms_per_request(concurrency: int) -> float:
    """All 527 sounds of AudioSet against two classes, one sound a request, from an endpoint that answers with empty lists."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder, chat.serving() as endpoint:
        root = chat.make_project(Path(folder))
        shutil.copy(before / mappers.SOUNDS, root / mappers.SOUNDS)
        endpoint.answer = lambda request: chat.Answer({"sounds": [{"sound": sound, "matches": []} for sound in chat.sounds_of(request)]})
        os.chdir(root)
        try:
            options = ask.Options("pets", endpoint.url, "small", form="block", block_size=1, concurrency=concurrency)
            ask.run(options)
            taken = endpoint.times[-1] - endpoint.times[0]
        finally:
            os.chdir(before)
    return 1000 * taken / (N_SOUNDS - 1)

"""From sounds to classes: the maps, the cost of asking beside the model's own, and evidence from probabilities, on
made-up numbers.
"""

import os
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from pipeline import mappers
from pipeline.labels.evidence import evidence
from pipeline.labels.lists import SOUNDS, label_lists, listed_classes
from pipeline.llm import ask
from tests import chat
from tests.bench import Row, median_ms

N_SOUNDS, N_CLASSES = 527, 101
N_ASKED, LATENCY_S = 64, 0.1


def rows() -> Iterator[Row]:
    """Milliseconds of whole maps of UCF101; what asking costs beside the endpoint; microseconds a clip of evidence."""
    lists = label_lists("ucf101", listed_classes("ucf101"))
    for name in ("lexical", "llm"):
        yield Row(
            f"{name} map, {N_SOUNDS} sounds x {N_CLASSES} classes",
            median_ms(partial(mappers.build(name), lists)),
            "ms",
        )
    one, eight = _seconds_to_ask(1), _seconds_to_ask(8)
    yield Row(f"our own part of a request that takes {LATENCY_S} s", 1000 * (one / N_ASKED - LATENCY_S), "ms")
    yield Row("asking with 8 questions in flight against 1", one / eight, "times", ">= 4", one / eight >= 4)
    random = np.random.default_rng(0)
    weights = random.random((N_SOUNDS, N_CLASSES)) * (random.random((N_SOUNDS, N_CLASSES)) < 0.02)
    for n_clips in (1_000, 10_000):
        probabilities = random.random((n_clips, N_SOUNDS), np.float32) ** 8
        taken = median_ms(lambda p=probabilities: evidence(p, weights), runs=3)  # type: ignore[misc]
        yield Row(f"evidence, {n_clips} clips x {N_SOUNDS} x {N_CLASSES}", 1000 * taken / n_clips, "us/clip")


def _seconds_to_ask(concurrency: int) -> float:
    """N_ASKED sounds against three classes, one sound a request, from first to last request."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder, chat.serving() as endpoint:
        root = chat.make_project(Path(folder))
        rows = (before / SOUNDS).read_text(encoding="utf-8").splitlines(keepends=True)
        (root / SOUNDS).write_text("".join(rows[: N_ASKED + 1]), encoding="utf-8")

        def answer(request: chat.Request) -> chat.Answer:
            time.sleep(LATENCY_S)
            return chat.Answer({"sounds": [{"sound": sound, "matches": []} for sound in chat.sounds_of(request)]})

        endpoint.answer = answer
        os.chdir(root)
        try:
            ask.run(ask.Options("pets", endpoint.url, "small", form="block", block_size=1, concurrency=concurrency))
        finally:
            os.chdir(before)
        return endpoint.times[-1] - endpoint.times[0]

"""The listener: CPU of a second of sound from samples to evidence with yamnet, and how soon a window is answered.

`python -m tests.bench listener`; about a minute, most of it the map `combined`.  Targets are issue 19's.
"""

import statistics
import time
from collections.abc import Iterator

import numpy as np

from pipeline import Listener
from tests.bench import Row

CLASSES = ["dog barking", "drum kit", "flute", "chainsaw", "applause", "rain", "speech", "engine", "organ", "bell"]
SECONDS, RATE, RUNS = 60, 44100, 5
TARGET_MS = 40


def rows() -> Iterator[Row]:
    """What a second costs, whole and in a stream of short windows, and what making the listener costs."""
    started = time.process_time()
    listener = Listener(CLASSES)
    yield Row("made, with the map combined", time.process_time() - started, "CPU s")
    noise = np.random.default_rng(0).normal(0, 0.1, (2, SECONDS * RATE)).astype(np.float32)
    for name, waveform in (("stereo, 44.1 kHz", noise), ("opposite phase", np.stack([noise[0], -noise[0]]))):
        for seconds in (10, SECONDS):
            ms = _cpu_ms(listener, waveform[:, : seconds * RATE]) / seconds
            yield Row(f"yamnet, {seconds} s, {name}", ms, "CPU ms/s", f"<= {TARGET_MS}", ms <= TARGET_MS)
    live = Listener(CLASSES, label_map="lexical", window_s=2.0, hop_s=1.0)
    ms, worst = _stream(live, noise)
    yield Row("a stream, windows of 2 s every second", ms, "CPU ms/s", f"<= {TARGET_MS}", ms <= TARGET_MS)
    yield Row("a stream, the slowest chunk of 10 ms", worst, "ms")


def _cpu_ms(listener: Listener, waveform: np.ndarray) -> float:
    taken = []
    for _ in range(RUNS):
        started = time.process_time()
        assert listener(waveform, RATE) is not None
        taken.append(1000 * (time.process_time() - started))
    return statistics.median(taken)


def _stream(listener: Listener, waveform: np.ndarray) -> tuple[float, float]:
    """(CPU ms a second of sound, the longest wall time of a chunk in ms)."""
    stream, worst, chunk = listener.stream(RATE), 0.0, RATE // 100
    cpu = time.process_time()
    for start in range(0, waveform.shape[1], chunk):
        started = time.perf_counter()
        stream.add(waveform[:, start : start + chunk])
        worst = max(worst, 1000 * (time.perf_counter() - started))
    return 1000 * (time.process_time() - cpu) / SECONDS, worst

"""Golden log-mels, the sound that they are of, and the script that made them (log_mels.py)."""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


def sound(rate: int) -> Floats:
    """1.2 s of noise, a rising tone, and a loud click; the same samples for ever (the stream of RandomState is
    frozen).
    """
    n = rate * 12 // 10
    seconds = np.arange(n) / rate
    samples = 0.05 * np.random.RandomState(0).standard_normal(n) + 0.3 * np.sin(
        2 * np.pi * (200 + 2500 * seconds) * seconds
    )
    samples[n // 2] += 0.5
    return samples.astype(np.float32)

"""Mel filter banks whose triangles are straight in mel, not in Hz: those of Kaldi and of TensorFlow's signal library.

Mel is HTK's, 1127 ln(1 + f / 700), in both.
"""

import numpy as np
import numpy.typing as npt


def triangles(
    n_mels: int, n_fft: int, sample_rate: int, lowest_hz: float, highest_hz: float
) -> npt.NDArray[np.float32]:
    """Weights (n_fft / 2 + 1, n_mels) of `n_mels` overlapping triangles, equally spaced in mel from `lowest_hz` to
    `highest_hz`.

    As tf.signal.linear_to_mel_weight_matrix and Kaldi's mel-computations.cc (without vocal tract warping) make them.
    """
    hz = np.concatenate([[lowest_hz, highest_hz], np.fft.rfftfreq(n_fft, 1 / sample_rate)])
    (lowest, highest), bins = np.split(1127.0 * np.log1p(hz / 700.0), [2])
    edges = np.linspace(lowest, highest, n_mels + 2)
    rising = (bins[:, None] - edges[:-2]) / np.diff(edges[:-1])
    falling = (edges[2:] - bins[:, None]) / np.diff(edges[1:])
    weights: npt.NDArray[np.float32] = np.maximum(0.0, np.minimum(rising, falling)).astype(np.float32)
    return weights

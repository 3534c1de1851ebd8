"""Which frames of a clip a view takes: one from each of equal segments.

No decoder is needed here, so that `adapt.wrap` samples tensors as files are sampled.
"""

import numpy as np


def view_indices(n_frames: int, frames: int, offset: float) -> np.ndarray:
    """The `frames` indices of a view in a clip of `n_frames`; `offset` in [0, 1) is the place in each segment."""
    places = (np.arange(frames) + offset) * n_frames / frames
    return np.minimum(places.astype(int), n_frames - 1)

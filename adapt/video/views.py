"""Which frames of a clip a view takes: one from each of equal segments.

No decoder is needed here, so that `adapt.wrap` samples tensors as files are sampled.
"""

import numpy as np

from adapt.errors import AdaptError

SAMPLINGS = ("even", "vitta")


def view_indices(n_frames: int, frames: int, offset: float) -> np.ndarray:
    """The `frames` indices of a view in a clip of `n_frames`; `offset` in [0, 1) is the place in each segment."""
    places = (np.arange(frames) + offset) * n_frames / frames
    return np.minimum(places.astype(int), n_frames - 1)


def indices_of_views(n_frames: int, frames: int, views: int, sampling: str = "even") -> np.ndarray:
    """The indices of every view to adapt on and, last, of the centre view: (views + 1, frames).

    `even` puts V views at the middles of V equal parts of a segment [ours]; `vitta` spreads their first frames from the
    first to the last of the first segment and takes all views a frame later, the centre view too (ViTTA's code,
    `uniform_equidist` and `uniform-1`: its indices count from 1, its decoder from 0).  Raises AdaptError for another
    sampling.
    """
    if sampling not in SAMPLINGS:
        raise AdaptError(f"sampling {sampling!r}: choose one of {list(SAMPLINGS)}")
    if sampling == "even":
        offsets = [(v + 0.5) / views for v in range(views)] + [0.5]
        return np.stack([view_indices(n_frames, frames, offset) for offset in offsets])
    segment = n_frames / frames
    first = np.linspace(0, segment - 1, views).astype(int)  # towards 0 where a segment is shorter than a frame
    seen = (first[:, None] + segment * np.arange(frames)).astype(int) % n_frames
    centre = (segment / 2 + segment * np.arange(frames)).astype(int)
    return np.minimum(np.concatenate([seen, centre[None]]) + 1, n_frames - 1)

"""Weather: rain, streaks that the light shines through under a dull sky."""

import numpy as np

PIXELS_A_DROP = (770, 770, 770, 500, 400)
LENGTHS = (10, 30, 60, 60, 80)  # pixels
CONTRASTS = (0.8, 0.8, 0.7, 0.6, 0.5)
GREY = 220 / 255  # of a drop
MAX_SLANT = 10  # pixels that a drop may begin outside the frame


def rain(frames: np.ndarray, severity: int, random: np.random.Generator) -> np.ndarray:
    """Draw new drops on every frame, blur 3 x 3 inside them, then lower the contrast about the channel means
    (Mini-Kinetics-C rain).

    As in the published code, where a drop is drawn one pixel aslant whatever slant was drawn for its place.
    """
    height, width = frames.shape[1:3]
    out = np.empty_like(frames)
    for frame, rainy in zip(frames, out, strict=True):
        wet = _drops(height, width, severity, random)
        rainy[:] = _dull(_streaked(frame, wet), CONTRASTS[severity - 1])
    return out


def _drops(height: int, width: int, severity: int, random: np.random.Generator) -> np.ndarray:
    """The wet pixels, as places in the flattened frame: lines one pixel wide that step one to the left half-way down.

    Frames may be shorter than a drop: what lies outside is left out.
    """
    length, n_drops = LENGTHS[severity - 1], height * width // PIXELS_A_DROP[severity - 1]
    slant = int(random.integers(-MAX_SLANT, MAX_SLANT))
    left = random.integers(min(slant, 0), max(1, width - max(slant, 0)), n_drops)
    top = random.integers(0, max(1, height - length), n_drops)
    below = np.arange(length + 1)
    rows = top[:, None] + below
    columns = left[:, None] - (2 * below > length)
    inside = (rows < height) & (columns >= 0) & (columns < width)
    wet = np.zeros(height * width, bool)
    wet[rows[inside] * width + columns[inside]] = True
    return np.flatnonzero(wet)


def _streaked(frame: np.ndarray, wet: np.ndarray) -> np.ndarray:
    """`frame` with drops: lighter and blurred at the pixels `wet`, float32."""
    dark = np.arange(255, -1, -1) / 255 * (1 - frame.mean() / 255)  # of each value: how much light a drop can add
    lighter = np.minimum(np.arange(256) + (255 * GREY * dark).astype(int), 255).astype(np.uint8)
    lit = frame.copy()
    lit.reshape(-1, 3)[wet] = lighter.take(frame.reshape(-1, 3)[wet])
    padded = np.pad(lit, ((1, 1), (1, 1), (0, 0)), "reflect").astype(np.uint16)
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    blurred = (rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:] + 4) // 9  # rounded
    out = frame.astype(np.float32)
    inside = out.reshape(-1, 3)
    inside[wet] = blurred.reshape(-1, 3)[wet] * np.float32(GREY) + inside[wet] * np.float32(1 - GREY)
    return out


def _dull(picture: np.ndarray, contrast: float) -> np.ndarray:
    """(x - mu) c + mu, mu per channel, rounded down to uint8."""
    height, width = picture.shape[:2]
    rows = picture.reshape(height, -1)  # whole rows at a time: sums over a short last axis are slow
    mean = rows.sum(axis=0, dtype=np.float64).reshape(width, 3).mean(axis=0) / height
    added = np.tile(((1 - contrast) * mean).astype(np.float32), width)
    return (rows * np.float32(contrast) + added).clip(0, 255).astype(np.uint8).reshape(picture.shape)

"""What the clips of the demo set look like: a class and a random generator in, frames of a small moving scene out.

A scene is a function that draws what stays the same in a clip from the generator and returns a painter, which draws one
moment.  Look-alikes are there on purpose (pipes, bars and a flute's tube; kettles, pans and drums; two horns): clean
pictures tell them apart, bad ones do not.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from pipeline.demo._percussion import drum_kit, glockenspiel, steelpan, timpani
from pipeline.demo._quiet import chess, yoga
from pipeline.demo._winds import flute, organ, saxophone, trumpet
from pipeline.demo.canvas import (
    DRAWN,
    MARGIN,
    OVERSAMPLING,
    Canvas,
    Painter,
    Palette,
    Points,
    backdrop,
    distractors,
    turned,
)

FPS = 16
N_FRAMES = 48
Scene = Callable[[Palette, np.random.Generator], Painter]

SCENES: dict[str, Scene] = {
    "chess": chess,
    "drum_kit": drum_kit,
    "flute": flute,
    "glockenspiel": glockenspiel,
    "organ": organ,
    "saxophone": saxophone,
    "steelpan": steelpan,
    "timpani": timpani,
    "trumpet": trumpet,
    "yoga": yoga,
}


def frames(label: str, rng: np.random.Generator) -> NDArray[np.uint8]:
    """N_FRAMES frames of the class `label`: (N_FRAMES, SIZE, SIZE, 3) uint8, RGB."""
    palette = Palette.draw(rng)
    wall, paint = backdrop(palette, rng), SCENES[label](palette, rng)
    behind, before = (
        distractors(rng, int(rng.integers(2, 6)), (0.1, 0.4)),
        distractors(rng, int(rng.integers(0, 3)), (0.05, 0.14)),
    )
    place, camera, light = _placing(rng), _Camera(rng), rng.uniform(0.75, 1.1)
    pictures = []
    for i in range(N_FRAMES):
        time_s = i / FPS
        left, top = np.round(MARGIN + camera.drift(time_s) * MARGIN * 0.9).astype(int)
        image = wall.crop((left, top, left + DRAWN, top + DRAWN))
        canvas = Canvas(image, *camera.view(time_s))
        behind(canvas, time_s)
        paint(canvas.under(*place(time_s)), time_s)
        before(canvas, time_s)
        pictures.append(np.asarray(image.reduce(OVERSAMPLING)))
    lit = np.minimum(np.arange(256) * light, 255).astype(np.uint8)
    return lit[np.stack(pictures)]


class _Camera:
    """A hand-held camera: slow drift, shake, zoom and roll."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rates = rng.uniform(0.1, 0.5, (2, 2)) + [[0], [2.5]]  # Hz: drift, shake
        self._phases = rng.uniform(0, 2 * np.pi, (2, 2))
        self._sizes = np.array([rng.uniform(0.3, 0.9), rng.uniform(0.0, 0.1)])[:, None]
        self._zoom, self._roll = rng.uniform(-0.04, 0.04), rng.uniform(-0.03, 0.03)

    def drift(self, time_s: float) -> Points:
        """Where it points, about [-1, 1] both ways."""
        return np.clip((self._sizes * np.sin(2 * np.pi * self._rates * time_s + self._phases)).sum(0), -1, 1)

    def view(self, time_s: float) -> tuple[Points, Points]:
        return (1 + self._zoom * time_s) * turned(self._roll * time_s), -0.12 * self.drift(time_s)


def _placing(rng: np.random.Generator) -> Callable[[float], tuple[Points, Points]]:
    """Where the thing stands in the scene: its size, place, tilt, side and slow sway."""
    size, centre, tilt = rng.uniform(0.62, 1.0), rng.uniform(-0.25, 0.25, 2), rng.uniform(-0.15, 0.15)
    shape = np.diag([rng.uniform(0.85, 1.15) * rng.choice([-1, 1]), 1.0]) * size
    sway, rate, phase = rng.uniform(0, 0.06), rng.uniform(0.2, 0.6), rng.uniform(0, 2 * np.pi)

    def place(time_s: float) -> tuple[Points, Points]:
        swing = np.sin(2 * np.pi * rate * time_s + phase)
        return turned(tilt + sway * swing) @ shape, centre + np.array([sway * swing, 0])

    return place

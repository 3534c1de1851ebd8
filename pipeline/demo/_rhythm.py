"""When the things of a scene are struck or pressed, and the two sticks that strike."""

import numpy as np

from pipeline.demo.canvas import Canvas, Colour, Points


class Strokes:
    """Which of `n` targets is struck when, in random order at a tempo of the clip's own."""

    def __init__(self, n: int, rng: np.random.Generator, beat_s: tuple[float, float] = (0.22, 0.5)) -> None:
        self.beat_s = rng.uniform(*beat_s)
        self._phase = rng.random()
        steps = rng.integers(1, n, 64) if n > 1 else np.zeros(64, int)  # never the same twice
        self._order = (int(rng.integers(n)) + np.cumsum(steps)) % n

    def at(self, time_s: float) -> tuple[int, int, float]:
        """(target struck last, target struck next, share of the beat gone) at `time_s`."""
        beats = time_s / self.beat_s + self._phase
        index = int(beats)
        return int(self._order[index]), int(self._order[index + 1]), beats - index

    def glow(self, target: int, time_s: float) -> float:
        """How brightly `target` still shines, from 1 when it is struck to 0."""
        struck, _, share = self.at(time_s)
        return float(np.exp(-3 * share)) if struck == target else 0.0


def mallets(
    canvas: Canvas, strokes: Strokes, targets: Points, time_s: float, head: float, colours: tuple[Colour, Colour]
) -> None:
    """Two sticks from above, one on its way to the next target while the other rests where it struck."""
    struck, coming, share = strokes.at(time_s)
    parity = int(time_s / strokes.beat_s + 100) % 2
    lifted = 0.32 * np.sin(np.pi * share)
    for hand, tip in ((0, targets[coming] - (0, 0.1 + 0.3 * (1 - share**3))), (1, targets[struck] - (0, lifted))):
        side = 1 if (hand + parity) % 2 else -1
        grip = tip * (0.6, 1) + (side * 0.28, -0.62)
        canvas.line(np.stack([grip, tip]), 0.035, colours[0])
        canvas.disc(tip, head, fill=colours[1])

"""Scenes of things that are blown: organ, flute, trumpet and saxophone.  See pipeline/demo/scenes.py for what a scene
is.
"""

import numpy as np

from pipeline.demo._rhythm import Strokes
from pipeline.demo.canvas import BLACK, Canvas, Painter, Palette, shade, turned


def organ(palette: Palette, rng: np.random.Generator) -> Painter:
    """A front of pipes over a row of keys; the pipes that sound light up and blow."""
    n, pattern = int(rng.integers(7, 12)), int(rng.integers(3))
    x = np.linspace(-0.8, 0.8, n)
    rise = (np.abs(x), 0.8 - np.abs(x), (x + 0.8) / 1.6)[pattern]
    top = -0.35 - 0.55 * rise / rise.max()
    wide, foot, metal = 0.8 * (x[1] - x[0]) / 2, 0.42, shade(palette.body, 1.1)
    hands = [Strokes(n, rng, (0.35, 0.8)) for _ in range(3)]

    def pipe(canvas: Canvas, i: int, glow: float) -> None:
        lit = shade(metal, 0.85 + 0.95 * glow)
        canvas.box(x[i] - wide, top[i], x[i] + wide, foot, shade(lit, 0.55))
        canvas.box(x[i] - wide, top[i], x[i] + wide * 0.45, foot, lit)
        canvas.disc((x[i], top[i]), wide, wide * 0.4, fill=BLACK)
        canvas.polygon(
            np.array([[x[i] - wide, foot - 0.01], [x[i] + wide, foot - 0.01], [x[i], foot + 0.14]]), shade(lit, 0.7)
        )
        canvas.disc((x[i], foot - 0.12), wide * 0.6, wide * 0.35, fill=BLACK)

    def paint(canvas: Canvas, time_s: float) -> None:
        canvas.box(-0.95, 0.42, 0.95, 0.95, palette.wood)
        canvas.box(-0.95, -0.3, -0.86, 0.5, palette.wood)
        canvas.box(0.86, -0.3, 0.95, 0.5, palette.wood)
        sounding = {}
        for hand in hands:
            struck, _, share = hand.at(time_s)
            sounding[struck] = 1.0 if share < 0.8 else 5 * (1 - share)
        for i in range(n):
            pipe(canvas, i, sounding.get(i, 0.0))
        keys = np.linspace(-0.7, 0.7, 15)
        for k, (left, right) in enumerate(zip(keys[:-1], keys[1:], strict=True)):
            pressed = k * n // 14 in sounding
            canvas.box(left, 0.64, right - 0.012, 0.8 + 0.04 * pressed, (205, 200, 190) if pressed else (240, 238, 230))
            if k % 7 not in (2, 6):
                canvas.box(right - 0.03, 0.64, right + 0.02, 0.73, BLACK)

    return paint


def flute(palette: Palette, rng: np.random.Generator) -> Painter:
    """A long thin tube with keys, sliding along itself while fingers come and go."""
    n, thick, slant = int(rng.integers(6, 9)), rng.uniform(0.11, 0.16), rng.uniform(-0.6, 0.25)
    reach, rate, phase = rng.uniform(0.05, 0.16), rng.uniform(0.25, 0.7), rng.uniform(0, 6)
    holes = np.linspace(-0.35, 0.78, n)
    fingers = [Strokes(2, rng, (0.15, 0.5)) for _ in range(n)]

    def paint(canvas: Canvas, time_s: float) -> None:
        slide = reach * np.sin(2 * np.pi * rate * time_s + phase)
        along = canvas.under(turned(slant + 0.5 * reach * np.cos(2 * np.pi * rate * time_s)), np.array([slide, 0]))
        along.tube(np.array([[-1.0, 0], [1.0, 0]]), thick, palette.body)
        for joint in (-0.5, 0.55):
            along.box(joint - 0.03, -thick * 0.6, joint + 0.03, thick * 0.6, shade(palette.body, 1.5))
        along.disc((-0.8, -thick * 0.35), 0.12, thick * 0.45, fill=shade(palette.body, 1.3))
        along.disc((-0.8, -thick * 0.4), 0.05, thick * 0.2, fill=BLACK)
        for hole, finger in zip(holes, fingers, strict=True):
            down = finger.at(time_s)[0]
            along.disc((hole, -thick * 0.1), 0.06, fill=shade(palette.body, 0.45))
            along.disc((hole, -thick * 0.1), 0.04, fill=shade(palette.accent, 1.2))
            tip = np.array([hole, -thick * 0.1 if down else -thick * 0.1 - 0.16])
            along.line(np.stack([tip, tip + (0.05, -0.3)]), 0.09, palette.skin)

    return paint


def trumpet(palette: Palette, rng: np.random.Generator) -> Painter:
    """A straight horn with three valves and a wide bell, swung up and down."""
    swing, rate, phase, flare = rng.uniform(0.12, 0.3), rng.uniform(0.3, 0.8), rng.uniform(0, 6), rng.uniform(0.5, 0.68)
    valves = Strokes(3, rng, (0.15, 0.35))
    x = np.linspace(-0.1, 0.95, 12)
    bell = np.stack([x, np.zeros(12)], 1)
    widths = 0.1 + (flare - 0.1) * np.clip((x - 0.25) / 0.7, 0, 1) ** 3
    corner = np.linspace(-np.pi / 2, np.pi / 2, 7)
    bend = np.stack([0.5 + 0.14 * np.cos(corner), 0.16 + 0.16 * np.sin(corner)], 1)
    loop = np.concatenate([[[-0.45, 0]], bend, [[-0.3, 0.32]], bend[::-1] * (-1, 1) + (0.1, 0)])

    def paint(canvas: Canvas, time_s: float) -> None:
        up = canvas.under(turned(swing * np.sin(2 * np.pi * rate * time_s + phase)), np.array([0.0, -0.05]))
        up.tube(loop, 0.085, shade(palette.body, 0.85))
        up.tube(np.array([[-0.95, 0], [-0.05, 0]]), 0.085, palette.body)
        up.horn(bell, widths, palette.body)
        up.disc((0.95, 0), 0.05, flare / 2, fill=shade(palette.body, 0.35))
        up.disc((-0.96, 0), 0.035, 0.075, fill=shade(palette.body, 1.5))
        for i in range(3):
            left, pressed = -0.22 + 0.16 * i, 0.09 * (valves.at(time_s)[0] == i)
            up.line(np.array([[left + 0.055, -0.2 + pressed], [left + 0.055, 0]]), 0.035, shade(palette.body, 0.5))
            up.disc((left + 0.055, -0.22 + pressed), 0.06, 0.03, fill=palette.accent)
            up.box(left, -0.1, left + 0.11, 0.4, shade(palette.body, 1.15))

    return paint


def saxophone(palette: Palette, rng: np.random.Generator) -> Painter:
    """A crooked horn: neck, a body that widens downwards, a bow, and a bell that looks up; it sways while keys move."""
    sway, rate, phase, flare = rng.uniform(0.1, 0.25), rng.uniform(0.3, 0.8), rng.uniform(0, 6), rng.uniform(0.42, 0.58)
    corners = np.array(
        [
            [-0.8, -0.55],
            [-0.62, -0.78],
            [-0.36, -0.82],
            [-0.2, -0.62],
            [-0.12, -0.2],
            [-0.02, 0.3],
            [0.08, 0.66],
            [0.32, 0.82],
            [0.55, 0.66],
            [0.6, 0.35],
            [0.66, 0.02],
        ]
    )
    at = np.linspace(0, len(corners) - 1, 30)
    line = np.stack([np.interp(at, np.arange(len(corners)), corners[:, axis]) for axis in (0, 1)], 1)
    line[1:-1] = (line[:-2] + 2 * line[1:-1] + line[2:]) / 4
    widths = 0.07 + 0.2 * np.linspace(0, 1, 30) + (flare - 0.27) * np.clip((at - 7.5) / 2.5, 0, 1) ** 2
    keys = [(line[i], Strokes(2, rng, (0.15, 0.45))) for i in range(10, 20, 2)]

    def paint(canvas: Canvas, time_s: float) -> None:
        lean = canvas.under(turned(sway * np.sin(2 * np.pi * rate * time_s + phase)), np.zeros(2))
        lean.line(np.array([[-0.8, -0.55], [-0.9, -0.44]]), 0.1, BLACK)
        lean.horn(line, widths, palette.body)
        lean.disc(line[-1] + (0.01, -0.02), flare / 2, 0.09, fill=shade(palette.body, 0.35), turn=0.12)
        for place, key in keys:
            pressed = key.at(time_s)[0]
            lean.disc(place + (0.02, 0), 0.085, fill=shade(palette.body, 0.5))
            lean.disc(
                place + (0.02 - 0.03 * pressed, -0.01), 0.065, fill=shade(palette.accent, 1.5 if pressed else 1.0)
            )
        lean.line(np.array([line[9] + (0.14, 0), line[19] + (-0.12, -0.1)]), 0.03, shade(palette.body, 0.6))

    return paint

"""Scenes that make no telling sound: chess and yoga.  See pipeline/demo/scenes.py for what a scene is."""

import numpy as np

from pipeline.demo._rhythm import Strokes
from pipeline.demo.canvas import Canvas, Painter, Palette, Points, hsv, shade


def chess(palette: Palette, rng: np.random.Generator) -> Painter:
    """A board seen from the players' side; one piece after another hops to another square."""
    n, near, far, high = (
        int(rng.choice([6, 8])),
        rng.uniform(0.85, 0.98),
        rng.uniform(0.5, 0.7),
        rng.uniform(0.55, 0.75),
    )
    dark, light = shade(palette.wood, 0.55), shade(palette.wood, 1.6)
    sides = (shade(palette.body, 0.55), shade(palette.accent, 1.45))
    squares = rng.permutation(n * n)
    pieces = [[int(squares[i]), i % 2, int(rng.integers(3))] for i in range(int(rng.integers(7, 12)))]
    free, moves, strokes = squares[len(pieces) :], {}, Strokes(len(pieces), rng, (0.4, 0.7))
    at = [piece[0] for piece in pieces]
    for beat in range(12):  # who moves from where to where, beat by beat
        moving, target = strokes.at((beat + 0.5) * strokes.beat_s)[0], int(free[beat % len(free)])
        moves[beat] = (moving, list(at), target)
        free[beat % len(free)], at[moving] = at[moving], target

    def corner(column: float, row: float) -> Points:
        depth = (row / n) ** 0.85
        return np.array([(2 * column / n - 1) * (far + (near - far) * depth), -0.45 + (high + 0.45) * depth])

    def piece(canvas: Canvas, foot: Points, side: int, kind: int, size: float) -> None:
        dull, bright = shade(sides[side], 0.5), sides[side]
        for colour, grow in ((dull, 1.25), (bright, 1.0)):
            body = np.array([[-0.3, 0], [0.3, 0], [0.13, -0.6], [-0.13, -0.6]]) * size * (grow, 1)
            canvas.disc(foot, 0.36 * size * grow, 0.15 * size * grow, fill=colour)
            canvas.polygon(body + foot, colour)
            top = foot - (0, 0.72 * size)
            if kind == 0:
                canvas.disc(top, 0.22 * size * grow, fill=colour)
            elif kind == 1:
                canvas.box(
                    top[0] - 0.24 * size * grow,
                    top[1] - 0.2 * size,
                    top[0] + 0.24 * size * grow,
                    top[1] + 0.16 * size,
                    colour,
                )
            else:
                canvas.disc(top - (0, 0.1 * size), 0.16 * size * grow, 0.34 * size * grow, fill=colour)

    def paint(canvas: Canvas, time_s: float) -> None:
        edge = np.stack([corner(0, 0), corner(n, 0), corner(n, n), corner(0, n)])
        canvas.polygon(edge * 1.07 + (0, 0.04), shade(palette.wood, 0.35))
        canvas.polygon(edge, light)
        for column in range(n):
            for row in range(column % 2, n, 2):
                canvas.polygon(
                    np.stack(
                        [
                            corner(column, row),
                            corner(column + 1, row),
                            corner(column + 1, row + 1),
                            corner(column, row + 1),
                        ]
                    ),
                    dark,
                )
        beat = int(time_s / strokes.beat_s)
        moving, standing, target = moves[beat]
        share = min(1.0, 1.6 * (time_s / strokes.beat_s - beat))
        placed = []
        for i, (_, side, kind) in enumerate(pieces):
            foot = corner(standing[i] % n + 0.5, standing[i] // n + 0.6)
            if i == moving:
                foot = (
                    foot
                    + (corner(target % n + 0.5, target // n + 0.6) - foot) * share
                    - (0, 0.25 * np.sin(np.pi * share))
                )
            placed.append((foot[1], i, foot, side, kind))
        for _, _, foot, side, kind in sorted(placed, key=lambda entry: entry[:2]):
            piece(canvas, foot, side, kind, 2.4 / n)

    return paint


# Joints of a person in poses: head, neck, hip, elbows, hands, knees, feet (left before right), the mat at y = 0.85.
POSES = np.array(
    [
        [
            [0, -0.72],
            [0, -0.5],
            [0, 0.1],
            [-0.3, -0.68],
            [-0.12, -0.95],
            [0.3, -0.68],
            [0.12, -0.95],
            [-0.1, 0.48],
            [-0.1, 0.85],
            [0.1, 0.48],
            [0.1, 0.85],
        ],  # mountain
        [
            [0, -0.7],
            [0, -0.48],
            [0, 0.12],
            [-0.28, -0.72],
            [-0.03, -0.98],
            [0.28, -0.72],
            [0.03, -0.98],
            [-0.04, 0.5],
            [-0.04, 0.85],
            [0.36, 0.36],
            [0.04, 0.45],
        ],  # tree
        [
            [0, -0.45],
            [0, -0.23],
            [0, 0.32],
            [-0.36, -0.23],
            [-0.74, -0.23],
            [0.36, -0.23],
            [0.74, -0.23],
            [-0.46, 0.4],
            [-0.46, 0.85],
            [0.4, 0.56],
            [0.8, 0.85],
        ],  # warrior
        [
            [-0.3, 0.3],
            [-0.22, 0.16],
            [0.14, -0.3],
            [-0.42, 0.46],
            [-0.62, 0.85],
            [-0.4, 0.48],
            [-0.56, 0.85],
            [0.34, 0.26],
            [0.52, 0.85],
            [0.4, 0.26],
            [0.6, 0.85],
        ],  # dog
        [
            [0.42, -0.3],
            [0.3, -0.12],
            [0, 0.25],
            [0.32, 0.3],
            [0.42, 0.8],
            [0.16, -0.42],
            [0.1, -0.78],
            [-0.3, 0.52],
            [-0.5, 0.85],
            [0.34, 0.52],
            [0.56, 0.85],
        ],  # triangle
        [
            [-0.1, -0.1],
            [0, 0.06],
            [0, 0.6],
            [-0.3, 0.3],
            [-0.42, 0.6],
            [0.3, 0.3],
            [0.42, 0.6],
            [-0.4, 0.78],
            [0.12, 0.8],
            [0.4, 0.78],
            [-0.12, 0.8],
        ],  # lotus
    ]
)
LIMBS = ((2, 7, 8), (2, 9, 10), (1, 3, 4), (1, 5, 6))


def yoga(palette: Palette, rng: np.random.Generator) -> Painter:
    """A person on a mat who flows from pose to pose."""
    order = rng.permutation(len(POSES))
    hold_s, phase, stout = rng.uniform(0.8, 1.5), rng.random(), rng.uniform(0.11, 0.17)
    flips = rng.choice([-1, 1], len(POSES))
    shirt, trousers, hair = palette.body, palette.accent, hsv(rng.uniform(0, 0.1), 0.5, rng.uniform(0.1, 0.5))

    def paint(canvas: Canvas, time_s: float) -> None:
        beats = time_s / hold_s + phase
        index, share = int(beats), float(np.clip((beats % 1 - 0.3) / 0.7, 0, 1))
        first, second = (POSES[order[i % len(POSES)]] * (flips[i % len(POSES)], 1) for i in (index, index + 1))
        joints = first + (second - first) * (3 * share**2 - 2 * share**3)
        canvas.polygon(np.array([[-0.8, 0.76], [0.8, 0.76], [0.98, 0.95], [-0.98, 0.95]]), shade(palette.accent, 0.5))
        for i, limb in enumerate(LIMBS):
            points = joints[list(limb)]
            canvas.line(points, stout, shade(trousers if i < 2 else palette.skin, 0.75 if i % 2 else 1.0))
            canvas.disc(points[-1], stout * 0.6, fill=palette.skin)
        canvas.line(joints[1:3], stout * 1.9, shirt)
        canvas.line(joints[0:2], stout * 0.8, palette.skin)
        canvas.disc(joints[0], 0.15, 0.17, fill=palette.skin)
        canvas.disc(joints[0] + 0.5 * (joints[0] - joints[1]), 0.12, fill=hair)

    return paint

"""Scenes of things that are struck: drum kit, timpani, steelpan and glockenspiel.  See pipeline/demo/scenes.py for what
a scene is.
"""

import numpy as np

from pipeline.demo._rhythm import Strokes, mallets
from pipeline.demo.canvas import BLACK, Canvas, Painter, Palette, Points, hsv, shade


def drum_kit(palette: Palette, rng: np.random.Generator) -> Painter:
    """A kick drum from the front, toms, a snare and two cymbals on stands, struck in turn."""
    targets = np.array([[-0.26, -0.28], [0.26, -0.28], [-0.68, 0.18], [0.7, 0.24], [-0.7, -0.6], [0.72, -0.64]])
    targets += rng.uniform(-0.05, 0.05, targets.shape)
    strokes, skin, brass = (
        Strokes(6, rng, (0.18, 0.35)),
        shade(palette.body, 1.75),
        shade(palette.accent, rng.uniform(0.9, 1.4)),
    )
    kick = rng.uniform(0.36, 0.46)

    def drum(canvas: Canvas, centre: Points, wide: float, deep: float, glow: float) -> None:
        canvas.box(centre[0] - wide, centre[1], centre[0] + wide, centre[1] + deep, palette.body)
        canvas.disc(centre + (0, deep), wide, wide * 0.3, fill=shade(palette.body, 0.7))
        canvas.disc(centre, wide * 1.05, wide * 0.36, fill=shade(palette.body, 0.4))
        canvas.disc(centre, wide * 0.92, wide * 0.28, fill=shade(skin, 0.85 + 0.4 * glow))

    def paint(canvas: Canvas, time_s: float) -> None:
        for i in (4, 5):
            canvas.line(np.array([targets[i], [targets[i][0] * 0.9, 0.85]]), 0.035, BLACK)
            wobble = 0.35 * strokes.glow(i, time_s) * np.sin(40 * time_s) + (0.15 if i == 4 else -0.15)
            canvas.disc(targets[i], 0.32, 0.06, fill=shade(brass, 0.55), turn=wobble)
            canvas.disc(
                targets[i] - (0, 0.015), 0.3, 0.04, fill=shade(brass, 1.1 + 0.7 * strokes.glow(i, time_s)), turn=wobble
            )
        for tone, share in ((0.4, 1.0), (1.0, 0.93)):
            canvas.disc((0, 0.42), kick * share, fill=shade(palette.body, tone))
        canvas.disc((0, 0.42), kick * 0.8, fill=shade(skin, 0.95))
        canvas.disc((0, 0.42), kick * 0.3, fill=palette.accent)
        for i, (wide, deep) in enumerate(((0.23, 0.2), (0.23, 0.2), (0.25, 0.16), (0.26, 0.42))):
            drum(canvas, targets[i], wide, deep, strokes.glow(i, time_s))
        mallets(canvas, strokes, targets, time_s, 0.035, (palette.wood, palette.wood))

    return paint


def timpani(palette: Palette, rng: np.random.Generator) -> Painter:
    """Two or three kettles with flat heads on short legs, beaten with felt mallets."""
    n = int(rng.integers(2, 4))
    wide = 0.44 if n == 2 else 0.34
    centres = np.stack([np.linspace(-0.95 + wide, 0.95 - wide, n), rng.uniform(-0.12, 0.06, n)], 1)
    half = np.linspace(0, np.pi, 14)
    bowl = np.stack([np.cos(half), np.sin(half) ** 0.8], 1) * (wide, wide * rng.uniform(1.25, 1.6))
    strokes, skin = Strokes(n, rng, (0.3, 0.6)), shade(palette.accent, 1.7)

    def paint(canvas: Canvas, time_s: float) -> None:
        for i, centre in enumerate(centres):
            for side in (-0.6, 0.6):
                canvas.line(np.array([centre + (side * wide, 0.2), centre + (side * wide * 1.2, 0.85)]), 0.04, BLACK)
            canvas.polygon(bowl + centre, shade(palette.body, 0.6))
            canvas.polygon(bowl * (0.8, 0.95) + centre - (0.12 * wide, 0), palette.body)
            canvas.polygon(bowl * (0.25, 0.75) + centre - (0.4 * wide, 0), shade(palette.body, 1.45))
            glow = strokes.glow(i, time_s)
            canvas.disc(centre, wide * 1.06, wide * 0.34, fill=shade(palette.body, 0.35))
            canvas.disc(centre, wide * 0.96, wide * 0.28, fill=shade(skin, 0.85 + 0.3 * glow))
            if glow > 0.05:
                canvas.disc(centre, wide * 0.8 * (1 - glow), wide * 0.22 * (1 - glow), fill=shade(skin, 0.75))
        mallets(canvas, strokes, centres, time_s, 0.085, (palette.wood, shade(palette.skin, 1.5)))

    return paint


def steelpan(palette: Palette, rng: np.random.Generator) -> Painter:
    """A hollow pan on a stand, its dents struck with rubber-tipped sticks."""
    n_outer, n_inner, flat, start = (
        int(rng.integers(7, 10)),
        int(rng.integers(3, 5)),
        rng.uniform(0.5, 0.7),
        rng.uniform(0, 2),
    )
    around = [
        np.stack([np.cos(a), np.sin(a) * flat], 1) * r
        for r, a in (
            (0.62, start + np.arange(n_outer) * 2 * np.pi / n_outer),
            (0.28, start + np.arange(n_inner) * 2 * np.pi / n_inner),
        )
    ]
    centre = np.array([0.0, -0.1])
    dents, sizes = np.concatenate(around) + centre, np.array([0.17] * n_outer + [0.11] * n_inner)
    strokes, metal = Strokes(len(dents), rng), palette.body
    skirt = rng.uniform(0.25, 0.5)

    def paint(canvas: Canvas, time_s: float) -> None:
        for side in (-0.7, 0.7):
            canvas.line(np.array([[side, 0.1], [side * 0.8, 0.95]]), 0.05, BLACK)
        canvas.disc(centre + (0, skirt), 0.82, 0.82 * flat * 0.8, fill=shade(metal, 0.4))
        canvas.box(-0.85, centre[1], 0.85, centre[1] + skirt, shade(metal, 0.55))
        canvas.disc(centre, 0.88, 0.88 * flat, fill=shade(metal, 1.4))
        for radius, tone in ((0.82, 0.95), (0.5, 0.85), (0.22, 0.75)):
            canvas.disc(centre + (0, 0.02), radius, radius * flat, fill=shade(metal, tone))
        for i, (dent, size) in enumerate(zip(dents, sizes, strict=True)):
            glow = strokes.glow(i, time_s)
            canvas.disc(dent, size, size * flat, fill=shade(metal, 0.5))
            canvas.disc(dent + (0.0, 0.02), size * 0.85, size * flat * 0.85, fill=shade(metal, 1.15 + 0.8 * glow))
        mallets(canvas, strokes, dents, time_s, 0.05, (palette.wood, palette.accent))

    return paint


def glockenspiel(palette: Palette, rng: np.random.Generator) -> Painter:
    """Metal bars that grow shorter to the right, on two rails, struck with small mallets."""
    n = int(rng.integers(8, 12))
    x = np.linspace(-0.82, 0.82, n)
    half = np.linspace(rng.uniform(0.62, 0.75), rng.uniform(0.26, 0.36), n)
    wide, rainbow = 0.62 * (x[1] - x[0]) / 2 * 1.2, rng.random() < 0.4
    colours = [hsv(i / n + float(rng.random()) * 0.02, 0.6, 0.85) if rainbow else palette.body for i in range(n)]
    strokes = Strokes(n, rng)
    middle = rng.uniform(0.05, 0.15)

    def paint(canvas: Canvas, time_s: float) -> None:
        left, right, long, short = x[0] - 0.12, x[-1] + 0.12, half[0] * 0.95, half[-1] * 0.9
        frame = np.array([[left, -long], [right, -short], [right, short], [left, long]])
        canvas.polygon(frame * 1.04 + (0, middle + 0.04), shade(palette.wood, 0.5))
        canvas.polygon(frame + (0, middle), shade(palette.wood, 0.8))
        for side in (-0.6, 0.6):
            rail = np.array([[x[0] - 0.05, side * half[0] + middle], [x[-1] + 0.05, side * half[-1] + middle]])
            canvas.line(rail, 0.05, shade(palette.accent, 0.7))
        for i in range(n):
            glow = strokes.glow(i, time_s)
            shift = 0.02 * glow * np.sin(60 * time_s)
            canvas.box(
                x[i] - wide,
                middle - half[i] + shift,
                x[i] + wide,
                middle + half[i] + shift,
                shade(colours[i], 1 + 0.8 * glow),
            )
            for side in (-0.6, 0.6):
                canvas.disc((x[i], middle + side * half[i] + shift), 0.02, fill=BLACK)
        mallets(
            canvas, strokes, np.stack([x, np.full(n, middle + 0.05)], 1), time_s, 0.06, (palette.wood, palette.accent)
        )

    return paint

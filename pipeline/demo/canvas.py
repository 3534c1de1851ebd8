"""What the demo's scenes are drawn with: colours, a canvas under a moving camera, backgrounds and things in the way.

Scenes are drawn at twice the size with Pillow and halved, which smooths their edges.  Coordinates: the frame spans [-1,
1] both ways, x to the right, y down.
"""

import colorsys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

SIZE = 128  # of a frame, pixels
OVERSAMPLING = 2
DRAWN = SIZE * OVERSAMPLING
MARGIN = 32  # drawn pixels of background beyond the frame, for the camera to move over

Colour = tuple[int, int, int]
Points = NDArray[np.float64]
CIRCLE: Points = np.stack([np.cos(np.linspace(0, 2 * np.pi, 25)[:-1]), np.sin(np.linspace(0, 2 * np.pi, 25)[:-1])], 1)
BLACK: Colour = (22, 20, 26)


def hsv(hue: float, saturation: float, value: float) -> Colour:
    """A colour from hue (any real, a turn is 1), saturation and value in [0, 1]."""
    red, green, blue = colorsys.hsv_to_rgb(hue % 1, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def shade(colour: Colour, factor: float) -> Colour:
    """Darker below a factor of 1, lighter towards white above it (2 is white)."""
    if factor <= 1:
        return tuple(round(part * factor) for part in colour)  # type: ignore[return-value]
    return tuple(round(part + (255 - part) * min(factor - 1, 1)) for part in colour)  # type: ignore[return-value]


@dataclass(frozen=True)
class Palette:
    """The colours of a clip, drawn alike for every class so that colour gives nothing away."""

    body: Colour
    accent: Colour
    wood: Colour
    skin: Colour
    backdrop: tuple[Colour, Colour]

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Palette":
        hue, dark_backdrop = rng.random(), rng.random() < 0.5
        value = rng.uniform(0.15, 0.42) if dark_backdrop else rng.uniform(0.6, 0.95)
        body_value = rng.uniform(0.62, 0.95) if dark_backdrop else rng.uniform(0.3, 0.75)
        backdrop_hue = hue + rng.uniform(0.2, 0.8)
        return cls(
            body=hsv(hue, rng.uniform(0.35, 0.85), body_value),
            accent=hsv(hue + rng.uniform(0.25, 0.75), rng.uniform(0.3, 0.8), rng.uniform(0.4, 0.95)),
            wood=hsv(rng.uniform(0.05, 0.12), rng.uniform(0.4, 0.75), rng.uniform(0.3, 0.8)),
            skin=hsv(rng.uniform(0.03, 0.09), rng.uniform(0.3, 0.6), rng.uniform(0.4, 0.95)),
            backdrop=(
                hsv(backdrop_hue, rng.uniform(0.1, 0.6), value),
                hsv(backdrop_hue + rng.uniform(-0.2, 0.2), rng.uniform(0.1, 0.6), value * rng.uniform(0.6, 1.0)),
            ),
        )


class Canvas:
    """A frame in the making; `matrix` (2 x 2) and `offset` (2,) take scene coordinates to the frame's."""

    def __init__(self, image: Image.Image, matrix: Points, offset: Points) -> None:
        self._draw = ImageDraw.Draw(image)
        self._matrix, self._offset = matrix, offset
        self._scale = float(np.sqrt(abs(np.linalg.det(matrix))))

    def under(self, matrix: Points, offset: Points) -> "Canvas":
        """The same frame with its scene turned or moved: what is drawn there goes through `matrix` and `offset`
        first.
        """
        moved = object.__new__(Canvas)
        moved._draw, moved._matrix, moved._offset = (
            self._draw,
            self._matrix @ matrix,
            self._matrix @ offset + self._offset,
        )
        moved._scale = float(np.sqrt(abs(np.linalg.det(moved._matrix))))
        return moved

    def _pixels(self, points: Points) -> list[float]:
        placed = np.asarray(points, float) @ self._matrix.T + self._offset
        return ((placed + 1) * (DRAWN / 2)).ravel().tolist()  # type: ignore[no-any-return]

    def polygon(self, points: Points, fill: Colour) -> None:
        """Fill the outline through `points` (n, 2)."""
        self._draw.polygon(self._pixels(points), fill=fill)

    def box(self, left: float, top: float, right: float, bottom: float, fill: Colour) -> None:
        """Fill a rectangle, with a darker edge to the right and below."""
        self.polygon(np.array([[left, top], [right, top], [right, bottom], [left, bottom]]), shade(fill, 0.6))
        edge = min(0.03, 0.2 * (right - left), 0.2 * (bottom - top))
        self.polygon(
            np.array([[left, top], [right - edge, top], [right - edge, bottom - edge], [left, bottom - edge]]), fill
        )

    def disc(
        self,
        centre: tuple[float, float] | Points,
        radius_x: float,
        radius_y: float | None = None,
        *,
        fill: Colour,
        turn: float = 0.0,
    ) -> None:
        """Fill an ellipse, turned by `turn` radians."""
        around = CIRCLE * (radius_x, radius_x if radius_y is None else radius_y)
        self.polygon((around @ turned(turn).T if turn else around) + np.asarray(centre), fill)

    def line(self, points: Points, width: float, fill: Colour) -> None:
        """A polyline of even `width` with round ends and bends."""
        pixels = self._pixels(points)
        n = max(1, round(width * self._scale * DRAWN / 2))
        self._draw.line(pixels, fill=fill, width=n, joint="curve")
        for x, y in ((pixels[0], pixels[1]), (pixels[-2], pixels[-1])):
            self._draw.ellipse((x - n / 2, y - n / 2, x + n / 2, y + n / 2), fill=fill)

    def tube(self, points: Points, width: float, fill: Colour) -> None:
        """A polyline that looks round: a dark edge and a light streak."""
        self.line(points, width, shade(fill, 0.5))
        self.line(points, width * 0.72, fill)
        self.line(np.asarray(points) + (-0.12 * width, -0.16 * width), width * 0.22, shade(fill, 1.5))

    def horn(self, points: Points, widths: NDArray[np.float64], fill: Colour) -> None:
        """A tube along `points` (n, 2) whose width changes: `widths` (n,)."""
        along = np.gradient(points, axis=0)
        normal = (
            np.stack([-along[:, 1], along[:, 0]], 1) / np.maximum(np.hypot(along[:, 0], along[:, 1]), 1e-9)[:, None]
        )
        for share, tone in ((1.0, 0.5), (0.76, 1.0)):
            half = normal * widths[:, None] * share / 2
            self.polygon(np.concatenate([points + half, (points - half)[::-1]]), shade(fill, tone))
        self.line((points - normal * widths[:, None] * 0.18)[1:-1], float(widths.min()) * 0.25, shade(fill, 1.5))


def turned(angle: float) -> Points:
    """The matrix that turns by `angle` radians."""
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def backdrop(palette: Palette, rng: np.random.Generator) -> Image.Image:
    """A wall to play before: a gradient with a pattern of its own, DRAWN + 2 x MARGIN pixels a side."""
    side = DRAWN + 2 * MARGIN
    y, x = np.mgrid[0:side, 0:side] / side
    angle, first, second = rng.uniform(0, 2 * np.pi), *map(np.array, palette.backdrop)
    across = x * np.cos(angle) + y * np.sin(angle)
    share = (across - across.min()) / np.ptp(across)
    picture = first + (second - first) * share[..., None]
    depth = rng.uniform(0.04, 0.2) * rng.choice([-1, 1])
    picture = picture * (1 + depth * _pattern(int(rng.integers(6)), x, y, rng)[..., None])
    return Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8)).filter(
        ImageFilter.GaussianBlur(float(rng.uniform(0, 3)))
    )


def _pattern(kind: int, x: Points, y: Points, rng: np.random.Generator) -> Points:
    """A texture in [-1, 1]: plain, stripes, checks, rings, clouds or a floor."""
    n, turn, phase = rng.uniform(3, 9), rng.uniform(0, np.pi), rng.uniform(0, 1)
    u, v = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    if kind == 1:
        return np.sign(np.sin(2 * np.pi * (n * u + phase)))
    if kind == 2:
        return np.sign(np.sin(2 * np.pi * n * u / 2) * np.sin(2 * np.pi * n * v / 2))
    if kind == 3:
        return np.sin(2 * np.pi * n * np.hypot(x - phase, y - rng.uniform(0, 1)))
    if kind == 4:
        coarse = Image.fromarray(rng.uniform(-1, 1, (7, 7)).astype(np.float32))
        return np.asarray(coarse.resize(x.shape[::-1], Image.Resampling.BICUBIC), float)
    if kind == 5:
        return np.where(y > rng.uniform(0.5, 0.8), np.sign(np.sin(2 * np.pi * n * (x - 0.5) / np.maximum(y, 0.4))), 0.3)
    return np.zeros_like(x)


Painter = Callable[[Canvas, float], None]


def distractors(rng: np.random.Generator, n: int, size: tuple[float, float]) -> Painter:
    """`n` plain shapes that drift past and say nothing about the class; paints them at a time in seconds."""
    kinds, radii, thinness = rng.integers(0, 4, n), rng.uniform(*size, n), rng.uniform(0.15, 1.0, n)
    starts, speeds = rng.uniform(-1.1, 1.1, (n, 2)), rng.uniform(-0.25, 0.25, (n, 2))
    turns, spins = rng.uniform(0, np.pi, n), rng.uniform(-0.6, 0.6, n)
    colours = [hsv(rng.random(), rng.uniform(0.1, 0.8), rng.uniform(0.2, 0.95)) for _ in range(n)]

    def paint(canvas: Canvas, time_s: float) -> None:
        for kind, radius, thin, start, speed, turn, spin, colour in zip(
            kinds, radii, thinness, starts, speeds, turns, spins, colours, strict=True
        ):
            centre, angle = start + speed * time_s, turn + spin * time_s
            if kind == 0:
                canvas.disc(centre, radius, radius * (0.3 + 0.7 * thin), fill=colour, turn=angle)
            elif kind == 1:
                canvas.line(
                    centre + np.array([[-1.4, 0], [1.4, 0]]) * radius @ turned(angle).T,
                    0.04 + 0.1 * thin * radius,
                    colour,
                )
            else:
                corners = CIRCLE[:: (6 if kind == 2 else 8)] * radius * (1, 0.3 + 0.7 * thin)
                canvas.polygon(corners @ turned(angle).T + centre, colour)

    return paint

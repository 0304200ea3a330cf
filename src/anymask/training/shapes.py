"""Random outlines, and the exact share of each pixel that they cover."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[Any]  # uint8; OpenCV's annotations do not say so
Points = npt.NDArray[Any]  # float64 (N, 2) of (x, y)

_FINE = 2  # shapes are filled on a grid this much finer,
_FINE_SMALL = 4  # and small ones on this
_SMALL = 64  # pixels


@dataclass(frozen=True)
class Outline:
    """A shape in pixels of the view (corner coordinates).

    Attributes:
        contours: polygons (N, 2) of (x, y), filled by the even-odd rule; or, with a stroke, open lines.
        stroke: width of the lines in pixels, 0 for filled polygons.
    """

    contours: tuple[Points, ...]
    stroke: float = 0.0

    def moved(self, by: Points) -> Outline:
        """The same shape elsewhere."""
        return Outline(tuple(c + by for c in self.contours), self.stroke)


@dataclass(frozen=True)
class Patch:
    """A rasterised shape: ``alpha`` (h, w) uint8 whose first pixel lies at row ``top``, column ``left``."""

    top: int
    left: int
    alpha: Pixels

    @property
    def window(self) -> tuple[slice, slice]:
        """Rows and columns that the alpha fills."""
        return (
            slice(self.top, self.top + self.alpha.shape[0]),
            slice(self.left, self.left + self.alpha.shape[1]),
        )


def rasterise(outline: Outline, height: int, width: int) -> Patch | None:
    """The share of each pixel that a shape covers; None when it lies outside height x width.

    OpenCV fills a polygon together with its boundary, half a pixel too much; so the outside is filled as well and
    the two answers are averaged. Edges are then right to a quarter of a pixel, those of small shapes to an eighth.
    """
    points = np.concatenate(outline.contours)
    pad = outline.stroke / 2 + 1
    x0, y0 = np.maximum(np.floor(points.min(0) - pad), 0).astype(int)
    x1, y1 = np.minimum(np.ceil(points.max(0) + pad), (width, height)).astype(int)
    if x1 <= x0 or y1 <= y0:
        return None
    factor = _FINE_SMALL if max(x1 - x0, y1 - y0) <= _SMALL else _FINE
    fine = np.zeros(((y1 - y0) * factor, (x1 - x0) * factor), np.uint8)
    grid = [
        np.round(((c - (x0, y0)) * factor - 0.5) * 16).astype(np.int32)[:, None] for c in outline.contours
    ]
    if outline.stroke > 0:
        cv2.polylines(fine, grid, False, 255, max(1, round(outline.stroke * factor)), shift=4)
    else:
        cv2.fillPoly(fine, grid, 255, shift=4)
        far = (np.array([[-8, -8], [8, -8], [8, 8], [-8, 8]]) * 16 * max(fine.shape)).astype(np.int32)
        rest = np.zeros_like(fine)
        cv2.fillPoly(rest, [far[:, None], *grid], 255, shift=4)
        fine = cv2.addWeighted(fine, 0.5, 255 - rest, 0.5, 0)
    alpha = cv2.resize(fine, (int(x1 - x0), int(y1 - y0)), interpolation=cv2.INTER_AREA)
    return Patch(int(y0), int(x0), alpha) if cv2.countNonZero(alpha) else None


def clipped(patch: Patch, alpha: Pixels) -> Patch | None:
    """A patch within an object's alpha (H, W); None when nothing is left."""
    inside = cv2.multiply(patch.alpha, alpha[patch.window], scale=1 / 255)
    return Patch(patch.top, patch.left, inside) if cv2.countNonZero(inside) else None


# Shapes around the origin, about ``size`` pixels in radius.


def circle(count: int = 40) -> Points:
    """Corners (count, 2) on the unit circle."""
    angle = np.linspace(0.0, 2 * np.pi, count, endpoint=False)
    return np.stack([np.cos(angle), np.sin(angle)], 1)


def rotation(angle: float) -> Points:
    """2 x 2 matrix that turns row vectors by an angle in radians."""
    return np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])


def ellipse(rng: np.random.Generator, size: float) -> Outline:
    """An ellipse, sometimes a circle."""
    ratio = 1.0 if rng.random() < 0.3 else rng.uniform(0.35, 1.0)
    return Outline((circle() * (size, size * ratio) @ rotation(rng.uniform(0.0, np.pi)),))


def blob(rng: np.random.Generator, size: float) -> Outline:
    """A closed curve whose radius is a random Fourier series with falling coefficients."""
    unit = circle(72)
    order = np.arange(1, 8)
    weight = rng.normal(size=(7, 2)) * (rng.uniform(0.15, 0.5) / order ** rng.uniform(0.7, 1.6))[:, None]
    angle = np.arctan2(unit[:, 1], unit[:, 0])[:, None] * order
    radius = np.exp(np.cos(angle) @ weight[:, 0] + np.sin(angle) @ weight[:, 1])
    squeeze = rng.uniform(0.5, 1.0)
    return Outline(
        (unit * radius[:, None] * (size / radius.max()) * (1.0, squeeze) @ rotation(rng.uniform(0.0, np.pi)),)
    )


def polygon(rng: np.random.Generator, size: float) -> Outline:
    """A convex or star-like polygon of three to nine corners."""
    count = int(rng.integers(3, 10))
    angle = (np.arange(count) + rng.uniform(-0.3, 0.3, count)) * 2 * np.pi / count + rng.uniform(0, np.pi)
    radius = size * (
        rng.uniform(0.45, 1.0, count) if rng.random() < 0.5 else np.full(count, rng.uniform(0.7, 1.0))
    )
    return Outline((np.stack([np.cos(angle), np.sin(angle)], 1) * radius[:, None],))


def rectangle(rng: np.random.Generator, size: float) -> Outline:
    """A rectangle, half the time upright."""
    half = size * np.array([1.0, rng.uniform(0.2, 1.0)])[rng.permutation(2)]
    corners = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]]) * half
    return Outline((corners @ rotation(0.0 if rng.random() < 0.5 else rng.uniform(0.0, np.pi)),))


def ring(rng: np.random.Generator, size: float) -> Outline:
    """A shape with a hole of the same form."""
    outer = (ellipse if rng.random() < 0.6 else rectangle)(rng, size).contours[0]
    return Outline((outer, outer * rng.uniform(0.4, 0.85)))


def strip(rng: np.random.Generator, size: float) -> Outline:
    """A thin curve of constant width: a wire, a stalk, a crack."""
    ends = rng.uniform(-1.0, 1.0, (4, 2)) * size * rng.uniform(1.0, 1.8)
    t = np.linspace(0.0, 1.0, 32)[:, None]
    curve = (
        (1 - t) ** 3 * ends[0]
        + 3 * (1 - t) ** 2 * t * ends[1]
        + 3 * (1 - t) * t**2 * ends[2]
        + t**3 * ends[3]
    )
    return Outline((curve,), max(1.5, size * float(np.exp(rng.uniform(np.log(0.04), np.log(0.3))))))


def glyph(rng: np.random.Generator, size: float) -> Outline:
    """A few strokes between the points of a 3 x 4 grid, like a letter."""
    grid = np.stack(np.meshgrid([-0.6, 0.0, 0.6], [-1.0, -0.33, 0.33, 1.0]), -1).reshape(-1, 2)
    grid = grid * size @ rotation(float(rng.normal(0.0, 0.2)))
    at = int(rng.integers(12))
    lines = []
    for _ in range(int(rng.integers(2, 4))):  # each line starts on the one before, so a glyph is one piece
        path = [at, *(int(i) for i in rng.integers(0, 12, int(rng.integers(1, 4))))]
        lines.append(grid[path])
        at = path[int(rng.integers(len(path)))]
    return Outline(tuple(lines), max(1.5, size * float(rng.uniform(0.12, 0.35))))


SHAPES: tuple[Callable[[np.random.Generator, float], Outline], ...] = (
    ellipse,
    blob,
    polygon,
    rectangle,
    ring,
    strip,
    glyph,
)
_SHARES = np.array([0.2, 0.3, 0.14, 0.14, 0.07, 0.08, 0.07])


def any_shape(rng: np.random.Generator, size: float) -> Outline:
    """One of `SHAPES`, blobs and ellipses most often."""
    return SHAPES[int(rng.choice(len(SHAPES), p=_SHARES))](rng, size)

"""Colours, textures and light of drawn scenes: what fills a shape, and what the camera makes of the picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[Any]  # uint8; OpenCV's annotations do not say so
Colours = npt.NDArray[Any]  # float32

_LOW_CONTRAST = 0.3  # share of scenes whose colours lie close together
_GREY = 0.15  # share of scenes without colour


@dataclass(frozen=True)
class Palette:
    """What the textures of one scene have in common.

    Attributes:
        centre: (3,) float32, the colour that others lie around, 0..255.
        spread: standard deviation of colours around it.
        colourful: 0 for a scene without colour.
        rough: strength of patterns relative to the ordinary.
        photographs: pictures (h, w, 3) uint8 that textures may be cut from.
    """

    centre: Colours
    spread: float
    colourful: float
    rough: float
    photographs: tuple[Pixels, ...]

    @staticmethod
    def draw(rng: np.random.Generator, photographs: Sequence[Pixels] = ()) -> Palette:
        """A random palette; three in ten are of low contrast."""
        low = rng.random() < _LOW_CONTRAST
        colourful = 0.0 if rng.random() < _GREY else float(rng.uniform(0.3, 1.2))
        spread = float(rng.uniform(10.0, 22.0) if low else rng.uniform(35.0, 80.0))
        centre = (rng.uniform(50.0, 205.0) + rng.normal(0.0, 25.0 * colourful, 3)).astype(np.float32)
        rough = float(rng.uniform(0.1, 0.45) if low else rng.uniform(0.3, 1.2))
        return Palette(centre, spread, colourful, rough, tuple(photographs))

    def colour(self, rng: np.random.Generator) -> Colours:
        """A colour (3,) float32."""
        light = rng.normal(0.0, self.spread)
        hue = rng.normal(0.0, self.spread * 0.6 * self.colourful, 3)
        return np.clip(self.centre + light + hue, 5.0, 250.0).astype(np.float32)


def texture(rng: np.random.Generator, height: int, width: int, palette: Palette) -> Colours:
    """A random texture (height, width, 3) float32, about 0..255 and not clipped."""
    colour, kind = palette.colour(rng), rng.random()
    if palette.photographs and kind < 0.3:
        return _photograph(rng, height, width, palette, colour)
    pattern = _pattern(rng, height, width)
    if pattern is None:
        return np.broadcast_to(colour, (height, width, 3)).astype(np.float32)
    if rng.random() < 0.3:  # from one colour to another
        other = palette.colour(rng)
        return colour + (other - colour) * (pattern * np.float32(0.5 * min(1.0, palette.rough)))[..., None]
    step = (
        np.float32(rng.uniform(8.0, 40.0) * palette.rough)
        * (1.0 + rng.normal(0.0, 0.25, 3) * palette.colourful)
    ).astype(np.float32)
    return colour + pattern[..., None] * step


def _photograph(
    rng: np.random.Generator, height: int, width: int, palette: Palette, colour: Colours
) -> Colours:
    """A window of a photograph, turned in contrast and sometimes in colour towards the palette."""
    picture = palette.photographs[int(rng.integers(len(palette.photographs)))]
    h, w = picture.shape[:2]
    zoom = float(np.exp(rng.uniform(np.log(0.6), np.log(2.0))))
    size_h, size_w = min(h, max(2, int(height / zoom))), min(w, max(2, int(width / zoom)))
    top, left = int(rng.integers(h - size_h + 1)), int(rng.integers(w - size_w + 1))
    part = picture[top : top + size_h, left : left + size_w]
    patch: Colours = cv2.resize(part, (width, height), interpolation=cv2.INTER_LINEAR).astype(np.float32)
    if palette.colourful == 0.0:
        patch = cv2.cvtColor(cv2.cvtColor(patch, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    mean = np.array(cv2.mean(patch)[:3], np.float32)
    target = mean if palette.spread > 30.0 and rng.random() < 0.5 else colour
    return (patch - mean) * np.float32(min(1.0, palette.rough + 0.2)) + target


def _pattern(rng: np.random.Generator, height: int, width: int) -> Colours | None:
    """A pattern (height, width) float32 within about -1..1; None for a plain one."""
    kind = rng.random()
    if kind < 0.2:
        return None
    if kind < 0.55:
        return _noise(rng, height, width)
    if kind < 0.7:
        return _slope(rng, height, width)
    period = float(np.exp(rng.uniform(np.log(3.0), np.log(40.0))))
    along, across = _axes(rng, height, width, 2 * np.pi / period)
    wave = np.sin(along) if kind < 0.88 else np.sin(along) * np.sin(across)
    if rng.random() < 0.6:  # hard edges: stripes, a chequerboard
        wave = np.clip(wave * np.float32(6.0), -1.0, 1.0)
    return wave


def _axes(rng: np.random.Generator, height: int, width: int, step: float) -> tuple[Colours, Colours]:
    """Two orthogonal phases (height, width) that grow by ``step`` a pixel, in a random direction."""
    angle = 0.0 if rng.random() < 0.3 else float(rng.uniform(0.0, np.pi))
    dx, dy = np.float32(np.cos(angle) * step), np.float32(np.sin(angle) * step)
    x = np.arange(width, dtype=np.float32)
    y = np.arange(height, dtype=np.float32)[:, None]
    first, second = rng.uniform(0.0, 2 * np.pi, 2).astype(np.float32)
    return x * dx + y * dy + first, y * dx - x * dy + second


def _noise(rng: np.random.Generator, height: int, width: int) -> Colours:
    """Band-limited noise: one to three octaves of random grids, smoothly enlarged, perhaps drawn out one way."""
    cell = float(np.exp(rng.uniform(np.log(1.5), np.log(40.0))))
    draw_out = 1.0 if rng.random() < 0.7 else float(rng.uniform(2.0, 6.0))
    total = np.zeros((height, width), np.float32)
    strength = np.float32(1.0)
    for _ in range(int(rng.integers(1, 4))):
        rows, columns = max(2, int(height / cell) + 1), max(2, int(width / (cell * draw_out)) + 1)
        grid = rng.random((min(rows, height), min(columns, width)), np.float32) * 2 - 1
        total += strength * cv2.resize(grid, (width, height), interpolation=cv2.INTER_LINEAR)
        cell, strength = max(1.0, cell / 2), strength * np.float32(0.6)
    return total


def _slope(rng: np.random.Generator, height: int, width: int) -> Colours:
    """A gradient across, or around a point as on a ball."""
    x = np.linspace(-1.0, 1.0, width, dtype=np.float32)
    y = np.linspace(-1.0, 1.0, height, dtype=np.float32)[:, None]
    if rng.random() < 0.5:
        angle = float(rng.uniform(0.0, 2 * np.pi))
        return x * np.float32(1.5 * np.cos(angle)) + y * np.float32(1.5 * np.sin(angle))
    dx, dy = rng.uniform(-0.6, 0.6, 2).astype(np.float32)
    bulge: Colours = np.float32(1.0) - (x - dx) ** 2 - (y - dy) ** 2
    return bulge


def finish(rng: np.random.Generator, pixels: Colours) -> Pixels:
    """Light that falls unevenly, blur, noise and JPEG: (H, W, 3) float32 -> uint8."""
    height, width = pixels.shape[:2]
    if rng.random() < 0.5:
        light = rng.uniform(-0.3, 0.3, (2, 2)).astype(np.float32) + np.float32(1.0)
        pixels = pixels * cv2.resize(light, (width, height), interpolation=cv2.INTER_LINEAR)[..., None]
    if rng.random() < 0.35:
        pixels = cv2.GaussianBlur(pixels, (0, 0), float(rng.uniform(0.4, 1.4)))
    if rng.random() < 0.6:  # the sum of two uniform bytes is close enough to a Gaussian
        strength = np.float32(np.exp(rng.uniform(np.log(1.0), np.log(14.0))) / 104.0)
        raw = np.frombuffer(rng.bytes(2 * pixels.size), np.uint8).reshape(2, *pixels.shape)
        pixels = pixels + (raw[0].astype(np.float32) + raw[1] - np.float32(255.0)) * strength
    image: Pixels = np.clip(pixels, 0.0, 255.0).astype(np.uint8)
    if rng.random() < 0.3:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(35, 90))]
        image = np.asarray(cv2.imdecode(cv2.imencode(".jpg", image, quality)[1], cv2.IMREAD_COLOR), np.uint8)
    return image

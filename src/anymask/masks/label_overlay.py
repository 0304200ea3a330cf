"""One picture for people of everything that was found: every label in its own colour, with its edge drawn.

Colours depend on the label alone, so a mask has the same colour in every picture made of the same labels.
"""

from __future__ import annotations

import colorsys
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from anymask.errors import MaskError
from anymask.masks.overlay import Colour, Pixels

__all__ = ["draw_labels", "label_colour"]

_GOLDEN: Final = 0.618033988749895
_FIRST_HUE: Final = 0.58
_TONES: Final = ((0.72, 0.96), (0.55, 0.80), (0.85, 0.78))
_FILL: Final = 0.42
_REST: Final = 0.80
_EDGE: Final = 0.92
_BAND_ROWS: Final = 512  # rows blended at a time, so that huge pictures need little memory


def label_colour(label: int) -> Colour:
    """RGB of label 1, 2 ...: hues a golden section apart, in three tones."""
    saturation, value = _TONES[(label - 1) % len(_TONES)]
    red, green, blue = colorsys.hsv_to_rgb((_FIRST_HUE + (label - 1) * _GOLDEN) % 1.0, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def draw_labels(pixels: Pixels, labels: NDArray[np.integer[Any]]) -> Pixels:
    """A new picture (H, W, 3) uint8: labels above 0 of ``labels`` (H, W) tinted, their edges bright, the rest dimmed.

    Edges are antialiased and as wide as the picture asks for: a pixel on each side at 600 x 400. Raises ``MaskError``
    when the sizes differ.
    """
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise MaskError(f"an overlay needs (H, W, 3) uint8 pixels, got {pixels.dtype} {pixels.shape}")
    if (
        labels.shape != pixels.shape[:2]
        or labels.dtype.kind not in "iu"
        or (labels.size and labels.min() < 0)
    ):
        raise MaskError(
            f"an overlay needs labels of shape {pixels.shape[:2]}, 0 or more, got {labels.dtype} {labels.shape}"
        )
    colours = np.array([(0, 0, 0), *map(label_colour, range(1, int(labels.max()) + 1))], dtype=np.float32)
    distance = _distance_to_edges(labels)
    half = min(max(float(np.sqrt(labels.size)) / 490.0, 0.6), 8.0)
    canvas = np.empty_like(pixels)
    for top in range(0, len(pixels), _BAND_ROWS):
        band = slice(top, top + _BAND_ROWS)
        source, inside = pixels[band].astype(np.float32), (labels[band] > 0)[..., None]
        tint = colours[labels[band]]
        mixed = np.where(inside, source * (1 - _FILL) + tint * _FILL, source * _REST)
        weight = (np.clip(half + 0.5 - distance[band], 0.0, 1.0) * _EDGE)[..., None] * inside
        light = 255 - (255 - tint) * 0.70
        canvas[band] = np.rint(mixed * (1 - weight) + light * weight).astype(np.uint8)
    return canvas


def _distance_to_edges(labels: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
    """How far (H, W) float32 the nearest pixel is that has a neighbour with another label; the frame is no edge."""
    import cv2

    edge = np.zeros(labels.shape, dtype=np.bool_)
    across, down = labels[:, 1:] != labels[:, :-1], labels[1:] != labels[:-1]
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    edge[1:] |= down
    edge[:-1] |= down
    if not edge.any():
        return np.full(labels.shape, 1e6, dtype=np.float32)
    return np.asarray(
        cv2.distanceTransform((~edge).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5), dtype=np.float32
    )

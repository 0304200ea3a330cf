"""What of a mask one polygon, or several without holes, can hold, and how well: nothing is lost in silence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from anymask.errors import MaskError
from anymask.masks import rle
from anymask.masks.polygons import Polygon, polygons_to_mask, ring_area
from anymask.types import Mask

__all__ = ["LEAST_IOU", "Outline", "single_outline"]

LEAST_IOU: Final = 0.99
"""Polygons that overlap their mask less are not written."""

Ring = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Outline:
    """The largest part of a mask as one ring, its holes filled.

    Attributes:
        ring: (N, 2) float64 (x, y) vertices on the corners of pixels; empty when the mask is.
        iou: of the ring's pixels and the mask.
        parts, holes: of the mask; what the ring leaves out is ``parts`` - 1 parts and all holes.
    """

    ring: Ring
    iou: float
    parts: int
    holes: int

    @property
    def is_whole(self) -> bool:
        """Whether the ring is the mask, to the pixel."""
        return self.iou == 1.0

    @property
    def is_close(self) -> bool:
        """Whether it is good enough to be written."""
        return len(self.ring) > 0 and self.iou >= LEAST_IOU


def single_outline(mask: Mask, tolerance: float = 0.0, digits: int | None = None) -> Outline:
    """The outline of a mask; thinned by up to ``tolerance`` pixels unless that alone would make it too bad.

    With ``digits`` its vertices are those that shares of width and height of so many decimals can name, and ``iou`` is
    theirs. An outline with more vertices than ``limits`` allow gives an empty ring.
    """
    try:
        exact = mask.polygons()
    except MaskError:
        return Outline(np.zeros((0, 2)), 0.0, 0, 0)
    if not exact:
        return Outline(np.zeros((0, 2)), 0.0, 0, 0)
    largest = _named(_largest(exact), mask.size, digits)
    holes = sum(len(polygon.holes) for polygon in exact)
    whole = Outline(largest, _iou(largest, mask), len(exact), holes)
    if tolerance > 0 and whole.is_close:
        ring = _named(_largest(mask.polygons(tolerance)), mask.size, digits)
        thinned = Outline(ring, _iou(ring, mask), len(exact), holes)
        return thinned if thinned.is_close else whole
    return whole


def _largest(polygons: list[Polygon]) -> Ring:
    """The exterior that encloses most; the first of equals."""
    return max((polygon.exterior for polygon in polygons), key=lambda ring: abs(ring_area(ring)))


def _named(ring: Ring, size: tuple[int, int], digits: int | None) -> Ring:
    if digits is None:
        return ring
    scale = np.array([size[1], size[0]], dtype=np.float64)
    return np.round(ring / scale, digits) * scale


def _iou(ring: Ring, mask: Mask) -> float:
    return rle.iou(rle.encode_counts(polygons_to_mask([Polygon(ring)], *mask.size)), mask.counts)

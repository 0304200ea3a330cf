"""What low-resolution logits prove of a mask before it is upsampled: that it is unstable, and between which boxes its
own lies.

A pixel of the image lies between the smallest and the largest of the cells it is made of, give or take the rounding.
So pixels all of whose cells are above a cut are above it too, and pixels none of whose cells are lie below it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from .upsampling import ROUNDING, Footprint

__all__ = [
    "NOWHERE",
    "Box",
    "Cuts",
    "PlaneBounds",
    "bounds_of",
    "boxes_of",
    "least_overlaps",
    "no_bounds",
    "surely_unstable",
]

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]
Box = tuple[int, int, int, int]
Boxes = Box | NDArray[np.float64]
Span = tuple[int, int]

NOWHERE: Final[Box] = (2**20, 2**20, -1, -1)
"""The box of no pixel: it overlaps no box and is larger than none."""
_SLACK: Final = 1.001
"""Bounds of pixels are sums in float32 and the score is a quotient in it: a thousandth covers both."""
_WORTH_IT: Final = 32
"""Cells that a mask must have down and across for an inner box: that of a smaller one, a few cells smaller all around,
overlaps nothing by much."""


@dataclass(frozen=True)
class Cuts:
    """Where logits are cut.

    Attributes:
        low, mid, high: below, at and above the threshold of masks.
        stability: least stability of a mask that is wanted; 0 when any is.
    """

    low: np.float32
    mid: np.float32
    high: np.float32
    stability: float


@dataclass(frozen=True, slots=True)
class PlaneBounds:
    """What is sure of one plane.

    Attributes:
        cells: rows and columns of all cells that pixels above the low cut can be made of.
        area: rows and columns of these pixels.
        inner_box, outer_box: (x0, y0, x1, y1) with inclusive maxima; the mask's box holds the first and lies in the
            second. `NOWHERE` when nothing is sure, or none possible.
        largest_logit: no logit of the plane is larger, with any sign.
    """

    cells: tuple[slice, slice]
    area: tuple[slice, slice]
    inner_box: Box
    outer_box: Box
    largest_logit: float


def surely_unstable(
    planes: FloatArray,
    largest_logit: float,
    down: Footprint,
    across: Footprint,
    cuts: Cuts,
    corner: tuple[int, int] = (0, 0),
) -> BoolArray:
    """Which planes (P, h, w) have less stability than is wanted, or no pixel above the high cut.

    Args:
        planes: finite; or of each a part without which no pixel is above the low cut.
        largest_logit: none of them is larger, with any sign.
        down, across: the footprints of the image's rows and columns.
        cuts: where they are cut.
        corner: first row and column of the part.
    """
    if cuts.stability <= 0:
        return np.zeros(len(planes), dtype=np.bool_)
    slack = np.float32(ROUNDING * largest_logit)
    below = _windows_of(planes <= cuts.high - slack, down, across, corner)
    rows, columns = (
        footprint.pixels[start : start + count]
        for footprint, start, count in zip((down, across), corner, below.shape[1:], strict=True)
    )
    inner_at_most = rows.sum() * columns.sum() - _weighed(below, rows, columns)
    outer_at_least = _weighed(_windows_of(planes > cuts.low + slack, down, across, corner), rows, columns)
    unstable: BoolArray = inner_at_most * _SLACK < cuts.stability * outer_at_least
    unstable |= inner_at_most == 0
    return unstable


def bounds_of(
    planes: FloatArray, largest_logit: float, down: Footprint, across: Footprint, cuts: Cuts
) -> list[PlaneBounds]:
    """The bounds of planes; see `surely_unstable` for what is given."""
    both, corner, slack = (down, across), (0, 0), np.float32(ROUNDING * largest_logit)
    found = []
    for plane, low, possible in zip(
        planes, planes > cuts.low - slack, planes > cuts.mid - slack, strict=True
    ):
        rows, columns = _span(low, corner, both, before=True)
        outer = _box(*_span(possible, corner, both, before=True))
        inner, cells = NOWHERE, (_cells_of(rows, down), _cells_of(columns, across))
        if min(cells[0].stop - cells[0].start, cells[1].stop - cells[1].start) >= _WORTH_IT:
            sure = _windows_of((plane > cuts.mid + slack)[None], down, across)[0]
            inner = _box(*_span(sure, corner, both, before=False))
        found.append(PlaneBounds(cells, (slice(*rows), slice(*columns)), inner, outer, largest_logit))
    return found


def boxes_of(
    network: FloatArray,
    corner: tuple[int, int],
    area: tuple[slice, slice],
    down: Footprint,
    across: Footprint,
    cut: np.float32,
    slack: np.float32,
) -> tuple[Box, Box]:
    """The inner and the outer box of one plane above a cut.

    Args:
        network: (h, w), the part of a plane that the pixels of the area are made of.
        corner: its first row and column in the plane.
        area: rows and columns of the image outside which there is no pixel above the cut.
        down, across: the footprints of the plane's own pixels.
        cut: where it is cut.
        slack: how far rounding may take a pixel out of the range of what it is made of.
    """
    sure = _windows_of((network > cut + slack)[None], down, across, corner)[0]
    rows, columns = _span(sure, corner, (down, across), before=False)
    inner = _box(rows, columns)
    rows, columns = _span(network > cut - slack, corner, (down, across), before=True)
    outer = _box(
        (max(rows[0], area[0].start), min(rows[1], area[0].stop)),
        (max(columns[0], area[1].start), min(columns[1], area[1].stop)),
    )
    return inner, outer


def no_bounds(low_res_size: tuple[int, int], image_size: tuple[int, int]) -> PlaneBounds:
    """Of a plane that may become anything."""
    cells, area = ((slice(0, height), slice(0, width)) for height, width in (low_res_size, image_size))
    return PlaneBounds(cells, area, NOWHERE, (0, 0, image_size[1] - 1, image_size[0] - 1), np.inf)


def least_overlaps(boxes: Boxes, inner: Boxes, outer: Boxes) -> NDArray[np.float64]:
    """Intersection over union (N,) that boxes have at least with others between ``inner`` and ``outer``.

    Each is one box, or float64 (4, N). With inclusive maxima and, as published, a pixel less of width and height than
    boxes have.
    """
    one, inside, outside = (np.asarray(each, dtype=np.float64) for each in (boxes, inner, outer))
    wide = np.minimum(one[2], inside[2]) - np.maximum(one[0], inside[0])
    high = np.minimum(one[3], inside[3]) - np.maximum(one[1], inside[1])
    common = np.maximum(wide, 0.0) * np.maximum(high, 0.0)
    union = (one[2] - one[0]) * (one[3] - one[1]) - common
    union += (outside[2] - outside[0]) * (outside[3] - outside[1])
    overlaps: NDArray[np.float64] = common / np.maximum(union, 1e-9)  # without a union nothing is common
    return overlaps


def _weighed(windows: BoolArray, rows: FloatArray, columns: FloatArray) -> FloatArray:
    """Pixels (P,) that start at the windows (P, R, C) marked, for so many (R,) of each row and (C,) of each column."""
    return np.asarray((windows.astype(np.float32) @ columns) @ rows, dtype=np.float32)


def _windows_of(
    cells: BoolArray, down: Footprint, across: Footprint, corner: tuple[int, int] = (0, 0)
) -> BoolArray:
    """Which windows that pixels are made of hold marked cells only, of planes (P, h, w) that begin at a corner."""
    for axis, footprint in ((1, down), (2, across)):
        count = cells.shape[axis] - footprint.taps + 1
        every = [
            cells[:, k : k + count] if axis == 1 else cells[..., k : k + count] for k in range(footprint.taps)
        ]
        cells = every[0]
        for index, part in enumerate(every[1:]):
            cells = np.logical_and(cells, part, out=None if index == 0 else cells)
        if not footprint.dense:
            start = corner[axis - 1]
            own = footprint.pixels[start : start + count] > 0
            cells = cells & (own[:, None] if axis == 1 else own)
    return cells


def _span(
    marked: BoolArray, corner: tuple[int, int], footprints: tuple[Footprint, Footprint], before: bool
) -> tuple[Span, Span]:
    """The first and one after the last row, and column, of the pixels that start at what is marked (h, w), which begins
    at a corner, or with ``before`` are made of it; zeros for none."""
    import cv2

    x, y, width, height = cv2.boundingRect(marked.view(np.uint8))
    if not width:
        return (0, 0), (0, 0)
    (down, across), (top, left) = footprints, (corner[0] + y, corner[1] + x)
    return down.pixels_of(top, top + height - 1, before), across.pixels_of(left, left + width - 1, before)


def _cells_of(pixels: Span, footprint: Footprint) -> slice:
    """What pixels are made of."""
    first, end = pixels
    if first == end:
        return slice(0, 0)
    return slice(int(footprint.first[first]), int(footprint.first[end - 1]) + footprint.taps)


def _box(rows: Span, columns: Span) -> Box:
    (top, bottom), (left, right) = rows, columns
    return (left, top, right - 1, bottom - 1) if right > left and bottom > top else NOWHERE

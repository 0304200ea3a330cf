"""Thin boundary maps: morphological thinning of a binary map, non-maximum suppression of a soft one."""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from anymask.errors import MaskError
from anymask.evaluation.metrics import BoolArray

FloatArray = NDArray[np.float32]

_NEIGHBOURS: Final = np.array([[8, 4, 2], [16, 0, 1], [32, 64, 128]], dtype=np.float32)


def _deletion_tables() -> tuple[BoolArray, BoolArray]:
    """For each of the 256 neighbourhoods, whether the middle pixel goes in the first and in the second pass.

    Neighbours x1 ... x8 run from the right counter-clockwise, x1 in the lowest bit.
    """
    x = (np.arange(256)[:, None] >> np.arange(8)[None, :] & 1).astype(bool)
    x1, x2, x3, x4, x5, x6, x7, x8 = x.T
    crossings = sum(
        (~a & (b | c)).astype(int) for a, b, c in ((x1, x2, x3), (x3, x4, x5), (x5, x6, x7), (x7, x8, x1))
    )
    pairs_after = sum((a | b).astype(int) for a, b in ((x1, x2), (x3, x4), (x5, x6), (x7, x8)))
    pairs_before = sum((a | b).astype(int) for a, b in ((x2, x3), (x4, x5), (x6, x7), (x8, x1)))
    fewest = np.minimum(pairs_after, pairs_before)
    may_go = (crossings == 1) & (fewest >= 2) & (fewest <= 3)
    return may_go & ~((x2 | x3 | ~x8) & x1), may_go & ~((x6 | x7 | ~x4) & x5)


_TABLES: Final = _deletion_tables()


def thin(boundaries: BoolArray) -> BoolArray:
    """Thin an (H, W) bool map to lines one pixel wide, until nothing changes; connections are kept.

    Source: Guo and Hall, "Parallel thinning with two-subiteration algorithms", CACM 1989, algorithm A1, which is
    `bwmorph(..., 'thin', inf)` in `evaluation_bdry_image.m` of the BSDS500 benchmark.

    Raises:
        MaskError: the map is not flat.
    """
    if boundaries.ndim != 2:
        raise MaskError(f"a boundary map must be (H, W), got shape {boundaries.shape}")
    kept = boundaries.astype(np.uint8)
    changed = bool(kept.any())
    while changed:
        changed = False
        for table in _TABLES:
            codes = cv2.filter2D(kept, cv2.CV_8U, _NEIGHBOURS, borderType=cv2.BORDER_CONSTANT)
            gone = table[codes] & (kept > 0)
            if gone.any():
                kept[gone] = 0
                changed = True
    return kept.astype(bool)


def smooth_triangle(edges: FloatArray, radius: int) -> FloatArray:
    """Smooth an (H, W) map with a separable triangle of the given radius in pixels, mirrored at the border.

    Source: `convTri.m` of Dollar's toolbox for integer radii.
    """
    if radius == 0:
        return np.asarray(edges, dtype=np.float32)
    ramp = np.arange(1, radius + 1, dtype=np.float32)
    kernel = np.concatenate([ramp, [radius + 1], ramp[::-1]]).astype(np.float32) / (radius + 1) ** 2
    source = np.ascontiguousarray(edges, dtype=np.float32)
    smoothed = cv2.sepFilter2D(source, cv2.CV_32F, kernel, kernel, borderType=cv2.BORDER_REFLECT)
    return np.asarray(smoothed, dtype=np.float32)


def edge_orientation(edges: FloatArray) -> FloatArray:
    """Direction across the edge at each pixel of an (H, W) soft map, in radians in [0, pi); 0 is along x.

    From second derivatives of the map smoothed with radius 4. Source: `edgesDetect.m` of Dollar's edges toolbox, with
    one mend: where the mixed derivative is exactly 0 the published formula gives 0, which leaves a perfectly
    horizontal edge thick; here it gives pi / 2 for such an edge.
    """
    smoothed = smooth_triangle(edges, 4)
    along_y, along_x = np.gradient(smoothed)
    xx = np.gradient(along_x, axis=1)
    yy, xy = np.gradient(along_y)
    angle = np.mod(np.arctan(yy * np.where(xy > 0, -1, 1) / (xx + 1e-5)), np.pi)
    return np.asarray(angle, dtype=np.float32)


def suppress_non_maxima(
    edges: FloatArray, radius: int = 1, border: int = 5, tolerance: float = 1.01
) -> FloatArray:
    """Keep a soft edge map where it is a maximum across the edge; elsewhere it becomes 0.

    Source: `edgesNmsMex.cpp` of Dollar's edges toolbox (Dollar and Zitnick, TPAMI 2015), with its default values.
    The published pipelines smooth the map with `smooth_triangle(edges, 1)` first.

    Args:
        edges: (H, W) floats in [0, 1], both sides at least 3.
        radius: how many pixels to each side are compared.
        border: edges within so many pixels of the image's border are weakened in proportion to their distance.
        tolerance: a value is dropped where this many times itself is below a neighbour's.

    Returns:
        (H, W) float32.

    Raises:
        MaskError: the map is not flat or is smaller than 3 pixels.
    """
    if edges.ndim != 2 or min(edges.shape) < 3:
        raise MaskError(f"an edge map must be (H, W) with at least 3 pixels a side, got shape {edges.shape}")
    source = np.asarray(edges, dtype=np.float32)
    angle = edge_orientation(source)
    rows, columns = np.nonzero(source)
    value = source[rows, columns] * tolerance
    cosine, sine = np.cos(angle[rows, columns]), np.sin(angle[rows, columns])
    highest = np.ones(len(rows), dtype=bool)
    for step in (*range(-radius, 0), *range(1, radius + 1)):
        highest &= value >= _interpolate(source, columns + step * cosine, rows + step * sine)
    kept = np.zeros_like(source)
    kept[rows[highest], columns[highest]] = source[rows[highest], columns[highest]]
    height, width = kept.shape
    border = min(border, width // 2, height // 2)
    return kept * _border_weight(height, border)[:, None] * _border_weight(width, border)[None, :]


def _interpolate(image: FloatArray, x: NDArray[np.floating], y: NDArray[np.floating]) -> FloatArray:
    """Bilinear values at (x, y), positions beyond the border moved onto it."""
    height, width = image.shape
    x, y = np.clip(x, 0, width - 1.001), np.clip(y, 0, height - 1.001)
    column, row = x.astype(np.intp), y.astype(np.intp)
    right, down = x - column, y - row
    upper = image[row, column] * (1 - right) + image[row, column + 1] * right
    lower = image[row + 1, column] * (1 - right) + image[row + 1, column + 1] * right
    return np.asarray(upper * (1 - down) + lower * down, dtype=np.float32)


def _border_weight(length: int, border: int) -> FloatArray:
    to_border = np.minimum(np.arange(length), np.arange(length)[::-1])
    return (
        np.minimum(to_border / max(border, 1), 1.0).astype(np.float32)
        if border
        else np.ones(length, np.float32)
    )

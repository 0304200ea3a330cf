"""COCO polygons to run lengths, pixel for pixel as pycocotools draws them.

The published rule (``rleFrPoly`` in ``common/maskApi.c`` of the COCO API) is not "the centre lies inside": vertices
are rounded to a grid five times as fine as the pixels, the outline is walked on that grid one step at a time along
each edge's longer axis, and wherever the walk crosses the middle column of a pixel column, everything from there on,
read down the columns, is turned over. The middle of pixel column x is the step between 5 x + 2 and 5 x + 3; the row
of a crossing is the first whose middle is not above it. Several parts of one object are united.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from anymask.errors import MaskError
from anymask.limits import MAX_IMAGE_SIDE, MAX_POLYGON_VERTICES

from .records import Counts, intervals_to_counts

_FINE: Final = 5
_MIDDLE: Final = 2
MAX_COORDINATE: Final = 2 * MAX_IMAGE_SIDE
"""Vertices farther than this from the origin, in pixels, are refused; no edge then has more than 1.4 million steps."""
MAX_STEPS: Final = 50_000_000
"""Longest outline of one object in steps of a fifth of a pixel; some seconds of work."""
_STEPS_AT_ONCE: Final = 1 << 20


def polygon_counts(parts: Sequence[NDArray[np.float64]], height: int, width: int) -> Counts:
    """Column-major run lengths, background first, of the union of polygons.

    Args:
        parts: each (N, 2) float64 (x, y) vertices in pixels, origin at the corner of the first pixel; fewer than three
            vertices enclose nothing.
        height, width: of the image, within ``anymask.limits``.

    Raises:
        MaskError: a vertex that is not finite or beyond `MAX_COORDINATE`, or an outline over a limit.
    """
    vertices = sum(len(part) for part in parts)
    if vertices > MAX_POLYGON_VERTICES:
        raise MaskError(f"the polygons have {vertices} vertices, over the limit of {MAX_POLYGON_VERTICES}")
    steps = 0
    starts, ends = [], []
    for part in parts:
        if not (np.abs(part) <= MAX_COORDINATE).all():  # false for NaN too
            raise MaskError(
                f"a polygon has a vertex that is not within {MAX_COORDINATE} pixels of the origin"
            )
        grid = np.trunc(part * _FINE + 0.5).astype(np.int64)
        steps += int(np.abs(np.roll(grid, -1, axis=0) - grid).max(axis=1).sum()) if len(grid) else 0
        if steps > MAX_STEPS:
            raise MaskError(
                f"an outline of {steps / _FINE:.0f} pixels is over the limit of {MAX_STEPS // _FINE}"
            )
        if len(grid) >= 3:
            edges = _turning_points(grid, height, width)
            starts.append(edges[::2])
            ends.append(edges[1::2])
    if not starts:
        return np.array([height * width], dtype=np.int64)
    if len(starts) == 1:
        return intervals_to_counts(starts[0], ends[0], height * width)
    return intervals_to_counts(*_united(np.concatenate(starts), np.concatenate(ends)), height * width)


def _turning_points(grid: NDArray[np.int64], height: int, width: int) -> NDArray[np.int64]:
    """Sorted places (even count), read down the columns, where one part begins and ends."""
    found = []
    for u, v in _walk(grid):
        after, before = u[1:], u[:-1]
        step = np.where(after < before, after, after - 1)
        column, offset = np.divmod(step, _FINE)
        row = np.clip((np.minimum(v[1:], v[:-1]) + _FINE - 1 - _MIDDLE) // _FINE, 0, height)
        crosses = (after != before) & (offset == _MIDDLE) & (column >= 0) & (column < width)
        found.append((column * height + row)[crosses])
    places, times = np.unique(np.concatenate(found), return_counts=True)
    places = places[(times % 2 == 1) & (places < height * width)]
    return np.append(places, height * width) if places.size % 2 else places


def _walk(grid: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Columns and rows of the steps along a closed outline, in bounded lots; each lot begins where the last ended."""
    start, end = grid, np.roll(grid, -1, axis=0)
    lengths = np.abs(end - start).max(axis=1) + 1
    lots = np.cumsum(lengths) // _STEPS_AT_ONCE
    cuts = np.concatenate([[0], np.flatnonzero(np.diff(lots)) + 1, [len(grid)]])
    last: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None
    for low, high in pairwise(cuts):
        u, v = _edge_steps(start[low:high], end[low:high])
        if last is not None:
            u, v = np.concatenate([last[0], u]), np.concatenate([last[1], v])
        last = u[-1:], v[-1:]
        yield u, v


def _edge_steps(
    start: NDArray[np.int64], end: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Columns and rows of the steps of edges (E, 2), both ends included; the arithmetic of the published loop."""
    span = np.abs(end - start)
    axis = np.where(span[:, 0] >= span[:, 1], 0, 1)
    number = np.arange(len(start))
    reversed_ = start[number, axis] > end[number, axis]
    low, high = np.where(reversed_[:, None], end, start), np.where(reversed_[:, None], start, end)
    length = span[number, axis]
    slope = (high - low)[number, 1 - axis] / np.maximum(length, 1)
    edge = np.repeat(number, length + 1)
    step = np.arange(edge.size) - np.repeat(np.cumsum(length + 1) - length - 1, length + 1)
    step = np.where(reversed_[edge], length[edge] - step, step)
    along = low[number, axis][edge] + step
    beside = np.trunc(low[number, 1 - axis][edge] + slope[edge] * step + 0.5).astype(np.int64)
    is_flat = (axis == 0)[edge]
    return np.where(is_flat, along, beside), np.where(is_flat, beside, along)


def _united(
    starts: NDArray[np.int64], ends: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Half-open intervals as sorted ones that neither overlap nor touch."""
    places, where = np.unique(np.concatenate([starts, ends]), return_inverse=True)
    change = np.zeros(places.size, dtype=np.int64)
    np.add.at(change, where, np.repeat([1, -1], [starts.size, ends.size]))
    covered = np.cumsum(change) > 0
    before = np.concatenate([[False], covered[:-1]])
    return places[covered & ~before], places[~covered & before]

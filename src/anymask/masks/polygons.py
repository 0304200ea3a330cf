"""Masks as polygons and back: a view of the mask, with holes and several parts.

Vertices are (x, y) in pixel-corner coordinates: pixel (column, row) is the square from (column, row) to
(column + 1, row + 1).  Rings follow the pixel edges, so rasterising the polygons gives the mask back exactly.
Each polygon is one 4-connected part; every ring is simple (it visits no vertex twice), exteriors run
clockwise on the screen (y down) and holes the other way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from anymask.errors import MaskError
from anymask.limits import MAX_IMAGE_PIXELS, MAX_IMAGE_SIDE, MAX_POLYGON_VERTICES
from anymask.masks.boxes import mask_to_box

__all__ = ["Polygon", "mask_to_polygons", "polygons_to_mask", "ring_area"]

_TL, _TR, _BL, _BR = 1, 2, 4, 8  # bits of the four pixels around a grid vertex


@dataclass(frozen=True, eq=False)
class Polygon:
    """One part: an exterior ring and its holes, each (N, 2) float64 (x, y) vertices, N >= 3, not closed by a
    repeat.
    """

    exterior: NDArray[np.float64]
    holes: tuple[NDArray[np.float64], ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "exterior", _ring(self.exterior))
        object.__setattr__(self, "holes", tuple(_ring(hole) for hole in self.holes))

    @property
    def area(self) -> float:
        """Enclosed area in pixels: the exterior's less the holes'."""
        return abs(ring_area(self.exterior)) - sum(abs(ring_area(hole)) for hole in self.holes)


def ring_area(ring: NDArray[np.float64]) -> float:
    """Signed area of a ring (N, 2); positive when it runs clockwise on the screen (y down)."""
    x, y = ring[:, 0] - ring[0, 0], ring[:, 1] - ring[0, 1]
    return float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2.0


def mask_to_polygons(mask: NDArray[np.bool_], tolerance: float = 0.0) -> list[Polygon]:
    """The parts of a bool mask (H, W), in reading order of their first pixel.

    With ``tolerance`` (pixels) above 0 each ring is thinned by Douglas-Peucker; the result is then close to
    the mask, not exact, and a ring that would collapse is kept as it was.  Raises ``MaskError`` on a bad mask
    or when the outline has more than ``MAX_POLYGON_VERTICES`` vertices.
    """
    mask = np.asarray(mask)
    if mask.ndim != 2 or mask.dtype != np.bool_ or mask.size == 0:
        raise MaskError(
            f"a mask must be a non-empty 2-D bool array, got shape {mask.shape} dtype {mask.dtype}"
        )
    if not (np.isfinite(tolerance) and tolerance >= 0):
        raise MaskError(f"the tolerance must be 0 or more pixels, got {tolerance!r}")
    x0, y0, x1, y1 = mask_to_box(mask)
    if x0 == x1:
        return []
    window = np.ascontiguousarray(mask[y0:y1, x0:x1])
    rings = _rings(*_corner_links(window))
    import cv2  # a quarter of a second at import, so only where needed

    _, labels = cv2.connectedComponents(window.view(np.uint8), connectivity=4)
    exteriors: dict[int, NDArray[np.float64]] = {}
    holes: dict[int, list[NDArray[np.float64]]] = {}
    for ring in rings:
        column, row = _pixel_right_of(ring[0], ring[1])
        part = int(labels[row, column])
        kept = _thin(ring, tolerance) + np.array([x0, y0])
        if ring_area(ring) > 0:
            exteriors[part] = kept
        else:
            holes.setdefault(part, []).append(kept)
    return [Polygon(exteriors[part], tuple(holes.get(part, ()))) for part in sorted(exteriors)]


def polygons_to_mask(polygons: Sequence[Polygon], height: int, width: int) -> NDArray[np.bool_]:
    """The bool mask (height, width) of pixels whose centre lies in any polygon.

    Rule: a centre is inside when a ray to the left crosses the polygon's rings an odd number of times;
    overlapping polygons are united.  Vertices may lie outside the image.  Raises ``MaskError`` over a limit.
    """
    if not (
        1 <= height <= MAX_IMAGE_SIDE and 1 <= width <= MAX_IMAGE_SIDE and height * width <= MAX_IMAGE_PIXELS
    ):
        raise MaskError(f"a mask of {height} x {width} pixels is outside the limits")
    vertices = sum(len(p.exterior) + sum(len(hole) for hole in p.holes) for p in polygons)
    if vertices > MAX_POLYGON_VERTICES:
        raise MaskError(f"the polygons have {vertices} vertices, over the limit of {MAX_POLYGON_VERTICES}")
    mask = np.zeros((height, width), dtype=np.bool_)
    for polygon in polygons:
        low, high = polygon.exterior.min(axis=0), polygon.exterior.max(axis=0)
        x0, y0 = (int(v) for v in np.clip(np.floor(low), 0, (width, height)))
        x1, y1 = (int(v) for v in np.clip(np.ceil(high), 0, (width, height)))
        if x0 < x1 and y0 < y1:
            mask[y0:y1, x0:x1] |= _fill((polygon.exterior, *polygon.holes), x0, y0, x1, y1)
    return mask


def _fill(rings: Sequence[NDArray[np.float64]], x0: int, y0: int, x1: int, y1: int) -> NDArray[np.bool_]:
    """Even-odd fill of rings within the window of columns x0..x1-1 and rows y0..y1-1."""
    flips = np.zeros((y1 - y0, x1 - x0 + 1), dtype=np.uint8)
    for ring in rings:
        start, end = ring, np.roll(ring, -1, axis=0)
        falls = (start[:, 1] <= end[:, 1])[:, None]
        upper, lower = np.where(falls, start, end), np.where(falls, end, start)
        first = np.clip(np.ceil(upper[:, 1] - 0.5), y0, y1).astype(np.int64)
        past = np.clip(np.ceil(lower[:, 1] - 0.5), y0, y1).astype(np.int64)
        count = past - first
        edge = np.repeat(np.arange(len(ring)), count)
        row = np.arange(edge.size) - np.repeat(np.cumsum(count) - count, count) + first[edge]
        rise = lower[edge, 1] - upper[edge, 1]
        share = (row + 0.5 - upper[edge, 1]) / rise
        crossing = upper[edge, 0] + share * (lower[edge, 0] - upper[edge, 0])
        column = np.clip(np.ceil(crossing - 0.5), x0, x1).astype(np.int64)
        np.bitwise_xor.at(flips, (row - y0, column - x0), 1)
    filled: NDArray[np.bool_] = np.bitwise_xor.accumulate(flips, axis=1)[:, :-1].astype(np.bool_)
    return filled


def _corner_links(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Corners (N, 2) of the outline as (x, y), the index of the next one with the mask on the right hand, and
    saddles.

    A corner is a grid vertex whose four pixels are set one, three, or two diagonally (a saddle); the outline
    passes a saddle twice, so it is listed twice.  Along a grid row (and down a grid column) the listed
    corners pair up in order, each pair being one straight edge.  At a saddle each set pixel keeps its own
    corner.
    """
    padded = np.pad(mask.view(np.uint8), 1)
    code = padded[:-1, :-1] + 2 * padded[:-1, 1:] + 4 * padded[1:, :-1] + 8 * padded[1:, 1:]
    times = np.zeros(16, dtype=np.uint8)
    times[[_TL, _TR, _BL, _BR, 15 - _TL, 15 - _TR, 15 - _BL, 15 - _BR]] = 1
    times[[_TL | _BR, _TR | _BL]] = 2
    y, x = np.nonzero(times[code])
    repeats = times[code[y, x]]
    y, x = np.repeat(y, repeats), np.repeat(x, repeats)
    if y.size > MAX_POLYGON_VERTICES:
        raise MaskError(f"the outline has {y.size} vertices, over the limit of {MAX_POLYGON_VERTICES}")
    codes = code[y, x]
    is_second = np.zeros(y.size, dtype=np.bool_)
    is_second[1:] = (y[1:] == y[:-1]) & (x[1:] == x[:-1])
    index = np.arange(y.size)
    down_order = np.lexsort((is_second ^ (codes == (_TR | _BL)), y, x))
    down = np.empty_like(index)
    down[down_order] = down_order[index ^ 1]
    leaves_across = np.isin(codes, [_TL, _BR, 15 - _BL, 15 - _TR, _TL | _BR])
    successor = np.where(leaves_across, index ^ 1, down)
    return np.stack([x, y], axis=1), successor, times[codes] == 2


def _rings(
    vertices: NDArray[np.int64], successor: NDArray[np.int64], is_saddle: NDArray[np.bool_]
) -> list[NDArray[np.float64]]:
    """Closed walks along ``successor``, cut wherever a walk comes back to a saddle, so that every ring is
    simple.
    """
    following, saddle = successor.tolist(), is_saddle.tolist()
    done = bytearray(len(following))
    rings: list[list[int]] = []
    for start in range(len(following)):
        if done[start]:
            continue
        path: list[int] = []
        seen: dict[tuple[int, int], int] = {}
        here = start
        while not done[here]:
            done[here] = 1
            if saddle[here]:
                vertex = (int(vertices[here, 0]), int(vertices[here, 1]))
                if vertex in seen:
                    loop = path[seen[vertex] :]
                    rings.append(loop)
                    del path[seen[vertex] :]
                    seen = {key: place for key, place in seen.items() if place < len(path)}
                seen[vertex] = len(path)
            path.append(here)
            here = following[here]
        rings.append(path)
    return [vertices[ring].astype(np.float64) for ring in rings]


def _pixel_right_of(start: NDArray[np.float64], end: NDArray[np.float64]) -> tuple[int, int]:
    """(column, row) of the pixel on the right hand at the start of an edge along the grid."""
    x, y = int(start[0]), int(start[1])
    if end[0] != x:
        return (x, y) if end[0] > x else (x - 1, y - 1)
    return (x - 1, y) if end[1] > y else (x, y - 1)


def _thin(ring: NDArray[np.float64], tolerance: float) -> NDArray[np.float64]:
    """The ring after Douglas-Peucker, or as it was when fewer than three vertices or no area remain."""
    if tolerance == 0:
        return ring
    import cv2

    thinned = cv2.approxPolyDP(ring.astype(np.float32)[:, None], tolerance, True)[:, 0].astype(np.float64)
    return thinned if len(thinned) >= 3 and ring_area(thinned) * ring_area(ring) > 0 else ring


def _ring(ring: ArrayLike) -> NDArray[np.float64]:
    vertices = np.array(ring, dtype=np.float64)
    if vertices.ndim != 2 or vertices.shape[1] != 2 or len(vertices) < 3 or not np.isfinite(vertices).all():
        raise MaskError(f"a ring must be three or more finite (x, y) vertices, got shape {vertices.shape}")
    vertices.setflags(write=False)
    return vertices

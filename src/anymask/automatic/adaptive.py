"""Clicks from coarse to fine, none where accepted masks already explain the picture.

A grid of n x n clicks is asked in levels of halved steps. Accepted masks whose boxes overlap as duplicates' do form a
group. Before each level after the first the clicks are left out whose smallest group, the finest answer known there,
was found by enough other clicks: one more would find it again. All clicks of a level are chosen before any is answered,
so the size of the batches changes nothing.

Counting just any accepted mask instead is hardly better than leaving out clicks by chance: large masks explain nothing
of what lies in them. `anymask.automatic.recall` measures what is missed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from anymask.masks.boxes import box_iou

from .reading import MaskReader
from .runs import Runs

__all__ = ["COARSEST_STEP", "Explained", "coarse_to_fine"]

IntArray = NDArray[np.int64]
PointArray = NDArray[np.float64]

COARSEST_STEP: Final = 8
"""The first level takes every eighth click of a row and of a column."""


def coarse_to_fine(points_per_side: int) -> list[IntArray]:
    """Indices into `point_grid` level by level; together each once.

    A level has the middle clicks of squares of step x step clicks that no level before has.
    """
    levels = []
    taken = np.zeros((points_per_side, points_per_side), dtype=np.bool_)
    step = COARSEST_STEP
    while step >= 1:
        along = np.arange(step // 2, points_per_side, step)
        level = np.zeros_like(taken)
        level[np.ix_(along, along)] = True
        levels.append(np.flatnonzero(level & ~taken))
        taken |= level
        step //= 2
    return [level for level in levels if len(level)]


class Explained:
    """For every click of a crop, how many clicks found the finest group of masks that covers it."""

    def __init__(
        self, levels: Sequence[PointArray], size: tuple[int, int], enough: int, duplicate_iou: float
    ) -> None:
        """For clicks (N, 2), (x, y) in pixels of a crop (height, width), level by level.

        Args:
            levels: the clicks.
            size: of the crop.
            enough: so many clicks explain a place.
            duplicate_iou: masks are of one group when their boxes overlap more.
        """
        height, width = size
        points = np.concatenate(levels)
        self._x = np.minimum(points[:, 0].astype(np.int64), width - 1)
        self._y = np.minimum(points[:, 1].astype(np.int64), height - 1)
        self._ends = np.cumsum([0, *(len(level) for level in levels)])
        self._enough, self._duplicate_iou = enough, duplicate_iou
        self._boxes: list[tuple[int, int, int, int]] = []
        self._areas: list[int] = []
        # Of the finest group at each click: which it is, its area, the clicks that found it, the last of these.
        self._group = np.full(len(points), -1, dtype=np.int64)
        self._area = np.full(len(points), np.iinfo(np.int64).max, dtype=np.int64)
        self._count = np.zeros(len(points), dtype=np.int64)
        self._last = np.full(len(points), -1, dtype=np.int64)

    def note(self, click: int, runs: Runs, reader: MaskReader) -> None:
        """Take an accepted mask of a click, which ``reader`` read last."""
        group = self._group_of(runs)
        inside = reader.holds(self._x, self._y)
        finer = inside & (self._areas[group] < self._area)
        self._group[finer], self._area[finer], self._count[finer] = group, self._areas[group], 0
        self._last[finer] = -1
        again = inside & (self._group == group) & (self._last != click)
        self._count[again] += 1
        self._last[again] = click

    def open(self, level: int) -> NDArray[np.bool_]:
        """Which clicks of a level are not explained yet."""
        return self._count[self._ends[level] : self._ends[level + 1]] < self._enough

    def _group_of(self, runs: Runs) -> int:
        """The group whose first box overlaps most, or a new one."""
        box = runs.box_published
        if self._boxes:
            overlaps = box_iou([box], self._boxes)[0]
            nearest = int(overlaps.argmax())
            if overlaps[nearest] > self._duplicate_iou:
                return nearest
        self._boxes.append(box)
        self._areas.append(runs.area)
        return len(self._boxes) - 1

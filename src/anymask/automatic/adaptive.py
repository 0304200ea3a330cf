"""Clicks from coarse to fine, none where accepted masks already explain the picture or nothing is to be hoped for.

A grid of n x n clicks is asked in levels of halved steps. Before each level after the first a click is left out for one
of two reasons:

- **explained**: accepted masks whose boxes overlap as duplicates' do form a group, and the finest group known over the
  click was found by enough other clicks; one more would find it again. Counting just any accepted mask instead is
  hardly better than leaving out clicks by chance: large masks explain nothing of what lies in them.
- **hopeless**: the clicks answered around it promise nothing: the best predicted IoU of each, on average, is far below
  the threshold that a mask has to pass. Only where the levels are fine enough for neighbours to be alike.

All clicks of a level are chosen before any is answered, so the size of the batches changes nothing. Masks are looked at
in low resolution: none is upsampled for it. `anymask.automatic.recall` measures what is missed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from anymask.frame import Frame
from anymask.masks.boxes import box_iou

from .answers import Answers
from .settings import AutomaticSettings

__all__ = ["COARSEST_STEP", "Explained", "Guide", "Promise", "coarse_to_fine"]

IntArray = NDArray[np.int64]
PointArray = NDArray[np.float64]
FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

COARSEST_STEP: Final = 8
"""The first level takes every eighth click of a row and of a column."""
HOPELESS_FROM: Final = 2
"""From the level with this step on clicks may be hopeless."""
REACH: Final = 3
"""Answers count for a click that are so many steps of its level away, or fewer."""


def coarse_to_fine(points_per_side: int) -> list[IntArray]:
    """Indices into `point_grid` level by level; together each once.

    A level has the middle clicks of squares of step x step clicks that no level before has.
    """
    return [level for level, _ in _levels(points_per_side)]


def _levels(points_per_side: int) -> list[tuple[IntArray, int]]:
    """Levels and their steps."""
    levels = []
    taken = np.zeros((points_per_side, points_per_side), dtype=np.bool_)
    step = COARSEST_STEP
    while step >= 1:
        along = np.arange(step // 2, points_per_side, step)
        level = np.zeros_like(taken)
        level[np.ix_(along, along)] = True
        levels.append((np.flatnonzero(level & ~taken), step))
        taken |= level
        step //= 2
    return [(level, step) for level, step in levels if len(level)]


class Guide:
    """Chooses the clicks of one crop, level by level, from the answers to those before."""

    def __init__(
        self,
        levels: Sequence[PointArray],
        points_per_side: int,
        settings: AutomaticSettings,
        frame: Frame,
        low_res_stride: int,
        threshold: float,
    ) -> None:
        """For the clicks of a grid, (x, y) in pixels of a crop, of which a region may have left out some.

        Args:
            levels: the clicks (N, 2) of each level of `coarse_to_fine`.
            points_per_side: of the grid.
            settings: thresholds, and what is enough.
            frame: of the crop.
            low_res_stride: network pixels per cell of the logits.
            threshold: a cell above it is in the mask.
        """
        self._settings, self._threshold = settings, threshold
        points = np.concatenate(levels)
        self._starts = np.cumsum([0, *(len(level) for level in levels)])
        self._rows, self._columns = (-(-side // low_res_stride) for side in frame.resized_size)
        cells = (frame.points_to_network(points) / low_res_stride).astype(np.int64)
        self._x, self._y = np.minimum(cells[:, 0], self._columns - 1), np.minimum(cells[:, 1], self._rows - 1)
        self._explained = Explained(len(points), settings.enough_clicks, settings.box_nms_thresh)
        height, width = frame.image_size
        across = np.minimum(points * points_per_side / (width, height), points_per_side - 1).astype(np.int64)
        self._grid = across[:, 1] * points_per_side + across[:, 0]
        self._promise = Promise(points_per_side)
        self._steps = [_step_of(self._grid[start], points_per_side) for start in self._starts[:-1]]

    def chosen(self, level: int) -> IntArray:
        """The clicks of a level to ask, as their numbers among the clicks of all levels."""
        clicks = np.arange(self._starts[level], self._starts[level + 1])
        if level == 0:
            return clicks
        open_ = self._explained.open(clicks)
        least = self._settings.least_promise * self._settings.pred_iou_thresh
        if self._steps[level] <= HOPELESS_FROM and least > 0:
            open_ &= self._promise.of(self._grid[clicks], REACH * self._steps[level]) >= least
        return clicks[open_]

    def answer(self, clicks: IntArray, answers: Answers) -> None:
        """Take the answers to clicks (N,); those with a score above the threshold have planes."""
        scores = answers.scores
        self._promise.note(self._grid[clicks], scores.max(axis=1))
        where, which = np.nonzero(scores > np.float32(self._settings.pred_iou_thresh))
        for index in range(0, len(where), scores.shape[1]):
            some = slice(index, index + scores.shape[1])
            planes = answers.of(where[some], which[some])
            self._note(clicks[where[some]], planes[:, : self._rows, : self._columns])

    def _note(self, clicks: IntArray, planes: FloatArray) -> None:
        """Masks (M, rows, columns) of clicks (M,) that may be accepted, by their cells."""
        settings, threshold = self._settings, self._threshold
        above = planes > np.float32(threshold)
        areas = np.count_nonzero(above, axis=(1, 2))
        high = np.count_nonzero(planes > np.float32(threshold + settings.stability_score_offset), axis=(1, 2))
        low = np.count_nonzero(planes > np.float32(threshold - settings.stability_score_offset), axis=(1, 2))
        accepted = (areas > 0) & (areas <= settings.max_area_share * self._rows * self._columns)
        accepted &= high >= settings.stability_score_thresh * low
        for index in np.flatnonzero(accepted).tolist():
            inside = above[index][self._y, self._x]
            self._explained.note(int(clicks[index]), _box(above[index]), int(areas[index]), inside)


class Explained:
    """For every click of a crop, how many clicks found the finest group of masks that covers it."""

    def __init__(self, clicks: int, enough: int, duplicate_iou: float) -> None:
        """For so many clicks.

        Args:
            clicks: how many there are.
            enough: so many clicks explain a place.
            duplicate_iou: masks are of one group when their boxes overlap more.
        """
        self._enough, self._duplicate_iou = enough, duplicate_iou
        self._boxes: list[tuple[int, int, int, int]] = []
        self._areas: list[int] = []
        # Of the finest group at each click: which it is, its area, the clicks that found it, the last of these.
        self._group = np.full(clicks, -1, dtype=np.int64)
        self._area = np.full(clicks, np.iinfo(np.int64).max, dtype=np.int64)
        self._count = np.zeros(clicks, dtype=np.int64)
        self._last = np.full(clicks, -1, dtype=np.int64)

    def note(self, click: int, box: tuple[int, int, int, int], area: int, inside: BoolArray) -> None:
        """Take an accepted mask of a click: its box, half-open, its area, and which clicks (N,) lie in it."""
        group = self._group_of(box, area)
        finer = inside & (self._areas[group] < self._area)
        self._group[finer], self._area[finer], self._count[finer] = group, self._areas[group], 0
        self._last[finer] = -1
        again = inside & (self._group == group) & (self._last != click)
        self._count[again] += 1
        self._last[again] = click

    def open(self, clicks: IntArray) -> BoolArray:
        """Which of the clicks are not explained yet."""
        unexplained: BoolArray = self._count[clicks] < self._enough
        return unexplained

    def _group_of(self, box: tuple[int, int, int, int], area: int) -> int:
        """The group whose first box overlaps most, or a new one."""
        if self._boxes:
            overlaps = box_iou([box], self._boxes)[0]
            nearest = int(overlaps.argmax())
            if overlaps[nearest] > self._duplicate_iou:
                return nearest
        self._boxes.append(box)
        self._areas.append(area)
        return len(self._boxes) - 1


class Promise:
    """What the answers around a click of a square grid make hope for."""

    def __init__(self, points_per_side: int) -> None:
        self._side = points_per_side
        self._answers = np.zeros((2, points_per_side, points_per_side), dtype=np.float64)
        """How many clicks were answered, and the best score of each."""

    def note(self, clicks: IntArray, scores: FloatArray) -> None:
        """Take the best scores (N,) of clicks (N,), indices into the grid row by row."""
        self._answers[0].flat[clicks] = 1
        self._answers[1].flat[clicks] = scores

    def of(self, clicks: IntArray, reach: int) -> NDArray[np.float64]:
        """The mean score (N,) of the clicks answered that lie at most ``reach`` columns and rows away.

        Where none was answered, of those at most twice as far away, and so on; 0 when there is no answer at all.
        """
        known = np.zeros(len(clicks), dtype=np.bool_)
        means = np.zeros(len(clicks), dtype=np.float64)
        while not known.all() and reach < 2 * self._side:
            count, total = (_around(plane, reach).flat[clicks] for plane in self._answers)
            new = ~known & (count > 0.5)
            means[new] = total[new] / count[new]
            known |= new
            reach *= 2
        return means


def _around(plane: NDArray[np.float64], reach: int) -> NDArray[np.float64]:
    """Sums over the squares of 2 reach + 1 columns and rows around each place of a square plane."""
    side = len(plane)
    sums = np.zeros((side + 1, side + 1), dtype=np.float64)
    sums[1:, 1:] = plane.cumsum(axis=0).cumsum(axis=1)
    low, high = (np.clip(np.arange(side) + offset, 0, side) for offset in (-reach, reach + 1))
    return (
        sums[np.ix_(high, high)] - sums[np.ix_(high, low)] - sums[np.ix_(low, high)] + sums[np.ix_(low, low)]
    )


def _step_of(click: int, points_per_side: int) -> int:
    """The step of the level that has a click of the grid."""
    return next(step for level, step in _levels(points_per_side) if click in level)


def _box(above: BoolArray) -> tuple[int, int, int, int]:
    """Half-open box of a mask's cells."""
    rows, columns = np.flatnonzero(above.any(axis=1)), np.flatnonzero(above.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1

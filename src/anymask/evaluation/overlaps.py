"""IoU of many masks with many others, exact, from run lengths."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from anymask.errors import MaskError

__all__ = ["iou_matrix"]

IntArray = NDArray[np.int64]


def iou_matrix(first: Sequence[IntArray], second: Sequence[IntArray]) -> NDArray[np.float64]:
    """IoU (N, M) of N masks with M others of the same image; 0 where both are empty, as COCO's evaluation has it.

    Masks are checked counts as `anymask.masks.rle` gives them. Of each mask of ``second`` one running sum over the
    image is held at a time, so few masks against many are best given in second place.

    Raises:
        MaskError: masks of different numbers of pixels.
    """
    pixels = {int(counts.sum()) for counts in (*first, *second)}
    if len(pixels) > 1:
        raise MaskError(f"masks of {sorted(pixels)} pixels cannot be compared; they must be of one image")
    overlaps = np.zeros((len(first), len(second)), dtype=np.float64)
    if not overlaps.size:
        return overlaps
    starts, ends, runs = _foreground(first)
    owners = np.concatenate([[0], np.cumsum(runs)])
    areas = np.array([counts[1::2].sum() for counts in first], dtype=np.int64)
    for column, counts in enumerate(second):
        below = _running_sum(counts)
        common = np.concatenate([[0], np.cumsum(below[ends] - below[starts])])[owners]
        shared = common[1:] - common[:-1]
        overlaps[:, column] = shared / np.maximum(areas + int(counts[1::2].sum()) - shared, 1)
    return overlaps


def _foreground(masks: Sequence[IntArray]) -> tuple[IntArray, IntArray, IntArray]:
    """First and past-the-last pixels of all runs of all masks one after the other, and how many runs each has."""
    sums = [np.cumsum(counts) for counts in masks]
    starts = np.concatenate([total[0:-1:2] for total in sums])
    ends = np.concatenate([total[1::2] for total in sums])
    return starts, ends, np.array([len(total) // 2 for total in sums], dtype=np.int64)


def _running_sum(counts: IntArray) -> IntArray:
    """Foreground pixels before each pixel in column-major order, (H * W + 1,)."""
    values = np.zeros(len(counts), dtype=np.int8)
    values[1::2] = 1
    below = np.zeros(int(counts.sum()) + 1, dtype=np.int64)
    np.cumsum(np.repeat(values, counts), out=below[1:])
    return below

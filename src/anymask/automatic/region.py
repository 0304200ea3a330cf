"""The part of an image that masks are looked for in."""

from __future__ import annotations

from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from anymask.errors import InputError
from anymask.frame import CropBox

from .runs import Runs

__all__ = ["REGION_SHARE", "Region"]

REGION_SHARE: Final = 0.5
"""A mask belongs to a region that holds at least this share of its pixels."""


class Region:
    """A box or a mask; clicks outside it are not made, and masks that lie mostly outside it are not kept."""

    def __init__(self, region: ArrayLike, image_size: tuple[int, int]) -> None:
        """``region`` is a box (x0, y0, x1, y1) or a bool mask of the image's size (height, width).

        Raises:
            InputError: it is neither, does not fit the image, or holds no pixel.
        """
        array = np.asarray(region)
        height, width = image_size
        self._mask: NDArray[np.bool_] | None = None
        if array.dtype == np.bool_:
            if array.shape != image_size or not array.any():
                raise InputError(
                    f"a region's mask must be of the image's size {image_size} with pixels set, got shape {array.shape}"
                )
            self._mask = array
            rows, columns = np.flatnonzero(array.any(axis=1)), np.flatnonzero(array.any(axis=0))
            corners = [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]
        else:
            if array.shape != (4,) or array.dtype.kind not in "iuf" or not np.isfinite(array).all():
                raise InputError(
                    f"a region is a box (x0, y0, x1, y1) or a bool mask, got {array.dtype} {array.shape}"
                )
            x0, y0, x1, y1 = (float(corner) for corner in array)
            if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
                raise InputError(
                    f"the region ({x0:g}, {y0:g}, {x1:g}, {y1:g}) must have x0 < x1 and y0 < y1 within the "
                    f"{width} x {height} image"
                )
            corners = [int(np.floor(x0)), int(np.floor(y0)), int(np.ceil(x1)), int(np.ceil(y1))]
        self._corners = corners

    def meets(self, crop_box: CropBox) -> bool:
        """Whether the region's box and a crop have a pixel in common."""
        x0, y0, x1, y1 = self._corners
        return max(x0, crop_box[0]) < min(x1, crop_box[2]) and max(y0, crop_box[1]) < min(y1, crop_box[3])

    def holds(self, points: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which points (N, 2), (x, y) in pixels of the image, lie in it."""
        x0, y0, x1, y1 = self._corners
        x, y = points[:, 0], points[:, 1]
        if self._mask is None:
            return (x >= x0) & (x < x1) & (y >= y0) & (y < y1)
        height, width = self._mask.shape
        columns = np.minimum(x.astype(np.int64), width - 1)
        inside: NDArray[np.bool_] = self._mask[np.minimum(y.astype(np.int64), height - 1), columns]
        return inside

    def owns(self, runs: Runs, corner: tuple[int, int]) -> bool:
        """Whether at least `REGION_SHARE` of a mask, of a crop with its corner at (x, y), lies in it."""
        columns, tops, ends = runs.columns + corner[0], runs.tops + corner[1], runs.bottoms + corner[1] + 1
        if self._mask is None:
            x0, y0, x1, y1 = self._corners
            rows = np.maximum(np.minimum(ends, y1) - np.maximum(tops, y0), 0)
            common = int(rows[(columns >= x0) & (columns < x1)].sum())
        else:
            common = int((self._above[columns, ends] - self._above[columns, tops]).sum())
        return common >= REGION_SHARE * runs.area

    @cached_property
    def _above(self) -> NDArray[np.int32]:
        """(width, height + 1): pixels of the region above each row of each column."""
        assert self._mask is not None
        height, width = self._mask.shape
        above = np.zeros((width, height + 1), dtype=np.int32)
        np.cumsum(self._mask.T, axis=1, out=above[:, 1:])
        return above

"""The grid of points that asks for everything."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from anymask.errors import LimitError
from anymask.limits import MAX_POINTS_PER_SIDE

__all__ = ["point_grid"]


def point_grid(points_per_side: int) -> NDArray[np.float64]:
    """The centres (n * n, 2), as (x, y) in [0, 1], of n x n equal cells, row by row from the top left.

    Same values as ``build_point_grid`` of ``segment_anything/utils/amg.py``. Times (width, height) they are image
    pixels.

    Raises:
        LimitError: n is not from 1 to ``MAX_POINTS_PER_SIDE``.
    """
    if not 1 <= points_per_side <= MAX_POINTS_PER_SIDE:
        raise LimitError(f"a grid has from 1 to {MAX_POINTS_PER_SIDE} points per side, got {points_per_side}")
    offset = 1 / (2 * points_per_side)
    along = np.linspace(offset, 1 - offset, points_per_side)
    x, y = np.meshgrid(along, along)
    return np.stack([x, y], axis=-1).reshape(-1, 2)

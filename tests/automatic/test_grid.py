"""The grid of clicks."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from anymask.automatic.grid import point_grid
from anymask.errors import LimitError
from anymask.limits import MAX_POINTS_PER_SIDE


def test_two_by_two_by_hand() -> None:
    assert point_grid(2).tolist() == [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]
    assert point_grid(1).tolist() == [[0.5, 0.5]]


def _centre(index: int, side: int) -> Fraction:
    return Fraction(2 * index + 1, 2 * side)


@pytest.mark.parametrize("side", [1, 2, 4, 8, 16, 32, 64])
def test_centres_of_cells_row_by_row(side: int) -> None:
    """The usual grids are exact: every centre is a binary fraction."""
    expected = [(_centre(x, side), _centre(y, side)) for y in range(side) for x in range(side)]
    assert [tuple(point) for point in point_grid(side).tolist()] == expected


@pytest.mark.parametrize("side", [3, 5, 7, 100])
def test_other_grids_up_to_the_last_bits(side: int) -> None:
    expected = [(float(_centre(x, side)), float(_centre(y, side))) for y in range(side) for x in range(side)]
    np.testing.assert_allclose(point_grid(side), expected, rtol=0, atol=2**-52)


@pytest.mark.parametrize("side", [0, -1, MAX_POINTS_PER_SIDE + 1])
def test_a_grid_out_of_range(side: int) -> None:
    with pytest.raises(LimitError, match=str(side)):
        point_grid(side)

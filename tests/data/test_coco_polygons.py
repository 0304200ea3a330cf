"""COCO polygons: the same pixels as pycocotools, for any polygon."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from anymask.data import coco_polygons
from anymask.data.coco_polygons import MAX_COORDINATE, polygon_counts
from anymask.errors import MaskError
from anymask.masks import rle

COORDINATE = st.one_of(
    st.floats(-20, 70, allow_nan=False),
    st.integers(-20, 70).map(float),
    st.integers(-200, 700).map(
        lambda value: value / 10
    ),  # the fine grid's own corners, where rounding decides
)
PART = st.lists(st.tuples(COORDINATE, COORDINATE), min_size=3, max_size=9)
PARTS = st.lists(PART, min_size=1, max_size=4)
SIZE = st.tuples(st.integers(1, 50), st.integers(1, 50))


def arrays(parts: list[list[tuple[float, float]]]) -> list[np.ndarray]:
    return [np.array(part, dtype=np.float64).reshape(-1, 2) for part in parts]


def drawn_by_pycocotools(parts: list[np.ndarray], height: int, width: int) -> np.ndarray:
    flat = [part.ravel().tolist() for part in parts]
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(flat, height, width))).astype(bool)


def drawn(parts: list[np.ndarray], height: int, width: int) -> np.ndarray:
    return rle.decode_counts(polygon_counts(parts, height, width), (height, width))


@settings(max_examples=300, deadline=None)
@given(PARTS, SIZE)
def test_every_pixel_is_that_of_pycocotools(
    parts: list[list[tuple[float, float]]], size: tuple[int, int]
) -> None:
    polygons = arrays(parts)
    np.testing.assert_array_equal(drawn(polygons, *size), drawn_by_pycocotools(polygons, *size))


@settings(max_examples=60, deadline=None)
@given(PARTS, SIZE, st.integers(1, 60))
def test_an_outline_walked_in_lots_covers_the_same(
    parts: list[list[tuple[float, float]]], size: tuple[int, int], lot: int
) -> None:
    polygons = arrays(parts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coco_polygons, "_STEPS_AT_ONCE", lot)
        got = drawn(polygons, *size)
    np.testing.assert_array_equal(got, drawn_by_pycocotools(polygons, *size))


def test_the_outline_of_an_object_of_a_real_size() -> None:
    angle = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    radius = 180 + 40 * np.sin(9 * angle)
    star = np.stack([320 + radius * np.cos(angle), 240 + radius * np.sin(angle)], axis=1)
    np.testing.assert_array_equal(drawn([star], 480, 640), drawn_by_pycocotools([star], 480, 640))


def test_a_rectangle_on_the_grid_is_that_rectangle() -> None:
    expected = np.zeros((9, 12), dtype=bool)
    expected[2:7, 3:11] = True
    np.testing.assert_array_equal(drawn(arrays([[(3, 2), (11, 2), (11, 7), (3, 7)]]), 9, 12), expected)


def test_parts_that_overlap_are_united_not_turned_over() -> None:
    square = [(1.0, 1.0), (6.0, 1.0), (6.0, 6.0), (1.0, 6.0)]
    shifted = [(x + 2, y + 2) for x, y in square]
    expected = np.zeros((10, 10), dtype=bool)
    expected[1:6, 1:6] = expected[3:8, 3:8] = True
    np.testing.assert_array_equal(drawn(arrays([square, shifted, square]), 10, 10), expected)


@pytest.mark.parametrize("parts", [[], [[]], [[(1.0, 1.0)]], [[(0.0, 0.0), (9.0, 9.0)]]])
def test_fewer_than_three_vertices_enclose_nothing(parts: list[list[tuple[float, float]]]) -> None:
    assert polygon_counts(arrays(parts), 10, 10).tolist() == [100]


@pytest.mark.parametrize(
    "value", [np.nan, np.inf, -np.inf, 1e300, MAX_COORDINATE + 1.0, -MAX_COORDINATE - 1.0]
)
def test_vertices_far_away_are_refused(value: float) -> None:
    with pytest.raises(MaskError, match="vertex"):
        polygon_counts(arrays([[(0, 0), (5, value), (5, 0)]]), 10, 10)


def test_an_endless_outline_is_refused_before_it_is_walked() -> None:
    there_and_back = np.tile([[0.0, 0.0], [MAX_COORDINATE, 1.0]], (5000, 1))
    with pytest.raises(MaskError, match="outline"):
        polygon_counts([there_and_back], 10, 10)


def test_vertices_at_the_edge_of_what_is_allowed() -> None:
    far = float(MAX_COORDINATE)
    triangle = arrays([[(-far, -far), (far, -far), (far, far)]])
    np.testing.assert_array_equal(drawn(triangle, 40, 30), drawn_by_pycocotools(triangle, 40, 30))

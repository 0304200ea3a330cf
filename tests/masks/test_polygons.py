"""Polygons: exact both ways, valid for shapely, one per 4-connected part."""

import cv2
import numpy as np
import pytest
import shapely
from scipy import ndimage

from anymask.errors import MaskError
from anymask.masks.polygons import Polygon, mask_to_polygons, polygons_to_mask, ring_area


def noise(count, seed, largest=16):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        height, width = rng.integers(1, largest, 2)
        yield rng.random((height, width)) < rng.random()


def blobs(count, seed):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        field = rng.random((8, 8)).astype(np.float32)
        yield cv2.resize(field, (90, 70), interpolation=cv2.INTER_CUBIC) > 0.5


@pytest.mark.parametrize("masks", [noise(800, 0), blobs(40, 1)], ids=["noise", "blobs"])
def test_exact_round_trip_and_valid_shapes(masks):
    for mask in masks:
        polygons = mask_to_polygons(mask)
        assert np.array_equal(polygons_to_mask(polygons, *mask.shape), mask)
        labels, parts = ndimage.label(mask)  # 4-connected by default
        assert len(polygons) == parts
        areas = np.bincount(labels.ravel(), minlength=parts + 1)[1:]
        for polygon, area in zip(
            polygons, areas, strict=True
        ):  # in reading order of the first pixel, as scipy's
            shape = shapely.Polygon(polygon.exterior, polygon.holes)
            assert shape.is_valid
            assert shape.area == polygon.area == area
            assert ring_area(polygon.exterior) > 0
            assert all(ring_area(hole) < 0 for hole in polygon.holes)


def test_vertices_are_corners_only():
    mask = np.zeros((6, 8), dtype=bool)
    mask[1:5, 2:7] = True
    mask[2:4, 3:5] = False
    (polygon,) = mask_to_polygons(mask)
    assert {tuple(vertex) for vertex in polygon.exterior} == {(2, 1), (7, 1), (7, 5), (2, 5)}
    (hole,) = polygon.holes
    assert {tuple(vertex) for vertex in hole} == {(3, 2), (5, 2), (5, 4), (3, 4)}


def test_diagonal_pixels_are_two_parts_touching_in_a_point():
    first, second = mask_to_polygons(np.eye(2, dtype=bool))
    assert shapely.Polygon(first.exterior).intersection(shapely.Polygon(second.exterior)).area == 0


def test_a_ring_that_closes_on_a_diagonal_keeps_its_pocket_as_a_hole():
    mask = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 0]], dtype=bool)
    (polygon,) = mask_to_polygons(mask)
    assert len(polygon.holes) == 1
    assert shapely.Polygon(polygon.exterior, polygon.holes).is_valid


def test_tolerance_thins_and_stays_close():
    mask = np.zeros((200, 200), dtype=np.uint8)
    cv2.circle(mask, (100, 100), 80, 1, -1)
    mask = mask.astype(bool)
    exact, thin = mask_to_polygons(mask), mask_to_polygons(mask, tolerance=1.5)
    assert len(thin[0].exterior) < len(exact[0].exterior) / 3
    back = polygons_to_mask(thin, 200, 200)
    assert (back & mask).sum() / (back | mask).sum() > 0.97
    tiny = mask_to_polygons(np.eye(3, dtype=bool), tolerance=50)
    assert np.array_equal(polygons_to_mask(tiny, 3, 3), np.eye(3, dtype=bool))


def test_filling_equals_shapely_at_pixel_centres():
    rng = np.random.default_rng(4)
    y, x = np.mgrid[:20, :30] + 0.5
    for _ in range(60):
        angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 12)))
        radii = rng.uniform(3, 18, angles.size)
        ring = np.stack([15 + radii * np.cos(angles), 10 + radii * np.sin(angles)], axis=1)
        shape = shapely.Polygon(ring)
        if not shape.is_valid:
            continue
        expected = shapely.contains_xy(shape, x, y)
        assert np.array_equal(polygons_to_mask([Polygon(ring)], 20, 30), expected)


def test_overlapping_parts_are_united_and_far_vertices_are_fine():
    square = Polygon([(0, 0), (4, 0), (4, 4), (0, 4)])
    assert polygons_to_mask([square, square], 5, 5).sum() == 16
    assert polygons_to_mask([Polygon([(-1e9, -1e9), (1e9, -1e9), (1e9, 1e9), (-1e9, 1e9)])], 5, 7).all()
    assert not polygons_to_mask([Polygon([(50, 50), (60, 50), (60, 60)])], 5, 7).any()
    assert not polygons_to_mask([], 5, 7).any()


@pytest.mark.parametrize(
    "call",
    [
        lambda: Polygon([(0, 0), (1, 1)]),
        lambda: Polygon([(0, 0), (1, 1), (np.nan, 0)]),
        lambda: Polygon([(0, 0, 0)] * 3),
        lambda: mask_to_polygons(np.zeros((3, 3))),
        lambda: mask_to_polygons(np.zeros((3, 3), bool), tolerance=-1),
        lambda: mask_to_polygons(np.zeros((3, 3), bool), tolerance=float("nan")),
        lambda: polygons_to_mask([], 0, 5),
        lambda: polygons_to_mask([], 65535, 65535),
    ],
)
def test_bad_input(call):
    with pytest.raises(MaskError):
        call()

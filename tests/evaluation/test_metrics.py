"""Measures of agreement and shape, against closed forms, scipy, pycocotools, shapely and plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco_mask
from pycocotools.cocoeval import Params
from scipy import ndimage
from shapely.geometry import box as shapely_box

from anymask.errors import MaskError
from anymask.evaluation import metrics

PAIRS = st.tuples(st.integers(1, 24), st.integers(1, 24)).flatmap(
    lambda size: st.tuples(arrays(bool, size), arrays(bool, size))
)
RECTANGLE = st.tuples(st.integers(0, 39), st.integers(0, 29), st.integers(1, 40), st.integers(1, 30)).map(
    lambda r: (r[0], r[1], min(40, r[0] + r[2]), min(30, r[1] + r[3]))
)


def rectangle(corners: tuple[int, int, int, int], size: tuple[int, int] = (30, 40)) -> np.ndarray:
    x0, y0, x1, y1 = corners
    mask = np.zeros(size, bool)
    mask[y0:y1, x0:x1] = True
    return mask


def disc(radius: float, size: int) -> np.ndarray:
    rows, columns = np.mgrid[:size, :size] + 0.5 - size / 2
    return rows**2 + columns**2 <= radius**2


def blob(seed: int, size: tuple[int, int] = (90, 120)) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=size)
    return ndimage.gaussian_filter(noise, 5) > 0.02


@given(RECTANGLE, RECTANGLE)
def test_iou_and_dice_of_rectangles_are_those_of_geometry(
    first: tuple[int, int, int, int], second: tuple[int, int, int, int]
) -> None:
    a, b = shapely_box(*first), shapely_box(*second)
    common = a.intersection(b).area
    masks = rectangle(first), rectangle(second)
    assert metrics.iou(*masks) == pytest.approx(common / a.union(b).area)
    assert metrics.dice(*masks) == pytest.approx(2 * common / (a.area + b.area))


@given(PAIRS)
def test_iou_is_that_of_pycocotools_and_dice_follows_from_it(pair: tuple[np.ndarray, np.ndarray]) -> None:
    first, second = pair
    got = metrics.iou(first, second)
    if (first | second).any():
        records = [coco_mask.encode(np.asfortranarray(mask.astype(np.uint8))) for mask in pair]
        assert got == pytest.approx(float(coco_mask.iou([records[0]], [records[1]], [0])[0, 0]))
    assert metrics.dice(first, second) == pytest.approx(2 * got / (1 + got))


@given(PAIRS)
def test_every_measure_is_symmetric_within_bounds_and_one_for_equals(
    pair: tuple[np.ndarray, np.ndarray],
) -> None:
    for measure in (metrics.iou, metrics.dice, metrics.boundary_iou, metrics.boundary_f):
        value = measure(*pair)
        assert 0.0 <= value <= 1.0
        assert value == pytest.approx(measure(*pair[::-1]))
        assert measure(pair[0], pair[0]) == 1.0


@pytest.mark.parametrize("measure", [metrics.iou, metrics.dice, metrics.boundary_iou, metrics.boundary_f])
def test_masks_of_two_sizes_are_refused(measure: object) -> None:
    with pytest.raises(MaskError, match="differ in size"):
        measure(np.ones((3, 4), bool), np.ones((4, 3), bool))  # type: ignore[operator]


@pytest.mark.parametrize("ratio", [0.001, 0.02, 0.1])
@pytest.mark.parametrize("seed", range(4))
def test_the_band_is_what_lies_within_the_chessboard_distance_of_the_outside(seed: int, ratio: float) -> None:
    mask = blob(seed)
    steps = max(1, round(ratio * math.hypot(*mask.shape)))
    depth = ndimage.distance_transform_cdt(np.pad(mask, 1), "chessboard")[1:-1, 1:-1]
    np.testing.assert_array_equal(metrics.boundary_band(mask, ratio), mask & (depth <= steps))


def test_boundary_iou_of_nested_squares_in_closed_form() -> None:
    """In 300 x 400 the band is 10 wide: rings of squares of 100 and, within it, of 96."""
    outer, inner = rectangle((50, 50, 150, 150), (300, 400)), rectangle((52, 52, 148, 148), (300, 400))
    common = 96**2 - 80**2
    ring, inner_ring = 100**2 - 80**2, 96**2 - 76**2
    assert metrics.boundary_iou(outer, inner) == pytest.approx(common / (ring + inner_ring - common))
    assert metrics.iou(outer, inner) == pytest.approx(96**2 / 100**2)


def test_the_images_border_is_boundary_for_boundary_iou() -> None:
    full = np.ones((300, 400), bool)
    assert np.count_nonzero(metrics.boundary_band(full)) == 300 * 400 - 280 * 380


@given(PAIRS)
def test_boundary_iou_is_iou_where_masks_are_thinner_than_the_band(
    pair: tuple[np.ndarray, np.ndarray],
) -> None:
    assert metrics.boundary_iou(*pair, dilation_ratio=1.0) == metrics.iou(*pair)


def davis_f(foreground: np.ndarray, truth: np.ndarray, bound: float) -> float:
    """``db_eval_boundary`` of fperazzi/davis, line by line, with scipy's dilation."""

    def seg2bmap(seg: np.ndarray) -> np.ndarray:
        e, s, se = np.zeros_like(seg), np.zeros_like(seg), np.zeros_like(seg)
        e[:, :-1], s[:-1, :], se[:-1, :-1] = seg[:, 1:], seg[1:, :], seg[1:, 1:]
        b = seg ^ e | seg ^ s | seg ^ se
        b[-1, :] = seg[-1, :] ^ e[-1, :]
        b[:, -1] = seg[:, -1] ^ s[:, -1]
        b[-1, -1] = 0
        return b

    radius = int(np.ceil(bound * np.linalg.norm(foreground.shape)))
    rows, columns = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    element = rows**2 + columns**2 <= radius**2
    fg, gt = seg2bmap(foreground), seg2bmap(truth)
    fg_dilated, gt_dilated = ndimage.binary_dilation(fg, element), ndimage.binary_dilation(gt, element)
    if fg.sum() == 0 and gt.sum() > 0:
        precision, recall = 1.0, 0.0
    elif fg.sum() > 0 and gt.sum() == 0:
        precision, recall = 0.0, 1.0
    elif fg.sum() == 0:
        precision = recall = 1.0
    else:
        precision, recall = (fg & gt_dilated).sum() / fg.sum(), (gt & fg_dilated).sum() / gt.sum()
    return 0.0 if precision + recall == 0 else 2 * precision * recall / (precision + recall)


@given(PAIRS, st.sampled_from([0.008, 0.05, 0.2]))
def test_boundary_f_is_the_published_one_on_any_masks(
    pair: tuple[np.ndarray, np.ndarray], bound: float
) -> None:
    assert metrics.boundary_f(*pair, bound) == pytest.approx(davis_f(*pair, bound))


@pytest.mark.parametrize("seed", range(4))
def test_boundary_f_is_the_published_one_on_blobs(seed: int) -> None:
    pair = blob(seed), blob(seed) ^ (blob(seed + 50) & blob(seed + 100))
    assert 0.1 < metrics.boundary_f(*pair) < 1.0
    assert metrics.boundary_f(*pair) == pytest.approx(davis_f(*pair, 0.008))


def test_boundary_f_forgives_a_shift_up_to_its_bound_and_no_more() -> None:
    """480 x 640 has a diagonal of 800, so the bound is ceil(6.4) = 7 pixels."""
    truth = rectangle((200, 0, 640, 480), (480, 640))  # one straight vertical outline
    assert metrics.boundary_f(rectangle((207, 0, 640, 480), (480, 640)), truth) == 1.0
    assert metrics.boundary_f(rectangle((208, 0, 640, 480), (480, 640)), truth) == 0.0


def test_size_classes_are_those_of_coco() -> None:
    parameters = Params(iouType="segm")
    ranges = dict(zip(parameters.areaRngLbl, parameters.areaRng, strict=True))
    for name in ("small", "medium", "large"):
        low, high = ranges[name]
        assert metrics.area_class(low) == name
        assert metrics.area_class(high - 1) == name
    assert metrics.area_class(32**2 - 1) == "small"
    assert metrics.area_class(96**2 - 1) == "medium"


@given(st.integers(1, 40), st.integers(1, 30))
def test_perimeter_of_a_rectangle_in_closed_form(width: int, height: int) -> None:
    """Each of the w + h lines across and the 2 (w + h - 1) diagonals that meet it crosses the outline twice."""
    expected = math.pi / 8 * (2 * (width + height) + 4 * (width + height - 1) / math.sqrt(2))
    mask = rectangle((0, 0, width, height))
    assert metrics.perimeter(mask) == pytest.approx(expected)
    assert metrics.complexity(mask) == pytest.approx(expected**2 / (4 * math.pi * width * height))


@pytest.mark.parametrize("radius", [20, 50, 120])
def test_a_disc_has_the_perimeter_of_geometry_and_complexity_one(radius: int) -> None:
    mask = disc(radius, 300)
    assert metrics.perimeter(mask) == pytest.approx(2 * math.pi * radius, rel=0.01)
    assert metrics.complexity(mask) == pytest.approx(1.0, rel=0.02)


def test_complexity_grows_with_pieces_holes_and_thinness() -> None:
    one = disc(40, 100)
    assert metrics.complexity(np.hstack([one, one])) == pytest.approx(2 * metrics.complexity(one))
    ring = one & ~disc(20, 100)
    area, length = math.pi * (40**2 - 20**2), 2 * math.pi * 60
    assert metrics.complexity(ring) == pytest.approx(length**2 / (4 * math.pi * area), rel=0.03)
    assert metrics.complexity(rectangle((0, 0, 40, 1))) > metrics.complexity(rectangle((0, 0, 8, 5)))


@settings(max_examples=40)
@given(arrays(bool, (12, 17)))
def test_perimeter_does_not_change_with_turning_and_mirroring(mask: np.ndarray) -> None:
    for turned in (np.rot90(mask), mask[::-1], mask.T):
        assert metrics.perimeter(turned) == pytest.approx(metrics.perimeter(mask))


def test_an_empty_mask_has_no_complexity() -> None:
    assert metrics.perimeter(np.zeros((5, 5), bool)) == 0.0
    with pytest.raises(MaskError, match="empty"):
        metrics.complexity(np.zeros((5, 5), bool))

"""Boxes: both conventions, against definitions written out and against shapely."""

import numpy as np
import pytest
import shapely

from anymask.errors import MaskError
from anymask.masks.boxes import (
    box_area,
    box_iou,
    clip_boxes,
    half_open_to_published,
    mask_to_box,
    masks_to_boxes_published,
    xywh_to_xyxy,
    xyxy_to_xywh,
)


def random_boxes(rng, count):
    corners = np.sort(rng.uniform(0, 10, (count, 2, 2)), axis=1)
    return corners.reshape(count, 4)


def test_conversions_are_inverse():
    boxes = random_boxes(np.random.default_rng(0), 100)
    assert xyxy_to_xywh([1, 2, 5, 9]).tolist() == [1, 2, 4, 7]
    assert np.allclose(xywh_to_xyxy(xyxy_to_xywh(boxes)), boxes, atol=1e-12)


def test_area_and_iou_equal_shapely():
    rng = np.random.default_rng(1)
    first, second = random_boxes(rng, 20), random_boxes(rng, 30)
    shapes = [[shapely.box(*box) for box in boxes] for boxes in (first, second)]
    assert np.allclose(box_area(first), [shape.area for shape in shapes[0]])
    expected = [[a.intersection(b).area / a.union(b).area for b in shapes[1]] for a in shapes[0]]
    assert np.allclose(box_iou(first, second), expected, atol=1e-9)


def test_degenerate_boxes():
    assert box_area([5, 5, 1, 1]) == 0
    assert box_iou([[1, 1, 1, 1]], [[1, 1, 1, 1]]).tolist() == [[0.0]]
    assert box_iou(np.zeros((0, 4)), [[0, 0, 1, 1]]).shape == (0, 1)


def test_clip():
    assert clip_boxes([[-3, 2, 50, 9]], width=20, height=5).tolist() == [[0, 2, 20, 5]]


def test_mask_boxes_in_both_conventions():
    rng = np.random.default_rng(2)
    masks = rng.random((200, 9, 13)) < rng.random((200, 1, 1)) ** 4
    published = masks_to_boxes_published(masks.reshape(20, 10, 9, 13)).reshape(-1, 4)
    for mask, box in zip(masks, published, strict=True):
        rows, columns = np.nonzero(mask)
        expected = (columns.min(), rows.min(), columns.max(), rows.max()) if rows.size else (0, 0, 0, 0)
        assert tuple(box) == expected
        ours = mask_to_box(mask)
        assert ours == (
            (expected[0], expected[1], expected[2] + 1, expected[3] + 1) if rows.size else (0, 0, 0, 0)
        )
        assert half_open_to_published(ours) == expected


def test_empty_batches_and_bad_shapes():
    assert masks_to_boxes_published(np.zeros((0, 4, 4), bool)).shape == (0, 4)
    with pytest.raises(MaskError, match="float64"):
        masks_to_boxes_published(np.zeros((4, 4)))
    with pytest.raises(MaskError, match=r"\(3,\)"):
        box_area([1, 2, 3])

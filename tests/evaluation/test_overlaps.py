"""IoU of many masks with many, against pycocotools and plain arrays."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco_mask

from anymask.errors import MaskError
from anymask.evaluation.overlaps import iou_matrix
from anymask.masks import rle

STACKS = st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.integers(1, 4)).flatmap(
    lambda s: st.tuples(arrays(bool, (s[2], s[0], s[1])), arrays(bool, (s[3], s[0], s[1])))
)


@settings(deadline=None)
@given(STACKS)
def test_iou_as_arrays_and_pycocotools_give_it(stacks: tuple[np.ndarray, np.ndarray]) -> None:
    first, second = stacks
    found = iou_matrix([rle.encode_counts(m) for m in first], [rle.encode_counts(m) for m in second])
    common = np.einsum("nhw,mhw->nm", first.astype(int), second.astype(int))
    union = first.sum((1, 2))[:, None] + second.sum((1, 2))[None] - common
    np.testing.assert_array_equal(found, common / np.maximum(union, 1))
    records = [[coco_mask.encode(np.asfortranarray(m.astype(np.uint8))) for m in stack] for stack in stacks]
    np.testing.assert_array_equal(found, coco_mask.iou(*records, [0] * len(second)))


def test_nothing_against_something() -> None:
    mask = rle.encode_counts(np.ones((3, 3), dtype=bool))
    assert iou_matrix([], [mask]).shape == (0, 1)
    assert iou_matrix([mask], []).shape == (1, 0)


def test_masks_of_two_images_are_refused() -> None:
    with pytest.raises(MaskError, match="one image"):
        iou_matrix(
            [rle.encode_counts(np.ones((3, 3), dtype=bool))], [rle.encode_counts(np.ones((3, 4), dtype=bool))]
        )

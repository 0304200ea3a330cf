"""NMS against the quadratic definition, and its laws."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anymask.errors import MaskError
from anymask.masks.nms import nms


def iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    common = max(width, 0) * max(height, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    union = sum(areas) - common
    return common / union if union > 0 else 0.0


def definition(boxes, scores, threshold, groups):
    """A box stays when no kept box of its group before it (score, then index) overlaps it too much."""
    kept = []
    for index in sorted(range(len(boxes)), key=lambda i: (-scores[i], i)):
        if all(groups[k] != groups[index] or iou(boxes[k], boxes[index]) <= threshold for k in kept):
            kept.append(index)
    return kept


@st.composite
def problems(draw):
    count = draw(st.integers(0, 25))
    side = st.integers(0, 6)
    boxes = []
    for _ in range(count):
        x0, y0 = draw(side), draw(side)
        boxes.append((x0, y0, x0 + draw(side), y0 + draw(side)))
    scores = draw(st.lists(st.sampled_from([0.1, 0.5, 0.5, 0.9, 1.0]), min_size=count, max_size=count))
    groups = draw(st.lists(st.integers(0, 1), min_size=count, max_size=count))
    return boxes, scores, draw(st.sampled_from([0.0, 0.25, 0.5, 0.7, 1.0])), groups


@settings(max_examples=400, deadline=None)
@given(problems())
def test_equals_the_definition_and_is_an_idempotent_subset(problem):
    boxes, scores, threshold, groups = problem
    kept = nms(boxes, scores, threshold, groups)
    assert kept.tolist() == definition(boxes, scores, threshold, groups)
    assert len(set(kept.tolist())) == len(kept) <= len(boxes)
    again = nms(np.array(boxes)[kept], np.array(scores)[kept], threshold, np.array(groups)[kept])
    assert again.tolist() == list(range(len(kept)))


def test_ties_go_to_the_lower_index():
    boxes = [(0, 0, 4, 4)] * 3
    assert nms(boxes, [0.5, 0.5, 0.5], 0.5).tolist() == [0]
    assert nms(boxes, [0.5, 0.9, 0.9], 0.5).tolist() == [1]
    assert nms(boxes, [0.5, 0.9, 0.9], 1.0).tolist() == [1, 2, 0]


@pytest.mark.parametrize(
    ("boxes", "scores", "threshold"),
    [
        ([(0, 0, 1, np.nan)], [1], 0.5),
        ([(0, 0, 1, np.inf)], [1], 0.5),
        ([(0, 0, 1, 1e300)], [1], 0.5),
        ([(0, 0, 1, 1)], [np.nan], 0.5),
        ([(0, 0, 1, 1)], [1, 2], 0.5),
        ([(0, 0, 1)], [1], 0.5),
        ([(0, 0, 1, 1)], [1], np.nan),
        ([(0, 0, 1, 1)], [1], 1.5),
    ],
)
def test_bad_input_is_refused(boxes, scores, threshold):
    with pytest.raises(MaskError):
        nms(boxes, scores, threshold)


def test_groups_need_one_each():
    with pytest.raises(MaskError, match="group"):
        nms([(0, 0, 1, 1)], [1.0], 0.5, groups=[1, 2])

"""The simulated annotator and the metrics, against shapes whose answers are known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from anymask.errors import MaskError
from anymask.evaluation.clicks import deepest_point, next_click
from anymask.evaluation.metrics import filled_box, inscribed_ellipse, iou


def _rectangle(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask = np.zeros((60, 80), bool)
    mask[y0:y1, x0:x1] = True
    return mask


def test_deepest_point_of_a_rectangle_is_its_middle() -> None:
    x, y, depth = deepest_point(_rectangle(10, 20, 31, 41))
    assert (x, y) == (20.5, 30.5)
    assert depth == pytest.approx(11.0, rel=0.05)


def test_the_images_border_counts_as_boundary() -> None:
    x, y, _ = deepest_point(np.ones((61, 41), bool))
    assert x == 20.5
    assert 20 <= y <= 41


def test_click_goes_to_the_larger_mistake() -> None:
    truth = _rectangle(10, 10, 50, 50)
    missed_more = _rectangle(30, 10, 55, 50)
    click = next_click(missed_more, truth)
    assert click.foreground
    assert truth[int(click.y), int(click.x)]
    assert not missed_more[int(click.y), int(click.x)]
    spilled_more = _rectangle(12, 10, 75, 50)
    click = next_click(spilled_more, truth)
    assert not click.foreground
    assert not truth[int(click.y), int(click.x)]
    assert spilled_more[int(click.y), int(click.x)]


def test_a_perfect_answer_gets_a_click_inside() -> None:
    truth = _rectangle(10, 10, 20, 20)
    click = next_click(truth, truth)
    assert click.foreground
    assert truth[int(click.y), int(click.x)]


def test_iou_closed_forms() -> None:
    a, b = _rectangle(0, 0, 20, 10), _rectangle(10, 0, 30, 10)
    assert iou(a, b) == pytest.approx(100 / 300)
    assert iou(a, a) == 1.0
    assert iou(np.zeros((2, 2), bool), np.zeros((2, 2), bool)) == 1.0
    with pytest.raises(MaskError, match="differ in size"):
        iou(a, a[:-1])


def test_anchors_have_the_areas_of_geometry() -> None:
    box = (5.0, 10.0, 75.0, 50.0)
    assert filled_box(box, (60, 80)).sum() == 70 * 40
    ellipse = inscribed_ellipse(box, (60, 80))
    assert ellipse.sum() == pytest.approx(math.pi * 35 * 20, rel=0.01)
    assert iou(ellipse, filled_box(box, (60, 80))) == pytest.approx(math.pi / 4, rel=0.01)

"""Prompt: checked at birth, then against an image."""

import numpy as np
import pytest

from anymask.errors import PromptError
from anymask.types import Prompt


def test_points_and_default_labels():
    prompt = Prompt(points=[(1, 2), (3.5, 4)])
    assert prompt.points.dtype == np.float64
    assert prompt.points.tolist() == [[1.0, 2.0], [3.5, 4.0]]
    assert prompt.labels.dtype == np.int64
    assert prompt.labels.tolist() == [1, 1]


def test_arrays_are_copies_and_read_only():
    points, mask = np.array([[1.0, 2.0]]), np.ones((3, 4), dtype=bool)
    prompt = Prompt(points=points, labels=[0], box=(0, 0, 2, 2), mask=mask)
    points[0, 0] = 9
    mask[:] = False
    assert prompt.points[0, 0] == 1
    assert prompt.mask.all()
    for array in (prompt.points, prompt.labels, prompt.box, prompt.mask):
        assert not array.flags.writeable


def test_frozen():
    with pytest.raises(AttributeError):
        Prompt(box=(0, 0, 1, 1)).box = None


def test_empty_points_count_as_none():
    prompt = Prompt(points=[], labels=[], box=(0, 0, 1, 1))
    assert prompt.points is None
    assert prompt.labels is None


def test_mask_kinds():
    assert Prompt(mask=np.zeros((5, 6), dtype=bool)).has_full_size_mask
    logits = Prompt(mask=np.zeros((1, 256, 256)))
    assert not logits.has_full_size_mask
    assert logits.mask.shape == (256, 256)
    assert logits.mask.dtype == np.float32


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "at least one"),
        ({"points": []}, "at least one"),
        ({"points": (1, 2)}, r"shape \(2,\)"),
        ({"points": [(1, 2, 3)]}, r"shape \(1, 3\)"),
        ({"points": [(1, np.nan)]}, "finite, got nan"),
        ({"points": [(np.inf, 1)]}, "finite, got inf"),
        ({"points": [("1", "2")]}, "plain numbers"),
        ({"points": [(1, 2), (3,)]}, "equal rows"),
        ({"points": [(1j, 2)]}, "plain numbers"),
        ({"points": [(10**400, 2)]}, "plain numbers"),
        ({"points": np.zeros((1025, 2))}, "1024 points, got 1025"),
        ({"points": [(1, 2)], "labels": [2]}, "got 2"),
        ({"points": [(1, 2)], "labels": [0.5]}, "got 0.5"),
        ({"points": [(1, 2)], "labels": [1, 0]}, "each of 1 points"),
        ({"box": (0, 0, 1, 1), "labels": [1]}, "each of 0 points"),
        ({"box": (5, 0, 1, 1)}, "x0 < x1"),
        ({"box": (0, 3, 4, 3)}, "y0 < y1"),
        ({"box": (0, 0, 1)}, r"shape \(3,\)"),
        ({"box": [(0, 0, 1, 1)]}, r"shape \(1, 4\)"),
        ({"box": (0, 0, np.nan, 1)}, "finite"),
        ({"mask": np.zeros((4, 4), dtype=np.uint8)}, "mask > 0"),
        ({"mask": np.zeros((0, 4), dtype=bool)}, "non-empty"),
        ({"mask": np.zeros((2, 4, 4), dtype=bool)}, "2-D"),
        ({"mask": np.full((4, 4), np.nan)}, "finite"),
        ({"mask": np.full((4, 4), 1e308)}, "finite"),
        ({"mask": np.zeros((4096, 1), dtype=np.float32)}, "over the limit of 2048"),
    ],
)
def test_what_is_refused_at_birth(given, words):
    with pytest.raises(PromptError, match=words):
        Prompt(**given)


def test_the_edges_of_the_image_are_inside():
    Prompt(points=[(0, 0), (640, 480)], box=(0, 0, 640, 480), mask=np.ones((480, 640), bool)).validate_for(
        640, 480
    )


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        (
            Prompt(points=[(1, 1), (640.5, 3)]),
            r"point 1 at \(x=640.5, y=3\) lies outside the 640 x 480 image",
        ),
        (Prompt(points=[(-0.1, 1)]), "point 0"),
        (Prompt(points=[(1e308, 1)]), "1e\\+308"),
        (Prompt(points=[(1, 481)]), "y=481"),
        (Prompt(box=(0, 0, 641, 480)), r"box \(0, 0, 641, 480\) reaches outside the 640 x 480 image"),
        (Prompt(box=(-1, 0, 5, 5)), "clip it"),
        (Prompt(mask=np.ones((640, 480), bool)), "480 x 640 pixels but belongs to a 640 x 480 image"),
    ],
)
def test_what_does_not_fit_the_image(prompt, words):
    with pytest.raises(PromptError, match=words):
        prompt.validate_for(640, 480)


def test_logits_fit_any_image():
    Prompt(mask=np.zeros((64, 64), dtype=np.float32)).validate_for(7, 9)

"""Overlays: what is filled, dimmed, outlined and marked, checked pixel by pixel against the stated rule."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest

from anymask.errors import MaskError
from anymask.masks.overlay import BACKGROUND, COLOURS, FOREGROUND, contact_sheet, draw_overlay, draw_prompts


@pytest.fixture
def photo() -> np.ndarray:
    """Smooth colour, 120 x 200."""
    rows, columns = np.mgrid[:120, :200]
    return np.stack([60 + columns * 0.8, 200 - rows, 90 + 0 * rows], axis=2).astype(np.uint8)


@pytest.fixture
def square() -> np.ndarray:
    mask = np.zeros((120, 200), dtype=bool)
    mask[40:80, 60:120] = True
    return mask


def test_inside_is_a_mixture_with_the_colour(photo, square):
    drawn = draw_overlay(photo, square, (255, 0, 0))
    seen, source = drawn[60, 90].astype(float), photo[60, 90].astype(float)
    np.testing.assert_allclose(seen, 0.55 * source + 0.45 * np.array([255, 0, 0]), atol=1.0)


def test_outside_is_darker_with_the_same_hue(photo, square):
    drawn = draw_overlay(photo, square)
    for row, column in ((5, 5), (100, 180), (20, 100)):
        hue_before, _, value_before = colorsys.rgb_to_hsv(*(photo[row, column] / 255.0))
        hue_after, _, value_after = colorsys.rgb_to_hsv(*(drawn[row, column] / 255.0))
        assert abs(hue_before - hue_after) < 0.01
        assert 0.5 * value_before < value_after < 0.75 * value_before


def test_the_outline_follows_the_edge_and_nothing_else(photo, square):
    plain = np.where(square[..., None], photo * 0.55 + np.array(COLOURS[0]) * 0.45, photo * 0.62).astype(
        np.uint8
    )
    differs = (draw_overlay(photo, square) != plain).any(axis=2)
    edge = np.zeros_like(square)
    edge[36:84, 56:124] = True
    edge[44:76, 64:116] = False
    assert not differs[~edge].any()
    assert differs[40, 62:118].all()
    assert differs[42:78, 60].all()


def test_the_frame_of_the_picture_is_no_edge(photo):
    drawn = draw_overlay(photo, np.ones((120, 200), dtype=bool), (0, 0, 255))
    expected = (photo * np.float32(0.55) + np.array([0, 0, 255], dtype=np.float32) * np.float32(0.45)).astype(
        np.uint8
    )
    np.testing.assert_array_equal(drawn, expected)


def test_the_input_is_left_alone(photo, square):
    before = photo.copy()
    draw_overlay(photo, square)
    np.testing.assert_array_equal(photo, before)


@pytest.mark.parametrize(("label", "colour"), [(1, FOREGROUND), (0, BACKGROUND)])
def test_a_mark_is_centred_on_the_pixel_that_holds_the_point(photo, label, colour):
    canvas = np.full_like(photo, 100)
    draw_prompts(canvas, [(150.7, 30.2)], [label])
    is_colour = (canvas == np.array(colour, dtype=np.uint8)).all(axis=2)
    rows, columns = np.nonzero(is_colour)
    assert (rows.mean(), columns.mean()) == (30.0, 150.0)
    ring = (canvas > 230).all(axis=2)
    assert ring[30, 150:160].any()
    assert ring[30, 140:150].any()
    assert not ring[30, :140].any()


def test_marks_grow_with_the_picture():
    areas = []
    for side in (400, 1600):
        canvas = np.zeros((side, side, 3), dtype=np.uint8)
        draw_prompts(canvas, [(side / 2, side / 2)])
        areas.append((canvas == np.array(FOREGROUND, dtype=np.uint8)).all(axis=2).sum())
    assert 12 < areas[1] / areas[0] < 24  # sixteen times the picture, less the softened rim


def test_a_box_is_drawn_on_its_four_sides_only(photo):
    canvas = np.full_like(photo, 100)
    draw_prompts(canvas, box_xyxy=(30, 20, 170, 100))
    changed = (canvas != 100).any(axis=2)
    assert not changed[26:95, 36:165].any()
    assert not changed[:15].any()
    assert not changed[:, 176:].any()
    for line in (canvas[20, 30:170], canvas[99, 30:170], canvas[20:100, 30], canvas[20:100, 169]):
        bright = line[:, 0] > 200
        assert 0.2 < bright.mean() < 0.8  # dashes


def test_corners_of_a_box_are_closed(photo):
    canvas = np.full((300, 500, 3), 100, dtype=np.uint8)
    draw_prompts(canvas, box_xyxy=(50, 40, 450, 260))
    for row, column in ((40, 50), (40, 449), (259, 50), (259, 449)):
        assert canvas[row - 1 : row + 2, column - 1 : column + 2].max() > 200


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (2, 2), (7, 3)])
def test_any_size_can_be_drawn(size):
    mask = np.zeros(size, dtype=bool)
    mask[0, 0] = True
    drawn = draw_overlay(np.full((*size, 3), 90, dtype=np.uint8), mask)
    draw_prompts(drawn, [(size[1], size[0]), (0, 0)], [1, 0], (0, 0, size[1], size[0]))
    assert drawn.shape == (*size, 3)
    sheet = contact_sheet([drawn, drawn], ["1", "2"])
    assert sheet.dtype == np.uint8
    assert max(sheet.shape) < 2_000


def test_bands_leave_no_seam():
    mask = np.zeros((1400, 60), dtype=bool)
    mask[:, 20:40] = True
    drawn = draw_overlay(np.full((1400, 60, 3), 128, dtype=np.uint8), mask)
    assert (drawn == drawn[700]).all()


def test_a_contact_sheet_holds_every_panel_and_its_caption(photo):
    panels = [np.full_like(photo, value) for value in (50, 120, 200)]
    sheet = contact_sheet(panels, ["first", "second", "third"])
    columns = [
        int(np.flatnonzero((sheet == value).all(axis=2).any(axis=0)).mean()) for value in (50, 120, 200)
    ]
    assert columns == sorted(columns)
    text = sheet[-34:-6] > 150
    assert all(part.any() for part in np.array_split(text, 3, axis=1))


def test_wrong_shapes_are_refused(photo, square):
    with pytest.raises(MaskError, match="bool mask of shape"):
        draw_overlay(photo, square[:-1])
    with pytest.raises(MaskError, match="uint8 pixels"):
        draw_overlay(photo[..., 0], square)
    with pytest.raises(MaskError, match="caption"):
        contact_sheet([photo], [])

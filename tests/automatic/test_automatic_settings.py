"""Defaults as published, limits at birth, efforts."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pytest

from anymask.automatic.settings import EFFORTS, MODEL_DEFAULTS, AutomaticSettings
from anymask.errors import InputError, LimitError
from anymask.limits import MAX_CROP_LAYERS, MAX_OBJECTS_PER_CALL, MAX_POINTS_PER_SIDE
from anymask.predict.segmenter import PROMPTS_PER_DECODE

PUBLISHED = {
    "points_per_side": 32,
    "points_per_batch": 64,
    "pred_iou_thresh": 0.88,
    "stability_score_thresh": 0.95,
    "stability_score_offset": 1.0,
    "box_nms_thresh": 0.7,
    "crop_n_layers": 0,
    "crop_nms_thresh": 0.7,
    "crop_overlap_ratio": 512 / 1500,
    "crop_n_points_downscale_factor": 1,
    "point_grids": None,
    "min_mask_region_area": 0,
}


def test_the_published_parameters_come_first_with_their_defaults() -> None:
    names = [field.name for field in fields(AutomaticSettings)]
    assert names[: len(PUBLISHED)] == list(PUBLISHED)
    default = AutomaticSettings()
    assert {name: getattr(default, name) for name in PUBLISHED} == PUBLISHED
    assert (default.max_area_share, default.adaptive) == (1.0, False)
    assert hash(default) == hash(AutomaticSettings())


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        ({"pred_iou_thresh": -0.01}, InputError),
        ({"stability_score_thresh": 1.01}, InputError),
        ({"box_nms_thresh": float("nan")}, InputError),
        ({"crop_nms_thresh": "0.7"}, InputError),
        ({"pred_iou_thresh": True}, InputError),
        ({"stability_score_offset": -1}, InputError),
        ({"stability_score_offset": float("inf")}, InputError),
        ({"crop_overlap_ratio": 1.0}, InputError),
        ({"max_area_share": 2}, InputError),
        ({"least_promise": -0.1}, InputError),
        ({"points_per_batch": 0}, LimitError),
        ({"points_per_batch": MAX_OBJECTS_PER_CALL + 1}, LimitError),
        ({"points_per_side": 0}, LimitError),
        ({"points_per_side": MAX_POINTS_PER_SIDE + 1}, LimitError),
        ({"points_per_side": 8.0}, InputError),
        ({"crop_n_layers": MAX_CROP_LAYERS + 1}, LimitError),
        ({"crop_n_layers": -1}, LimitError),
        ({"crop_n_points_downscale_factor": 0}, LimitError),
        ({"points_per_side": 4, "crop_n_layers": 2, "crop_n_points_downscale_factor": 3}, InputError),
        ({"min_mask_region_area": -1}, LimitError),
        ({"enough_clicks": 0}, LimitError),
        ({"adaptive": 1}, InputError),
        ({"points_per_side": None}, InputError),
        ({"point_grids": [[(0.5, 0.5)]]}, InputError),
        ({"points_per_side": None, "point_grids": [[(0.5, 1.5)]]}, InputError),
        ({"points_per_side": None, "point_grids": [[(0.5,)]]}, InputError),
        ({"points_per_side": None, "point_grids": [[(0.5, 0.5)]], "crop_n_layers": 1}, InputError),
        ({"points_per_side": None, "point_grids": [[(0.5, "x")]]}, InputError),
        ({"points_per_side": None, "point_grids": 3}, InputError),
        ({"points_per_side": None, "point_grids": [np.zeros((MAX_POINTS_PER_SIDE**2 + 1, 2))]}, LimitError),
        ({"points_per_side": None, "point_grids": [[(0.5, 0.5)]], "adaptive": True}, InputError),
    ],
)
def test_values_out_of_range(bad: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        AutomaticSettings(**bad)
    assert type(caught.value) is error
    assert "\n" not in str(caught.value)


def test_grids_become_plain_values() -> None:
    grid = np.array([[0.25, 1.0], [0.0, 0.5]])
    made = AutomaticSettings(points_per_side=None, point_grids=[grid])  # type: ignore[arg-type]
    assert made.point_grids == (((0.25, 1.0), (0.0, 0.5)),)
    grid[:] = 0
    assert made.point_grids == (((0.25, 1.0), (0.0, 0.5)),)


def test_efforts() -> None:
    clicks = {}
    for effort in EFFORTS:
        made = AutomaticSettings.for_effort(effort)
        clicks[effort] = (made.points_per_side or 0) ** 2 * (1 + made.crop_n_layers)
    assert clicks["fast"] < clicks["normal"] < clicks["thorough"]
    as_published = AutomaticSettings(
        points_per_batch=PROMPTS_PER_DECODE
    )  # which changes memory, and no result
    assert AutomaticSettings.for_effort() == as_published
    with pytest.raises(InputError, match="fast, normal, thorough"):
        AutomaticSettings.for_effort("quick")


def test_what_is_given_goes_before_the_model_and_the_effort() -> None:
    nano = AutomaticSettings.for_effort(model="nano")
    assert nano.pred_iou_thresh == MODEL_DEFAULTS["nano"]["pred_iou_thresh"] < 0.88
    sam = AutomaticSettings.for_effort(model="vit_b", points_per_batch=64)
    assert sam == AutomaticSettings()
    given = AutomaticSettings.for_effort("fast", "nano", pred_iou_thresh=0.7, points_per_side=9)
    assert (given.pred_iou_thresh, given.points_per_side, given.adaptive) == (0.7, 9, True)
    grids = AutomaticSettings.for_effort("fast", point_grids=[[(0.5, 0.5)]])
    assert (grids.points_per_side, grids.adaptive) == (None, False)
    with pytest.raises(InputError, match="no parameter 'points_per_sid'"):
        AutomaticSettings.for_effort(points_per_sid=3)

"""The masks are those of the published algorithm, written plainly in `reference_generator`, on the same weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from planted_backend import PlantedBackend, ScreeningBackend, picture
from reference_generator import reference_generate, with_frame, with_torch

import anymask
from anymask.automatic.generator import Generator
from anymask.automatic.records import published_records
from anymask.automatic.settings import AutomaticSettings
from anymask.predict.segmenter import Segmenter
from anymask.runtime.fake_backend import FakeBackend

CASES: dict[str, dict[str, Any]] = {
    "defaults": {"points_per_side": 8},
    "no filters": {
        "points_per_side": 6,
        "pred_iou_thresh": 0,
        "stability_score_thresh": 0,
        "box_nms_thresh": 1,
    },
    "loose": {"points_per_side": 9, "pred_iou_thresh": 0.55, "stability_score_thresh": 0.6},
    "tight nms": {
        "points_per_side": 7,
        "pred_iou_thresh": 0.5,
        "stability_score_thresh": 0.5,
        "box_nms_thresh": 0.2,
    },
    "offset": {
        "points_per_side": 5,
        "pred_iou_thresh": 0.3,
        "stability_score_thresh": 0.8,
        "stability_score_offset": 0.3,
    },
    "crops": {
        "points_per_side": 6,
        "crop_n_layers": 1,
        "crop_n_points_downscale_factor": 2,
        "pred_iou_thresh": 0.5,
        "stability_score_thresh": 0.3,
    },
    "two layers": {
        "points_per_side": 4,
        "crop_n_layers": 2,
        "crop_overlap_ratio": 0.2,
        "crop_nms_thresh": 0.5,
        "pred_iou_thresh": 0.6,
        "stability_score_thresh": 0.3,
    },
    "clean-up": {
        "points_per_side": 6,
        "pred_iou_thresh": 0.5,
        "stability_score_thresh": 0.5,
        "min_mask_region_area": 300,
    },
    "crops and clean-up": {
        "points_per_side": 4,
        "crop_n_layers": 1,
        "pred_iou_thresh": 0.5,
        "stability_score_thresh": 0.3,
        "min_mask_region_area": 60,
    },
    "clean-up with the larger of two thresholds": {
        "points_per_side": 6,
        "pred_iou_thresh": 0.5,
        "stability_score_thresh": 0.3,
        "min_mask_region_area": 300,
        "box_nms_thresh": 0.85,
        "crop_nms_thresh": 0.2,
    },
    "own grids": {
        "points_per_side": None,
        "point_grids": [np.array([[0.1, 0.2], [0.5, 0.5], [0.9, 1.0]]), np.array([[0.5, 0.5], [0.0, 0.3]])],
        "crop_n_layers": 1,
        "pred_iou_thresh": 0.3,
        "stability_score_thresh": 0.3,
    },
}
SIZES = [(100, 140), (300, 200)]


def planted(case: str) -> Segmenter:
    """Steep logits where the published thresholds shall leave something."""
    return Segmenter(PlantedBackend(steepness=60.0 if case == "defaults" else 6.0))


def ours(segmenter: Segmenter, image: np.ndarray, parameters: dict[str, Any]) -> list[dict[str, Any]]:
    generator = Generator(segmenter, AutomaticSettings(**parameters))
    return published_records(generator.run(image).masks)


def reference(segmenter: Segmenter, image: np.ndarray, parameters: dict[str, Any], **how: Any) -> list[Any]:
    """The reference without the masks that have no pixel, which the package never gives."""
    return [record for record in reference_generate(segmenter, image, **parameters, **how) if record["area"]]


def assert_equal(found: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> None:
    """To the pixel, in the same order, every field."""
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert list(one) == list(other)
        assert (one["segmentation"] == other["segmentation"]).all()
        for name in list(one)[1:]:
            assert one[name] == other[name], name


def iou_matrix(found: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> np.ndarray:
    one = np.stack([record["segmentation"].ravel() for record in found]).astype(np.float64)
    two = np.stack([record["segmentation"].ravel() for record in wanted]).astype(np.float64)
    common = one @ two.T
    return common / (one.sum(1)[:, None] + two.sum(1)[None] - common)


def rendered() -> np.ndarray:
    """Discs and boxes of strong colours on a slope."""
    rows, columns = np.mgrid[:180, :240]
    image = np.stack([40 + rows / 3, 60 + columns / 4, 90 - rows / 5], axis=-1)
    for x, y, radius, colour in (
        (60, 50, 30, (220, 40, 30)),
        (170, 60, 40, (30, 200, 220)),
        (120, 140, 25, (240, 230, 60)),
    ):
        image[np.hypot(rows - y, columns - x) < radius] = colour
    image[100:160, 10:60] = (20, 20, 160)
    return image.astype(np.uint8)


def assert_matched(found: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> None:
    """At least 99 % matched one to one at an IoU of 0.99; here that is all of them."""
    assert len(found) == len(wanted)
    best = iou_matrix(found, wanted)
    assert (best.max(axis=1) >= 0.99).mean() >= 0.99
    assert (best.max(axis=0) >= 0.99).mean() >= 0.99


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_planted_masks_are_the_same_to_the_pixel(case: str, size: tuple[int, int]) -> None:
    segmenter, image = planted(case), picture(*size)
    wanted = reference(segmenter, image, CASES[case], upsample=with_frame)
    assert wanted
    assert_equal(ours(segmenter, image, CASES[case]), wanted)


@pytest.mark.torch
@pytest.mark.parametrize("case", CASES)
def test_planted_masks_match_those_upsampled_by_torch(case: str) -> None:
    """Another upsampling in other rounding: measured equal to the pixel on all of these."""
    pytest.importorskip("torch")
    segmenter, image = planted(case), picture(*SIZES[0])
    wanted = reference(segmenter, image, CASES[case], upsample=with_torch)
    assert_matched(ours(segmenter, image, CASES[case]), wanted)


@pytest.mark.parametrize("points_per_batch", [1, 7, 64])
def test_discs_with_tied_scores_keep_their_order(points_per_batch: int) -> None:
    """All clicks of the model without weights score alike: only a stable order gives these masks."""
    segmenter, image = Segmenter(FakeBackend(128)), picture(96, 128)
    parameters = {
        "points_per_side": 7,
        "pred_iou_thresh": 0.3,
        "stability_score_thresh": 0.5,
        "points_per_batch": points_per_batch,
    }
    wanted = reference(segmenter, image, parameters, upsample=with_frame)
    assert len(wanted) > 20
    assert_equal(ours(segmenter, image, parameters), wanted)


@pytest.fixture(scope="module")
def sam_segmenter() -> Segmenter:
    pytest.importorskip("torch")
    from random_sam import random_sam, segmenter_of

    return segmenter_of(random_sam())


@pytest.mark.torch
@pytest.mark.parametrize(("crop_n_layers", "nms_thresh"), [(0, 1.0), (0, 0.9), (1, 1.0)])
@pytest.mark.parametrize("upsample", [with_frame, with_torch])
def test_a_sam_of_random_weights(
    sam_segmenter: Segmenter, upsample: Any, crop_n_layers: int, nms_thresh: float
) -> None:
    image = picture(150, 200)
    parameters = {
        "points_per_side": 6,
        "pred_iou_thresh": 0.1,
        "stability_score_thresh": 0.1,
        "stability_score_offset": 0.5,
        "box_nms_thresh": nms_thresh,
        "crop_n_layers": crop_n_layers,
        "crop_nms_thresh": nms_thresh,
    }
    wanted = reference(sam_segmenter, image, parameters, upsample=upsample)
    assert len(wanted) >= (10 if nms_thresh == 1 else 2)
    found = ours(sam_segmenter, image, parameters)
    if upsample is with_frame:
        assert_equal(found, wanted)
    else:
        assert_matched(found, wanted)


@pytest.mark.parametrize("upsample", [with_frame, with_torch])
def test_the_embedded_nano_on_a_rendered_picture(upsample: Any) -> None:
    segmenter, image = anymask.load("nano", threads=1), rendered()
    parameters = {"points_per_side": 5, "pred_iou_thresh": 0.3, "stability_score_thresh": 0.3}
    if upsample is with_torch:
        pytest.importorskip("torch")
    wanted = reference(segmenter, image, parameters, upsample=upsample)
    assert len(wanted) >= 5
    found = ours(segmenter, image, parameters)
    if upsample is with_frame:
        assert_equal(found, wanted)
    else:
        assert_matched(found, wanted)


@pytest.mark.parametrize("case", CASES)
def test_masks_that_promise_too_little_need_not_be_drawn(case: str) -> None:
    steepness = planted(case).backend.steepness
    screening = ScreeningBackend(steepness=steepness)
    for size in SIZES:
        image = picture(*size)
        assert_equal(ours(Segmenter(screening), image, CASES[case]), ours(planted(case), image, CASES[case]))
    assert (screening.withheld > 0) is (CASES[case].get("pred_iou_thresh", 0.88) > 0.5)

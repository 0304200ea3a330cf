"""`SamAutomaticMaskGenerator` against the published steps, written down plainly over the plain predictor."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
coco = pytest.importorskip("pycocotools.mask")

from anymask.compat import SamAutomaticMaskGenerator, SamPredictor  # noqa: E402
from anymask.predict.segmenter import Segmenter  # noqa: E402
from anymask.runtime.fake_backend import FakeBackend  # noqa: E402

KEYS = ["segmentation", "area", "bbox", "predicted_iou", "point_coords", "stability_score", "crop_box"]
SETTINGS: dict[str, Any] = {
    "points_per_side": 6,
    "pred_iou_thresh": 0.3,
    "stability_score_thresh": 0.8,
    "stability_score_offset": 0.05,
    "box_nms_thresh": 1.0,
}
LAX = {"pred_iou_thresh": 0.05, "stability_score_thresh": 0.3, "box_nms_thresh": 0.9}
"""Many masks, of which most suppress each other."""


def box_of(mask: np.ndarray) -> list[int]:
    """Inclusive maxima; zeros for an empty mask."""
    rows, columns = np.nonzero(mask)
    return (
        [int(columns.min()), int(rows.min()), int(columns.max()), int(rows.max())] if rows.size else [0] * 4
    )


def overlap(one: list[int], other: list[int]) -> float:
    common = max(min(one[2], other[2]) - max(one[0], other[0]), 0) * max(
        min(one[3], other[3]) - max(one[1], other[1]), 0
    )
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return common / max(sum(areas) - common, 1e-9)


def plain_masks(peer: Any, image: np.ndarray, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Grid, three masks each, both filters, suppression by score."""
    peer.set_image(image)
    height, width = image.shape[:2]
    side, offset = settings["points_per_side"], settings["stability_score_offset"]
    found = []
    for row in range(side):
        for column in range(side):
            point = [(column + 0.5) / side * width, (row + 0.5) / side * height]
            logits, scores, _ = peer.predict([point], [1])
            for plane, score in zip(logits, scores, strict=True):
                outer = int((plane > -offset).sum())
                stability = int((plane > offset).sum()) / outer if outer else float("nan")
                good = score > settings["pred_iou_thresh"] and stability >= settings["stability_score_thresh"]
                if good:
                    mask = plane > 0
                    found.append({"mask": mask, "box": box_of(mask), "score": float(score),
                                  "stability": stability, "point": point})  # fmt: skip
    kept: list[dict[str, Any]] = []
    for candidate in sorted(found, key=lambda item: -item["score"]):
        if all(overlap(candidate["box"], other["box"]) <= settings["box_nms_thresh"] for other in kept):
            kept.append(candidate)
    return kept


@pytest.mark.parametrize(("changed", "least"), [({}, 20), (LAX, 5)], ids=["filters", "suppression"])
def test_the_masks_are_those_of_the_published_steps(sam, peer, picture, changed, least):
    settings = SETTINGS | changed
    records = SamAutomaticMaskGenerator(sam, **settings).generate(picture)
    expected = plain_masks(peer, picture, settings)
    assert len(records) == len(expected) >= least
    for record, plain in zip(records, expected, strict=True):
        assert list(record) == KEYS
        assert record["predicted_iou"] == pytest.approx(plain["score"], abs=1e-4)
        assert np.count_nonzero(record["segmentation"] != plain["mask"]) <= 2  # logits within rounding of 0
        assert record["area"] == pytest.approx(np.count_nonzero(plain["mask"]), abs=2)
        assert record["point_coords"] == [pytest.approx(plain["point"])]
        assert record["stability_score"] == pytest.approx(plain["stability"], abs=5e-3)
        x0, y0, x1, y1 = plain["box"]
        assert record["bbox"] == pytest.approx([x0, y0, x1 - x0, y1 - y0], abs=1)
        assert record["crop_box"] == [0, 0, 160, 100]


def test_types_are_plain_and_masks_writable(sam, picture):
    record = SamAutomaticMaskGenerator(sam, **SETTINGS).generate(picture)[0]
    assert (record["segmentation"].dtype, record["segmentation"].shape) == (np.bool_, (100, 160))
    record["segmentation"][0, 0] = True
    assert [type(record[key]) for key in ("area", "predicted_iou", "stability_score")] == [int, float, float]
    assert all(type(value) is int for value in (*record["bbox"], *record["crop_box"]))


def test_all_modes_say_the_same(sam, picture):
    binary, plain, compressed = (
        SamAutomaticMaskGenerator(sam, **SETTINGS, output_mode=mode).generate(picture)
        for mode in ("binary_mask", "uncompressed_rle", "coco_rle")
    )
    assert binary
    for one, two, three in zip(binary, plain, compressed, strict=True):
        assert (
            [one[key] for key in KEYS[1:]]
            == [two[key] for key in KEYS[1:]]
            == [three[key] for key in KEYS[1:]]
        )
        theirs = coco.encode(np.asfortranarray(one["segmentation"].astype(np.uint8)))
        assert three["segmentation"] == {"size": [100, 160], "counts": theirs["counts"].decode()}
        assert two["segmentation"]["size"] == [100, 160]
        assert coco.frPyObjects(dict(two["segmentation"]), 100, 160)["counts"] == theirs["counts"]


def test_own_points_and_a_second_call_form(sam, picture):
    """As notebooks write it: ``model=`` and keywords, grids of one's own, attributes that count at the call."""
    grid = np.array([[0.5, 0.5], [0.25, 0.75]])
    generator = SamAutomaticMaskGenerator(
        model=sam,
        points_per_side=None,
        point_grids=[grid],
        pred_iou_thresh=0,
        stability_score_thresh=0,
        box_nms_thresh=1.0,
    )
    records = generator.generate(picture)
    assert {tuple(record["point_coords"][0]) for record in records} <= {(80.0, 50.0), (40.0, 75.0)}
    assert len(records) <= 6
    predictor = SamPredictor(sam)
    predictor.set_image(picture)
    scores = np.concatenate(
        [predictor.predict(np.array([[x, y]]), np.array([1]))[1] for x, y in grid * [160, 100]]
    )
    assert {round(record["predicted_iou"], 4) for record in records} <= {round(float(s), 4) for s in scores}
    generator.pred_iou_thresh = 1.0
    strict = generator.generate(picture)
    assert [r["predicted_iou"] for r in strict] == [
        r["predicted_iou"] for r in records if r["predicted_iou"] > 1
    ]
    assert len(strict) < len(records)


def test_crops_and_clean_up_are_passed_on(sam, picture):
    generator = SamAutomaticMaskGenerator(
        sam, points_per_side=4, pred_iou_thresh=0, stability_score_thresh=0, box_nms_thresh=1.0, crop_nms_thresh=1.0,
        crop_n_layers=1, crop_n_points_downscale_factor=2, min_mask_region_area=30,
    )  # fmt: skip
    assert [len(grid) for grid in generator.point_grids] == [16, 4]
    records = generator.generate(picture)
    crops = {tuple(record["crop_box"]) for record in records}
    assert (0, 0, 160, 100) in crops
    for record in records:  # no hole and no island below 30 pixels is left
        for side in (record["segmentation"], ~record["segmentation"]):
            assert side.sum() == 0 or _smallest_region(side) >= 30 or side.sum() < 30


def _smallest_region(mask: np.ndarray) -> int:
    from scipy import ndimage

    labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
    return int(min(np.bincount(labels.ravel())[1 : count + 1]))


def test_the_network_stays_its_owner_s(sam, picture):
    before = {name: parameter.requires_grad for name, parameter in sam.named_parameters()}
    sam.train()
    try:
        SamAutomaticMaskGenerator(sam, points_per_side=2).generate(picture)
        assert sam.training
        assert {name: parameter.requires_grad for name, parameter in sam.named_parameters()} == before
    finally:
        sam.eval()


def test_weights_may_change_between_calls(sam, picture):
    """As while a network is trained: nothing of an earlier state is kept."""
    generator = SamAutomaticMaskGenerator(sam, **SETTINGS)
    first = generator.generate(picture)
    token = sam.mask_decoder.iou_prediction_head.layers[-1].bias
    before = token.detach().clone()
    try:
        with torch.no_grad():
            token += 0.25
        second = generator.generate(picture)
    finally:
        with torch.no_grad():
            token.copy_(before)
    assert second[0]["predicted_iou"] == pytest.approx(first[0]["predicted_iou"] + 0.25, abs=1e-5)


def test_any_segmenter_will_do():
    image = np.zeros((40, 60, 3), dtype=np.uint8)
    image[10:30, 20:50] = 255
    for model in (Segmenter(FakeBackend()), SamPredictor(Segmenter(FakeBackend())).model):
        records = SamAutomaticMaskGenerator(model, points_per_side=3, pred_iou_thresh=0.1).generate(image)
        assert all(list(record) == KEYS for record in records)

"""Average recall against pycocotools, closed forms and planted models."""

from __future__ import annotations

import contextlib
import io
import json
from typing import Any

import numpy as np
import pytest
from PIL import Image as PillowImage
from planted import Planted, always
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from anymask.data.dataset import Sample
from anymask.errors import DatasetError, MaskError, RleError
from anymask.evaluation.peers.baselines import filled_box
from anymask.evaluation.proposals import (
    GROUPS,
    IOU_THRESHOLDS,
    PROPOSALS,
    ProposalCounts,
    count_proposals,
    proposal_counts_of_image,
    propose,
    score_proposals,
)
from anymask.masks import rle
from anymask.types import Mask

SIZE = (150, 200)


def box_mask(x0: int, y0: int, x1: int, y1: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    return filled_box((x0, y0, x1, y1), size)


def annotation(mask: np.ndarray, **more: Any) -> dict[str, Any]:
    return {"segmentation": rle.encode(mask), "area": int(mask.sum()), **more}


def scene(rng: np.random.Generator, truths: int, proposals: int) -> tuple[list[dict[str, Any]], list[Mask]]:
    """Rectangles of all three sizes, crowds and frequencies; proposals shaken copies, repeats and strays."""
    records, boxes = [], []
    for index in range(truths):
        side = rng.choice([8, 32, 60, 96, 120])  # 32 and 96 give areas on the limits
        width, height = (side, side) if rng.random() < 0.5 else (side, int(rng.integers(6, 140)))
        x, y = int(rng.integers(0, 200 - min(width, 190))), int(rng.integers(0, 150 - min(height, 140)))
        boxes.append((x, y, x + width, y + height))
        frequency = rng.choice(["r", "c", "f"])
        records.append(
            annotation(
                box_mask(*boxes[-1]),
                category_frequency=str(frequency),
                iscrowd=int(rng.random() < 0.1),
                id=index + 1,
            )
        )
    masks = []
    for _ in range(proposals):
        box = np.array(boxes[rng.integers(len(boxes))]) + rng.integers(-6, 7, 4) * rng.integers(0, 3)
        mask = box_mask(*box.tolist())
        masks.append(Mask(mask, float(rng.choice([0.2, 0.5, 0.9])), stability_score=float(rng.random())))
    return records, masks


def oracle(images: list[tuple[list[dict[str, Any]], list[Mask]]], kept: Any = None) -> COCOeval:
    """COCO's own evaluation without categories; ranks become falling scores, ``kept`` picks the true masks."""
    document: dict[str, Any] = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "thing"}]}
    results = []
    for number, (records, masks) in enumerate(images, start=1):
        document["images"].append({"id": number, "height": SIZE[0], "width": SIZE[1]})
        for record in records:
            if kept is not None and record["category_frequency"] != kept:
                continue
            counts, size = rle.parse(record["segmentation"])
            x0, y0, x1, y1 = rle.box(counts, size)
            document["annotations"].append(
                {
                    **record,
                    "id": len(document["annotations"]) + 1,
                    "image_id": number,
                    "category_id": 1,
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "iscrowd": record.get("iscrowd", 0),
                }
            )
        for rank, mask in enumerate(masks):
            results.append(
                {"image_id": number, "category_id": 1, "segmentation": mask.rle, "score": 1 - rank / 5000}
            )
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = document
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), "segm")
        evaluation.params.useCats = 0
        evaluation.params.maxDets = list(PROPOSALS)
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def recall_of(evaluation: COCOeval, area: int, limit: int) -> float | None:
    values = evaluation.eval["recall"][:, 0, area, limit]
    return float(np.mean(values)) if (values > -1).all() else None


@pytest.mark.parametrize("seed", range(4))
def test_average_recall_as_pycocotools_has_it(seed: int) -> None:
    """More than a hundred proposals an image, so that every limit but the last cuts."""
    rng = np.random.default_rng(seed)
    images = [scene(rng, int(rng.integers(1, 25)), int(rng.integers(1, 160))) for _ in range(4)]
    scores = score_proposals([count_proposals(masks, records) for records, masks in images])
    evaluation = oracle(images)
    for area, group in enumerate(("all", "small", "medium", "large")):
        for limit, number in enumerate(PROPOSALS):
            expected = recall_of(evaluation, area, limit)
            assert scores.average_recall[group][number] == pytest.approx(expected, abs=1e-12), (group, number)
    for letter, group in (("r", "rare"), ("c", "common"), ("f", "frequent")):
        alone = oracle(images, kept=letter)
        for limit, number in enumerate(PROPOSALS):
            assert scores.average_recall[group][number] == pytest.approx(
                recall_of(alone, 0, limit), abs=1e-12
            )


def test_thresholds_are_those_of_the_benchmark() -> None:
    from pycocotools.cocoeval import Params

    assert list(IOU_THRESHOLDS) == Params("segm").iouThrs.tolist()


def test_recall_by_hand() -> None:
    """One of two objects is found with IoU 0.8: seven of ten thresholds."""
    truths = [box_mask(0, 0, 100, 100), box_mask(120, 0, 180, 50)]
    proposals = [Mask(box_mask(0, 0, 100, 80), 0.9)]
    scores = score_proposals([count_proposals(proposals, [annotation(truth) for truth in truths])])
    assert scores.average_recall["all"][10] == pytest.approx(0.5 * 0.7)
    assert scores.average_recall["large"] == {
        10: pytest.approx(0.7),
        100: pytest.approx(0.7),
        1000: pytest.approx(0.7),
    }
    assert scores.average_recall["medium"][1000] == 0.0
    assert scores.average_recall["small"] == {10: None, 100: None, 1000: None}
    assert scores.total == {
        "all": 2,
        "small": 0,
        "medium": 1,
        "large": 1,
        "rare": 0,
        "common": 0,
        "frequent": 0,
    }
    record = scores.as_record()
    assert record["ar@10"] == pytest.approx(0.35)
    assert record["ar@1000_large"] == pytest.approx(0.7)
    assert record["ar@100_rare"] is None


def test_one_proposal_takes_one_object() -> None:
    """Two equal objects, one proposal: half. The second proposal takes the other."""
    truth = annotation(box_mask(10, 10, 60, 60))
    once = [Mask(box_mask(10, 10, 60, 60), 0.9)]
    assert score_proposals([count_proposals(once, [truth, truth])]).average_recall["all"][10] == 0.5
    assert score_proposals([count_proposals(once * 2, [truth, truth])]).average_recall["all"][10] == 1.0


def test_only_the_first_ranks_count() -> None:
    truth, stray = box_mask(10, 10, 60, 60), Mask(box_mask(100, 100, 120, 120), 0.9)
    scores = score_proposals([count_proposals([stray] * 10 + [Mask(truth, 0.5)], [annotation(truth)])])
    assert scores.average_recall["all"] == {10: 0.0, 100: 1.0, 1000: 1.0}
    late = score_proposals([count_proposals([stray] * 1000 + [Mask(truth, 0.5)], [annotation(truth)])])
    assert late.average_recall["all"][1000] == 0.0


def test_the_records_own_area_decides_its_class() -> None:
    mask = box_mask(10, 10, 20, 20)
    scores = score_proposals([count_proposals([Mask(mask, 0.9)], [annotation(mask) | {"area": 5000.5}])])
    assert scores.average_recall["medium"][10] == 1.0
    assert scores.total["small"] == 0


# Planted models


def picture() -> bytes:
    buffer = io.BytesIO()
    PillowImage.new("RGB", (SIZE[1], SIZE[0])).save(buffer, format="PNG")
    return buffer.getvalue()


def test_ranks_are_the_mean_of_predicted_iou_and_stability() -> None:
    apart = [box_mask(x, 0, x + 10, 10) for x in (0, 20, 40, 60)]
    planted = [(apart[0], 0.9, 0.1), (apart[1], 0.6, 0.9), (apart[2], 0.3, 0.0), (apart[3], 0.55, None)]
    model = Planted(always(Mask(array, score, stability_score=stable) for array, score, stable in planted))
    masks = propose(model, model.embed(picture()), points_per_side=2)
    assert [mask.score for mask in masks] == [0.6, 0.55, 0.9, 0.3]  # 0.75, 0.55, 0.5, 0.15
    assert [mask.score for mask in propose(model, model.embed(picture()), 1, limit=2)] == [0.6, 0.55]


def test_a_perfect_model_recalls_everything() -> None:
    """Three discs of the three size classes; the model outlines them all whatever is clicked."""
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    discs = [np.hypot(rows - 60, columns - x) < r for x, r in ((20, 10), (60, 25), (140, 55))]
    sample = Sample("a", "b", picture(), SIZE[1], SIZE[0], [annotation(disc) for disc in discs])
    model = Planted(always(Mask(disc, 0.9, stability_score=1.0) for disc in discs))
    scores = score_proposals([proposal_counts_of_image(model, sample, points_per_side=3)])
    for group in ("all", "small", "medium", "large"):
        assert scores.average_recall[group] == {10: 1.0, 100: 1.0, 1000: 1.0}


# Records


def test_counts_survive_json_and_pool() -> None:
    rng = np.random.default_rng(5)
    counts = [count_proposals(masks, records) for records, masks in (scene(rng, 9, 30), scene(rng, 5, 12))]
    back = [ProposalCounts.from_record(json.loads(json.dumps(count.as_record()))) for count in counts]
    assert score_proposals(back) == score_proposals(counts)
    assert set(back[0].found) == set(GROUPS)


def test_an_image_without_objects_or_without_proposals() -> None:
    truth = annotation(box_mask(10, 10, 60, 60))
    nothing = count_proposals([Mask(box_mask(1, 1, 9, 9), 0.5)], [])
    missed = count_proposals([], [truth])
    assert nothing.total["all"] == 0
    assert score_proposals([nothing, missed]).average_recall["all"] == {10: 0.0, 100: 0.0, 1000: 0.0}


def test_bad_input_is_refused() -> None:
    good = annotation(box_mask(10, 10, 60, 60))
    proposal = [Mask(box_mask(10, 10, 60, 60), 0.9)]
    with pytest.raises(DatasetError, match="frequency"):
        count_proposals(proposal, [good | {"category_frequency": "often"}])
    with pytest.raises(DatasetError, match="area"):
        count_proposals(proposal, [good | {"area": "big"}])
    with pytest.raises(DatasetError, match="no segmentation"):
        count_proposals(proposal, [{"id": 3}])
    with pytest.raises(RleError):
        count_proposals(proposal, [{"segmentation": {"size": [3, 3], "counts": [4]}}])
    with pytest.raises(MaskError, match="one image"):
        count_proposals(proposal, [annotation(np.ones((3, 3), dtype=bool))])
    with pytest.raises(MaskError, match="at least one image"):
        score_proposals([])
    record = count_proposals(proposal, [good]).as_record()
    for damaged in ({}, {"found": 3, "total": {}}, {**record, "total": {"all": 1}}, {**record, "found": {}}):
        with pytest.raises(MaskError):
            ProposalCounts.from_record(damaged)
    with pytest.raises(MaskError, match=r"\(3, 10\)"):
        ProposalCounts.from_record({**record, "found": {group: [[1]] for group in GROUPS}})

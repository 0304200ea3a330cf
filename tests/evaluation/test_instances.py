"""Mask AP from given boxes, against pycocotools, closed forms and planted models."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PillowImage
from planted import Asked, Planted, PlantedMany, Rule
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

import anymask
from anymask.data.dataset import Sample
from anymask.errors import DatasetError, MissingExtraError, RleError
from anymask.evaluation.instances import (
    BOXES_PER_BATCH,
    GivenBox,
    ImageInstances,
    category_names,
    ground_truth_boxes,
    instances_of_image,
    read_detections,
    score_instances,
)
from anymask.evaluation.peers.baselines import filled_box
from anymask.masks import rle
from anymask.types import Mask

SIZE = (120, 160)
CATEGORIES = {"cat": 1, "dog": 2, "emu": 7}


def box_mask(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    return filled_box((x0, y0, x1, y1), SIZE)


def disc(x: float, y: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    return np.hypot(rows - y, columns - x) < radius


def picture() -> bytes:
    buffer = io.BytesIO()
    PillowImage.new("RGB", (SIZE[1], SIZE[0])).save(buffer, format="PNG")
    return buffer.getvalue()


def sample(*objects: tuple[np.ndarray, str], key: str = "a", **more: Any) -> Sample:
    records = [
        {"id": i, "segmentation": rle.encode(mask), "area": int(mask.sum()), "category": name, **more}
        for i, (mask, name) in enumerate(objects)
    ]
    return Sample(key, "planted", picture(), SIZE[1], SIZE[0], records)


def by_box(*answers: tuple[np.ndarray, float]) -> Rule:
    """A box is answered with the planted mask of the same tight box, with its score."""
    masks = [Mask(mask, score) for mask, score in answers]

    def rule(asked: Asked) -> list[Mask]:
        assert not asked.multimask
        return [next(mask for mask in masks if mask.box_xyxy == asked.corners)]

    return rule


# Scores


def random_instances(rng: np.random.Generator, key: str) -> ImageInstances:
    """Objects of three categories and all sizes with shaken results, strays, repeats, wrong names and crowds."""
    truth, results = [], []
    for _ in range(int(rng.integers(0, 14))):
        side = int(rng.choice([6, 20, 32, 50, 96, 110]))
        x, y = int(rng.integers(0, SIZE[1] - 10)), int(rng.integers(0, SIZE[0] - 10))
        mask = box_mask(x, y, x + side, y + side)
        x0, y0, x1, y1 = Mask(mask, 0.0).box_xyxy
        number = int(rng.choice(list(CATEGORIES.values())))
        truth.append(
            {
                "category_id": number,
                "segmentation": rle.encode(mask),
                "area": float(mask.sum()),
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "iscrowd": int(rng.random() < 0.15),
            }
        )
        for _ in range(int(rng.integers(0, 4))):
            moved = np.clip(np.array([x0, y0, x1, y1]) + rng.integers(-5, 6, 4), 0, 150)
            found = box_mask(*moved.tolist())
            wrong = rng.random() < 0.1
            results.append(
                {
                    "category_id": int(rng.choice(list(CATEGORIES.values()))) if wrong else number,
                    "segmentation": rle.encode(found),
                    "score": float(rng.choice([0.1, 0.3, 0.3, rng.random()])),
                }
            )
    return ImageInstances(key, *SIZE, truth, results)


def pycocotools_stats(images: list[ImageInstances]) -> np.ndarray:
    document: dict[str, Any] = {
        "images": [{"id": i, "height": SIZE[0], "width": SIZE[1]} for i in range(1, len(images) + 1)],
        "annotations": [],
        "categories": [{"id": number, "name": name} for name, number in CATEGORIES.items()],
    }
    results = []
    for number, image in enumerate(images, start=1):
        for record in image.truth:
            document["annotations"].append(
                {**record, "id": len(document["annotations"]) + 1, "image_id": number}
            )
        results += [{**result, "image_id": number} for result in image.results]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = document
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return np.asarray(evaluation.stats[:6])


@pytest.mark.parametrize("seed", range(6))
def test_mask_ap_as_pycocotools_has_it(seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(seed)
    images = [random_instances(rng, str(i)) for i in range(6)]
    scores = score_instances(iter(images), CATEGORIES)
    found = [scores.ap, scores.ap50, scores.ap75, scores.ap_small, scores.ap_medium, scores.ap_large]
    expected = pycocotools_stats(images)
    np.testing.assert_allclose([-1.0 if x is None else x for x in found], expected, rtol=0, atol=1e-9)
    assert scores.images == 6
    assert capsys.readouterr().out == ""
    assert scores.objects == sum(not record["iscrowd"] for image in images for record in image.truth)


def test_ap_of_perfect_and_of_half_right_results() -> None:
    """Two discs of one category: both found, then one; a curve to recall 1/2 covers 51 of 101 points."""
    discs = [disc(40, 60, 30), disc(110, 60, 30)]
    image = sample((discs[0], "cat"), (discs[1], "cat"))
    perfect = score_instances(
        [instances_of_image(Planted(by_box(*((d, 0.9) for d in discs))), image, CATEGORIES)], CATEGORIES
    )
    assert (perfect.ap, perfect.ap50, perfect.ap75, perfect.ap_medium) == (1.0, 1.0, 1.0, 1.0)
    assert perfect.ap_small is None
    assert perfect.ap_large is None
    half = instances_of_image(
        Planted(by_box(*((d, 0.9) for d in discs))),
        image,
        CATEGORIES,
        ground_truth_boxes(image, CATEGORIES)[:1],
    )
    assert score_instances([half], CATEGORIES).ap == pytest.approx(51 / 101, abs=1e-12)


def test_an_iou_of_four_fifths_passes_seven_thresholds() -> None:
    truth = box_mask(10, 10, 110, 60)
    image = sample((truth, "dog"))
    result = {"category_id": 2, "segmentation": rle.encode(box_mask(10, 10, 110, 50)), "score": 0.5}
    instances = instances_of_image(Planted(by_box((truth, 0.9))), image, CATEGORIES, [])
    scores = score_instances([ImageInstances("a", *SIZE, instances.truth, [result])], CATEGORIES)
    assert scores.ap == pytest.approx(0.7)
    assert (scores.ap50, scores.ap75) == pytest.approx((1.0, 1.0))


# Prompting


def test_ground_truth_boxes_are_ranked_by_predicted_iou() -> None:
    discs = [disc(40, 60, 30), disc(110, 60, 20)]
    model = Planted(by_box((discs[0], 0.6), (discs[1], 0.8)))
    instances = instances_of_image(model, sample((discs[0], "cat"), (discs[1], "emu")), CATEGORIES)
    assert [asked.corners for asked in model.asked] == [
        tuple(map(float, Mask(d, 0.0).box_xyxy)) for d in discs
    ]
    assert [(r["category_id"], r["score"]) for r in instances.results] == [(1, 0.6), (7, 0.8)]
    assert [rle.decode(r["segmentation"]).sum() for r in instances.results] == [d.sum() for d in discs]
    assert [record["category_id"] for record in instances.truth] == [1, 7]


def test_detections_keep_their_own_scores_and_are_cut_at_the_border() -> None:
    corner = box_mask(100, 80, 160, 120)
    boxes = [
        GivenBox((100, 80, 190, 130), 2, 0.25),
        GivenBox((170, 5, 180, 9), 2, 0.9),  # outside the image
        GivenBox((20, 20, 20, 40), 1, 0.9),  # no area
    ]
    model = Planted(by_box((corner, 0.99)))
    instances = instances_of_image(model, sample((corner, "cat")), CATEGORIES, boxes)
    assert [asked.corners for asked in model.asked] == [(100.0, 80.0, 160.0, 120.0)]
    assert [(r["category_id"], r["score"]) for r in instances.results] == [(2, 0.25)]


def test_crowds_and_empty_masks_are_not_asked_for() -> None:
    empty, whole = np.zeros(SIZE, dtype=bool), disc(40, 60, 30)
    image = sample((empty, "cat"), (whole, "cat"), (whole, "dog"))
    image.annotations[2]["iscrowd"] = 1  # type: ignore[index]
    assert [box.category_id for box in ground_truth_boxes(image, CATEGORIES)] == [1]
    scores = score_instances(
        [instances_of_image(Planted(by_box((whole, 0.9))), image, CATEGORIES)], CATEGORIES
    )
    assert scores.objects == 2


def test_batches_change_nothing() -> None:
    masks = [box_mask(x, y, x + 8, y + 6) for x in range(0, 150, 15) for y in range(0, 110, 12)]
    image = sample(*((mask, "cat") for mask in masks))
    answers = [(mask, 0.5 + i / 1000) for i, mask in enumerate(masks)]
    many = PlantedMany(by_box(*answers))
    batched = instances_of_image(many, image, CATEGORIES)
    assert many.batches == [BOXES_PER_BATCH, len(masks) - BOXES_PER_BATCH]
    assert batched == instances_of_image(Planted(by_box(*answers)), image, CATEGORIES)


def test_records_may_carry_numbers_instead_of_names() -> None:
    whole = disc(40, 60, 30)
    image = sample((whole, "whatever"), category_id=7)
    assert ground_truth_boxes(image, CATEGORIES)[0].category_id == 7


def test_the_embedded_nano_fills_a_box() -> None:
    whole = disc(80, 60, 30)
    pixels = np.where(whole[..., None], np.array([230, 60, 40]), np.array([30, 90, 40])).astype(np.uint8)
    buffer = io.BytesIO()
    PillowImage.fromarray(pixels).save(buffer, format="PNG")
    image = Sample("a", "b", buffer.getvalue(), SIZE[1], SIZE[0], sample((whole, "cat")).annotations)
    instances = instances_of_image(anymask.load("nano", threads=1), image, CATEGORIES)
    scores = score_instances([instances], CATEGORIES)
    found = rle.decode(instances.results[0]["segmentation"])
    overlap = (found & whole).sum() / (found | whole).sum()
    assert overlap > 0.8
    assert scores.ap == pytest.approx(np.mean(overlap >= np.arange(50, 100, 5) / 100))


# Files and records


def test_detections_of_a_results_file(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    entries = [
        {"image_id": 4, "category_id": 2, "bbox": [1, 2, 10, 20.5], "score": 0.5},
        {"image_id": 9, "category_id": 1, "bbox": [0, 0, 3, 3], "score": 1},
        {"image_id": 4, "category_id": 1, "bbox": [5, 5, 1, 1], "score": 0.25},
    ]
    path.write_text(json.dumps(entries))
    assert read_detections(path) == {
        4: [GivenBox((1, 2, 11, 22.5), 2, 0.5), GivenBox((5, 5, 6, 6), 1, 0.25)],
        9: [GivenBox((0, 0, 3, 3), 1, 1.0)],
    }


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "{}",
        "[3]",
        '[{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3], "score": 1}]',
        '[{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}]',
        '[{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, NaN], "score": 1}]',
        '[{"image_id": "a", "category_id": 1, "bbox": [1, 2, 3, 4], "score": 1}]',
    ],
)
def test_bad_results_files(text: str, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(DatasetError, match=r"results\.json"):
        read_detections(path)
    with pytest.raises(DatasetError, match="cannot be read"):
        read_detections(tmp_path / "none.json")


def test_instances_survive_json() -> None:
    instances = random_instances(np.random.default_rng(3), "x")
    back = ImageInstances.from_record(json.loads(json.dumps(instances.as_record())))
    assert back == instances
    assert score_instances([back], CATEGORIES) == score_instances([instances], CATEGORIES)
    with pytest.raises(DatasetError, match="record"):
        ImageInstances.from_record({"key": "a"})


def test_category_names_are_numbered_in_order() -> None:
    whole = disc(40, 60, 30)
    nameless = Sample("b", "s", b"", 1, 1, [{"segmentation": rle.encode(whole)}])
    assert category_names([sample((whole, "dog"), (whole, "cat")), nameless, sample((whole, "dog"))]) == {
        "cat": 1,
        "dog": 2,
    }


def test_bad_annotations_are_refused() -> None:
    whole = disc(40, 60, 30)
    model = Planted(by_box((whole, 0.9)))
    with pytest.raises(DatasetError, match="'gnu'"):
        instances_of_image(model, sample((whole, "gnu")), CATEGORIES)
    with pytest.raises(DatasetError, match="category None"):
        instances_of_image(
            model,
            Sample("a", "b", picture(), SIZE[1], SIZE[0], [{"segmentation": rle.encode(whole)}]),
            CATEGORIES,
        )
    with pytest.raises(DatasetError, match="has a mask of"):
        instances_of_image(model, sample((np.ones((4, 4), dtype=bool), "cat")), CATEGORIES)
    damaged = [{"segmentation": {"size": list(SIZE), "counts": "@"}, "category": "cat"}]
    with pytest.raises(RleError):
        instances_of_image(model, Sample("a", "b", picture(), SIZE[1], SIZE[0], damaged), CATEGORIES)
    with pytest.raises(DatasetError, match="its record says"):
        instances_of_image(model, Sample("a", "b", picture(), 9, 9, []), CATEGORIES)
    with pytest.raises(DatasetError, match="at least one image"):
        score_instances([], CATEGORIES)
    stranger = ImageInstances(
        "a", *SIZE, [], [{"category_id": 5, "segmentation": rle.encode(whole), "score": 0.5}]
    )
    with pytest.raises(DatasetError, match="'a' cannot be evaluated"):
        score_instances([stranger], CATEGORIES)


def test_without_hotcoco_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hotcoco", None)
    with pytest.raises(MissingExtraError, match=r"anymask\[eval\]"):
        score_instances([ImageInstances("a", *SIZE, [], [])], CATEGORIES)

"""Everything mode of whatever answers clicks: planted answers, and segmenters by the fast and the slow way."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import ArrayLike
from planted_backend import PlantedBackend, picture

import anymask
from anymask.automatic.any_model import distinct, generate_masks
from anymask.automatic.grid import point_grid
from anymask.errors import InputError, LimitError
from anymask.evaluation.peers.baselines import FilledBox
from anymask.image import ImageSource
from anymask.masks.boxes import masks_to_boxes_published
from anymask.predict.segmenter import PROMPTS_PER_DECODE, Segmenter
from anymask.runtime.fake_backend import FakeBackend
from anymask.types import Embedding, Mask, MaskSet, Prompt

SIZE = (60, 80)
PICTURE = np.full((*SIZE, 3), 100, dtype=np.uint8)


def box_mask(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask = np.zeros(SIZE, dtype=bool)
    mask[y0:y1, x0:x1] = True
    return mask


class Planted:
    """Answers each point in turn with planted (mask, score, stability); has ``segment`` only."""

    def __init__(self, answers: Sequence[Sequence[tuple[np.ndarray, float, float | None]]]) -> None:
        self.answers = list(answers)
        self.points: list[list[float]] = []

    def embed(self, image: ImageSource) -> Embedding:
        return FilledBox().embed(image)

    def segment(
        self,
        image: Embedding,
        points: ArrayLike | None = None,
        labels: ArrayLike | None = None,
        box: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        multimask: bool = True,
    ) -> MaskSet:
        assert multimask
        assert box is None
        assert mask is None
        assert np.asarray(labels).tolist() == [1]
        self.points += np.asarray(points).tolist()
        answer = self.answers[(len(self.points) - 1) % len(self.answers)]
        low_res = np.zeros((4, 4), dtype=np.float32)
        return MaskSet(Mask(a, score, low_res_logits=low_res, stability_score=s) for a, score, s in answer)


class Counting(Planted):
    """A `Planted` that takes many prompts at once and notes how many."""

    def __init__(self, answers: Sequence[Sequence[tuple[np.ndarray, float, float | None]]]) -> None:
        super().__init__(answers)
        self.batches: list[int] = []

    def segment_many(
        self, image: Embedding, prompts: Sequence[Prompt], multimask: bool = False
    ) -> list[MaskSet]:
        assert multimask
        self.batches.append(len(prompts))
        return [self.segment(image, prompt.points, prompt.labels) for prompt in prompts]


def test_every_cell_is_clicked_once_in_image_pixels() -> None:
    model = Planted([[(box_mask(1, 1, 9, 9), 0.9, 1.0)]])
    generate_masks(model, PICTURE, points_per_side=2)
    assert model.points == [[20, 15], [60, 15], [20, 45], [60, 45]]


def test_filters_come_in_the_published_order_with_the_published_signs() -> None:
    """Predicted IoU must be above its threshold, stability may be equal to it."""
    apart = [box_mask(x, 0, x + 6, 6) for x in range(0, 70, 10)]
    answers = [
        (apart[0], 0.88, 1.0),  # not above
        (apart[1], 0.89, 0.95),  # just stable
        (apart[2], 0.90, 0.94),  # not stable
        (apart[3], 0.99, 1.0),
        (apart[4], 0.95, None),  # stability unknown
        (np.zeros(SIZE, dtype=bool), 1.0, 1.0),  # empty
    ]
    kept = generate_masks(Planted([answers]), PICTURE, points_per_side=1)
    assert [mask.score for mask in kept] == [0.99, 0.95, 0.89]
    assert [(mask.array == apart[i]).all() for mask, i in zip(kept, (3, 4, 1), strict=True)] == [True] * 3
    everything = generate_masks(Planted([answers]), PICTURE, 1, 0.0, 0.0)
    assert sorted(mask.score for mask in everything) == [0.88, 0.89, 0.90, 0.95, 0.99]


def test_the_better_of_two_duplicates_stays_with_its_point() -> None:
    """Boxes of 20 and 17 columns overlap by 16/19 in the published boxes, whose far side is inclusive."""
    wide, narrow = box_mask(10, 10, 30, 20), box_mask(10, 10, 27, 20)
    model = Planted([[(narrow, 0.9, 1.0)], [(wide, 0.95, 1.0)], [(box_mask(50, 30, 60, 40), 0.91, 1.0)], []])
    model.answers[3] = [(narrow, 0.9, 1.0)]
    kept = generate_masks(model, PICTURE, points_per_side=2, box_nms_thresh=0.8)
    assert [mask.score for mask in kept] == [0.95, 0.91]
    assert kept[0].point == (60.0, 15.0)
    assert kept[1].point == (20.0, 45.0)
    loose = generate_masks(Planted(model.answers), PICTURE, points_per_side=2, box_nms_thresh=16.01 / 19)
    assert len(loose) == 3  # the two narrow ones are equal


def test_suppression_is_by_published_boxes_and_score() -> None:
    """Against the definition on random masks, boxes taken from the arrays."""
    rng = np.random.default_rng(0)
    masks = []
    for score in rng.permutation(60) / 60:
        x, y = rng.integers(0, 60), rng.integers(0, 40)
        masks.append(Mask(box_mask(x, y, x + rng.integers(1, 20), y + rng.integers(1, 20)), float(score)))
    boxes = {
        id(m): b
        for m, b in zip(masks, masks_to_boxes_published(np.stack([m.array for m in masks])), strict=True)
    }

    def overlap(a: Mask, b: Mask) -> float:
        one, two = boxes[id(a)], boxes[id(b)]
        common = np.prod(np.maximum(np.minimum(one[2:], two[2:]) - np.maximum(one[:2], two[:2]), 0))
        union = np.prod(one[2:] - one[:2]) + np.prod(two[2:] - two[:2]) - common
        return float(common / union) if union else 0.0

    expected: list[Mask] = []
    for mask in sorted(masks, key=lambda m: -m.score):
        if all(overlap(mask, kept) <= 0.3 for kept in expected):
            expected.append(mask)
    assert [id(mask) for mask in distinct(masks, 0.3)] == [id(mask) for mask in expected]
    assert distinct([], 0.5) == []


def test_batches_are_bounded_and_change_nothing() -> None:
    answers = [[(box_mask(i, i, i + 5, i + 7), 0.9 + i / 100, 1.0)] for i in range(7)]
    many, single = Counting(answers), Planted(answers)
    batched = generate_masks(many, PICTURE, points_per_side=5)
    one_by_one = generate_masks(single, PICTURE, points_per_side=5)
    assert many.batches == [PROMPTS_PER_DECODE, 25 - PROMPTS_PER_DECODE]
    assert many.points == single.points
    assert batched.to_records() == one_by_one.to_records()


def test_masks_wait_as_run_lengths() -> None:
    """A kept mask holds no full-size array, and logits only when asked for."""
    model = Planted([[(box_mask(1, 1, 9, 9), 0.9, 1.0)]])
    kept = generate_masks(model, PICTURE, points_per_side=1)[0]
    assert kept.array is not kept.array  # decoded anew at each access
    assert kept.low_res_logits is None
    with_logits = generate_masks(model, PICTURE, points_per_side=1, keep_logits=True)[0]
    assert with_logits.low_res_logits is not None


def test_discs_of_the_model_without_weights() -> None:
    """Around each point three discs of radii 12, 24 and 40 network pixels; without filters all distinct ones stay."""
    segmenter = Segmenter(FakeBackend(long_side=128))
    picture = np.zeros((128, 128, 3), dtype=np.uint8)
    kept = generate_masks(segmenter, picture, 2, 0.0, 0.0, box_nms_thresh=1.0)
    rows, columns = np.mgrid[:128, :128] + 0.5
    by_point = {(32.0, 32.0), (96.0, 32.0), (32.0, 96.0), (96.0, 96.0)}
    assert {mask.point for mask in kept} == by_point
    assert len(kept) == 12
    for x, y in by_point:
        of_point = sorted((mask for mask in kept if mask.point == (x, y)), key=lambda mask: mask.area)
        distance = np.hypot(columns - x, rows - y)
        for mask, radius in zip(of_point, (12, 24, 40), strict=True):
            array = mask.array
            assert array[distance < radius - 5].all()  # a cell of the logits is 4 pixels wide
            assert not array[distance > radius + 5].any()
    embedding = segmenter.embed(picture)
    again = generate_masks(segmenter, embedding, 2, 0.0, 0.0, box_nms_thresh=1.0)
    assert again.to_records() == kept.to_records()


def test_nothing_good_gives_an_empty_set_of_the_image_size() -> None:
    kept = generate_masks(Planted([[(box_mask(1, 1, 9, 9), 0.5, 1.0)]]), PICTURE, points_per_side=2)
    assert len(kept) == 0
    assert kept.image_size == SIZE


@pytest.mark.parametrize(
    "bad", [{"pred_iou_thresh": -0.1}, {"stability_score_thresh": 1.5}, {"box_nms_thresh": float("nan")}]
)
def test_thresholds_out_of_range(bad: dict[str, float]) -> None:
    with pytest.raises(InputError, match="a number, 0 to 1"):
        generate_masks(Planted([[]]), PICTURE, **bad)
    with pytest.raises(LimitError):
        generate_masks(Planted([[]]), PICTURE, points_per_side=0)


def test_the_embedded_nano_finds_a_bright_disc() -> None:
    rows, columns = np.mgrid[:96, :128]
    disc = np.hypot(rows - 48, columns - 64) < 24
    picture = np.where(disc[..., None], np.array([230, 60, 40]), np.array([30, 90, 40])).astype(np.uint8)
    kept = generate_masks(
        anymask.load("nano", threads=1), picture, 3, pred_iou_thresh=0.0, stability_score_thresh=0.0
    )
    grid = {tuple(point) for point in (point_grid(3) * [128, 96]).tolist()}
    assert {mask.point for mask in kept} <= grid
    overlaps = [(mask.array & disc).sum() / (mask.array | disc).sum() for mask in kept]
    assert max(overlaps) > 0.8


class Slow(Segmenter):
    """A segmenter that is not asked by the fast path."""


@pytest.mark.parametrize("keep_logits", [False, True])
def test_a_segmenter_gives_the_same_by_the_fast_and_by_the_slow_way(keep_logits: bool) -> None:
    image = picture(90, 120)
    settings = {"points_per_side": 6, "pred_iou_thresh": 0.6, "stability_score_thresh": 0.4}
    fast, slow = (
        generate_masks(kind(PlantedBackend()), image, **settings, keep_logits=keep_logits)
        for kind in (Segmenter, Slow)
    )
    assert len(fast) > 5
    for one, other in zip(fast, slow, strict=True):
        assert one.counts.tolist() == other.counts.tolist()
        assert (one.score, one.point) == (other.score, other.point)
        assert one.stability_score == pytest.approx(other.stability_score, rel=1e-6)
        if keep_logits:
            assert (one.low_res_logits == other.low_res_logits).all()
        else:
            assert one.low_res_logits is None

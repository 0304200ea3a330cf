"""Protocols: one mask of an image, one way of prompting for it, one record of what came out.

Every protocol takes a `Promptable` (a `Segmenter` or a baseline), the image's embedding and the true mask
(H, W) bool, and raises `MaskError` where that mask is empty or of another size than the image. Boxes are asked
for one mask, clicks for the candidates; ``top`` is the one the model scores highest, ``oracle`` the best by IoU.

What is drawn by chance depends on the seed and the mask's id alone, not on order or on other masks.

Sources: centre point and oracle, Kirillov et al., "Segment Anything", 2023, section 7.1 and appendix D.1;
random point and ground-truth box, Xiong et al., "EfficientSAM", 2023, section 4; number of clicks (NoC), Xu et
al. 2016 and Sofiiuk et al., "Reviving Iterative Training with Mask Guidance", 2021, section 4.1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

import numpy as np

from anymask.errors import InputError, MaskError
from anymask.evaluation.clicks import click_rounds, deepest_point
from anymask.evaluation.metrics import BoolArray, boundary_f, boundary_iou, iou
from anymask.masks.boxes import mask_to_box
from anymask.predict.promptable import Promptable
from anymask.types import Embedding, Mask, MaskSet

__all__ = [
    "CLICKS",
    "JITTERS",
    "MAX_CLICKS",
    "NOC_THRESHOLDS",
    "Answer",
    "ClickRecord",
    "NumberOfClicks",
    "PromptRecord",
    "centre_point",
    "click_series",
    "ground_truth_box",
    "jittered_box",
    "number_of_clicks",
    "random_point",
]

CLICKS: Final = (1, 3, 5, 9)
"""Clicks after which IoU is reported."""
MAX_CLICKS: Final = 20
"""Clicks after which an object counts as failed."""
NOC_THRESHOLDS: Final = (0.85, 0.90)
"""IoU to be reached in NoC@85 and NoC@90."""
JITTERS: Final = (0.05, 0.10, 0.20)
"""Shares of a box's sides by which its corners are moved at most."""

MaskId = int | str
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Answer:
    """One mask measured.

    Attributes:
        iou: with the true mask.
        predicted_iou: the model's own estimate of it.
        stability: the model's stability score; None where it has none.
        boundary_iou, boundary_f: agreement of the outlines (`anymask.evaluation.metrics`); None where not asked for.
    """

    iou: float
    predicted_iou: float
    stability: float | None
    boundary_iou: float | None = None
    boundary_f: float | None = None


@dataclass(frozen=True)
class PromptRecord:
    """What one prompt gave.

    Attributes:
        prompt: the point (x, y) or box (x0, y0, x1, y1) in image pixels.
        top: the answer the model scores highest.
        oracle: the candidate of the best IoU; equal to ``top`` where one mask was asked for.
    """

    prompt: tuple[float, ...]
    top: Answer
    oracle: Answer


@dataclass(frozen=True)
class ClickRecord:
    """What a series of clicks on one object gave.

    Attributes:
        answers: after each click, the first being the top answer to one click.
        oracle: the best candidate after the first click.
    """

    answers: tuple[Answer, ...]
    oracle: Answer

    def after(self, clicks: int) -> Answer:
        """The answer after so many clicks, from 1.

        Raises:
            InputError: the series is shorter.
        """
        if not 1 <= clicks <= len(self.answers):
            raise InputError(f"the series has {len(self.answers)} clicks; there is no answer after {clicks}")
        return self.answers[clicks - 1]

    def clicks_to(self, threshold: float) -> int | None:
        """Clicks until IoU first reached a threshold; None where it never did."""
        reached = (number for number, answer in enumerate(self.answers, 1) if answer.iou >= threshold)
        return next(reached, None)


@dataclass(frozen=True)
class NumberOfClicks:
    """NoC at one threshold over many objects.

    Attributes:
        threshold: IoU to be reached.
        mean: mean clicks, a failed object counted with the maximum.
        failures: objects that never reached the threshold.
        objects: all objects.
        max_clicks: the maximum.
    """

    threshold: float
    mean: float
    failures: int
    objects: int
    max_clicks: int


def centre_point(
    model: Promptable, embedding: Embedding, truth: BoolArray, outlines: bool = False
) -> PromptRecord:
    """One click in the middle of the object: where the distance to its boundary is largest.

    With ``outlines``, the top answer's boundary is measured too.
    """
    _check(embedding, truth)
    x, y, _ = deepest_point(truth)
    return _one_click(model, embedding, truth, (x, y), outlines)


def random_point(
    model: Promptable, embedding: Embedding, truth: BoolArray, mask_id: MaskId, seed: int = 0
) -> PromptRecord:
    """One click on a pixel of the object, every one as likely as any other."""
    _check(embedding, truth)
    inside = np.flatnonzero(truth)
    pixel = int(inside[_generator(seed, mask_id, "point").integers(len(inside))])
    row, column = divmod(pixel, truth.shape[1])
    return _one_click(model, embedding, truth, (column + 0.5, row + 0.5))


def ground_truth_box(
    model: Promptable, embedding: Embedding, truth: BoolArray, outlines: bool = False
) -> PromptRecord:
    """The tight box of the object; with ``outlines``, the answer's boundary is measured too."""
    _check(embedding, truth)
    return _one_box(model, embedding, truth, mask_to_box(truth), outlines)


def jittered_box(
    model: Promptable,
    embedding: Embedding,
    truth: BoolArray,
    mask_id: MaskId,
    fraction: float,
    seed: int = 0,
) -> PromptRecord:
    """The tight box with each side moved by up to ``fraction`` of the width or height, cut at the image's border.

    Moves are uniform in both directions. One mask's moves differ between fractions only in size, so that
    fractions can be compared.

    Raises:
        InputError: a fraction below 0, or of 0.5 or more, with which a box could close up.
    """
    _check(embedding, truth)
    if not 0 <= fraction < 0.5:
        raise InputError(f"a box may be moved by 0 to 0.5 of its sides, got {fraction}")
    box = np.array(mask_to_box(truth), dtype=np.float64)
    sides = np.tile(box[2:] - box[:2], 2)
    box += _generator(seed, mask_id, "box").uniform(-1.0, 1.0, 4) * fraction * sides
    height, width = truth.shape
    x0, y0, x1, y1 = np.clip(box, 0.0, np.array([width, height, width, height])).tolist()
    return _one_box(model, embedding, truth, (x0, y0, x1, y1))


def click_series(
    model: Promptable,
    embedding: Embedding,
    truth: BoolArray,
    at_least: int = CLICKS[-1],
    max_clicks: int = MAX_CLICKS,
    stop_at: float = NOC_THRESHOLDS[-1],
) -> ClickRecord:
    """Clicks on the largest mistakes: IoU after 1, 3, 5 and 9, and NoC@85 and NoC@90, all of one series.

    The first goes to the object's middle, see `anymask.evaluation.clicks`. The series ends when ``at_least``
    clicks are made and ``stop_at`` has been reached once, or after ``max_clicks``.

    Raises:
        InputError: not 1 <= at_least <= max_clicks.
    """
    _check(embedding, truth)
    if not 1 <= at_least <= max_clicks:
        raise InputError(f"a series needs 1 <= at_least <= max_clicks, got {at_least} and {max_clicks}")
    answers: list[Answer] = []
    oracle: Answer | None = None
    reached = False
    for masks in islice(click_rounds(model, embedding, truth), max_clicks):
        answers.append(_measure(masks[0], truth))
        oracle = oracle or _best(masks, truth)
        reached = reached or answers[-1].iou >= stop_at
        if reached and len(answers) >= at_least:
            break
    assert oracle is not None
    return ClickRecord(tuple(answers), oracle)


def number_of_clicks(
    records: Sequence[ClickRecord], threshold: float, max_clicks: int = MAX_CLICKS
) -> NumberOfClicks:
    """NoC over the records of `click_series`, which were made with the same ``max_clicks``.

    Raises:
        InputError: no records, or one that ended before both the threshold and ``max_clicks``.
    """
    if not records:
        raise InputError("the number of clicks needs at least one object")
    needed = [record.clicks_to(threshold) for record in records]
    for record, clicks in zip(records, needed, strict=True):
        if clicks is None and len(record.answers) < max_clicks:
            raise InputError(
                f"a series ended after {len(record.answers)} clicks below {threshold:g}; "
                f"make it with stop_at of {threshold:g} or more and max_clicks of {max_clicks}"
            )
    within = [clicks for clicks in needed if clicks is not None and clicks <= max_clicks]
    failures = len(needed) - len(within)
    mean = (sum(within) + failures * max_clicks) / len(needed)
    return NumberOfClicks(threshold, mean, failures, len(needed), max_clicks)


def _one_click(
    model: Promptable,
    embedding: Embedding,
    truth: BoolArray,
    point: tuple[float, float],
    outlines: bool = False,
) -> PromptRecord:
    masks = model.segment(embedding, points=[point], labels=[1], multimask=True)
    return PromptRecord(point, _measure(masks[0], truth, outlines), _best(masks, truth))


def _one_box(
    model: Promptable, embedding: Embedding, truth: BoolArray, box: Box, outlines: bool = False
) -> PromptRecord:
    answer = _measure(model.segment(embedding, box=box, multimask=False)[0], truth, outlines)
    return PromptRecord(tuple(float(side) for side in box), answer, answer)


def _measure(mask: Mask, truth: BoolArray, outlines: bool = False) -> Answer:
    answer = mask.array
    agreement = iou(answer, truth)
    if not outlines:
        return Answer(agreement, mask.score, mask.stability_score)
    return Answer(
        agreement,
        mask.score,
        mask.stability_score,
        boundary_iou(answer, truth),
        boundary_f(answer, truth),
    )


def _best(masks: MaskSet, truth: BoolArray) -> Answer:
    """The candidate of the best IoU, the higher scored of equals."""
    return max((_measure(mask, truth) for mask in masks), key=lambda answer: answer.iou)


def _check(embedding: Embedding, truth: BoolArray) -> None:
    if truth.shape != embedding.image_size:
        raise MaskError(
            f"the true mask is {truth.shape} but the image {embedding.image_size}; they must agree"
        )
    if not truth.any():
        raise MaskError("the true mask is empty; there is nothing to prompt for")


def _generator(seed: int, mask_id: MaskId, purpose: str) -> np.random.Generator:
    digest = hashlib.sha256(f"{seed} {purpose} {mask_id}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))

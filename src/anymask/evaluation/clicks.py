"""Simulated annotators: the next click goes to the middle of the largest mistake.

Source: the protocol of interactive segmentation (Sofiiuk et al., 2021; SAM paper, section "Zero-Shot Single Point
Valid Mask Evaluation"): the click is the pixel of the error region that is farthest from the region's boundary, the
image's border counted as boundary.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from anymask.evaluation.metrics import BoolArray, iou
from anymask.predict.promptable import Promptable
from anymask.types import Embedding, MaskSet


@dataclass(frozen=True)
class Click:
    """One click: x and y in image pixels (the pixel's centre), and whether it marks the object."""

    x: float
    y: float
    foreground: bool


@dataclass(frozen=True)
class ClickResult:
    """What a sequence of clicks on one object gave.

    Attributes:
        top: IoU of the mask the model scores highest after one click.
        oracle: IoU of the best of the three candidates after one click.
        after: IoU after each click, the first entry equal to ``top``.
        score: predicted IoU of the top mask after one click.
    """

    top: float
    oracle: float
    after: tuple[float, ...]
    score: float


def deepest_point(region: BoolArray) -> tuple[float, float, float]:
    """Centre (x, y) of the pixel farthest from a region's boundary, and that distance in pixels."""
    padded = np.pad(region.astype(np.uint8), 1)
    depth = np.asarray(cv2.distanceTransform(padded, cv2.DIST_L2, 5), dtype=np.float32)[1:-1, 1:-1]
    row, column = np.unravel_index(int(depth.argmax()), depth.shape)
    return float(column) + 0.5, float(row) + 0.5, float(depth[row, column])


def next_click(answer: BoolArray, truth: BoolArray) -> Click:
    """The click a careful annotator makes next: in the deeper of the missed and the spilled region."""
    missed_x, missed_y, missed_depth = deepest_point(truth & ~answer)
    spilled_x, spilled_y, spilled_depth = deepest_point(answer & ~truth)
    if missed_depth == spilled_depth == 0.0:
        x, y, _ = deepest_point(truth)
        return Click(x, y, True)
    if missed_depth >= spilled_depth:
        return Click(missed_x, missed_y, True)
    return Click(spilled_x, spilled_y, False)


def click_rounds(
    model: Promptable,
    embedding: Embedding,
    truth: BoolArray,
    first: tuple[float, float] | None = None,
) -> Iterator[MaskSet]:
    """Click an object without end, feeding each answer back as mask prompt; the answer to every click in turn.

    After one click the model gives its candidates and its own score chooses; later rounds ask for one mask.

    Args:
        model: what is measured.
        embedding: the image's embedding.
        truth: (H, W) bool.
        first: where the first click goes; by default the middle of the object.
    """
    x, y = first if first is not None else deepest_point(truth)[:2]
    given = [Click(x, y, True)]
    masks = model.segment(embedding, points=[(x, y)], labels=[1], multimask=True)
    while True:
        yield masks
        answer = masks[0]
        given.append(next_click(answer.array, truth))
        masks = model.segment(
            embedding,
            points=[(c.x, c.y) for c in given],
            labels=[int(c.foreground) for c in given],
            mask=answer.low_res_logits,
            multimask=False,
        )


def simulate_clicks(
    segmenter: Promptable,
    embedding: Embedding,
    truth: BoolArray,
    clicks: int,
    first: tuple[float, float] | None = None,
) -> ClickResult:
    """Click an object ``clicks`` times, at least once; arguments as `click_rounds`."""
    rounds = click_rounds(segmenter, embedding, truth, first)
    candidates = next(rounds)
    ious = [iou(candidates[0].array, truth)]
    oracle = max(iou(candidate.array, truth) for candidate in candidates)
    ious.extend(iou(next(rounds)[0].array, truth) for _ in range(clicks - 1))
    return ClickResult(ious[0], oracle, tuple(ious), candidates[0].score)

"""Masks of everything in an image: a grid of clicks, three masks each, and filters that keep the good and distinct.

Source: Kirillov et al., "Segment Anything", 2023, section 5 and appendix B; ``SamAutomaticMaskGenerator`` of
``segment_anything/automatic_mask_generator.py`` without crops and without the clean-up of small regions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from anymask.errors import InputError
from anymask.image import ImageSource
from anymask.masks.boxes import half_open_to_published
from anymask.masks.nms import nms
from anymask.predict.promptable import Promptable
from anymask.types import Embedding, Mask, MaskSet, Prompt

from .grid import point_grid

__all__ = [
    "BOX_NMS_THRESH",
    "POINTS_PER_BATCH",
    "POINTS_PER_SIDE",
    "PRED_IOU_THRESH",
    "STABILITY_SCORE_THRESH",
    "distinct",
    "generate_masks",
]

POINTS_PER_SIDE: Final = 32
PRED_IOU_THRESH: Final = 0.88
STABILITY_SCORE_THRESH: Final = 0.95
BOX_NMS_THRESH: Final = 0.7
POINTS_PER_BATCH: Final = 16
"""Clicks answered together; the full-size masks of so many clicks, and no more, are in memory at a time."""


@runtime_checkable
class _Many(Protocol):
    def segment_many(
        self, image: Embedding, prompts: Sequence[Prompt], multimask: bool = False
    ) -> list[MaskSet]: ...


def generate_masks(
    segmenter: Promptable,
    image: Embedding | ImageSource,
    points_per_side: int = POINTS_PER_SIDE,
    pred_iou_thresh: float = PRED_IOU_THRESH,
    stability_score_thresh: float = STABILITY_SCORE_THRESH,
    box_nms_thresh: float = BOX_NMS_THRESH,
    keep_logits: bool = False,
) -> MaskSet:
    """Masks of everything, best predicted IoU first; each holds run lengths and the ``point`` that found it.

    A mask stays when its predicted IoU is above ``pred_iou_thresh``, then its stability score is not below
    ``stability_score_thresh``, and no better mask's box overlaps its own by more than ``box_nms_thresh``. A
    threshold of 0 filters nothing. A mask without a pixel is dropped always (the published code keeps it when both
    thresholds are 0); a model without stability scores is not filtered by them.

    Args:
        segmenter: a `Segmenter`, or anything with its ``embed`` and ``segment``.
        image: an image or its embedding by this segmenter.
        points_per_side: clicks in a row and in a column.
        pred_iou_thresh, stability_score_thresh, box_nms_thresh: from 0 to 1.
        keep_logits: masks keep their ``low_res_logits``, a quarter of a megabyte each with a frame of 1024; the
            duplicates not yet dropped hold theirs too while this runs.

    Raises:
        InputError: a threshold out of range.
        LimitError: a grid out of range.
        And what the segmenter raises for the image or embedding.
    """
    thresholds = (pred_iou_thresh, stability_score_thresh, box_nms_thresh)
    if not all(0 <= threshold <= 1 for threshold in thresholds):
        raise InputError(
            "thresholds of predicted IoU, stability and overlap must be from 0 to 1, got "
            + ", ".join(f"{threshold:g}" for threshold in thresholds)
        )
    grid = point_grid(points_per_side)
    embedding = image if isinstance(image, Embedding) else segmenter.embed(image)
    height, width = embedding.image_size
    points = grid * np.array([width, height], dtype=np.float64)
    kept = [
        _kept(mask, point, keep_logits)
        for mask, point in _answers(segmenter, embedding, points)
        if _is_good(mask, pred_iou_thresh, stability_score_thresh)
    ]
    return MaskSet(distinct(kept, box_nms_thresh), embedding.image_size)


def distinct(masks: Sequence[Mask], box_nms_thresh: float) -> list[Mask]:
    """The masks that greedy suppression of their published boxes by score leaves, best first."""
    boxes = np.array([half_open_to_published(mask.box_xyxy) for mask in masks], dtype=np.float64)
    scores = [mask.score for mask in masks]
    return [masks[index] for index in nms(boxes.reshape(-1, 4), scores, box_nms_thresh)]


def _answers(
    segmenter: Promptable, embedding: Embedding, points: NDArray[np.float64]
) -> Iterator[tuple[Mask, tuple[float, float]]]:
    """Every mask of every click with its point, a batch of clicks at a time."""
    for start in range(0, len(points), POINTS_PER_BATCH):
        batch = points[start : start + POINTS_PER_BATCH]
        if isinstance(segmenter, _Many):
            prompts = [Prompt(points=point[None], labels=[1]) for point in batch]
            answers = segmenter.segment_many(embedding, prompts, multimask=True)
        else:
            answers = [segmenter.segment(embedding, points=point[None], labels=[1]) for point in batch]
        for (x, y), masks in zip(batch.tolist(), answers, strict=True):
            for mask in masks:
                yield mask, (x, y)


def _is_good(mask: Mask, pred_iou_thresh: float, stability_score_thresh: float) -> bool:
    if pred_iou_thresh > 0 and not mask.score > pred_iou_thresh:
        return False
    stability = mask.stability_score
    if stability_score_thresh > 0 and stability is not None and not stability >= stability_score_thresh:
        return False
    return mask.area > 0


def _kept(mask: Mask, point: tuple[float, float], keep_logits: bool) -> Mask:
    """The mask as run lengths."""
    return Mask.from_rle(
        mask.rle,
        mask.score,
        low_res_logits=mask.low_res_logits if keep_logits else None,
        stability_score=mask.stability_score,
        point=point,
    )

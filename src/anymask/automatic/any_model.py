"""Everything mode for whatever answers clicks: models, peers and methods without learning.

A `Segmenter` takes the fast path of `anymask.automatic.generator`; anything else with its two verbs is asked click by
click, or batch by batch where it has ``segment_many``. Filters and answers are the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from anymask.image import ImageSource
from anymask.masks.boxes import half_open_to_published
from anymask.predict.promptable import Promptable
from anymask.predict.segmenter import PROMPTS_PER_DECODE, Segmenter
from anymask.types import Embedding, Mask, MaskSet, Prompt

from .filters import published_nms
from .generator import Generator
from .grid import point_grid
from .settings import AutomaticSettings

__all__ = ["BOX_NMS_THRESH", "distinct", "generate_masks"]

_DEFAULTS: Final = AutomaticSettings()
BOX_NMS_THRESH: Final = _DEFAULTS.box_nms_thresh


@runtime_checkable
class _Many(Protocol):
    def segment_many(
        self, image: Embedding, prompts: Sequence[Prompt], multimask: bool = False
    ) -> list[MaskSet]: ...


def generate_masks(
    segmenter: Promptable,
    image: Embedding | ImageSource,
    points_per_side: int = 32,
    pred_iou_thresh: float = _DEFAULTS.pred_iou_thresh,
    stability_score_thresh: float = _DEFAULTS.stability_score_thresh,
    box_nms_thresh: float = BOX_NMS_THRESH,
    keep_logits: bool = False,
) -> MaskSet:
    """Masks of everything, best predicted IoU first; each holds run lengths and the ``point`` that found it.

    A model without stability scores is not filtered by them.

    Args:
        segmenter: a `Segmenter`, or anything with its ``embed`` and ``segment``.
        image: an image or its embedding by this segmenter.
        points_per_side, pred_iou_thresh, stability_score_thresh, box_nms_thresh: as in `AutomaticSettings`.
        keep_logits: masks keep their ``low_res_logits``, a quarter of a megabyte each with a frame of 1024.

    Raises:
        InputError: a threshold out of range.
        LimitError: a grid out of range.
        And what the segmenter raises for the image or embedding.
    """
    settings = AutomaticSettings(
        points_per_side=points_per_side,
        points_per_batch=PROMPTS_PER_DECODE,
        pred_iou_thresh=pred_iou_thresh,
        stability_score_thresh=stability_score_thresh,
        box_nms_thresh=box_nms_thresh,
    )
    if type(segmenter) is Segmenter:  # a subclass may answer otherwise
        return Generator(segmenter, settings, keep_logits=keep_logits).generate(image)
    embedding = image if isinstance(image, Embedding) else segmenter.embed(image)
    height, width = embedding.image_size
    points = point_grid(points_per_side) * np.array([width, height], dtype=np.float64)
    kept = [
        _kept(mask, point, keep_logits)
        for mask, point in _answers(segmenter, embedding, points)
        if _is_good(mask, settings)
    ]
    return MaskSet(distinct(kept, box_nms_thresh), embedding.image_size)


def distinct(masks: Sequence[Mask], box_nms_thresh: float) -> list[Mask]:
    """The masks that greedy suppression of their published boxes by score leaves, best first."""
    boxes = [half_open_to_published(mask.box_xyxy) for mask in masks]
    return [masks[index] for index in published_nms(boxes, [mask.score for mask in masks], box_nms_thresh)]


def _answers(
    segmenter: Promptable, embedding: Embedding, points: NDArray[np.float64]
) -> Iterator[tuple[Mask, tuple[float, float]]]:
    """Every mask of every click with its point, a batch of clicks at a time."""
    for start in range(0, len(points), PROMPTS_PER_DECODE):
        batch = points[start : start + PROMPTS_PER_DECODE]
        if isinstance(segmenter, _Many):
            prompts = [Prompt(points=point[None], labels=[1]) for point in batch]
            answers = segmenter.segment_many(embedding, prompts, multimask=True)
        else:
            answers = [segmenter.segment(embedding, points=point[None], labels=[1]) for point in batch]
        for (x, y), masks in zip(batch.tolist(), answers, strict=True):
            for mask in masks:
                yield mask, (x, y)


def _is_good(mask: Mask, settings: AutomaticSettings) -> bool:
    """By the thresholds, in float32 as published."""
    thresh = settings.pred_iou_thresh
    if thresh > 0 and not np.float32(mask.score) > np.float32(thresh):
        return False
    stability, thresh = mask.stability_score, settings.stability_score_thresh
    if thresh > 0 and stability is not None and not np.float32(stability) >= np.float32(thresh):
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

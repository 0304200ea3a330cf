"""The published clean-up of small holes and islands, and the suppression of duplicates that may come of it."""

from __future__ import annotations

from collections.abc import Sequence

from anymask.masks import rle as rle_codec
from anymask.masks.boxes import half_open_to_published
from anymask.masks.regions import remove_small_regions
from anymask.types import Mask

from .filters import published_nms

__all__ = ["clean_up"]


def clean_up(masks: Sequence[Mask], min_area: int, iou_threshold: float) -> list[Mask]:
    """Masks without holes and islands of fewer than ``min_area`` pixels; first those that had none.

    Boxes are suppressed once more, and a mask that did not change goes before one that did, whatever their scores;
    scores, stability and clicks stay as they were. One full-size array is in memory at a time. As
    ``postprocess_small_regions`` of ``segment_anything/automatic_mask_generator.py``.
    """
    cleaned, unchanged = [], []
    for mask in masks:
        array, filled = remove_small_regions(mask.array, min_area, "holes")
        array, removed = remove_small_regions(array, min_area, "islands")
        unchanged.append(not filled and not removed)
        cleaned.append(mask if unchanged[-1] else _with_array(mask, rle_codec.encode(array)))
    boxes = [half_open_to_published(mask.box_xyxy) for mask in cleaned]
    return [cleaned[index] for index in published_nms(boxes, unchanged, iou_threshold)]


def _with_array(mask: Mask, rle: rle_codec.Rle) -> Mask:
    return Mask.from_rle(
        rle,
        mask.score,
        low_res_logits=mask.low_res_logits,
        stability_score=mask.stability_score,
        point=mask.point,
        crop_box=mask.crop_box,
    )

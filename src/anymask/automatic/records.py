"""The published record of a mask, for those who have code that reads it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from anymask.errors import InputError
from anymask.masks.boxes import half_open_to_published
from anymask.types import Mask

__all__ = ["OUTPUT_MODES", "published_records"]

OUTPUT_MODES: Final = ("binary_mask", "uncompressed_rle", "coco_rle")


def published_records(masks: Iterable[Mask], output_mode: str = "binary_mask") -> list[dict[str, Any]]:
    """What ``SamAutomaticMaskGenerator.generate`` gives: a dictionary per mask, keys in its order.

    ``bbox`` and ``crop_box`` are XYWH, ``bbox`` with the published inclusive maxima; ``point_coords`` is ``[]`` for a
    mask that no click found. ``segmentation`` is by ``output_mode`` a bool array (H, W), ``{"size", "counts"}`` with
    counts as whole numbers, or the same with COCO's compressed text.

    Raises:
        InputError: another output mode.
    """
    if output_mode not in OUTPUT_MODES:
        raise InputError(f"the output mode is one of {', '.join(OUTPUT_MODES)}, not {output_mode!r:.40}")
    return [_record(mask, output_mode) for mask in masks]


def _record(mask: Mask, output_mode: str) -> dict[str, Any]:
    x0, y0, x1, y1 = half_open_to_published(mask.box_xyxy)
    left, top, right, bottom = mask.crop_box or (0, 0, mask.size[1], mask.size[0])
    return {
        "segmentation": _segmentation(mask, output_mode),
        "area": mask.area,
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "predicted_iou": mask.score,
        "point_coords": [] if mask.point is None else [list(mask.point)],
        "stability_score": mask.stability_score,
        "crop_box": [left, top, right - left, bottom - top],
    }


def _segmentation(mask: Mask, output_mode: str) -> Any:
    if output_mode == "binary_mask":
        return mask.array
    if output_mode == "coco_rle":
        return mask.rle
    return {"size": list(mask.size), "counts": mask.counts.tolist()}

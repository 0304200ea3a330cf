"""Greedy non-maximum suppression of boxes."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from anymask.errors import MaskError
from anymask.limits import MAX_NMS_BOXES

__all__ = ["nms"]

_FARTHEST: Final = 1e12  # far beyond any image, and squares of it are exact enough


def nms(
    boxes_xyxy: ArrayLike, scores: ArrayLike, iou_threshold: float, groups: ArrayLike | None = None
) -> NDArray[np.int64]:
    """Indices (K,) of the boxes kept, best first.

    The best box not yet dropped is kept and drops every later one whose IoU with it is above
    ``iou_threshold``; equal scores go by lower index, so the result does not depend on sorting.  With
    ``groups`` (N,) only boxes of the same group drop each other.  Coordinates are taken as they come (width =
    x1 - x0), as torchvision's ``nms`` does; two boxes without area never drop each other.

    Args:
        boxes_xyxy: (N, 4) finite numbers.
        scores: (N,) numbers that are not NaN.
        iou_threshold: from 0 to 1.

    Raises ``MaskError`` on NaN, other shapes or more than ``MAX_NMS_BOXES`` boxes.
    """
    boxes, ranks = np.asarray(boxes_xyxy, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    boxes = boxes.reshape(0, 4) if boxes.size == 0 else boxes
    if boxes.ndim != 2 or boxes.shape[1] != 4 or ranks.shape != (len(boxes),):
        raise MaskError(f"NMS needs boxes (N, 4) and scores (N,), got shapes {boxes.shape} and {ranks.shape}")
    if len(boxes) > MAX_NMS_BOXES:
        raise MaskError(f"NMS takes {MAX_NMS_BOXES} boxes, got {len(boxes)}")
    if not (np.abs(boxes) <= _FARTHEST).all() or np.isnan(ranks).any():
        raise MaskError(f"NMS needs boxes within {_FARTHEST:g} of the origin and scores that are not NaN")
    if not 0 <= iou_threshold <= 1:
        raise MaskError(f"the IoU threshold must be from 0 to 1, got {iou_threshold}")
    kinds = np.zeros(len(boxes), dtype=np.int64) if groups is None else np.asarray(groups)
    if kinds.shape != (len(boxes),):
        raise MaskError(f"NMS needs one group for each of {len(boxes)} boxes, got shape {kinds.shape}")
    return _greedy(boxes, np.argsort(-ranks, kind="stable"), iou_threshold, kinds)


def _greedy(
    boxes: NDArray[np.float64], order: NDArray[np.int64], iou_threshold: float, kinds: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Walk ``order``, keeping the first of what is left and dropping what it covers."""
    areas = np.maximum(boxes[:, 2] - boxes[:, 0], 0.0) * np.maximum(boxes[:, 3] - boxes[:, 1], 0.0)
    kept: list[int] = []
    while order.size:
        best, rest = order[0], order[1:]
        kept.append(int(best))
        low = np.maximum(boxes[best, :2], boxes[rest, :2])
        high = np.minimum(boxes[best, 2:], boxes[rest, 2:])
        common = np.prod(np.maximum(high - low, 0.0), axis=1)
        union = areas[best] + areas[rest] - common
        overlap = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
        order = rest[(overlap <= iou_threshold) | (kinds[rest] != kinds[best])]
    return np.array(kept, dtype=np.int64)

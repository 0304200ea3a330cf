"""Boxes: xyxy inside anymask, xywh only in COCO and SA-1B files.

Two conventions meet here and are never mixed silently:

* **half-open** (anymask): pixel-corner coordinates, ``x1 = largest column + 1``, so ``x1 - x0`` is the width
  in pixels;
* **published** (``batched_mask_to_box`` in ``segment_anything/utils/amg.py``): ``x1 = largest column``, so a
  mask one pixel wide has width 0.  Used where records are written and where published filters must be
  followed exactly.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from anymask.errors import MaskError

__all__ = [
    "box_area",
    "box_iou",
    "clip_boxes",
    "half_open_to_published",
    "mask_to_box",
    "masks_to_boxes_published",
    "xywh_to_xyxy",
    "xyxy_to_xywh",
]


def xyxy_to_xywh(boxes_xyxy: ArrayLike) -> NDArray[np.float64]:
    """Boxes (..., 4) from corners to corner and size, in the same convention."""
    boxes = _boxes(boxes_xyxy).copy()
    boxes[..., 2:] -= boxes[..., :2]
    return boxes


def xywh_to_xyxy(boxes_xywh: ArrayLike) -> NDArray[np.float64]:
    """Boxes (..., 4) from corner and size to corners, in the same convention."""
    boxes = _boxes(boxes_xywh).copy()
    boxes[..., 2:] += boxes[..., :2]
    return boxes


def box_area(boxes_xyxy: ArrayLike) -> NDArray[np.float64]:
    """Areas (...) of boxes (..., 4); an inverted box has area 0."""
    boxes = _boxes(boxes_xyxy)
    sides = np.maximum(boxes[..., 2:] - boxes[..., :2], 0.0)
    area: NDArray[np.float64] = sides[..., 0] * sides[..., 1]
    return area


def box_iou(first_xyxy: ArrayLike, second_xyxy: ArrayLike) -> NDArray[np.float64]:
    """IoU matrix (N, M) of boxes (N, 4) and (M, 4); 0 where the union is empty."""
    first, second = _boxes(first_xyxy).reshape(-1, 4), _boxes(second_xyxy).reshape(-1, 4)
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    sides = np.maximum(high - low, 0.0)
    common = sides[..., 0] * sides[..., 1]
    union = box_area(first)[:, None] + box_area(second)[None, :] - common
    overlap: NDArray[np.float64] = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
    return overlap


def clip_boxes(boxes_xyxy: ArrayLike, width: int, height: int) -> NDArray[np.float64]:
    """Boxes (..., 4) moved to the nearest point of the image [0, width] x [0, height]."""
    return np.clip(_boxes(boxes_xyxy), 0.0, np.array([width, height, width, height], dtype=np.float64))


def mask_to_box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Tight half-open box (x0, y0, x1, y1) of a bool mask (H, W); (0, 0, 0, 0) when nothing is set."""
    rows = np.flatnonzero(mask.any(axis=1))
    if rows.size == 0:
        return (0, 0, 0, 0)
    columns = np.flatnonzero(mask[rows[0] : rows[-1] + 1].any(axis=0))
    return (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)


def masks_to_boxes_published(masks: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Published boxes (..., 4) of bool masks (..., H, W): inclusive maxima, zeros for an empty mask.

    Same values as ``batched_mask_to_box`` in ``segment_anything/utils/amg.py``.
    """
    masks = np.asarray(masks)
    if masks.ndim < 2 or masks.dtype != np.bool_:
        raise MaskError(
            f"masks must be a bool array (..., H, W), got shape {masks.shape} dtype {masks.dtype}"
        )
    if masks.size == 0:
        return np.zeros((*masks.shape[:-2], 4), dtype=np.int64)
    rows, columns = np.asarray(masks.any(axis=-1)), np.asarray(masks.any(axis=-2))
    y0, x0 = rows.argmax(axis=-1), columns.argmax(axis=-1)
    y1 = rows.shape[-1] - 1 - rows[..., ::-1].argmax(axis=-1)
    x1 = columns.shape[-1] - 1 - columns[..., ::-1].argmax(axis=-1)
    boxes = np.stack([x0, y0, x1, y1], axis=-1).astype(np.int64)
    filled = np.asarray(rows.any(axis=-1, keepdims=True))
    return np.where(filled, boxes, 0)


def half_open_to_published(box_xyxy: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """The published box (inclusive maxima) of a half-open one; an empty box stays (0, 0, 0, 0)."""
    x0, y0, x1, y1 = box_xyxy
    return (x0, y0, max(x1 - 1, x0), max(y1 - 1, y0))


def _boxes(boxes: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(boxes, dtype=np.float64)
    if array.shape[-1:] != (4,):
        raise MaskError(f"boxes must have four numbers each, got an array of shape {array.shape}")
    return array

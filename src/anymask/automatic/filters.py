"""The published filters of boxes, in the published arithmetic, so that ties and thresholds fall as published."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from anymask.frame import CropBox

__all__ = ["EDGE_TOLERANCE", "near_crop_edge", "published_nms", "published_order", "published_overlaps"]

EDGE_TOLERANCE: Final = 20.0
"""A box so many pixels or fewer from an edge of its crop touches it."""


def near_crop_edge(
    box_published: tuple[int, int, int, int], crop_box: CropBox, image_size: tuple[int, int]
) -> bool:
    """Whether a box, in pixels of the image, touches an edge of its crop that is not an edge of the image.

    As ``is_box_near_crop_edge`` of ``segment_anything/utils/amg.py``: side by side, with inclusive maxima.
    """
    height, width = image_size
    return any(
        abs(side - crop) <= EDGE_TOLERANCE and not abs(side - edge) <= EDGE_TOLERANCE
        for side, crop, edge in zip(box_published, crop_box, (0, 0, width, height), strict=True)
    )


def published_nms(boxes_published: ArrayLike, scores: ArrayLike, iou_threshold: float) -> NDArray[np.int64]:
    """Indices (K,) of the boxes (N, 4) kept, best first; equal scores keep their order.

    As torchvision's ``nms`` on the CPU; see `published_overlaps`.
    """
    boxes = np.asarray(boxes_published, dtype=np.float32).reshape(-1, 4)
    order = published_order(scores)
    boxes = boxes[order]
    left = np.arange(len(boxes))
    kept: list[int] = []
    while left.size:
        best, rest = left[0], left[1:]
        kept.append(int(order[best]))
        left = rest[~(published_overlaps(boxes[best], boxes[rest]) > iou_threshold)]
    return np.array(kept, dtype=np.int64)


def published_order(scores: ArrayLike) -> NDArray[np.int64]:
    """Indices (N,) of scores from the best down, compared in float32; equal ones keep their order."""
    order: NDArray[np.int64] = np.argsort(-np.asarray(scores, dtype=np.float32), kind="stable")
    return order


def published_overlaps(box: ArrayLike, boxes: ArrayLike) -> NDArray[np.float64]:
    """Intersection over union (N,) of a box with boxes (N, 4), to be compared with a threshold in float64.

    Boxes, areas and overlaps are in float32 as in torchvision, and a pixel less wide and high than they are: at
    overlaps that are no binary fractions that decides otherwise than float64 throughout.
    """
    one = np.asarray(box, dtype=np.float32)
    many = np.asarray(boxes, dtype=np.float32).reshape(-1, 4)
    low = np.maximum(one[:2], many[:, :2])
    sides = np.maximum(np.minimum(one[2:], many[:, 2:]) - low, np.float32(0))
    common = sides[:, 0] * sides[:, 1]
    areas = (many[:, 2] - many[:, 0]) * (many[:, 3] - many[:, 1])
    union = (one[2] - one[0]) * (one[3] - one[1]) + areas - common
    overlaps = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
    widened: NDArray[np.float64] = overlaps.astype(np.float64)
    return widened

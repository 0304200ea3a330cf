"""The published filters of boxes, in the published arithmetic, so that ties and thresholds fall as published."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from anymask.frame import CropBox

__all__ = ["EDGE_TOLERANCE", "near_crop_edge", "published_nms"]

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

    As torchvision's ``nms`` on the CPU: boxes, areas and overlaps in float32, the overlap against the threshold in
    float64. At overlaps that are no binary fractions that decides otherwise than float64 throughout.
    """
    boxes = np.asarray(boxes_published, dtype=np.float32).reshape(-1, 4)
    order = np.argsort(-np.asarray(scores, dtype=np.float32), kind="stable")
    boxes = boxes[order]
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    left = np.arange(len(boxes))
    kept: list[int] = []
    while left.size:
        best, rest = left[0], left[1:]
        kept.append(int(order[best]))
        low = np.maximum(boxes[best, :2], boxes[rest, :2])
        sides = np.maximum(np.minimum(boxes[best, 2:], boxes[rest, 2:]) - low, np.float32(0))
        common = sides[:, 0] * sides[:, 1]
        union = areas[best] + areas[rest] - common
        overlap = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
        left = rest[~(overlap.astype(np.float64) > iou_threshold)]
    return np.array(kept, dtype=np.int64)

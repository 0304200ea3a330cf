"""Agreement between masks, as numbers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from anymask.errors import MaskError

BoolArray = NDArray[np.bool_]


def iou(predicted: BoolArray, truth: BoolArray) -> float:
    """Intersection over union of two (H, W) bool masks; 1.0 when both are empty.

    Raises:
        MaskError: the masks differ in size.
    """
    if predicted.shape != truth.shape:
        raise MaskError(
            f"masks of {predicted.shape} and {truth.shape} cannot be compared; they differ in size"
        )
    union = int(np.count_nonzero(predicted | truth))
    return int(np.count_nonzero(predicted & truth)) / union if union else 1.0


def filled_box(box_xyxy: tuple[float, float, float, float], size: tuple[int, int]) -> BoolArray:
    """The baseline that answers a box with itself: (H, W) bool."""
    x0, y0, x1, y1 = box_xyxy
    rows = np.arange(size[0])[:, None] + 0.5
    columns = np.arange(size[1])[None, :] + 0.5
    inside: BoolArray = (rows > y0) & (rows < y1) & (columns > x0) & (columns < x1)
    return inside


def inscribed_ellipse(box_xyxy: tuple[float, float, float, float], size: tuple[int, int]) -> BoolArray:
    """The baseline that answers a box with the ellipse that touches its four sides: (H, W) bool."""
    x0, y0, x1, y1 = box_xyxy
    rows = (np.arange(size[0])[:, None] + 0.5 - (y0 + y1) / 2) / max((y1 - y0) / 2, 1e-9)
    columns = (np.arange(size[1])[None, :] + 0.5 - (x0 + x1) / 2) / max((x1 - x0) / 2, 1e-9)
    inside: BoolArray = rows**2 + columns**2 <= 1.0
    return inside

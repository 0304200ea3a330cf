"""Connected regions of a mask, and the published clean-up of small ones."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from anymask.errors import MaskError

__all__ = ["connected_components", "remove_small_regions"]


def connected_components(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Labels (H, W) int32, 0 for the background and 1..K for the 8-connected regions, and their areas (K +
    1,).
    """
    import cv2

    mask = np.asarray(mask)
    if mask.ndim != 2 or mask.dtype != np.bool_ or mask.size == 0:
        raise MaskError(
            f"a mask must be a non-empty 2-D bool array, got shape {mask.shape} dtype {mask.dtype}"
        )
    _, labels, stats, _ = cv2.connectedComponentsWithStats(
        np.ascontiguousarray(mask).view(np.uint8), connectivity=8
    )
    return np.asarray(labels, dtype=np.int32), np.asarray(stats[:, cv2.CC_STAT_AREA], dtype=np.int64)


def remove_small_regions(
    mask: NDArray[np.bool_], area_threshold: float, mode: Literal["holes", "islands"]
) -> tuple[NDArray[np.bool_], bool]:
    """The mask with regions of fewer than ``area_threshold`` pixels filled or removed, and whether any was.

    ``"holes"`` fills small 8-connected background regions (also those at the image's edge); ``"islands"``
    removes small foreground regions, but keeps the largest when all are small.  As ``remove_small_regions``
    of ``segment_anything/utils/amg.py``.
    """
    if mode not in ("holes", "islands"):
        raise MaskError(f"the mode must be 'holes' or 'islands', got {mode!r}")
    labels, areas = connected_components(~mask if mode == "holes" else mask)
    small = areas < area_threshold
    small[0] = False
    if not small.any():
        return mask, False
    if mode == "holes":
        keep = small
        keep[0] = True  # label 0 is the mask itself here
    else:
        keep = ~small
        keep[0] = False
        if not keep.any():
            keep[1 + int(np.argmax(areas[1:]))] = True
    return keep[labels], True

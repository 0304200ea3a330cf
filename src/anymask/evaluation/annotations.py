"""The mask and the area of an annotation, read with distrust."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anymask.errors import DatasetError
from anymask.masks import rle

__all__ = ["annotation_area", "annotation_mask"]


def annotation_mask(record: Mapping[str, Any]) -> tuple[NDArray[np.int64], tuple[int, int]]:
    """Checked counts and (height, width) of the record's ``segmentation``.

    Raises:
        DatasetError: there is none.
        RleError: it is damaged.
    """
    if "segmentation" not in record:
        raise DatasetError(f"the annotation {record.get('id')!r:.40} has no segmentation")
    return rle.parse(record["segmentation"])


def annotation_area(record: Mapping[str, Any], counts: NDArray[np.int64]) -> float:
    """The record's own ``area`` in pixels, which COCO's size classes go by, else the number of pixels set.

    Raises:
        DatasetError: it is no number.
    """
    area = record.get("area", rle.area(counts))
    if isinstance(area, bool) or not isinstance(area, (int, float)) or not math.isfinite(area):
        raise DatasetError(
            f"the area of annotation {record.get('id')!r:.40} is {area!r:.40}, which is no number"
        )
    return float(area)

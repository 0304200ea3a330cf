"""From run lengths and label pictures to SA-1B annotation records."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anymask.errors import DatasetError
from anymask.limits import MAX_RLE_COUNTS
from anymask.masks import rle
from anymask.masks.boxes import half_open_to_published

Counts = NDArray[np.int64]
Record = dict[str, Any]


def mask_record(id: int, counts: Counts, size: tuple[int, int], **extra: str) -> Record | None:
    """The SA-1B record of one mask, or None for an empty one.

    ``area`` and ``bbox`` are the mask's own: pixels set, and XYWH with the published inclusive maxima, so that a mask
    one pixel wide has width 0.

    Args:
        id: of the annotation.
        counts: checked column-major run lengths, background first.
        size: (height, width) they add up to.
        extra: further entries, such as ``category``.

    Raises:
        DatasetError: more runs than ``limits.MAX_RLE_COUNTS``.
    """
    area = rle.area(counts)
    if area == 0:
        return None
    if counts.size > MAX_RLE_COUNTS:
        raise DatasetError(f"Mask {id} has {counts.size} runs, the limit is {MAX_RLE_COUNTS}.")
    x0, y0, x1, y1 = half_open_to_published(rle.box(counts, size))
    return {
        "id": id,
        "segmentation": {"size": [size[0], size[1]], "counts": rle.counts_to_string(counts)},
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "area": area,
        **extra,
    }


def intervals_to_counts(starts: Counts, ends: Counts, pixels: int) -> Counts:
    """Run lengths, background first, of sorted half-open intervals (K,) that do not overlap, among so many pixels."""
    edges = np.empty(2 * starts.size + 2, dtype=np.int64)
    edges[0], edges[-1] = 0, pixels
    edges[1:-1:2], edges[2:-1:2] = starts, ends
    counts = np.diff(edges)
    return counts[:-1] if counts[-1] == 0 else counts


def label_counts(labels: NDArray[Any], drop: Iterable[int] = (0,)) -> Iterator[tuple[int, Counts]]:
    """Every value of a label picture (H, W) with the run lengths of its mask, by rising value.

    The picture is read once, however many values it has.

    Args:
        labels: whole numbers (H, W).
        drop: values that are no object.
    """
    flat = np.ascontiguousarray(labels.T).reshape(-1)
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    starts = np.concatenate([[0], changes])
    ends = np.concatenate([changes, [flat.size]])
    values = flat[starts]
    kept = np.flatnonzero(~np.isin(values, list(drop)))
    order = kept[np.argsort(values[kept], kind="stable")]
    groups = np.split(order, np.flatnonzero(np.diff(values[order])) + 1) if order.size else []
    for group in groups:
        yield int(values[group[0]]), intervals_to_counts(starts[group], ends[group], flat.size)

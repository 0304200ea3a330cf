"""Scores computed from logits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from anymask.errors import MaskError

__all__ = ["stability_score"]


def stability_score(
    logits: NDArray[np.floating], threshold: float = 0.0, offset: float = 1.0
) -> NDArray[np.float64]:
    """How little a mask changes when its threshold moves: (...,) for logits (..., h, w).

    IoU of the mask cut at ``threshold + offset`` and at ``threshold - offset``; since one contains the other,
    the quotient of their areas.  As ``calculate_stability_score`` of ``segment_anything/utils/amg.py``,
    except that a mask empty at both cuts scores 0 where the published code gives NaN (both fail every
    filter).
    """
    logits = np.asarray(logits)
    if logits.ndim < 2 or logits.dtype.kind != "f":
        raise MaskError(f"logits must be a float array (..., h, w), got {logits.dtype} {logits.shape}")
    if not offset >= 0:
        raise MaskError(f"the stability offset must be 0 or more, got {offset}")
    planes = logits.reshape(-1, *logits.shape[-2:])  # counting without an axis is several times faster
    inner = [np.count_nonzero(plane > threshold + offset) for plane in planes]
    outer = [np.count_nonzero(plane > threshold - offset) for plane in planes]
    score: NDArray[np.float64] = np.asarray(inner, dtype=np.float64) / np.maximum(outer, 1)
    return score.reshape(logits.shape[:-2])

"""Prompt: what a person points at, for one object."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from anymask.errors import PromptError
from anymask.limits import MAX_IMAGE_PIXELS, MAX_IMAGE_SIDE, MAX_LOW_RES_SIDE, MAX_POINTS_PER_OBJECT

__all__ = ["Prompt"]


@dataclass(frozen=True, init=False, eq=False)
class Prompt:
    """Points, a box and a mask for one object, at least one of them; any mix.

    * ``points``: (N, 2) float64, (x, y) in image pixels; ``labels``: (N,) int64, 1 foreground and 0
      background, all ones when not given.  An empty list of points counts as no points.
    * ``box``: (4,) float64, (x0, y0, x1, y1) in image pixels with x0 < x1 and y0 < y1.
    * ``mask``: a bool mask (H, W) of the image's own size, or float32 low-resolution logits (h, w) in the
      padded network frame, as ``Mask.low_res_logits`` gave them.

    What needs no image is checked at birth, the rest by ``validate_for``; both raise ``PromptError``.
    """

    points: NDArray[np.float64] | None
    labels: NDArray[np.int64] | None
    box: NDArray[np.float64] | None
    mask: NDArray[np.bool_] | NDArray[np.float32] | None

    def __init__(
        self,
        points: ArrayLike | None = None,
        labels: ArrayLike | None = None,
        box: ArrayLike | None = None,
        mask: ArrayLike | None = None,
    ) -> None:
        checked_points = None if points is None else _points(points)
        set_field = object.__setattr__
        set_field(self, "points", checked_points)
        set_field(self, "labels", _labels(labels, 0 if checked_points is None else len(checked_points)))
        set_field(self, "box", None if box is None else _box(box))
        set_field(self, "mask", None if mask is None else _mask(mask))
        if self.points is None and self.box is None and self.mask is None:
            raise PromptError("a prompt needs at least one point, a box or a mask; all were missing or empty")

    @property
    def has_full_size_mask(self) -> bool:
        """Whether ``mask`` is a bool mask of the image's size rather than low-resolution logits."""
        return self.mask is not None and self.mask.dtype == np.bool_

    def validate_for(self, width: int, height: int) -> None:
        """Raise ``PromptError`` unless every point and the box lie in [0, width] x [0, height] and the mask
        fits.
        """
        size = f"{width} x {height} image"
        far = np.array([width, height], dtype=np.float64)
        if self.points is not None:
            outside = np.flatnonzero(((self.points < 0) | (self.points > far)).any(axis=1))
            if outside.size:
                x, y = self.points[outside[0]]
                raise PromptError(f"point {int(outside[0])} at (x={x:g}, y={y:g}) lies outside the {size}")
        if self.box is not None and ((self.box < 0).any() or (self.box > np.tile(far, 2)).any()):
            corners = ", ".join(f"{value:g}" for value in self.box)
            raise PromptError(f"the box ({corners}) reaches outside the {size}; clip it to the image")
        if self.mask is not None and self.has_full_size_mask and self.mask.shape != (height, width):
            rows, columns = self.mask.shape
            raise PromptError(
                f"the mask prompt is {columns} x {rows} pixels but belongs to a {size}; resize it"
            )


def _numbers(value: ArrayLike, what: str, kinds: str) -> NDArray[np.float64]:
    """``value`` as a fresh float64 array, from an array or nested list of plain finite numbers."""
    try:
        raw = np.asarray(value)
    except (ValueError, TypeError, OverflowError) as error:
        raise PromptError(f"{what} must be plain numbers in equal rows: {error}") from error
    if raw.size and raw.dtype.kind not in kinds:
        raise PromptError(f"{what} must be plain numbers, got an array of dtype {raw.dtype}")
    numbers = raw.astype(np.float64) if raw.size else np.zeros(raw.shape, dtype=np.float64)
    if not np.isfinite(numbers).all():
        raise PromptError(f"{what} must be finite, got {numbers[~np.isfinite(numbers)][0]}")
    return numbers


def _points(value: ArrayLike) -> NDArray[np.float64] | None:
    points = _numbers(value, "points", "iuf")
    if points.size == 0:
        return None
    if points.ndim != 2 or points.shape[1] != 2:
        raise PromptError(f"points must be a list of (x, y) pairs, got an array of shape {points.shape}")
    if len(points) > MAX_POINTS_PER_OBJECT:
        raise PromptError(f"a prompt may have {MAX_POINTS_PER_OBJECT} points, got {len(points)}")
    points.setflags(write=False)
    return points


def _labels(value: ArrayLike | None, count: int) -> NDArray[np.int64] | None:
    """Labels for ``count`` points; None when there are no points."""
    numbers = np.ones(count) if value is None else _numbers(value, "labels", "iufb")
    if numbers.shape != (count,) and not (count == 0 and numbers.size == 0):
        raise PromptError(f"labels must be one number for each of {count} points, got shape {numbers.shape}")
    if not np.isin(numbers, (0, 1)).all():
        bad = numbers[~np.isin(numbers, (0, 1))][0]
        raise PromptError(f"labels must be 1 (foreground) or 0 (background), got {bad:g}")
    labels = numbers.astype(np.int64)
    labels.setflags(write=False)
    return labels if count else None


def _box(value: ArrayLike) -> NDArray[np.float64]:
    box = _numbers(value, "a box", "iuf")
    if box.shape != (4,):
        raise PromptError(f"a box must be four numbers (x0, y0, x1, y1), got an array of shape {box.shape}")
    x0, y0, x1, y1 = (float(corner) for corner in box)
    if not (x0 < x1 and y0 < y1):
        raise PromptError(f"a box needs x0 < x1 and y0 < y1, got ({x0:g}, {y0:g}, {x1:g}, {y1:g})")
    box.setflags(write=False)
    return box


def _mask(value: ArrayLike) -> NDArray[np.bool_] | NDArray[np.float32]:
    try:
        raw = np.asarray(value)
    except (ValueError, TypeError, OverflowError) as error:
        raise PromptError(f"a mask prompt must be a 2-D array: {error}") from error
    if raw.ndim == 3 and raw.shape[0] == 1:
        raw = raw[0]  # the published predictor takes and gives 1 x 256 x 256
    if raw.ndim != 2 or raw.size == 0:
        raise PromptError(f"a mask prompt must be a non-empty 2-D array, got shape {raw.shape}")
    if raw.dtype == np.bool_:
        if max(raw.shape) > MAX_IMAGE_SIDE or raw.size > MAX_IMAGE_PIXELS:
            raise PromptError(
                f"the mask prompt is {raw.shape[1]} x {raw.shape[0]} pixels, over the image limits"
            )
        mask = np.array(raw, dtype=np.bool_, order="C")
        mask.setflags(write=False)
        return mask
    if raw.dtype.kind != "f":
        raise PromptError(
            f"a mask prompt must be bool (the image's size) or float logits, got dtype {raw.dtype}; "
            "turn a 0/255 mask into bool with `mask > 0`"
        )
    if max(raw.shape) > MAX_LOW_RES_SIDE:
        raise PromptError(
            f"mask logits of {raw.shape[1]} x {raw.shape[0]} are over the limit of {MAX_LOW_RES_SIDE}"
        )
    with np.errstate(over="ignore"):
        logits = np.array(raw, dtype=np.float32, order="C")
    if not np.isfinite(logits).all():
        raise PromptError("mask logits must be finite float32 numbers, got NaN or infinity")
    logits.setflags(write=False)
    return logits

"""Resampling of planes: bilinear, and by a cubic spline, as scikit-image's ``resize`` of order 3 with anti_aliasing.

Of the spline: a Gaussian against aliasing where the picture shrinks, the coefficients of the cubic B-spline through the
samples, the spline at the new centres; one axis after the other, edges mirrored about the outermost samples.
scikit-image belongs to the ``eval`` extra only, and a network frame must not depend on an extra.

Source: Unser, "Splines: a perfect fit for signal and image processing", sections on B-spline coefficients; the
documentation of ``skimage.transform.resize`` for sigma and the order of the steps.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

GAUSSIAN_REACH: Final = 4.0
"""Where the Gaussian is cut off, in standard deviations."""

Plane = NDArray[np.float64]


def bilinear(plane: NDArray[np.float32], out: NDArray[np.float32]) -> NDArray[np.float32]:
    """A plane (h, w) at the size of ``out``, written over: half-pixel centres, edges repeated, no antialiasing.

    The answer is ``out``, or ``plane`` itself when it has that size already.
    """
    import cv2

    if plane.shape == out.shape:
        return plane
    cv2.resize(plane, out.shape[::-1], dst=out, interpolation=cv2.INTER_LINEAR)
    return out


def cubic_spline(plane: NDArray[np.generic], size: tuple[int, int]) -> Plane:
    """A plane (h, w) of any real type at ``size`` (height, width), half-pixel centres, float64."""
    rows = _along_first(np.asarray(plane, dtype=np.float64), size[0])
    return np.ascontiguousarray(_along_first(np.ascontiguousarray(rows.T), size[1]).T)


def _along_first(plane: Plane, size: int) -> Plane:
    """The first axis (n samples) at ``size`` samples."""
    count = len(plane)
    step = count / size
    coefficients = _spline_coefficients(_blurred(plane, max(0.0, (step - 1) / 2)))
    places = (np.arange(size) + 0.5) * step - 0.5
    before = np.floor(places).astype(np.int64)
    t = (places - before)[:, None]
    weights = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
    out = np.zeros((size, *plane.shape[1:]))
    for offset, weight in enumerate(weights):
        out += weight / 6 * coefficients[_mirrored(before + offset - 1, count)]
    return out


def _blurred(plane: Plane, sigma: float) -> Plane:
    """The first axis under a Gaussian of ``sigma`` samples."""
    reach = math.floor(GAUSSIAN_REACH * sigma + 0.5)
    if reach == 0:
        return plane
    offsets = np.arange(-reach, reach + 1)
    kernel = np.exp(-0.5 * (offsets / sigma) ** 2)
    places = np.arange(len(plane))
    out = np.zeros_like(plane)
    for offset, weight in zip(offsets, kernel / kernel.sum(), strict=True):
        out += weight * plane[_mirrored(places + offset, len(plane))]
    return out


def _spline_coefficients(plane: Plane) -> Plane:
    """Coefficients c along the first axis with (c[i - 1] + 4 c[i] + c[i + 1]) / 6 = plane[i], c mirrored.

    The tridiagonal system is solved by elimination, all columns at once.
    """
    last = len(plane) - 1
    if last == 0:
        return plane
    solved = 6.0 * plane
    above = np.empty(last)  # what stays right of the diagonal in each row
    above[0] = 2.0 / 4.0
    solved[0] /= 4.0
    for row in range(1, last + 1):
        below = 2.0 if row == last else 1.0
        pivot = 4.0 - below * above[row - 1]
        if row < last:
            above[row] = 1.0 / pivot
        solved[row] = (solved[row] - below * solved[row - 1]) / pivot
    for row in range(last - 1, -1, -1):
        solved[row] -= above[row] * solved[row + 1]
    return solved


def _mirrored(indexes: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Indexes of any size as indexes of ``count`` samples that repeat mirrored: ... 2 1 0 1 2 ..."""
    if count == 1:
        return np.zeros_like(indexes)
    period = 2 * count - 2
    wrapped = indexes % period
    return np.minimum(wrapped, period - wrapped)

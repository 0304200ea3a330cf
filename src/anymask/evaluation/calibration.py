"""Whether a predicted IoU can be trusted: its error in bins, its rank correlation, and the rows of a plot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from anymask.errors import InputError

__all__ = ["BINS", "Calibration", "ReliabilityBin", "calibration", "ranks", "spearman"]

BINS: Final = 15
"""Bins of equal width unless told otherwise, as in Guo et al. 2017."""

Values = NDArray[np.float64]


@dataclass(frozen=True)
class ReliabilityBin:
    """One bar of a reliability diagram.

    Attributes:
        low: lower end of the bin, part of it.
        high: upper end, part of the next bin (of this one in the last).
        count: masks whose predicted IoU falls into the bin.
        predicted: mean predicted IoU of these; None for an empty bin.
        actual: mean IoU of these; None for an empty bin.
    """

    low: float
    high: float
    count: int
    predicted: float | None
    actual: float | None


@dataclass(frozen=True)
class Calibration:
    """How predicted and actual IoU go together over many masks.

    Attributes:
        count: masks.
        expected_error: mean over masks of the distance between mean predicted and mean actual IoU of their bin.
        largest_error: the largest such distance.
        bias: mean predicted minus mean actual IoU; above 0 the model is too sure.
        rank_correlation: Spearman's; NaN where predicted or actual values are all equal.
        bins: the bins, empty ones included, from 0 to 1.
    """

    count: int
    expected_error: float
    largest_error: float
    bias: float
    rank_correlation: float
    bins: tuple[ReliabilityBin, ...]


def calibration(predicted: ArrayLike, actual: ArrayLike, bins: int = BINS) -> Calibration:
    """Calibration of predicted IoU (N,) against actual IoU (N,), in bins of equal width over [0, 1].

    A predicted IoU below 0 or above 1, which networks without a final sigmoid give, counts in the first or last
    bin with its own value.

    Source: Naeini et al. 2015 and Guo et al. 2017 ("On Calibration of Modern Neural Networks"), equation 3,
    with IoU in the place of accuracy. Bins hold their lower end here, their upper end there.

    Raises:
        InputError: no masks, unequal lengths, values that are not finite, or no bins.
    """
    guess, truth = _pair(predicted, actual)
    if bins < 1:
        raise InputError(f"calibration needs at least one bin, got {bins}")
    edges = np.linspace(0.0, 1.0, bins + 1)
    index = np.clip(np.searchsorted(edges, guess, side="right") - 1, 0, bins - 1)
    counts = np.bincount(index, minlength=bins)
    filled = np.maximum(counts, 1)
    guesses = np.bincount(index, weights=guess, minlength=bins) / filled
    truths = np.bincount(index, weights=truth, minlength=bins) / filled
    gaps = np.abs(guesses - truths)
    rows = tuple(
        ReliabilityBin(
            float(edges[i]),
            float(edges[i + 1]),
            int(counts[i]),
            float(guesses[i]) if counts[i] else None,
            float(truths[i]) if counts[i] else None,
        )
        for i in range(bins)
    )
    return Calibration(
        len(guess),
        float((counts * gaps).sum() / len(guess)),
        float(gaps.max()),
        float(guess.mean() - truth.mean()),
        spearman(guess, truth),
        rows,
    )


def spearman(first: ArrayLike, second: ArrayLike) -> float:
    """Spearman's rank correlation (1904) of two lists (N,): Pearson's of their ranks, ties sharing the mean.

    NaN when either list holds one value only.

    Raises:
        InputError: empty lists, unequal lengths, or values that are not finite.
    """
    a, b = _pair(first, second)
    a, b = ranks(a), ranks(b)
    a, b = a - a.mean(), b - b.mean()
    spread = float(np.sqrt((a @ a) * (b @ b)))
    return float(np.clip((a @ b) / spread, -1.0, 1.0)) if spread > 0 else float("nan")


def ranks(values: Values) -> Values:
    """Ranks (N,) from 1, the smallest first; equal values share the mean of their ranks."""
    _, group, sizes = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(sizes)
    mean_rank: Values = (last - (sizes - 1) / 2.0)[group]
    return mean_rank


def _pair(first: ArrayLike, second: ArrayLike) -> tuple[Values, Values]:
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.ndim != 1 or a.shape != b.shape or a.size == 0:
        raise InputError(
            f"two lists of the same length, not empty, are needed; got shapes {a.shape} and {b.shape}"
        )
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise InputError(
            "the values must be finite, got NaN or infinity; leave failed masks out or count them 0"
        )
    return a, b

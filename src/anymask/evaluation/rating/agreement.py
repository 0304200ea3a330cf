"""Whether raters agree: Krippendorff's alpha for interval data."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from anymask.errors import InputError

__all__ = ["krippendorff_alpha"]


def krippendorff_alpha(ratings: ArrayLike) -> float:
    """Agreement of several raters beyond chance, 1 for full agreement, 0 for none, below 0 for contradiction.

    Source: Krippendorff, "Computing Krippendorff's Alpha-Reliability", 2011, with the squared difference of
    interval data: 1 minus the mean squared difference within things over that among all ratings that can be paired.

    Args:
        ratings: (things, raters), NaN where a rater gave none. Things with fewer than two ratings say nothing.

    Returns:
        NaN when no two raters rated the same thing, or all ratings are equal, where the measure is undefined.

    Raises:
        InputError: not a table, or an infinite rating.
    """
    table = np.asarray(ratings, dtype=np.float64)
    if table.ndim != 2 or np.isinf(table).any():
        raise InputError(f"agreement needs a table (things, raters) of finite numbers, got {table.shape}")
    table = table[np.count_nonzero(~np.isnan(table), axis=1) >= 2]
    if not len(table):
        return float("nan")
    number = np.count_nonzero(~np.isnan(table), axis=1)
    values = np.nan_to_num(table - np.nanmean(table))  # shifted for accuracy; missing ones add 0 to every sum
    pairs = number.sum()
    # The sum over ordered pairs of (a - b)^2 is 2 (n sum a^2 - (sum a)^2).
    within = 2 * (number * (values**2).sum(axis=1) - values.sum(axis=1) ** 2) / (number - 1)
    among = 2 * (pairs * (values**2).sum() - values.sum() ** 2) / (pairs - 1)
    spread = np.nanmax(table) - np.nanmin(table)
    return 1.0 - float(within.sum() / among) if spread > 0 else float("nan")

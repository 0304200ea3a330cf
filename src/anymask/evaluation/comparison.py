"""Is one model better than another? The paired bootstrap over images, per set and over sets.

Masks of one image are not independent, so images are drawn, each with all its masks, and both models are
measured on the same draw. Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13
(percentile interval); Field and Welsh 2007 (whole clusters drawn); Koehn 2004 (paired).
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from anymask.errors import InputError

__all__ = [
    "MIN_IMAGES",
    "RESAMPLES",
    "Comparison",
    "Difference",
    "PairedScores",
    "Verdict",
    "compare",
]

RESAMPLES: Final = 10_000
"""Draws unless told otherwise."""
CONFIDENCE: Final = 0.95
"""Share of the draws inside the interval unless told otherwise."""
MIN_IMAGES: Final = 6
"""Images below which nothing is decided: n differences all have one sign by chance with 2^(1 - n), which falls
below 5 % at 6, and with one sign the percentile interval never holds 0."""
DRAWS_PER_BLOCK: Final = 1 << 20
"""Image numbers drawn at once; bounds memory for large sets (8 MB each for indices and gathered values)."""

Verdict = Literal["better", "worse", "undecided"]
Values = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PairedScores:
    """Scores of two models on the same masks of one set; higher is better.

    Attributes:
        images: (N,) which image each mask is of: any name or number.
        candidate: (N,) scores of the model in question.
        reference: (N,) scores of the model it is held against.

    Raises:
        InputError: no masks, unequal lengths, or values that are not finite.
    """

    images: Sequence[Hashable]
    candidate: ArrayLike
    reference: ArrayLike

    def __post_init__(self) -> None:
        candidate = np.array(self.candidate, dtype=np.float64)
        reference = np.array(self.reference, dtype=np.float64)
        images = tuple(self.images)
        if not candidate.shape == reference.shape == (len(images),) or not images:
            raise InputError(
                "a comparison needs an image and two scores for every mask, got "
                f"{len(images)} images and scores of shapes {candidate.shape} and {reference.shape}"
            )
        if not (np.isfinite(candidate).all() and np.isfinite(reference).all()):
            raise InputError("scores must be finite, got NaN or infinity; count a failed mask as 0")
        candidate.setflags(write=False)
        reference.setflags(write=False)
        object.__setattr__(self, "images", images)
        object.__setattr__(self, "candidate", candidate)
        object.__setattr__(self, "reference", reference)

    def per_image(self) -> tuple[Values, Values]:
        """Sum over its masks of candidate minus reference, and the number of masks, of each image (I,)."""
        number: dict[Hashable, int] = {}
        index = [number.setdefault(image, len(number)) for image in self.images]
        gain = np.asarray(self.candidate, dtype=np.float64) - np.asarray(self.reference, dtype=np.float64)
        gains: Values = np.bincount(index, weights=gain).astype(np.float64)
        return gains, np.bincount(index).astype(np.float64)


@dataclass(frozen=True)
class Difference:
    """Candidate minus reference, with its interval and what follows.

    Attributes:
        candidate: mean score of the candidate.
        reference: mean score of the reference.
        difference: candidate minus reference.
        low: lower end of the interval.
        high: upper end.
        verdict: "better" when the interval lies above 0, "worse" when below, else "undecided".
        images: images drawn from.
        masks: masks of these.
    """

    candidate: float
    reference: float
    difference: float
    low: float
    high: float
    verdict: Verdict
    images: int
    masks: int


@dataclass(frozen=True)
class Comparison:
    """One `Difference` per set, and that of the mean over sets, every set counting the same."""

    sets: Mapping[str, Difference]
    overall: Difference


def compare(
    sets: Mapping[str, PairedScores],
    resamples: int = RESAMPLES,
    seed: int = 0,
    confidence: float = CONFIDENCE,
) -> Comparison:
    """Hold a candidate against a reference on one or more sets.

    A set's score is its mean over masks. Each draw takes as many images as the set has, with replacement, and
    each set is drawn with a generator of its own (of seed and name), so that adding a set moves no other's
    figures. The overall draw is the mean of the sets' draws. A set of fewer than ``MIN_IMAGES`` images is
    undecided, and so is the whole that holds one.

    Raises:
        InputError: no sets, no resamples, or a confidence outside (0, 1).
    """
    if not sets or resamples < 1 or not 0 < confidence < 1:
        raise InputError(
            "a comparison needs a set, a resample and a confidence between 0 and 1, got "
            f"{len(sets)} sets, {resamples} resamples and a confidence of {confidence}"
        )
    results: dict[str, Difference] = {}
    total = np.zeros(resamples)
    for name, scores in sets.items():
        gains, masks = scores.per_image()
        draws = _draws(gains, masks, resamples, _generator(seed, name))
        total += draws
        results[name] = _difference(
            float(np.asarray(scores.candidate, dtype=np.float64).mean()),
            float(np.asarray(scores.reference, dtype=np.float64).mean()),
            draws,
            confidence,
            (len(gains), len(scores.images)),
            decidable=len(gains) >= MIN_IMAGES,
        )
    rows = list(results.values())
    overall = _difference(
        float(np.mean([row.candidate for row in rows])),
        float(np.mean([row.reference for row in rows])),
        total / len(rows),
        confidence,
        (sum(row.images for row in rows), sum(row.masks for row in rows)),
        decidable=all(row.images >= MIN_IMAGES for row in rows),
    )
    return Comparison(results, overall)


def _draws(gains: Values, masks: Values, resamples: int, rng: np.random.Generator) -> Values:
    """Mean gain per mask of each draw, (resamples,)."""
    images = len(gains)
    draws = np.empty(resamples)
    block = max(1, DRAWS_PER_BLOCK // images)
    for start in range(0, resamples, block):
        stop = min(start + block, resamples)
        drawn = rng.integers(0, images, (stop - start, images))
        draws[start:stop] = gains[drawn].sum(axis=1) / masks[drawn].sum(axis=1)
    return draws


def _difference(
    candidate: float,
    reference: float,
    draws: Values,
    confidence: float,
    counts: tuple[int, int],
    decidable: bool,
) -> Difference:
    tail = (1.0 - confidence) / 2.0
    low, high = (float(value) for value in np.quantile(draws, [tail, 1.0 - tail]))
    verdict: Verdict = "undecided"
    if decidable and (low > 0 or high < 0):
        verdict = "better" if low > 0 else "worse"
    return Difference(candidate, reference, candidate - reference, low, high, verdict, *counts)


def _generator(seed: int, name: str) -> np.random.Generator:
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))

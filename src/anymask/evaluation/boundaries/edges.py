"""The BSDS500 boundary benchmark: ODS, OIS, AP and R50 of soft edge maps against several annotators.

A soft map is cut at each threshold and thinned, and its pixels are paired one to one with those of each annotator in
turn. A predicted pixel is right when any annotator's boundary took it; recall is summed over the annotators. ODS is
the best F over the curve of the whole set (one threshold for all images), OIS the F of the counts at each image's
own best threshold, AP the mean precision over recall 0, 0.01 ... 1, R50 the recall at half precision.

Source: Martin, Fowlkes and Malik, TPAMI 2004; Arbelaez et al., TPAMI 2011; `evaluation_bdry_image.m` and
`collect_eval_bdry.m` of the BSDS500 benchmark, and for R50 `edgesEvalDir.m` of Dollar's edges toolbox.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anymask.errors import MaskError
from anymask.evaluation.boundaries.edge_matching import (
    MAX_DISTANCE,
    BoundaryMatch,
    BoundaryMatcher,
    match_boundaries,
)
from anymask.evaluation.boundaries.edge_thinning import smooth_triangle, suppress_non_maxima, thin
from anymask.evaluation.metrics import BoolArray

__all__ = [
    "BoundaryMatch",
    "BoundaryMatcher",
    "EdgeCounts",
    "EdgeScores",
    "PrecisionRecall",
    "count_edges",
    "match_boundaries",
    "score_edges",
    "smooth_triangle",
    "suppress_non_maxima",
    "thin",
    "threshold_steps",
]

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class EdgeCounts:
    """What one image adds to the curve; all arrays have one entry per threshold.

    Attributes:
        thresholds: rising, in (0, 1].
        matched_truth: boundary pixels found, summed over the annotators.
        total_truth: boundary pixels there are, summed over the annotators.
        matched_predicted: predicted pixels that any annotator's boundary took.
        total_predicted: predicted pixels after thinning.
    """

    thresholds: FloatArray
    matched_truth: IntArray
    total_truth: IntArray
    matched_predicted: IntArray
    total_predicted: IntArray

    def __post_init__(self) -> None:
        arrays = (self.matched_truth, self.total_truth, self.matched_predicted, self.total_predicted)
        if self.thresholds.ndim != 1 or not len(self.thresholds):
            raise MaskError(f"thresholds must be a list of at least one, got shape {self.thresholds.shape}")
        if any(array.shape != self.thresholds.shape for array in arrays):
            raise MaskError(
                f"counts of {[a.shape for a in arrays]} do not go with {self.thresholds.shape} thresholds"
            )

    def as_record(self) -> dict[str, list[float] | list[int]]:
        """Plain lists by name, ready for JSON; `from_record` gives back the same numbers exactly."""
        return {field.name: getattr(self, field.name).tolist() for field in fields(self)}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> EdgeCounts:
        """The counts of a record made by `as_record`.

        Raises:
            MaskError: the record lacks a list, or they do not go together.
        """
        try:
            thresholds = np.asarray(record["thresholds"], dtype=np.float64)
            counts = {field.name: np.asarray(record[field.name]) for field in fields(cls)[1:]}
        except (KeyError, TypeError, ValueError) as error:
            raise MaskError(f"a record of edge counts has five lists of numbers; wrong: {error}") from None
        if any(array.dtype.kind not in "iu" for array in counts.values()):
            raise MaskError(
                f"edge counts are whole numbers, got {[str(array.dtype) for array in counts.values()]}"
            )
        return cls(thresholds, **{name: array.astype(np.int64) for name, array in counts.items()})


@dataclass(frozen=True)
class PrecisionRecall:
    """A point on the curve; ``threshold`` is None where images differ in it."""

    precision: float
    recall: float
    threshold: float | None = None

    @property
    def f(self) -> float:
        """Harmonic mean of precision and recall, 0 when both are 0."""
        return float(_f_measure(np.float64(self.precision), np.float64(self.recall)))


@dataclass(frozen=True)
class EdgeScores:
    """The benchmark's figures over a set of images.

    Attributes:
        ods: best point with one threshold for all images, interpolated between neighbouring thresholds.
        ois: counts of every image at its own best threshold, pooled.
        average_precision: AP.
        recall_at_half_precision: R50; 0 when precision stays below one half.
        thresholds, precision, recall: the curve of the set.
    """

    ods: PrecisionRecall
    ois: PrecisionRecall
    average_precision: float
    recall_at_half_precision: float
    thresholds: FloatArray
    precision: FloatArray
    recall: FloatArray


def threshold_steps(count: int = 99) -> FloatArray:
    """``count`` thresholds spread evenly inside (0, 1): 0.01 ... 0.99 for 99."""
    if count < 1:
        raise MaskError(f"at least one threshold is needed, got {count}")
    return np.linspace(1 / (count + 1), 1 - 1 / (count + 1), count)


def count_edges(
    edges: NDArray[Any],
    truths: Sequence[BoolArray],
    thresholds: FloatArray | int = 99,
    max_distance: float = MAX_DISTANCE,
    thin_first: bool = True,
) -> EdgeCounts:
    """Match one image's soft edge map with every annotator at every threshold.

    Args:
        edges: (H, W) floats in [0, 1], after non-maximum suppression where the detector needs it; or bool.
        truths: one (H, W) bool boundary map per annotator.
        thresholds: rising values in (0, 1], or how many to spread evenly.
        max_distance: largest distance of a pair as a share of the image's diagonal.
        thin_first: thin each cut map before matching, as the benchmark does.

    Raises:
        MaskError: the maps differ in size, values lie outside [0, 1], no annotator is given, or thresholds are bad.
        MissingExtraError: scipy is not installed.
    """
    steps = threshold_steps(thresholds) if isinstance(thresholds, int) else np.asarray(thresholds, np.float64)
    _check(edges, truths, steps)
    reach = max_distance * float(np.hypot(*edges.shape))
    matchers = [BoundaryMatcher(truth, reach) for truth in truths]
    total_truth = sum(int(np.count_nonzero(truth)) for truth in truths)
    rows: list[tuple[int, int, int]] = []
    last: BoolArray | None = None
    for step in steps:
        cut: BoolArray = np.asarray(edges >= step)
        if last is None or not np.array_equal(cut, last):
            rows.append(_count_cut(thin(cut) if thin_first else cut, matchers))
        else:
            rows.append(rows[-1])
        last = cut
    matched_truth, matched_predicted, total_predicted = np.array(rows, dtype=np.int64).T
    return EdgeCounts(
        steps, matched_truth, np.full(len(steps), total_truth, np.int64), matched_predicted, total_predicted
    )


def _count_cut(cut: BoolArray, matchers: Sequence[BoundaryMatcher]) -> tuple[int, int, int]:
    """Pixels of the annotators found, predicted pixels taken by any of them, predicted pixels."""
    found = 0
    taken = np.zeros(cut.shape, dtype=bool)
    for matcher in matchers:
        match = matcher.match(cut)
        taken[match.predicted[:, 0], match.predicted[:, 1]] = True
        found += len(match)
    return found, int(np.count_nonzero(taken)), int(np.count_nonzero(cut))


def _check(edges: NDArray[Any], truths: Sequence[BoolArray], steps: FloatArray) -> None:
    if not truths:
        raise MaskError("edges need the boundaries of at least one annotator, got none")
    shapes = sorted({edges.shape, *(truth.shape for truth in truths)})
    if len(shapes) != 1 or edges.ndim != 2:
        raise MaskError(f"an edge map and its boundaries must all be of one (H, W), got {shapes}")
    if edges.dtype.kind not in "bf":
        raise MaskError(f"an edge map must hold floats in [0, 1] or bools, got {edges.dtype}")
    if edges.size and not (edges.min() >= 0 and edges.max() <= 1):
        raise MaskError(
            f"an edge map must lie in [0, 1], got values in [{edges.min():.4g}, {edges.max():.4g}]"
        )
    if (
        steps.ndim != 1
        or not len(steps)
        or not (steps[0] > 0 and steps[-1] <= 1 and (np.diff(steps) > 0).all())
    ):
        raise MaskError(f"thresholds must rise within (0, 1], got {steps.tolist()!r:.200}")


def score_edges(counts: Sequence[EdgeCounts]) -> EdgeScores:
    """Pool the counts of many images into the benchmark's figures.

    Raises:
        MaskError: there are no images, or they were counted at different thresholds.
    """
    if not counts:
        raise MaskError("edge scores need at least one image, got none")
    thresholds = counts[0].thresholds
    if any(not np.array_equal(c.thresholds, thresholds) for c in counts):
        raise MaskError("images counted at different thresholds cannot be pooled; count them alike")
    table = np.stack(
        [np.stack([c.matched_truth, c.total_truth, c.matched_predicted, c.total_predicted]) for c in counts]
    ).astype(np.float64)
    recall, precision = _curve(table.sum(axis=0))
    best = [int(np.argmax(_f_measure(*_curve(image)))) for image in table]
    own = np.sum([image[:, k] for image, k in zip(table, best, strict=True)], axis=0)
    own_recall, own_precision = _curve(own)
    return EdgeScores(
        ods=_best_point(thresholds, precision, recall),
        ois=PrecisionRecall(float(own_precision), float(own_recall)),
        average_precision=_average_precision(precision, recall),
        recall_at_half_precision=_recall_at_half_precision(precision, recall),
        thresholds=thresholds,
        precision=precision,
        recall=recall,
    )


def _curve(table: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Recall and precision of rows found, there, taken, predicted; 0 where nothing is there."""
    matched_truth, total_truth, matched_predicted, total_predicted = table
    return matched_truth / np.maximum(total_truth, 1), matched_predicted / np.maximum(total_predicted, 1)


def _f_measure(precision: Any, recall: Any) -> Any:
    total = precision + recall
    return 2 * precision * recall / np.where(total == 0, 1, total)


def _best_point(thresholds: FloatArray, precision: FloatArray, recall: FloatArray) -> PrecisionRecall:
    """`maxF` of the published code: the best F on the curve, 100 steps between neighbouring thresholds."""
    position = np.arange(len(thresholds), dtype=np.float64)
    between = np.linspace(0, 1, 100)[None, :-1] + position[:-1, None]
    fine = np.concatenate([between.ravel(), position[-1:]])
    fine_precision, fine_recall = np.interp(fine, position, precision), np.interp(fine, position, recall)
    k = int(np.argmax(_f_measure(fine_precision, fine_recall)))
    return PrecisionRecall(
        float(fine_precision[k]), float(fine_recall[k]), float(np.interp(fine[k], position, thresholds))
    )


def _average_precision(precision: FloatArray, recall: FloatArray) -> float:
    """Precision at recall 0, 0.01 ... 1, 0 outside the curve; the sum of 101 values is divided by 100, as published."""
    distinct, first = np.unique(recall, return_index=True)
    if len(distinct) < 2:
        return 0.0
    grid = np.linspace(0, 1, 101)
    return float(np.interp(grid, distinct, precision[first], left=0.0, right=0.0).sum() * 0.01)


def _recall_at_half_precision(precision: FloatArray, recall: FloatArray) -> float:
    """Recall where precision is one half, or at the lowest precision when the whole curve is above.

    As published, the points are sorted by precision; on a curve that crosses one half more than once the answer is
    one of the crossings.
    """
    _, first = np.unique(recall, return_index=True)
    distinct, order = np.unique(precision[first[::-1]], return_index=True)
    recalls = recall[first[::-1]][order]
    return float(np.interp(max(distinct[0], 0.5), distinct, recalls, right=0.0))

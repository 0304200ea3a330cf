"""One-to-one matching of two boundary maps, exact.

Source: Martin, Fowlkes and Malik, "Learning to Detect Natural Image Boundaries Using Local Brightness, Color, and
Texture Cues", TPAMI 2004, and `correspondPixels` / `match.cc` of the BSDS500 benchmark. There, a pixel left over goes
to an outlier node at 100 times the largest distance. One pair more frees two outliers, which then pay the same for
each other, so a pair spares that cost once, and what is minimised is

    sum of distances of the pairs - number of pairs x 100 x the largest distance.

The published solver gives each pixel six random outliers and rounds distances to 1/100 pixel; here every pixel has
an outlier of its own and distances are not rounded, so the answer is the optimum and the same in every run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from anymask.errors import MaskError, MissingExtraError

from .metrics import BoolArray

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

MAX_DISTANCE: Final = 0.0075
"""Largest distance of a pair as a share of the image's diagonal, as in the published benchmark."""

_OUTLIER_COST: Final = 100.0
_SMALL_COMPONENT: Final = 300


@dataclass(frozen=True)
class BoundaryMatch:
    """Pairs of boundary pixels; no pixel is in two pairs.

    Attributes:
        predicted: (M, 2) row and column of each pair's pixel in the prediction.
        truth: (M, 2) row and column of its partner in the ground truth.
    """

    predicted: IntArray
    truth: IntArray

    def __len__(self) -> int:
        return len(self.predicted)

    @property
    def total_distance(self) -> float:
        """Sum over the pairs of the Euclidean distance in pixels."""
        return float(np.hypot(*(self.predicted - self.truth).T).sum())


def match_boundaries(
    predicted: BoolArray, truth: BoolArray, max_distance: float | None = None
) -> BoundaryMatch:
    """Pair the pixels of two boundary maps so that the pairs are many first, and short second.

    Args:
        predicted: (H, W) bool.
        truth: (H, W) bool.
        max_distance: largest distance of a pair in pixels, itself allowed; by default 0.0075 of the diagonal.

    Raises:
        MaskError: the maps differ in size, are not flat, or the distance is negative or not finite.
        MissingExtraError: scipy is not installed.
    """
    if predicted.shape != truth.shape or predicted.ndim != 2:
        raise MaskError(
            f"boundary maps of {predicted.shape} and {truth.shape} cannot be matched; give two of (H, W)"
        )
    if max_distance is None:
        max_distance = MAX_DISTANCE * float(np.hypot(*predicted.shape))
    if not (np.isfinite(max_distance) and max_distance >= 0):
        raise MaskError(f"the largest distance of a pair must be 0 or more pixels, got {max_distance}")
    predicted_pixels, truth_pixels = np.argwhere(predicted), np.argwhere(truth)
    first, second, distance = _near_pairs(predicted_pixels, truth_pixels, predicted.shape, max_distance)
    rows, columns = _assign(first, second, distance, max_distance)
    return BoundaryMatch(predicted_pixels[rows], truth_pixels[columns])


def _near_pairs(
    predicted: IntArray, truth: IntArray, shape: tuple[int, ...], max_distance: float
) -> tuple[IntArray, IntArray, FloatArray]:
    """Every pair within the distance: index into ``predicted``, index into ``truth``, distance."""
    reach = int(max_distance)
    steps = np.arange(-reach, reach + 1)
    offsets = np.stack(np.meshgrid(steps, steps, indexing="ij"), axis=-1).reshape(-1, 2)
    squared = (offsets**2).sum(axis=1)
    offsets, squared = offsets[squared <= max_distance**2], squared[squared <= max_distance**2]
    padded = np.full((shape[0] + 2 * reach, shape[1] + 2 * reach), -1, dtype=np.int64)
    padded[truth[:, 0] + reach, truth[:, 1] + reach] = np.arange(len(truth))
    width = padded.shape[1]
    start = (predicted[:, 0] + reach) * width + predicted[:, 1] + reach
    partner = padded.ravel()[start[:, None] + (offsets[:, 0] * width + offsets[:, 1])[None, :]]
    first, offset = np.nonzero(partner >= 0)
    return first, partner[first, offset], np.sqrt(squared[offset].astype(np.float64))


def _assign(
    first: IntArray, second: IntArray, distance: FloatArray, max_distance: float
) -> tuple[IntArray, IntArray]:
    """Solve the sparse assignment, large connected parts by themselves: the solver's time grows faster than size."""
    if not len(first):
        return first, second
    sparse, csgraph = _scipy()
    chosen: list[tuple[IntArray, IntArray]] = []
    parts = _parts(sparse, csgraph, first, second)
    for part in np.unique(parts):
        here = parts == part
        left, row = np.unique(first[here], return_inverse=True)
        right, column = np.unique(second[here], return_inverse=True)
        if len(left) <= len(right):  # the smaller side asks, so that fewer outliers are needed
            i, j = _assign_rows(sparse, csgraph, row, column, distance[here], max_distance)
        else:
            j, i = _assign_rows(sparse, csgraph, column, row, distance[here], max_distance)
        chosen.append((left[i], right[j]))
    return np.concatenate([i for i, _ in chosen]), np.concatenate([j for _, j in chosen])


def _parts(sparse: Any, csgraph: Any, first: IntArray, second: IntArray) -> IntArray:
    """A number for each pair; pairs of different numbers share no pixel. All small components together are 0."""
    lefts, rights = int(first.max()) + 1, int(second.max()) + 1
    nodes = lefts + rights
    ends = (first.astype(np.int32), (second + lefts).astype(np.int32))
    graph = sparse.csr_array((np.ones(len(first), dtype=np.int8), ends), shape=(nodes, nodes))
    _, component = csgraph.connected_components(graph, directed=False)
    large = np.bincount(component) > _SMALL_COMPONENT
    numbers = np.where(large, np.cumsum(large), 0)
    return np.asarray(numbers[component[first]], dtype=np.int64)


def _assign_rows(
    sparse: Any, csgraph: Any, row: IntArray, column: IntArray, distance: FloatArray, max_distance: float
) -> tuple[IntArray, IntArray]:
    """Give every row a column or its own outlier."""
    asking, asked = int(row.max()) + 1, int(column.max()) + 1
    outlier = np.arange(asking)
    # One is added to every weight because the solver takes a weight of zero for no edge; each row gets exactly one
    # edge, so the optimum does not move. Matching must pay off even where all distances are zero.
    weights = np.concatenate([distance, np.full(asking, _OUTLIER_COST * max(max_distance, 1.0))]) + 1.0
    rows = np.concatenate([row, outlier]).astype(np.int32)
    columns = np.concatenate([column, asked + outlier]).astype(np.int32)
    graph = sparse.csr_array((weights, (rows, columns)), shape=(asking, asked + asking))
    row_index, column_index = csgraph.min_weight_full_bipartite_matching(graph)
    real = column_index < asked
    return row_index[real].astype(np.int64), column_index[real].astype(np.int64)


def _scipy() -> tuple[Any, Any]:
    try:
        from scipy import sparse
        from scipy.sparse import csgraph
    except ImportError as error:
        raise MissingExtraError(
            "Matching boundaries needs scipy; install it with: pip install 'anymask[eval]'."
        ) from error
    return sparse, csgraph

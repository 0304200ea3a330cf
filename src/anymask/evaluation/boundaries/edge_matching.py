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
from anymask.evaluation.metrics import BoolArray

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


class BoundaryMatcher:
    """One truth's boundary, made ready once to be matched with the many predictions of a curve.

    Keeps the answers of the last prediction's parts, which changes the time and not the pairs; one thread at a time.

    Args:
        truth: (H, W) bool.
        max_distance: largest distance of a pair in pixels, itself allowed; by default 0.0075 of the diagonal.

    Raises:
        MaskError: the map is not flat, or the distance is negative or not finite.
        MissingExtraError: scipy is not installed.
    """

    def __init__(self, truth: BoolArray, max_distance: float | None = None) -> None:
        if truth.ndim != 2:
            raise MaskError(f"a boundary map must be (H, W), got shape {truth.shape}")
        if max_distance is None:
            max_distance = MAX_DISTANCE * float(np.hypot(*truth.shape))
        if not (np.isfinite(max_distance) and max_distance >= 0):
            raise MaskError(f"the largest distance of a pair must be 0 or more pixels, got {max_distance}")
        self._sparse, self._csgraph = _scipy()
        self._shape, self._max_distance = truth.shape, max_distance
        self._truth_pixels = np.argwhere(truth)
        self._near = self._neighbours()
        self._solved: dict[bytes, tuple[IntArray, IntArray]] = {}

    def match(self, predicted: BoolArray) -> BoundaryMatch:
        """Pair the pixels of a prediction (H, W) bool with the truth's, as `match_boundaries`.

        Raises:
            MaskError: the maps differ in size.
        """
        if predicted.shape != self._shape:
            raise MaskError(
                f"boundary maps of {predicted.shape} and {self._shape} cannot be matched; give two of (H, W)"
            )
        pixels = np.flatnonzero(predicted)
        near = self._near[pixels]
        rows, columns = self._assign(pixels, near)
        return BoundaryMatch(
            np.stack(np.divmod(pixels[rows], self._shape[1]), axis=1), self._truth_pixels[columns]
        )

    def _neighbours(self) -> Any:
        """Sparse (H * W, truth pixels): the distance of every pair within reach, zeros stored too."""
        height, width = self._shape
        reach = int(self._max_distance)
        steps = np.arange(-reach, reach + 1)
        offsets = np.stack(np.meshgrid(steps, steps, indexing="ij"), axis=-1).reshape(-1, 2)
        squared = (offsets**2).sum(axis=1)
        within = squared <= self._max_distance**2
        offsets, distance = offsets[within], np.sqrt(squared[within].astype(np.float64))
        around = self._truth_pixels[:, None] + offsets[None]
        truth, offset = np.nonzero(((around >= 0) & (around < (height, width))).all(axis=-1))
        rows, columns = around[truth, offset].T
        ends = ((rows * width + columns).astype(np.int32), truth.astype(np.int32))
        return self._sparse.csr_array(
            (distance[offset], ends), shape=(height * width, len(self._truth_pixels))
        )

    def _assign(self, pixels: IntArray, near: Any) -> tuple[IntArray, IntArray]:
        """Solve the sparse assignment, large connected parts by themselves: the solver's time grows faster than size.

        A part that the last prediction had too is not solved again; neighbouring cuts of a curve share many.
        """
        if not near.nnz:
            return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
        chosen: list[tuple[IntArray, IntArray]] = []
        solved: dict[bytes, tuple[IntArray, IntArray]] = {}
        for left in self._parts(near):
            key = pixels[left].tobytes()
            answer = self._solved.get(key)
            if answer is None:
                answer = self._assign_part(near[left])
            solved[key] = answer
            chosen.append((left[answer[0]], answer[1]))
        self._solved = solved
        return np.concatenate([i for i, _ in chosen]), np.concatenate([j for _, j in chosen])

    def _parts(self, near: Any) -> list[IntArray]:
        """Predicted pixels with a partner in sets that share none; all small components together come first."""
        lefts, rights = near.shape
        indptr = np.concatenate([near.indptr, np.full(rights, near.indptr[-1], dtype=near.indptr.dtype)])
        graph = self._sparse.csr_array(
            (np.ones(near.nnz), near.indices + np.int32(lefts), indptr), shape=(lefts + rights,) * 2
        )
        _, component = self._csgraph.connected_components(graph, directed=False)
        large = np.bincount(component) > _SMALL_COMPONENT
        numbers = np.where(large, np.cumsum(large), 0)[component[:lefts]]
        left = np.flatnonzero(np.diff(near.indptr))
        order = left[np.argsort(numbers[left], kind="stable")]
        sizes = np.bincount(numbers[left])
        return [part for part in np.split(order, np.cumsum(sizes)[:-1]) if len(part)]

    def _assign_part(self, near: Any) -> tuple[IntArray, IntArray]:
        """Pairs of a part: row of ``near``, truth pixel. The smaller side asks, so that fewer outliers are needed."""
        used = np.zeros(near.shape[1], dtype=bool)
        used[near.indices] = True
        right = np.flatnonzero(used)
        renumbered = np.cumsum(used, dtype=np.int32) - np.int32(1)
        part = self._sparse.csr_array(
            (near.data, renumbered[near.indices], near.indptr), shape=(near.shape[0], len(right))
        )
        if part.shape[0] <= part.shape[1]:
            row, column = self._assign_rows(part)
        else:
            column, row = self._assign_rows(part.T.tocsr())
        return row, right[column]

    def _assign_rows(self, part: Any) -> tuple[IntArray, IntArray]:
        """Give every row a column or its own outlier, which is added behind the columns."""
        asking, asked = part.shape
        each = np.arange(asking, dtype=np.int32)
        own = part.indptr[1:] + each
        weights = np.full(part.nnz + asking, _OUTLIER_COST * max(self._max_distance, 1.0))
        columns = np.empty(part.nnz + asking, dtype=np.int32)
        real = np.ones(part.nnz + asking, dtype=bool)
        real[own] = False
        weights[real], columns[real], columns[own] = part.data, part.indices, asked + each
        indptr = part.indptr + np.arange(asking + 1, dtype=part.indptr.dtype)
        # One is added to every weight because the solver takes a weight of zero for no edge; each row gets exactly
        # one edge, so the optimum does not move. Matching must pay off even where all distances are zero.
        graph = self._sparse.csr_array((weights + 1.0, columns, indptr), shape=(asking, asked + asking))
        row_index, column_index = self._csgraph.min_weight_full_bipartite_matching(graph)
        real_pair = column_index < asked
        return row_index[real_pair].astype(np.int64), column_index[real_pair].astype(np.int64)


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
    return BoundaryMatcher(truth, max_distance).match(predicted)


def _scipy() -> tuple[Any, Any]:
    try:
        from scipy import sparse
        from scipy.sparse import csgraph
    except ImportError as error:
        raise MissingExtraError(
            "Matching boundaries needs scipy; install it with: pip install 'anymask[eval]'."
        ) from error
    return sparse, csgraph

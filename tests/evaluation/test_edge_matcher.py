"""One truth matched with many predictions: nothing of an earlier one shows in a later one."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from scipy.optimize import linear_sum_assignment
from scipy.sparse.csgraph import connected_components

from anymask.errors import MaskError
from anymask.evaluation.boundaries.edge_matching import BoundaryMatcher, match_boundaries
from anymask.evaluation.boundaries.edges import count_edges, thin

SIZE = (90, 120)


def soft_map(seed: int) -> np.ndarray:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=SIZE), 2)
    return (noise - noise.min()) / (noise.max() - noise.min())


def outlines(seed: int) -> np.ndarray:
    return thin(np.abs(soft_map(seed) - 0.5) < 0.03)


def part_sizes(pairs: np.ndarray) -> list[int]:
    """Pixels of the connected parts of a bipartite graph (N, M), largest first."""
    rows, columns = pairs.shape
    graph = np.block([[np.zeros((rows, rows), bool), pairs], [pairs.T, np.zeros((columns, columns), bool)]])
    return sorted(np.bincount(connected_components(graph)[1]).tolist(), reverse=True)


@pytest.mark.parametrize("seed", range(3))
def test_a_curve_is_matched_as_cut_by_cut(seed: int) -> None:
    """Cuts of one map share most of their parts, so a part kept wrongly would show."""
    edges, truth = soft_map(seed), outlines(seed + 10)
    matcher = BoundaryMatcher(truth, 2.5)
    for level in (0.5, 0.5, 0.502, 0.51, 0.6, 0.3):
        cut = thin(edges >= level)
        one_of_many, alone = matcher.match(cut), match_boundaries(cut, truth, 2.5)
        assert one_of_many.predicted.tolist() == alone.predicted.tolist()
        assert one_of_many.truth.tolist() == alone.truth.tolist()


@pytest.mark.parametrize("seed", [2, 4])
def test_parts_of_every_size_together_are_the_optimum(seed: int) -> None:
    """Against a dense solver of the published square problem; some parts are beyond the size solved together."""
    truth, cut = outlines(seed), outlines(seed + 20)
    reach = 3.0
    first, second = np.argwhere(cut), np.argwhere(truth)
    ways = np.linalg.norm(first[:, None] - second[None], axis=-1)
    sizes = part_sizes(ways <= reach)
    assert sizes[0] > 300
    assert any(2 < size <= 300 for size in sizes)
    total = len(first) + len(second)
    cost = np.full((total, total), 100 * reach)
    cost[: len(first), : len(second)] = np.where(ways <= reach, ways, 1e9)
    expected = cost[linear_sum_assignment(cost)].sum()
    match = BoundaryMatcher(truth, reach).match(cut)
    assert match.total_distance + (total - len(match)) * 100 * reach == pytest.approx(expected)
    assert len(np.unique(match.predicted, axis=0)) == len(np.unique(match.truth, axis=0)) == len(match)


def test_counts_of_a_curve_as_cut_by_cut() -> None:
    edges, truths = soft_map(4), [outlines(5), outlines(6)]
    together = count_edges(edges, truths, np.array([0.4, 0.45, 0.5, 0.55]))
    for index, step in enumerate(together.thresholds):
        alone = count_edges(edges, truths, np.array([step]))
        for name in ("matched_truth", "matched_predicted", "total_predicted"):
            assert getattr(together, name)[index] == getattr(alone, name)[0]


def test_another_size_is_refused() -> None:
    with pytest.raises(MaskError, match="cannot be matched"):
        BoundaryMatcher(np.zeros((4, 5), bool)).match(np.zeros((5, 4), bool))
    with pytest.raises(MaskError, match=r"\(H, W\)"):
        BoundaryMatcher(np.zeros((4, 5, 1), bool))

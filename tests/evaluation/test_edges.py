"""The boundary benchmark, against closed forms, exhaustive search and peers."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from anymask.data.bsds500 import Bsds500Test
from anymask.errors import MaskError, MissingExtraError
from anymask.evaluation.boundaries.edges import (
    EdgeCounts,
    count_edges,
    match_boundaries,
    score_edges,
    smooth_triangle,
    suppress_non_maxima,
    thin,
    threshold_steps,
)

EVAL = Path(__file__).parents[2].parent / "shared" / "data" / "eval"
needs_data = pytest.mark.skipif(
    not (EVAL / "bsds500_test_raw.tar").is_file(), reason=f"the BSDS500 ground truth is not at {EVAL}"
)


def _map(*pixels: tuple[int, int], size: tuple[int, int] = (40, 50)) -> np.ndarray:
    array = np.zeros(size, bool)
    for pixel in pixels:
        array[pixel] = True
    return array


def _column(x: int, size: tuple[int, int] = (40, 50)) -> np.ndarray:
    array = np.zeros(size, bool)
    array[5:35, x] = True
    return array


# Matching


@pytest.mark.parametrize(
    ("shift", "tolerance", "pairs"), [(0, 0.0, 30), (3, 3.0, 30), (3, 2.99, 0), (4, 3.9, 0)]
)
def test_a_shifted_line_matches_within_the_tolerance_only(shift: int, tolerance: float, pairs: int) -> None:
    match = match_boundaries(_column(20), _column(20 + shift), tolerance)
    assert len(match) == pairs
    assert match.total_distance == pytest.approx(pairs * shift)


def test_two_lines_share_one_truth() -> None:
    match = match_boundaries(_column(19) | _column(21), _column(20), 3.0)
    assert len(match) == 30
    assert len(np.unique(match.predicted, axis=0)) == len(np.unique(match.truth, axis=0)) == 30


def test_a_pair_more_is_worth_a_longer_way() -> None:
    """The nearest pixel is left to the one that has no other: distances 2 and 2, not 1 alone."""
    match = match_boundaries(_map((10, 10), (10, 13)), _map((10, 12), (10, 15)), 2.0)
    assert len(match) == 2
    assert match.total_distance == pytest.approx(4.0)
    assert match.predicted.tolist() == [[10, 10], [10, 13]]
    assert match.truth.tolist() == [[10, 12], [10, 15]]


def test_nothing_matches_nothing() -> None:
    empty = _map()
    assert len(match_boundaries(empty, empty)) == 0
    assert len(match_boundaries(empty, _column(3))) == 0
    assert len(match_boundaries(_column(3), empty)) == 0


def test_the_default_tolerance_is_a_share_of_the_diagonal() -> None:
    """0.0075 of the diagonal of 300 x 400 is 3.75 pixels."""
    truth = _map((100, 100), size=(300, 400))
    assert len(match_boundaries(_map((103, 102), size=(300, 400)), truth)) == 1  # 3.606
    assert len(match_boundaries(_map((100, 104), size=(300, 400)), truth)) == 0


def test_pixels_at_the_border_do_not_wrap_around() -> None:
    assert len(match_boundaries(_map((10, 49)), _map((11, 0)), 4.0)) == 0
    assert len(match_boundaries(_map((0, 0)), _map((39, 0)), 4.0)) == 0


@pytest.mark.parametrize("seed", range(8))
def test_exhaustive_search_finds_nothing_better(seed: int) -> None:
    """All partial matchings of up to five pixels with up to five."""
    rng = np.random.default_rng(seed)
    size, reach = (7, 7), float(rng.choice([1.0, 1.5, 2.3]))
    a, b = rng.random(size) < 0.09, rng.random(size) < 0.09
    first, second = np.argwhere(a)[:5], np.argwhere(b)[:5]
    a, b = _map(*map(tuple, first), size=size), _map(*map(tuple, second), size=size)
    best = (0, 0.0)
    for count in range(min(len(first), len(second)) + 1):
        for chosen in itertools.combinations(range(len(first)), count):
            for partners in itertools.permutations(range(len(second)), count):
                ways = np.hypot(*(first[list(chosen)] - second[list(partners)]).reshape(-1, 2).T)
                if (ways <= reach).all():
                    best = min(best, (-count, float(ways.sum())))
    match = match_boundaries(a, b, reach)
    assert len(match) == -best[0]
    assert match.total_distance == pytest.approx(best[1])


@pytest.mark.parametrize("seed", range(6))
def test_a_dense_solver_finds_the_same_cost(seed: int) -> None:
    """The published square problem written out: pixels and outliers on both sides, 100 x distance each."""
    rng = np.random.default_rng(seed)
    reach = float(rng.uniform(1.0, 5.0))
    a, b = rng.random((30, 40)) < 0.08, rng.random((30, 40)) < rng.uniform(0.02, 0.12)
    first, second = np.argwhere(a), np.argwhere(b)
    ways = np.linalg.norm(first[:, None] - second[None], axis=-1)
    total = len(first) + len(second)
    cost = np.full((total, total), 100 * reach)
    cost[: len(first), : len(second)] = np.where(ways <= reach, ways, 1e9)
    expected = cost[linear_sum_assignment(cost)].sum()
    match = match_boundaries(a, b, reach)
    assert match.total_distance + (total - len(match)) * 100 * reach == pytest.approx(expected)
    turned = match_boundaries(b, a, reach)
    assert (len(turned), turned.total_distance) == (len(match), pytest.approx(match.total_distance))
    assert a[tuple(match.predicted.T)].all()
    assert b[tuple(match.truth.T)].all()


@pytest.mark.parametrize(
    ("truth", "distance"), [(_map(size=(3, 4)), 1.0), (_map(), -1.0), (_map(), float("nan"))]
)
def test_bad_maps_and_distances(truth: np.ndarray, distance: float) -> None:
    with pytest.raises(MaskError):
        match_boundaries(_map(), truth, distance)


def test_without_scipy_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(MissingExtraError, match=r"anymask\[eval\]"):
        match_boundaries(_column(3), _column(3))


# Thinning


def test_a_bar_becomes_a_line_and_a_line_stays() -> None:
    bar = _map(size=(21, 60))
    bar[8:13, 10:50] = True
    line = thin(bar)
    assert (line.sum(axis=0) <= 1).all()
    assert line[10, 14:46].all()
    assert (thin(line) == line).all()
    assert not thin(np.zeros((5, 5), bool)).any()
    assert thin(_map((3, 3)))[3, 3]


def test_thinning_keeps_a_ring_closed() -> None:
    y, x = np.mgrid[:60, :60]
    ring = thin(np.abs(np.hypot(y - 30, x - 30) - 20) < 4)
    inside, outside = np.hypot(y - 30, x - 30) < 10, np.hypot(y - 30, x - 30) > 28
    assert not ring[inside | outside].any()
    from scipy.ndimage import label

    assert label(~ring)[1] == 2  # 4-connected: inner and outer side stay apart
    assert label(ring, np.ones((3, 3)))[1] == 1


@pytest.mark.parametrize("seed", range(4))
def test_thinning_as_in_scikit_image(seed: int) -> None:
    """`skimage.morphology.thin` is an implementation of the same paper."""
    morphology = pytest.importorskip("skimage.morphology", reason="scikit-image is not installed")
    rng = np.random.default_rng(seed)
    noise = smooth_triangle(rng.random((64, 80)).astype(np.float32), seed)
    blobs = noise > np.quantile(noise, 0.4)
    assert (thin(blobs) == morphology.thin(blobs)).all()


# Non-maximum suppression


def test_the_triangle_has_the_published_weights() -> None:
    impulse = np.zeros((11, 11), np.float32)
    impulse[5, 5] = 1
    line = np.array([1, 2, 3, 2, 1]) / 9
    expected = np.zeros((11, 11))
    expected[3:8, 3:8] = np.outer(line, line)
    np.testing.assert_allclose(smooth_triangle(impulse, 2), expected, atol=1e-7)
    np.testing.assert_allclose(smooth_triangle(np.ones((9, 9), np.float32), 4), 1, atol=1e-6)


@pytest.mark.parametrize("degrees", [0, 20, 45, 70, 90, 110, 135, 160])
def test_a_ridge_is_cut_down_to_its_crest(degrees: int) -> None:
    """A Gaussian ridge in any direction: what stays lies on the crest, and the crest stays whole."""
    y, x = np.mgrid[:81, :81] - 40.0
    normal = np.radians(degrees)
    across = x * np.cos(normal) + y * np.sin(normal)
    ridge = (0.9 * np.exp(-(across**2) / (2 * 2.5**2))).astype(np.float32)
    kept = suppress_non_maxima(ridge)
    middle = np.hypot(x, y) < 25
    assert np.abs(across[middle & (kept > 0.05)]).max() < 1.0
    assert (kept[middle & (np.abs(across) < 0.3)] > 0.8).all()


def test_suppression_fades_towards_the_border() -> None:
    """A straight crest keeps its value inside and loses a fifth for each pixel nearer than five."""
    ridge = np.zeros((41, 41), np.float32)
    ridge[20] = 0.5
    kept = suppress_non_maxima(smooth_triangle(ridge, 1))
    np.testing.assert_allclose(kept[20, :7], 0.25 * np.array([0, 0.2, 0.4, 0.6, 0.8, 1, 1]), rtol=1e-6)
    np.testing.assert_allclose(kept[20, ::-1], kept[20], rtol=1e-6)
    assert not kept[[18, 19, 21, 22]].any()


def test_suppression_needs_a_flat_map() -> None:
    with pytest.raises(MaskError):
        suppress_non_maxima(np.zeros((4, 4, 3), np.float32))


# Protocol


def test_thresholds_of_the_benchmark() -> None:
    np.testing.assert_allclose(threshold_steps(), np.arange(1, 100) / 100)
    assert threshold_steps(1).tolist() == [0.5]


def test_a_pixel_counts_when_any_annotator_drew_it() -> None:
    """Two annotators with a line each; the prediction has both lines and a third of its own."""
    truths = [_column(10), _column(30)]
    counts = count_edges(_column(10) | _column(30) | _column(45), truths, thresholds=1, max_distance=0.02)
    assert counts.total_truth.tolist() == [60]
    assert counts.matched_truth.tolist() == [60]
    assert counts.total_predicted.tolist() == [90]
    assert counts.matched_predicted.tolist() == [60]
    scores = score_edges([counts])
    assert (scores.ods.precision, scores.ods.recall) == (pytest.approx(2 / 3), 1.0)
    assert scores.ods.f == pytest.approx(0.8)


def test_agreeing_annotators_do_not_double_the_precision() -> None:
    counts = count_edges(_column(10) | _column(45), [_column(10)] * 3, thresholds=1)
    assert (counts.matched_truth[0], counts.total_truth[0]) == (90, 90)
    assert (counts.matched_predicted[0], counts.total_predicted[0]) == (30, 60)


def test_perfect_and_empty_maps() -> None:
    truth = _column(10)
    perfect = score_edges([count_edges(truth, [truth], thresholds=5)])
    assert perfect.ods.f == perfect.ois.f == 1.0
    assert perfect.recall_at_half_precision == 1.0
    empty = score_edges([count_edges(np.zeros(truth.shape), [truth], thresholds=5)])
    assert empty.ods.f == empty.ois.f == empty.average_precision == empty.recall_at_half_precision == 0.0


def test_each_threshold_cuts_the_map_anew() -> None:
    soft = np.where(_column(10), 0.65, 0.0) + np.where(_column(30), 0.35, 0.0)
    counts = count_edges(soft, [_column(10)], thresholds=9)
    assert counts.total_predicted.tolist() == [60, 60, 60, 30, 30, 30, 0, 0, 0]
    assert counts.matched_predicted.tolist() == [30] * 6 + [0] * 3


def _counts(*rows: tuple[int, int, int, int]) -> EdgeCounts:
    """Rows found, there, taken, predicted, one per threshold."""
    return EdgeCounts(threshold_steps(len(rows)), *np.array(rows, dtype=np.int64).T)


def test_ois_lets_every_image_choose_and_ods_does_not() -> None:
    """Image 1 is perfect at the first threshold and misses all at the second, image 2 the other way round."""
    one, two = _counts((10, 10, 10, 10), (0, 10, 0, 0)), _counts((0, 10, 0, 0), (10, 10, 10, 10))
    scores = score_edges([one, two])
    assert scores.ois.f == 1.0
    assert scores.ods.f == pytest.approx(2 / 3)  # recall 1/2, precision 1


def test_ods_is_interpolated_between_thresholds() -> None:
    """From (R, P) = (1, 0.2) to (0.2, 1) along a straight line the best F is 0.6, in the middle."""
    scores = score_edges([_counts((100, 100, 20, 100), (20, 100, 100, 100))])
    assert scores.ods.f == pytest.approx(0.6, abs=1e-4)
    assert scores.ods.threshold == pytest.approx(0.5, abs=0.01)
    assert scores.ois.f == pytest.approx(1 / 3)


def test_average_precision_and_r50_of_a_straight_curve() -> None:
    """P = 1.2 - R for R in [0.2, 1]: 81 grid values with mean 0.6, and P is one half at R = 0.7."""
    rows = [(r, 100, 120 - r, 100) for r in range(100, 19, -5)]
    scores = score_edges([_counts(*rows)])
    assert scores.average_precision == pytest.approx(81 * 0.6 * 0.01)
    assert scores.recall_at_half_precision == pytest.approx(0.7)


def test_r50_where_the_curve_stays_on_one_side() -> None:
    assert score_edges([_counts((90, 100, 80, 100), (50, 100, 95, 100))]).recall_at_half_precision == 0.9
    assert score_edges([_counts((90, 100, 20, 100), (50, 100, 40, 100))]).recall_at_half_precision == 0.0


@pytest.mark.parametrize(
    ("edges", "truths", "thresholds"),
    [
        (np.zeros((4, 4)), [], 3),
        (np.zeros((4, 4)), [np.zeros((4, 5), bool)], 3),
        (np.full((4, 4), 1.5), [np.zeros((4, 4), bool)], 3),
        (np.full((4, 4), np.nan), [np.zeros((4, 4), bool)], 3),
        (np.zeros((4, 4), np.uint8), [np.zeros((4, 4), bool)], 3),
        (np.zeros((4, 4)), [np.zeros((4, 4), bool)], 0),
        (np.zeros((4, 4)), [np.zeros((4, 4), bool)], np.array([0.5, 0.5])),
        (np.zeros((4, 4)), [np.zeros((4, 4), bool)], np.array([0.0, 0.5])),
    ],
)
def test_bad_input_is_refused(
    edges: np.ndarray, truths: list[np.ndarray], thresholds: int | np.ndarray
) -> None:
    with pytest.raises(MaskError):
        count_edges(edges, truths, thresholds)


def test_counts_at_different_thresholds_are_not_pooled() -> None:
    with pytest.raises(MaskError, match="different thresholds"):
        score_edges([_counts((1, 1, 1, 1)), _counts((1, 1, 1, 1), (1, 1, 1, 1))])
    with pytest.raises(MaskError, match="at least one image"):
        score_edges([])


@needs_data
def test_people_agree_with_each_other_and_not_with_a_mirror() -> None:
    truth = Bsds500Test(EVAL)[0].truth
    first, *others = truth.boundaries
    people = score_edges([count_edges(first, others, thresholds=1)]).ods
    mirrored = score_edges([count_edges(first[:, ::-1], others, thresholds=1)]).ods
    assert people.precision > 0.9
    assert mirrored.f < 0.6 * people.f

"""Calibration against scipy, closed forms and plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from anymask.errors import InputError
from anymask.evaluation.calibration import BINS, calibration, ranks, spearman

COARSE = st.integers(0, 8).map(lambda value: value / 8)  # with ties
FINE = st.floats(0, 1)
PAIRS = st.lists(st.tuples(st.one_of(COARSE, FINE), st.one_of(COARSE, FINE)), min_size=1, max_size=60)


@given(PAIRS)
def test_ranks_and_correlation_are_those_of_scipy(pairs: list[tuple[float, float]]) -> None:
    first, second = np.array(pairs).T
    np.testing.assert_array_equal(ranks(first), stats.rankdata(first))
    if min(len(set(first)), len(set(second))) > 1:
        assert spearman(first, second) == pytest.approx(stats.spearmanr(first, second).statistic, abs=1e-12)
    else:
        assert math.isnan(spearman(first, second))


@given(PAIRS, st.integers(1, 20))
def test_expected_error_is_that_of_a_plain_loop(pairs: list[tuple[float, float]], bins: int) -> None:
    edges = np.linspace(0, 1, bins + 1)
    expected, largest, placed = 0.0, 0.0, 0
    for number in range(bins):
        last = number == bins - 1
        members = [p for p in pairs if p[0] >= edges[number] and (last or p[0] < edges[number + 1])]
        if members:
            gap = abs(sum(p for p, _ in members) - sum(t for _, t in members)) / len(members)
            expected += gap * len(members) / len(pairs)
            largest = max(largest, gap)
        placed += len(members)
    result = calibration(*np.array(pairs).T, bins=bins)
    assert placed == len(pairs) == sum(row.count for row in result.bins)
    assert result.expected_error == pytest.approx(expected, abs=1e-12)
    assert result.largest_error == pytest.approx(largest, abs=1e-12)
    assert result.largest_error >= result.expected_error - 1e-12 >= abs(result.bias) - 2e-12


def test_a_hand_made_case() -> None:
    result = calibration([0.1, 0.15, 0.7, 0.9], [0.2, 0.3, 0.5, 0.9], bins=2)
    low, high = result.bins
    assert (low.low, low.high, low.count, high.count) == (0.0, 0.5, 2, 2)
    assert (low.predicted, low.actual) == (pytest.approx(0.125), pytest.approx(0.25))
    assert (high.predicted, high.actual) == (pytest.approx(0.8), pytest.approx(0.7))
    assert result.expected_error == pytest.approx((2 * 0.125 + 2 * 0.1) / 4)
    assert result.largest_error == pytest.approx(0.125)
    assert result.bias == pytest.approx(0.4625 - 0.475)
    assert result.rank_correlation == pytest.approx(1.0)


def test_a_model_that_knows_has_no_error_and_one_that_boasts_has_its_boast() -> None:
    truth = np.random.default_rng(0).uniform(0, 0.7, 500)
    knows, boasts = calibration(truth, truth), calibration(truth + 0.3, truth)
    assert knows.expected_error == pytest.approx(0.0, abs=1e-12)
    assert boasts.expected_error == pytest.approx(0.3)
    assert boasts.bias == pytest.approx(0.3)
    assert knows.rank_correlation == boasts.rank_correlation == pytest.approx(1.0)
    assert len(knows.bins) == BINS == 15


def test_values_outside_zero_to_one_fall_into_the_end_bins_and_empty_bins_say_none() -> None:
    result = calibration([-0.2, 1.0, 1.4], [0.0, 1.0, 1.0], bins=4)
    assert [row.count for row in result.bins] == [1, 0, 0, 2]
    assert result.bins[1].predicted is None
    assert result.bins[1].actual is None
    assert result.bins[3].predicted == pytest.approx(1.2)


@pytest.mark.parametrize(
    ("predicted", "actual", "bins"),
    [
        ([], [], 15),
        ([0.5], [0.5, 0.6], 15),
        ([math.nan], [0.5], 15),
        ([0.5], [math.inf], 15),
        ([0.5], [0.5], 0),
    ],
)
def test_what_cannot_be_measured_is_refused(predicted: list[float], actual: list[float], bins: int) -> None:
    with pytest.raises(InputError):
        calibration(predicted, actual, bins)

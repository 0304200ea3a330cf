"""Plots: the numbers on the sheet are the numbers given, and equal numbers are equal bytes."""

from __future__ import annotations

import io
import math
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image as PillowImage

from anymask.errors import InputError, MissingExtraError
from anymask.evaluation.boundaries.edges import EdgeScores, PrecisionRecall
from anymask.evaluation.calibration import Calibration, ReliabilityBin
from anymask.evaluation.comparison import Comparison, Difference
from anymask.evaluation.pictures import plot_style, plots

matplotlib = pytest.importorskip("matplotlib")

CALIBRATION = Calibration(
    count=1234,
    expected_error=0.0567,
    largest_error=0.2,
    bias=0.01,
    rank_correlation=0.789,
    bins=(
        ReliabilityBin(0.0, 0.5, 234, 0.31, 0.22),
        ReliabilityBin(0.5, 0.75, 0, None, None),
        ReliabilityBin(0.75, 1.0, 1000, 0.9, 0.85),
    ),
)


@pytest.fixture(autouse=True)
def _style() -> Iterator[None]:
    with plot_style.style():
        yield


def line(axes: Any, label: str) -> np.ndarray:
    """The (x, y) rows of the one line of that label."""
    (found,) = (artist for artist in axes.lines if artist.get_label() == label)
    return np.asarray(found.get_xydata())


def legend(axes: Any) -> list[str]:
    return [text.get_text() for text in axes.get_legend().get_texts()]


def texts(axes: Any) -> list[str]:
    return [text.get_text() for text in axes.texts]


def test_reliability_draws_the_filled_bins_and_every_count() -> None:
    upper, lower = plots._reliability_figure({"a": CALIBRATION, "b": CALIBRATION}).axes
    np.testing.assert_array_equal(line(upper, "a"), [[0.31, 0.22], [0.9, 0.85]])
    np.testing.assert_array_equal(line(upper, "right"), [[0, 0], [1, 1]])
    first, second = lower.containers
    assert [bar.get_height() for bar in first] == [234, 0, 1000]
    for bar, other, row in zip(first, second, CALIBRATION.bins, strict=True):
        assert row.low < bar.get_x() < bar.get_x() + bar.get_width() <= other.get_x() + 1e-12
        assert other.get_x() + other.get_width() < row.high
    assert legend(upper)[0] == "a: ECE 0.057, rank correlation 0.79, 1,234 masks"
    assert "predicted IoU" in lower.get_xlabel()
    assert "actual IoU" in upper.get_ylabel()


def test_reliability_shows_a_prediction_above_one_and_an_undefined_correlation() -> None:
    bins = (ReliabilityBin(0.0, 1.0, 3, 1.08, 0.5),)
    upper, _ = plots._reliability_figure({"a": Calibration(3, 0.58, 0.58, 0.58, math.nan, bins)}).axes
    assert upper.get_xlim()[1] >= 1.08
    assert "rank correlation undefined" in legend(upper)[0]


def test_clicks_start_at_one_and_curves_may_differ_in_length() -> None:
    (axes,) = plots._clicks_figure({"a": [0.5, 0.7, 0.75], "b": [0.3]}).axes
    np.testing.assert_array_equal(line(axes, "a"), [[1, 0.5], [2, 0.7], [3, 0.75]])
    np.testing.assert_array_equal(line(axes, "b"), [[1, 0.3]])
    assert legend(axes) == ["a: 0.500 after 1, 0.750 after 3", "b: 0.300 after 1"]
    assert axes.get_ylim()[0] <= 0.3
    assert axes.get_ylim()[1] == 1.0


def test_sets_have_a_dot_for_each_measured_set_on_its_own_row() -> None:
    rows = {"a": {"birds": 0.5, "cells": 0.25}, "b": {"cells": 0.75, "roads": 0.125}}
    (axes,) = plots._sets_figure(rows, "mean IoU").axes
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == ["birds", "cells", "roads"]
    for model, row in rows.items():
        assert {names[int(y)]: x for x, y in line(axes, model)} == row
    assert axes.get_ylim()[0] > axes.get_ylim()[1], "the first set stands on top"
    assert (axes.get_xlabel(), legend(axes)) == ("mean IoU", ["a", "b"])


def test_strata_have_a_bar_a_number_and_a_count_and_empty_bins_only_a_name() -> None:
    values = {"size": {"small": (0.25, 1), "large": (0.75, 1200)}, "domain": {"cells": (math.nan, 0)}}
    size, domain = plots._strata_figure(values).axes
    assert [bar.get_width() for bar in size.containers[0]] == [0.25, 0.75]
    assert texts(size) == ["0.250", "1 mask", "0.750", "1,200 masks"]
    assert [label.get_text() for label in size.get_yticklabels()] == ["small", "large"]
    assert (texts(domain), [bar.get_width() for bar in domain.containers[0]]) == (["0 masks"], [0.0])


def test_precision_recall_lies_on_the_right_lines_of_equal_f() -> None:
    recall = np.array([0.9, 0.6, 0.2, 0.0])
    precision = np.array([0.3, 0.6, 0.8, 0.0])
    scores = EdgeScores(
        PrecisionRecall(0.6, 0.6, 0.5), PrecisionRecall(0.62, 0.6), 0.44, 0.7, np.array([0.2, 0.5, 0.8, 0.9]),
        precision, recall,
    )  # fmt: skip
    (axes,) = plots._precision_recall_figure({"a": scores}, plots.BSDS500_HUMAN).axes
    np.testing.assert_array_equal(line(axes, "a"), [[0.9, 0.3], [0.6, 0.6], [0.2, 0.8]])
    np.testing.assert_array_equal(line(axes, "a ODS"), [[0.6, 0.6]])
    np.testing.assert_array_equal(line(axes, "human"), [[0.7235, 0.9014]])
    for tenth in range(1, 10):
        r, p = line(axes, f"F {tenth / 10:.1f}").T
        np.testing.assert_allclose(2 / (1 / r + 1 / p), tenth / 10)
        assert (r[0], p[-1]) == (pytest.approx(p[-1]), pytest.approx(r[0]))
        assert p[0] == pytest.approx(1.0)
    assert legend(axes) == ["human: F 0.80", "a: ODS 0.600, OIS 0.610, AP 0.440, R50 0.700"]
    (without,) = plots._precision_recall_figure({"a": scores}, None).axes
    assert legend(without) == ["a: ODS 0.600, OIS 0.610, AP 0.440, R50 0.700"]


def test_differences_have_interval_number_and_verdict() -> None:
    better = Difference(0.62, 0.5, 0.12, 0.05, 0.2, "better", 40, 400)
    worse = Difference(0.46, 0.5, -0.04, -0.09, -0.01, "worse", 50, 500)
    overall = Difference(0.54, 0.5, 0.04, -0.02, 0.1, "undecided", 90, 900)
    (axes,) = plots._difference_figure(
        Comparison({"x": better, "y": worse}, overall), "IoU", "new", "old"
    ).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["x", "y", "all sets, mean"]
    np.testing.assert_array_equal(line(axes, "x"), [[0.05, 0], [0.2, 0]])
    np.testing.assert_array_equal(line(axes, "all sets, mean"), [[-0.02, 2], [0.1, 2]])
    np.testing.assert_array_equal(line(axes, "worse"), [[-0.04, 1]])
    colours = {artist.get_label(): artist.get_color() for artist in axes.lines}
    assert colours["x"] == colours["better"]
    assert len({colours[verdict] for verdict in ("better", "worse", "undecided")}) == 3
    assert texts(axes) == ["+0.120", "40 images", "\u22120.040", "50 images", "+0.040", "90 images"]
    assert axes.get_xlabel() == "IoU: new minus old, with 95 % interval"
    (single,) = plots._difference_figure(Comparison({"x": better}, better), "IoU", "new", "old").axes
    assert [label.get_text() for label in single.get_yticklabels()] == ["x"]


def test_many_models_all_look_different() -> None:
    looks = {(plot_style.look(i)["color"], plot_style.look(i)["marker"]) for i in range(56)}
    assert len(looks) == 56


def test_equal_numbers_are_equal_bytes_whatever_the_user_has_set() -> None:
    first = plots.clicks_plot({"a": [0.5, 0.7]})
    with matplotlib.rc_context({"font.size": 30.0, "axes.facecolor": "black", "savefig.transparent": True}):
        assert plots.clicks_plot({"a": [0.5, 0.7]}) == first
    assert plots.clicks_plot({"a": [0.5, 0.71]}) != first
    picture = PillowImage.open(io.BytesIO(first))
    assert (picture.format, picture.width) == ("PNG", 1600)
    assert set(picture.info) <= {"dpi"}, "no program, no date"


def test_a_model_may_be_called_anything() -> None:
    """Dollar signs are no formula, and a leading underscore hides nothing."""
    (axes,) = plots._clicks_figure({"_$x^{$": [0.5]}).axes
    assert legend(axes) == ["_$x^{$: 0.500 after 1"]
    assert plots.clicks_plot({"_$x^{$": [0.5]}).startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: plots.reliability_plot({}), "at least one model, got none"),
        (lambda: plots.clicks_plot({}), "at least one model, got none"),
        (lambda: plots.clicks_plot({"a": []}), "'a' holds no clicks"),
        (lambda: plots.clicks_plot({"a": [0.5, math.nan]}), "'a' must hold finite numbers, got nan"),
        (lambda: plots.sets_plot({"a": {}}, "IoU"), "at least one set"),
        (lambda: plots.sets_plot({"a": {"x": math.inf}}, "IoU"), "got inf"),
        (lambda: plots.strata_plot({}), "at least one stratum"),
        (lambda: plots.strata_plot({"size": {}}), "'size' holds no bins"),
        (lambda: plots.strata_plot({"size": {"small": (math.nan, 2)}}), "'size' must hold finite"),
        (lambda: plots.precision_recall_plot({}), "at least one model"),
    ],
)
def test_nothing_to_draw_is_one_sentence(call: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        call()


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.style", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'anymask\[eval\]'"):
        plots.clicks_plot({"a": [0.5]})


def test_the_module_imports_no_matplotlib_and_a_plot_no_window_system() -> None:
    code = (
        "import sys; from anymask.evaluation.pictures import plots; print('matplotlib' in sys.modules);"
        "plots.clicks_plot({'a': [0.5]}); print('matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.split() == ["False", "False"]

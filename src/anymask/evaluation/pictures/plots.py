"""The plots of an evaluation report: numbers in, PNG bytes out (1600 pixels wide, readable at 800).

Every function takes plain numbers or the records of this package, names its units on the axes, and gives the same
bytes for the same numbers. Models differ in colour and in mark. The figure behind each plot is made by a function
of its own, so that what is drawn can be checked.

All raise `InputError` where there is nothing to draw or a value is not finite, and `MissingExtraError` without
matplotlib.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from anymask.errors import InputError
from anymask.evaluation.boundaries.edges import EdgeScores, PrecisionRecall
from anymask.evaluation.calibration import Calibration
from anymask.evaluation.comparison import Comparison, Difference
from anymask.evaluation.pictures.plot_style import (
    GREY,
    INK,
    PALETTE,
    VERDICT_LOOKS,
    legend_above,
    look,
    new_figure,
    png_bytes,
    style,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "BSDS500_HUMAN",
    "clicks_plot",
    "difference_plot",
    "precision_recall_plot",
    "reliability_plot",
    "sets_plot",
    "strata_plot",
]

BSDS500_HUMAN: Final = PrecisionRecall(precision=0.9014, recall=0.7235)
"""Annotators of BSDS500 held against each other, F 0.80: the point of ``edgesEvalPlot.m`` of pdollar/edges."""

_WIDTH: Final = 8.0  # inches
_ROW: Final = 0.34  # inches a row of a list takes
_ALL_SETS: Final = "all sets, mean"
_COUNTS_AT: Final = 1.3  # where counts end, right of every bar and its number


def reliability_plot(calibrations: Mapping[str, Calibration]) -> bytes:
    """Mean predicted against mean actual IoU of each bin per model, and below how many masks each bin holds.

    On the dashed line a prediction is right; below it the model is too sure. The legend gives the expected
    calibration error (ECE), Spearman's rank correlation and the number of masks.
    """
    with style():
        return png_bytes(_reliability_figure(calibrations))


def clicks_plot(curves: Mapping[str, Sequence[float]]) -> bytes:
    """Mean IoU after 1, 2 ... n clicks per model; models may differ in n."""
    with style():
        return png_bytes(_clicks_figure(curves))


def sets_plot(rows: Mapping[str, Mapping[str, float]], metric: str) -> bytes:
    """One row per set, one dot per model: ``rows[model][set]``, a higher value being better.

    Sets stand in the order in which they first come up. A model that was not measured on a set has no dot there.
    """
    with style():
        return png_bytes(_sets_figure(rows, metric))


def strata_plot(values: Mapping[str, Mapping[str, tuple[float, int]]]) -> bytes:
    """Mean IoU of kinds of masks: ``values[stratum][bin]`` is the mean and the number of masks behind it.

    A stratum is a way to divide the masks, such as size class, quartile of complexity, or domain. A bin of no
    masks is named and left empty, whatever its mean.
    """
    with style():
        return png_bytes(_strata_figure(values))


def precision_recall_plot(
    curves: Mapping[str, EdgeScores], human: PrecisionRecall | None = BSDS500_HUMAN
) -> bytes:
    """Precision against recall of boundaries, a dot at each model's ODS, on lines of equal F.

    Args:
        curves: scores of each model.
        human: what people reach; None leaves it out.
    """
    with style():
        return png_bytes(_precision_recall_figure(curves, human))


def difference_plot(
    comparison: Comparison, metric: str, candidate: str = "candidate", reference: str = "reference"
) -> bytes:
    """Candidate minus reference per set and over all sets, with the comparison's interval (95 % by default).

    Colour and mark show the verdict; a set of few images is undecided whatever its interval
    (`anymask.evaluation.comparison.MIN_IMAGES`).
    """
    with style():
        return png_bytes(_difference_figure(comparison, metric, candidate, reference))


def _reliability_figure(calibrations: Mapping[str, Calibration]) -> Figure:
    _need(calibrations, "a reliability plot needs the calibration of at least one model")
    figure = new_figure(_WIDTH * 0.8, 6.6 + 0.2 * len(calibrations))
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3.4, 1.0])
    upper.plot([0, 1], [0, 1], color=GREY, linewidth=1.2, linestyle=(0, (4, 3)), label="right")
    lines, labels = [], []
    for index, (model, row) in enumerate(calibrations.items()):
        filled = [bar for bar in row.bins if bar.predicted is not None and bar.actual is not None]
        (line,) = upper.plot(
            [bar.predicted for bar in filled],
            [bar.actual for bar in filled],
            label=model,
            clip_on=False,
            zorder=_above(index),
            **look(index),
        )
        lines.append(line)
        labels.append(
            f"{model}: ECE {row.expected_error:.3f}, rank correlation {_signed_number(row.rank_correlation)}, "
            f"{row.count:,} masks"
        )
        widths = [(bar.high - bar.low) * 0.84 / len(calibrations) for bar in row.bins]
        starts = [
            bar.low + 0.08 * (bar.high - bar.low) + index * width
            for bar, width in zip(row.bins, widths, strict=True)
        ]
        lower.bar(
            starts,
            [bar.count for bar in row.bins],
            widths,
            align="edge",
            color=look(index)["color"],
            label=model,
        )
    means = [bar.predicted for row in calibrations.values() for bar in row.bins if bar.predicted is not None]
    upper.set(xlim=(min(0.0, *means), max(1.0, *means)), ylim=(0, 1), ylabel="actual IoU, mean of bin")
    upper.tick_params(labelbottom=False)
    lower.set(xlabel="predicted IoU, mean of bin", ylabel="masks")
    lower.yaxis.set_major_locator(_few_whole_ticks())
    lower.yaxis.set_major_formatter("{x:,.0f}")
    lower.grid(visible=False, axis="x")
    legend_above(upper, lines, labels, columns=1)
    return figure


def _clicks_figure(curves: Mapping[str, Sequence[float]]) -> Figure:
    _need(curves, "a plot of clicks needs the curve of at least one model")
    for model, curve in curves.items():
        _need(curve, f"the curve of {model!r} holds no clicks")
        _finite(curve, f"the curve of {model!r}")
    longest = max(len(curve) for curve in curves.values())
    figure = new_figure(_WIDTH, 4.6)
    axes = figure.subplots()
    lines = [
        axes.plot(
            range(1, len(curve) + 1),
            list(curve),
            label=model,
            clip_on=False,
            zorder=_above(index),
            **look(index),
        )[0]
        for index, (model, curve) in enumerate(curves.items())
    ]
    labels = [
        f"{model}: {curve[0]:.3f} after 1"
        + (f", {curve[-1]:.3f} after {len(curve)}" if len(curve) > 1 else "")
        for model, curve in curves.items()
    ]
    lowest = min(min(curve) for curve in curves.values())
    axes.set(xlabel="clicks", ylabel="mean IoU", xlim=(0.7, longest + 0.3))
    axes.set_ylim(max(0.0, math.floor((lowest - 0.02) * 10) / 10), 1.0)
    axes.set_xticks(range(1, longest + 1, max(1, math.ceil(longest / 20))))
    axes.grid(visible=False, axis="x")
    legend_above(axes, lines, labels, columns=2 if len(labels) > 2 else 1)
    return figure


def _sets_figure(rows: Mapping[str, Mapping[str, float]], metric: str) -> Figure:
    sets = list(dict.fromkeys(name for row in rows.values() for name in row))
    _need(sets, "a plot of sets needs at least one model with at least one set")
    for model, row in rows.items():
        _finite(row.values(), f"the row of {model!r}")
    figure = new_figure(_WIDTH, 1.5 + _ROW * len(sets) + 0.2 * math.ceil(len(rows) / 3))
    axes = figure.subplots()
    for place, name in enumerate(sets):
        measured = [row[name] for row in rows.values() if name in row]
        axes.plot(
            [min(measured), max(measured)],
            [place, place],
            color="#C9C9C9",
            linewidth=2.5,
            zorder=1,
            label="_range",
        )
    dots = []
    for index, (model, row) in enumerate(rows.items()):
        places = [place for place, name in enumerate(sets) if name in row]
        (dot,) = axes.plot(
            [row[sets[place]] for place in places],
            places,
            linestyle="none",
            label=model,
            clip_on=False,
            zorder=_above(index),
            **{**look(index), "markersize": 7.5},
        )
        dots.append(dot)
    axes.set_xlabel(metric)
    _list_rows(axes, sets)
    legend_above(axes, dots, list(rows), columns=min(3, len(rows)))
    return figure


def _strata_figure(values: Mapping[str, Mapping[str, tuple[float, int]]]) -> Figure:
    _need(values, "a plot of strata needs at least one stratum")
    for stratum, bins in values.items():
        _need(bins, f"the stratum {stratum!r} holds no bins")
        _finite((mean for mean, count in bins.values() if count), f"the stratum {stratum!r}")
    sizes = [len(bins) for bins in values.values()]
    figure = new_figure(_WIDTH, 0.6 + sum(_ROW * size + 0.5 for size in sizes))
    panels = figure.subplots(
        len(sizes), 1, sharex=True, squeeze=False, height_ratios=[n + 0.35 for n in sizes]
    )
    for axes, (stratum, bins) in zip(panels[:, 0], values.items(), strict=True):
        means = [mean if count else 0.0 for mean, count in bins.values()]
        axes.barh(range(len(bins)), means, height=0.62, color=PALETTE[0])
        for place, (mean, count) in enumerate(bins.values()):
            if count:
                axes.annotate(
                    f"{mean:.3f}",
                    (mean, place),
                    (5, 0),
                    textcoords="offset points",
                    va="center_baseline",
                    fontweight="bold",
                )
            text = f"{count:,} mask{'' if count == 1 else 's'}"
            axes.text(_COUNTS_AT, place, text, ha="right", va="center_baseline", color=GREY, fontsize=9)
        axes.set_title(stratum, fontweight="bold")
        axes.set_xlim(0.0, _COUNTS_AT)
        axes.set_xticks([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
        axes.spines["bottom"].set_visible(axes is panels[-1, 0])
        axes.tick_params(axis="x", length=3.5 if axes is panels[-1, 0] else 0)
        _list_rows(axes, list(bins))
    panels[-1, 0].set_xlabel("mean IoU", x=0.5 / _COUNTS_AT)
    return figure


def _precision_recall_figure(curves: Mapping[str, EdgeScores], human: PrecisionRecall | None) -> Figure:
    _need(curves, "a precision-recall plot needs the scores of at least one model")
    figure = new_figure(_WIDTH * 0.8, 6.2 + 0.2 * (len(curves) + (human is not None)))
    axes = figure.subplots()
    _draw_equal_f(axes)
    handles: list[Any] = []
    labels: list[str] = []
    if human is not None:
        (dot,) = axes.plot(
            [human.recall],
            [human.precision],
            marker="*",
            markersize=13,
            color=INK,
            linestyle="none",
            zorder=4,
        )
        dot.set_label("human")
        handles.append(dot)
        labels.append(f"human: F {human.f:.2f}")
    for index, (model, scores) in enumerate(curves.items()):
        drawn = (scores.precision > 0) | (
            scores.recall > 0
        )  # a cut without any edge is no point of the curve
        colour = look(index)["color"]
        axes.plot(scores.recall[drawn], scores.precision[drawn], color=colour, label=model, zorder=3)
        (dot,) = axes.plot(
            [scores.ods.recall],
            [scores.ods.precision],
            label=f"{model} ODS",
            zorder=4,
            **{**look(index), "markersize": 8.5},
        )
        handles.append(dot)
        labels.append(
            f"{model}: ODS {scores.ods.f:.3f}, OIS {scores.ois.f:.3f}, AP {scores.average_precision:.3f}, "
            f"R50 {scores.recall_at_half_precision:.3f}"
        )
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes.set_xticks([i / 10 for i in range(11)])
    axes.set_yticks([i / 10 for i in range(11)])
    axes.grid(visible=False)
    legend_above(axes, handles, labels, columns=1)
    return figure


def _draw_equal_f(axes: Axes) -> None:
    """Lines of F = 0.1 ... 0.9: precision = F recall / (2 recall - F); the value stands at the right edge."""
    for tenth in range(1, 10):
        f = tenth / 10
        end = f / (2 - f)  # recall where precision is 1, and precision where recall is 1
        recall = [end + (1 - end) * step / 200 for step in range(201)]
        precision = [f * r / (2 * r - f) for r in recall]
        axes.plot(recall, precision, color="#CFE3D6", linewidth=1.0, zorder=1, label=f"F {f:.1f}")
        axes.text(1.008, end, f"F {f:.1f}", color="#4F7F62", fontsize=8, va="center", ha="left")


def _difference_figure(comparison: Comparison, metric: str, candidate: str, reference: str) -> Figure:
    rows: dict[str, Difference] = dict(comparison.sets)
    if len(rows) > 1:
        rows[_ALL_SETS] = comparison.overall
    _need(rows, "a plot of differences needs at least one set")
    figure = new_figure(_WIDTH, 1.7 + _ROW * len(rows))
    axes = figure.subplots()
    axes.axvline(0.0, color=INK, linewidth=1.0, zorder=1)
    handles: dict[str, Any] = {}
    for place, (name, row) in enumerate(rows.items()):
        colour, mark = VERDICT_LOOKS[row.verdict]
        axes.plot([row.low, row.high], [place, place], color=colour, linewidth=2.6, zorder=2, label=name)
        (dot,) = axes.plot(
            [row.difference],
            [place],
            color=colour,
            marker=mark,
            markersize=8.0,
            markeredgecolor="white",
            linestyle="none",
            zorder=3,
            label=row.verdict,
        )
        handles.setdefault(row.verdict, dot)
        beside: dict[str, Any] = {
            "xy": (1.0, place),
            "xycoords": axes.get_yaxis_transform(),
            "textcoords": "offset points",
            "va": "center_baseline",
        }
        number = f"{row.difference:+.3f}".replace("-", "\N{MINUS SIGN}")
        axes.annotate(number, xytext=(6, 0), color=colour, fontweight="bold", **beside)
        axes.annotate(f"{row.images:,} images", xytext=(52, 0), color=GREY, fontsize=9, **beside)
    if len(rows) > 1:
        axes.axhline(len(rows) - 1.5, color="#9A9A9A", linewidth=0.8)
    axes.set_xlabel(f"{metric}: {candidate} minus {reference}, with 95 % interval")
    _list_rows(axes, list(rows))
    shown = [verdict for verdict in VERDICT_LOOKS if verdict in handles]
    legend_above(axes, [handles[verdict] for verdict in shown], shown, columns=3)
    return figure


def _list_rows(axes: Axes, names: Sequence[str]) -> None:
    """Name the rows 0 ... n - 1 of a list, the first on top."""
    axes.set_yticks(range(len(names)), list(names))
    axes.set_ylim(len(names) - 0.45, -0.55)
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.spines["left"].set_visible(False)
    axes.grid(visible=False, axis="y")


def _above(index: int) -> float:
    """Drawing order: the first model lies on top."""
    return 3.9 - 0.01 * min(index, 80)


def _few_whole_ticks() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(nbins=3, integer=True)


def _signed_number(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else "undefined"


def _need(things: Mapping[str, Any] | Sequence[Any], sentence: str) -> None:
    if not len(things):
        raise InputError(f"{sentence}, got none")


def _finite(values: Iterable[float], what: str) -> None:
    bad = [value for value in values if not math.isfinite(value)]
    if bad:
        raise InputError(f"{what} must hold finite numbers, got {bad[0]}; leave out what was not measured")

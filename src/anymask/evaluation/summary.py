"""From records to figures: a row per set, the mean over sets, strata, calibration.

A set's figure is the mean over its masks; the overall figure the mean over sets, every set counting the same. Strata
pool the masks of all sets, since a set may have none of a stratum.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from anymask.errors import InputError
from anymask.evaluation.calibration import Calibration, calibration
from anymask.evaluation.comparison import Comparison, PairedScores, compare
from anymask.evaluation.metrics import area_class
from anymask.evaluation.plan import MaskRecord
from anymask.evaluation.protocols import CLICKS, JITTERS, NOC_THRESHOLDS
from anymask.evaluation.runner import SetResult
from anymask.evaluation.suites import SetFacts

__all__ = [
    "COMPLEXITY_EDGES",
    "METRICS",
    "Metric",
    "Stratum",
    "Summary",
    "compare_results",
    "metric_values",
    "summarise",
]

Value = Callable[[MaskRecord], float | None]

COMPLEXITY_EDGES: Final = (1.5, 2.5, 5.0)
"""Where classes of complexity part: nearly round, simple, ragged or thin, in pieces."""
COMPLEXITY_NAMES: Final = ("under 1.5", "1.5 to 2.5", "2.5 to 5", "5 and over")


@dataclass(frozen=True)
class Metric:
    """A figure of one mask and how a table calls it.

    Attributes:
        key: in files.
        title: in tables.
        value: of a record; None where the plan left it out.
        higher_is_better: False for numbers of clicks and failures.
    """

    key: str
    title: str
    value: Value
    higher_is_better: bool = True


def _after(clicks: int) -> Value:
    """IoU after so many clicks; a series that ended early had reached the highest threshold and stays there."""
    return lambda r: r.clicks[min(clicks, len(r.clicks)) - 1] if r.clicks else None


def _jitter(index: int) -> Value:
    return lambda r: r.jitter[index] if r.jitter else None


def _noc(threshold: float, max_clicks: int) -> Value:
    def value(record: MaskRecord) -> float | None:
        if not record.clicks:
            return None
        reached = (n for n, iou in enumerate(record.clicks[:max_clicks], 1) if iou >= threshold)
        return float(next(reached, max_clicks))

    return value


def _failed(threshold: float) -> Value:
    return lambda r: float(all(iou < threshold for iou in r.clicks)) if r.clicks else None


def metrics(max_clicks: int) -> tuple[Metric, ...]:
    """Every figure of a mask, in the order of a table; ``max_clicks`` is the plan's."""
    return (
        Metric("box", "box", lambda r: r.box.iou if r.box else None),
        *(
            Metric(f"box_jitter_{share * 100:.0f}", f"box ± {share:.0%}", _jitter(i))
            for i, share in enumerate(JITTERS)
        ),
        Metric("point", "1 click, top", lambda r: r.point.iou if r.point else None),
        Metric(
            "point_oracle", "1 click, best of 3", lambda r: r.point_oracle.iou if r.point_oracle else None
        ),
        Metric("random_point", "random click, top", lambda r: r.random_point.iou if r.random_point else None),
        Metric(
            "random_point_oracle",
            "random click, best of 3",
            lambda r: r.random_point_oracle.iou if r.random_point_oracle else None,
        ),
        *(Metric(f"clicks_{n}", f"{n} clicks", _after(n)) for n in CLICKS if 1 < n <= max_clicks),
        *(
            metric
            for threshold in NOC_THRESHOLDS
            for metric in (
                Metric(
                    f"noc_{threshold * 100:.0f}",
                    f"NoC@{threshold * 100:.0f}",
                    _noc(threshold, max_clicks),
                    False,
                ),
                Metric(
                    f"failures_{threshold * 100:.0f}",
                    f"failures@{threshold * 100:.0f}",
                    _failed(threshold),
                    False,
                ),
            )
        ),
        Metric("box_boundary_iou", "box, boundary IoU", lambda r: r.box.boundary_iou if r.box else None),
        Metric("box_boundary_f", "box, boundary F", lambda r: r.box.boundary_f if r.box else None),
        Metric(
            "point_boundary_iou", "1 click, boundary IoU", lambda r: r.point.boundary_iou if r.point else None
        ),
        Metric("point_boundary_f", "1 click, boundary F", lambda r: r.point.boundary_f if r.point else None),
    )


METRICS: Final = tuple(metric.key for metric in metrics(20))
"""Keys of all figures."""


@dataclass(frozen=True)
class Stratum:
    """Mean of one figure over a part of all masks."""

    kind: str
    name: str
    masks: int
    mean: float


@dataclass(frozen=True)
class Summary:
    """The figures of one model.

    Attributes:
        sets: set name -> metric key -> mean over masks; keys the plan left out are missing.
        counts: set name -> (images, masks) measured.
        mean: metric key -> mean over sets.
        strata: metric key -> strata by size, complexity and domain.
        calibration: prompt ("point", "box") -> calibration of predicted IoU over all masks.
        clicks: mean IoU over sets after 1, 2 ... clicks; empty when the plan left clicks out.
    """

    sets: Mapping[str, Mapping[str, float]]
    counts: Mapping[str, tuple[int, int]]
    mean: Mapping[str, float]
    strata: Mapping[str, Sequence[Stratum]]
    calibration: Mapping[str, Calibration]
    clicks: tuple[float, ...]


def metric_values(result: SetResult, metric: Metric) -> list[float]:
    """The figure of every mask that has it, in the order of the records."""
    values = (metric.value(record) for record in result.records)
    return [value for value in values if value is not None]


def summarise(
    results: Sequence[SetResult], facts: Mapping[str, SetFacts], max_clicks: int, calibrated: bool = True
) -> Summary:
    """Figures of one model over its sets.

    Args:
        results: one or more sets, none without masks.
        facts: of each set by name.
        max_clicks: of the plan.
        calibrated: False for methods whose scores are constants and predict nothing.

    Raises:
        InputError: no sets, or a set in which no mask was measured.
    """
    empty = [result.name for result in results if not result.masks]
    if not results or empty:
        raise InputError(f"there is no mask to report on in {', '.join(empty) or 'no set at all'}")
    table = metrics(max_clicks)
    sets: dict[str, dict[str, float]] = {}
    for result in results:
        values = {metric.key: metric_values(result, metric) for metric in table}
        sets[result.name] = {key: float(np.mean(found)) for key, found in values.items() if found}
    keys = [metric.key for metric in table if all(metric.key in row for row in sets.values())]
    mean = {key: float(np.mean([row[key] for row in sets.values()])) for key in keys}
    return Summary(
        sets,
        {result.name: (len(result.images), result.masks) for result in results},
        mean,
        _strata(
            results, facts, [metric for metric in table if metric.key in ("box", "point", "point_oracle")]
        ),
        _calibrations(results) if calibrated else {},
        _click_curve(results, max_clicks),
    )


def compare_results(
    candidate: Sequence[SetResult], reference: Sequence[SetResult], metric: Metric, seed: int = 0
) -> Comparison:
    """Paired bootstrap of one figure over the images both were measured on; see `comparison.compare`.

    Numbers of clicks and failures are turned round, so that better is higher.

    Raises:
        InputError: the two were not measured on the same masks.
    """
    others = {result.name: result for result in reference}
    sign = 1.0 if metric.higher_is_better else -1.0
    paired = {}
    for result in candidate:
        first, second = _by_mask(result, metric), _by_mask(others.get(result.name), metric)
        if not first or first.keys() != second.keys():
            raise InputError(
                f"{result.name!r} was not measured on the same masks by both models; give both the same plan and data"
            )
        paired[result.name] = PairedScores(
            [image for image, _, _ in first],
            [sign * value for value in first.values()],
            [sign * second[key] for key in first],
        )
    return compare(paired, seed=seed)


def _by_mask(result: SetResult | None, metric: Metric) -> dict[tuple[str, int, str], float]:
    """(image, position, mask) -> figure."""
    found = {}
    for image in result.images if result else ():
        for position, record in enumerate(image.records):
            value = metric.value(record)
            if value is not None:
                found[image.key, position, record.mask_id] = value
    return found


def _strata(
    results: Sequence[SetResult], facts: Mapping[str, SetFacts], chosen: Sequence[Metric]
) -> dict[str, list[Stratum]]:
    strata: dict[str, list[Stratum]] = {}
    kinds: tuple[tuple[str, Sequence[str], Callable[[SetResult, MaskRecord], str]], ...] = (
        ("size", ("small", "medium", "large"), lambda _, record: area_class(record.area)),
        ("complexity", COMPLEXITY_NAMES, lambda _, record: _complexity_class(record.complexity)),
        (
            "domain",
            sorted({facts[r.name].domain for r in results}),
            lambda result, _: facts[result.name].domain,
        ),
    )
    for metric in chosen:
        rows: list[Stratum] = []
        for kind, names, name_of in kinds:
            parts: dict[str, list[float]] = {name: [] for name in names}
            for result in results:
                for record in result.records:
                    value = metric.value(record)
                    if value is not None:
                        parts[name_of(result, record)].append(value)
            rows += [
                Stratum(kind, name, len(part), float(np.mean(part))) for name, part in parts.items() if part
            ]
        if rows:
            strata[metric.key] = rows
    return strata


def _complexity_class(complexity: float) -> str:
    return COMPLEXITY_NAMES[sum(complexity >= edge for edge in COMPLEXITY_EDGES)]


def _calibrations(results: Sequence[SetResult]) -> dict[str, Calibration]:
    records = [record for result in results for record in result.records]
    found = {}
    for name, answers in (("point", [r.point for r in records]), ("box", [r.box for r in records])):
        given = [answer for answer in answers if answer is not None]
        if given:
            found[name] = calibration([a.predicted_iou for a in given], [a.iou for a in given])
    return found


def _click_curve(results: Sequence[SetResult], max_clicks: int) -> tuple[float, ...]:
    if not all(result.records and result.records[0].clicks for result in results):
        return ()
    curve = []
    for clicks in range(1, min(9, max_clicks) + 1):
        value = _after(clicks)
        means = [np.mean([value(record) or 0.0 for record in result.records]) for result in results]
        curve.append(float(np.mean(means)))
    return tuple(curve)

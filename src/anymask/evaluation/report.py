"""A study as a report: Markdown for people, JSON for machines, plots and pictures beside them, written together."""

from __future__ import annotations

import datetime
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from anymask.atomic import write_atomically
from anymask.errors import InputError, OutputError
from anymask.evaluation.calibration import Calibration
from anymask.evaluation.comparison import Comparison
from anymask.evaluation.pictures.plots import (
    clicks_plot,
    difference_plot,
    precision_recall_plot,
    reliability_plot,
    sets_plot,
    strata_plot,
)
from anymask.evaluation.report_page import page
from anymask.evaluation.report_pictures import comparison_pictures, failure_pictures, lay_out_rating
from anymask.evaluation.study import ModelResult, StudyResult
from anymask.evaluation.suites import standing
from anymask.evaluation.summary import Metric, Summary, compare_results, metrics
from anymask.evaluation.whole_image import EdgeResult

__all__ = ["Report", "write_report"]

COMPARED = ("box", "point", "point_oracle", "clicks_3", "clicks_5", "noc_90")
"""Figures that two models are compared by."""


@dataclass(frozen=True)
class Report:
    """What was written: the folder, the page, and the figures as plain values."""

    folder: Path
    report: Path
    document: dict[str, Any]


def write_report(
    result: StudyResult,
    out: Path,
    against: str | None = None,
    gallery: int = 2,
    photographs: bool = True,
    rating: Path | None = None,
    command: str = "",
) -> Report:
    """Write report.md, report.json and their pictures into a folder, which is made when missing.

    Args:
        result: of `run_study`.
        out: the folder.
        against: spec of the model that the first is compared with, one of the study's.
        gallery: failures shown of each set; 0 for none.
        photographs: False draws the masks of the gallery on grey, for documents that may not show the pictures.
        rating: a folder for the blind rating of both models' masks.
        command: the command that made this, for the page.

    Raises:
        OutputError: something could not be written.
        MissingExtraError: matplotlib is not installed.
    """
    first = result.models[0]
    other = _find(result, against) if against is not None else None
    compared = _comparisons(result, first, other) if other is not None else {}
    document = _document(result, compared, other)
    pictures = _plots(result, compared, first, other)
    if gallery and first.sets:
        pictures |= failure_pictures(result, first, gallery, photographs)
        if other is not None:
            pictures |= comparison_pictures(result, first, other, gallery, photographs)
    text = page(result, document, compared, other, pictures, command)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"the report folder {str(out)!r} cannot be made: {error.strerror}") from error
    for name, data in pictures.items():
        write_atomically(out / name, data)
    write_atomically(out / "report.json", (json.dumps(document, indent=1) + "\n").encode())
    path = write_atomically(out / "report.md", text.encode())
    if rating is not None and other is not None:
        lay_out_rating(result, first, other, rating)
    return Report(out, path, document)


def _find(result: StudyResult, spec: str) -> ModelResult:
    for model in result.models:
        if model.subject.spec == spec:
            return model
    raise InputError(f"{spec!r} was not measured in this study")


def _comparisons(
    result: StudyResult, first: ModelResult, other: ModelResult
) -> dict[str, tuple[Metric, Comparison]]:
    if result.study.plan is None:
        return {}
    found = {}
    for metric in metrics(result.study.plan.max_clicks):
        if (
            metric.key in COMPARED
            and first.summary
            and metric.key in first.summary.mean
            and other.summary
            and metric.key in other.summary.mean
        ):
            found[metric.key] = (
                metric,
                compare_results(first.sets, other.sets, metric, result.study.plan.seed),
            )
    return found


def _document(
    result: StudyResult, compared: Mapping[str, tuple[Metric, Comparison]], other: ModelResult | None
) -> dict[str, Any]:
    """All figures as plain values, six decimals."""
    study = result.study
    document: dict[str, Any] = {
        "title": result.title,
        "suite": result.suite.name,
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "plan": None if study.plan is None else {**asdict(study.plan), "digest": study.plan.digest},
        "images_per_set": study.images,
        "sets": {name: _facts(result, name) for name in result.datasets},
        "models": [_model(result, model) for model in result.models],
    }
    if other is not None:
        document["against"] = other.subject.name
        document["verdicts"] = {key: asdict(comparison.overall) for key, (_, comparison) in compared.items()}
        document["verdicts_by_set"] = {
            key: {name: asdict(difference) for name, difference in comparison.sets.items()}
            for key, (_, comparison) in compared.items()
        }
    rounded: dict[str, Any] = _rounded(document)
    return rounded


def _facts(result: StudyResult, name: str) -> dict[str, Any]:
    facts = result.facts[name]
    return {
        "content": facts.content,
        "domain": facts.domain,
        "licence": facts.licence,
        "origin": facts.origin,
    }


def _model(result: StudyResult, model: ModelResult) -> dict[str, Any]:
    subject, summary = model.subject, model.summary
    entry: dict[str, Any] = {
        "name": subject.name,
        "digest": subject.digest,
        "file_bytes": subject.file_bytes,
        "parameters": subject.parameters,
        "standing": {name: standing(facts, subject.sources) for name, facts in result.facts.items()},
        "mean": dict(summary.mean) if summary else {},
        "sets": {
            r.name: {
                "images": len(r.images),
                "images_drawn": r.seen_images,
                "images_in_all": r.total_images,
                "masks": r.masks,
                "masks_of_drawn_images": r.seen_masks,
                **(summary.sets[r.name] if summary else {}),
            }
            for r in model.sets
        },
    }
    if summary:
        entry["calibration"] = {name: asdict(found) for name, found in summary.calibration.items()}
        entry["strata"] = {key: [asdict(row) for row in rows] for key, rows in summary.strata.items()}
        entry["clicks"] = list(summary.clicks)
    entry |= {name: extra.as_record() for name, extra in model.extras.items()}
    if model.speed is not None:
        entry["speed"] = asdict(model.speed)
    return entry


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 6) if value == value else None
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value


def _plots(
    result: StudyResult,
    compared: Mapping[str, tuple[Metric, Comparison]],
    first: ModelResult,
    other: ModelResult | None,
) -> dict[str, bytes]:
    """File name -> PNG bytes."""
    pictures: dict[str, bytes] = {}
    summaries = {m.subject.name: m.summary for m in result.models if m.summary}
    calibrations: dict[str, Calibration] = {
        f"{name}, {prompt}": found
        for name, summary in summaries.items()
        for prompt, found in summary.calibration.items()
    }
    if calibrations:
        pictures["calibration.png"] = reliability_plot(calibrations)
    curves = {name: summary.clicks for name, summary in summaries.items() if len(summary.clicks) > 1}
    if curves:
        pictures["clicks.png"] = clicks_plot(curves)
    if len(result.datasets) > 1:
        for key in ("box", "point"):
            rows = {
                name: {s: row[key] for s, row in summary.sets.items() if key in row}
                for name, summary in summaries.items()
                if key in summary.mean
            }
            if rows:
                title = {"box": "mean IoU, ground-truth box", "point": "mean IoU, one click, top-scored mask"}
                pictures[f"sets_{key}.png"] = sets_plot(rows, title[key])
    if (
        summaries
        and result.models[0].summary
        and (strata := _strata_for_plot(result.models[0].summary, "box"))
    ):
        pictures["strata_box.png"] = strata_plot(strata)
    edges = {
        m.subject.name: extra.scores
        for m in result.models
        for extra in m.extras.values()
        if isinstance(extra, EdgeResult)
    }
    if edges:
        pictures["edges.png"] = precision_recall_plot(edges)
    names = [first.subject.name, other.subject.name] if other is not None else []
    for key, (metric, comparison) in compared.items():
        pictures[f"difference_{key}.png"] = difference_plot(comparison, metric.title, *names)
    return pictures


def _strata_for_plot(summary: Summary, key: str) -> dict[str, dict[str, tuple[float, int]]]:
    found: dict[str, dict[str, tuple[float, int]]] = {}
    for row in summary.strata.get(key, ()):
        found.setdefault(row.kind, {})[row.name] = (row.mean, row.masks)
    return found

"""A study's page in Markdown: tables first, then verdicts, extras, calibration, strata, speed, sets and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from anymask.evaluation.comparison import Comparison
from anymask.evaluation.protocols import MAX_CLICKS
from anymask.evaluation.study import ModelResult, StudyResult
from anymask.evaluation.suites import standing
from anymask.evaluation.summary import Metric, metrics

__all__ = ["KEY_METRICS", "page"]

KEY_METRICS = ("box", "point", "point_oracle", "clicks_3", "clicks_5")
"""Figures with a table of their own, set by set."""


def page(
    result: StudyResult,
    document: Mapping[str, Any],
    compared: Mapping[str, tuple[Metric, Comparison]],
    other: ModelResult | None,
    pictures: Mapping[str, bytes],
    command: str,
) -> str:
    lines = [f"# {result.title}", "", result.suite.description, ""]
    lines += [f"{document['date']}, {document['machine']}." + (f" `{command}`" if command else ""), ""]
    if result.study.plan is not None:
        lines += _means(result)
        lines += _by_set(result)
        lines += _picture(pictures, "sets_box.png", "Box, set by set")
        lines += _picture(pictures, "sets_point.png", "One click, set by set")
        lines += _picture(pictures, "clicks.png", "Mean IoU after each click")
    if other is not None and compared:
        lines += _verdicts(result.models[0], other, compared, pictures)
    lines += _extras(result, pictures)
    lines += _calibration(result, pictures)
    lines += _strata(result, pictures)
    lines += _speed(result)
    lines += _sets(result)
    lines += _references(result)
    shown = [name for name in pictures if name.startswith(("failures", "side_by_side"))]
    if shown:
        lines += ["## Pictures", ""]
        for name in shown:
            title = name.rsplit(".", 1)[0].replace("_", " ")
            lines += [f"![{title}]({name})", ""]
    return "\n".join(lines).rstrip() + "\n"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [
        "| " + " | ".join(heads) + " |",
        "|---|" + "---:|" * (len(heads) - 1),
        *("| " + " | ".join(row) + " |" for row in rows),
    ]
    return [*lines, ""]


def _number(value: float | None, digits: int = 3) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _means(result: StudyResult) -> list[str]:
    plan = result.study.plan
    assert plan is not None
    keys = [
        m
        for m in metrics(plan.max_clicks)
        if any(model.summary and m.key in model.summary.mean for model in result.models)
    ]
    agreement = [
        m for m in keys if "noc" not in m.key and "failures" not in m.key and "boundary" not in m.key
    ]
    rest = [m for m in keys if m not in agreement]
    named = [(model.subject.name, model.summary) for model in result.models if model.summary]

    def rows(chosen: Sequence[Metric]) -> list[list[str]]:
        return [
            [name, *(_number(s.mean.get(m.key), 2 if "noc" in m.key else 3) for m in chosen)]
            for name, s in named
        ]

    heading = "## Mean over sets" if len(result.datasets) > 1 else "## Figures"
    lines = [heading, "", "Mean IoU, best 1; every set counts the same.", ""]
    lines += _table(["", *(m.title for m in agreement)], rows(agreement))
    if rest:
        clicks = "" if plan.max_clicks == MAX_CLICKS else f" (here of {plan.max_clicks}, not of {MAX_CLICKS})"
        counts = (
            f"NoC: mean number of clicks to the IoU named, an object that never gets there counted with all{clicks}, "
            "and failures the share of those; fewer is better. "
        )
        outlines = "Boundary IoU and F look at outlines alone."
        told = [
            text
            for text, word in ((counts, "noc"), (outlines, "boundary"))
            if any(word in m.key for m in rest)
        ]
        lines += ["".join(told).strip(), ""]
        lines += _table(["", *(m.title for m in rest)], rows(rest))
    return lines


def _by_set(result: StudyResult) -> list[str]:
    if len(result.datasets) < 2:
        return []
    plan = result.study.plan
    assert plan is not None
    titles = {m.key: m.title for m in metrics(plan.max_clicks)}
    named = [(model.subject.name, model.summary) for model in result.models if model.summary]
    lines = ["## Set by set", ""]
    for key in KEY_METRICS:
        if key not in titles or not any(key in summary.mean for _, summary in named):
            continue
        rows = []
        for name in named[0][1].sets:
            images, masks = named[0][1].counts[name]
            rows.append(
                [name, str(images), str(masks), *(_number(s.sets.get(name, {}).get(key)) for _, s in named)]
            )
        rows.append(
            [
                "**mean of sets**",
                "",
                "",
                *(f"**{_number(s.mean.get(key))}**" if key in s.mean else "" for _, s in named),
            ]
        )
        lines += [f"### {titles[key]}", ""]
        lines += _table(["set", "images", "masks", *(name for name, _ in named)], rows)
    return lines


def _verdicts(
    first: ModelResult,
    other: ModelResult,
    compared: Mapping[str, tuple[Metric, Comparison]],
    pictures: Mapping[str, bytes],
) -> list[str]:
    lines = [f"## {first.subject.name} against {other.subject.name}", ""]
    lines += [
        "Paired bootstrap over images; better or worse where the 95 % interval of the difference leaves out 0. "
        "For NoC the sign is turned, so that above 0 is better everywhere.",
        "",
    ]
    heads = ["figure", first.subject.name, other.subject.name, "difference", "95 % interval", "verdict"]
    rows = []
    for metric, comparison in compared.values():
        rows.append([f"**{metric.title}**", *_difference_cells(comparison.overall, metric, bold=True)])
        if len(comparison.sets) > 1:
            rows += [[name, *_difference_cells(d, metric)] for name, d in comparison.sets.items()]
    lines += _table(heads, rows)
    for key, (metric, _) in compared.items():
        lines += _picture(pictures, f"difference_{key}.png", f"Difference of {metric.title}, set by set")
    return lines


def _difference_cells(difference: Any, metric: Metric, bold: bool = False) -> list[str]:
    sign = 1.0 if metric.higher_is_better else -1.0
    verdict = f"**{difference.verdict}**" if bold else difference.verdict
    return [
        _number(sign * difference.candidate),
        _number(sign * difference.reference),
        f"{difference.difference:+.3f}",
        f"{difference.low:+.3f} to {difference.high:+.3f}",
        verdict,
    ]


def _extras(result: StudyResult, pictures: Mapping[str, bytes]) -> list[str]:
    lines: list[str] = []
    for name in result.study.extras:
        rows = [[m.subject.name, *m.extras[name].cells()] for m in result.models if name in m.extras]
        if not rows:
            continue
        extra = next(m.extras[name] for m in result.models if name in m.extras)
        lines += [f"## {extra.title}", "", extra.description, ""]
        lines += _table(["", *extra.heads()], rows)
        lines += _picture(pictures, f"{name}.png", extra.title)
    return lines


def _calibration(result: StudyResult, pictures: Mapping[str, bytes]) -> list[str]:
    rows = [
        [
            model.subject.name,
            prompt,
            str(found.count),
            _number(found.expected_error),
            f"{found.bias:+.3f}",
            _number(found.rank_correlation if found.rank_correlation == found.rank_correlation else None),
        ]
        for model in result.models
        if model.summary
        for prompt, found in model.summary.calibration.items()
    ]
    if not rows:
        return []
    lines = [
        "## Predicted IoU",
        "",
        "Expected calibration error in 15 bins over all masks, bias (above 0: too sure), Spearman's rank correlation "
        "with the true IoU. Methods without learning predict nothing and are left out.",
        "",
    ]
    lines += _table(["", "prompt", "masks", "ECE", "bias", "rank correlation"], rows)
    return lines + _picture(pictures, "calibration.png", "Predicted and true IoU")


def _strata(result: StudyResult, pictures: Mapping[str, bytes]) -> list[str]:
    summary = result.models[0].summary
    if summary is None or not summary.strata:
        return []
    titles = {"box": "box", "point": "1 click, top", "point_oracle": "1 click, best of 3"}
    keys = [key for key in titles if key in summary.strata]
    cells: dict[tuple[str, str], dict[str, Any]] = {}
    for key in keys:
        for row in summary.strata[key]:
            cells.setdefault((row.kind, row.name), {"masks": row.masks})[key] = row.mean
    rows = [
        [kind, name, str(found["masks"]), *(_number(found.get(key)) for key in keys)]
        for (kind, name), found in cells.items()
    ]
    lines = [
        "## By size, complexity and domain",
        "",
        f"{result.models[0].subject.name}; masks of all sets pooled. Size by COCO's limits on the picture's own "
        "pixels; complexity is perimeter^2 / (4 pi area), 1 for a disc.",
        "",
    ]
    lines += _table(["kind", "", "masks", *(titles[key] for key in keys)], rows)
    return lines + _picture(pictures, "strata_box.png", "Box, by size, complexity and domain")


def _speed(result: StudyResult) -> list[str]:
    timed = [m for m in result.models if m.speed is not None]
    if not timed:
        return []
    rows = []
    for model in timed:
        speed, subject = model.speed, model.subject
        assert speed is not None
        rows.append(
            [
                subject.name,
                f"{speed.encode_ms:.1f}",
                f"{speed.decode_ms:.1f}",
                f"{speed.peak_mb:.0f}",
                f"{speed.start_s:.2f}",
                "" if subject.file_bytes is None else f"{subject.file_bytes / 1e6:.1f}",
                "" if subject.parameters is None else f"{subject.parameters / 1e6:.2f}",
            ]
        )
    lines = [
        "## Speed",
        "",
        "Medians on the first pictures of the sets, each model in a process of its own; compare in this table only, "
        "since other work on the machine changes all of them. Peak memory counts the interpreter and libraries.",
        "",
    ]
    heads = [
        "",
        "encode, ms",
        "decode one prompt, ms",
        "peak, MiB",
        "start, s",
        "files, MB",
        "parameters, M",
    ]
    return lines + _table(heads, rows)


def _sets(result: StudyResult) -> list[str]:
    first = result.models[0]
    learned = [m for m in result.models if m.subject.sources != frozenset()]
    drawn = {r.name: r for r in first.sets}
    rows = []
    for name, facts in result.facts.items():
        r = drawn.get(name)
        images = "" if r is None else f"{r.seen_images} of {r.total_images}"
        masks = "" if r is None else f"{r.masks:,} of {r.seen_masks:,}"
        rows.append(
            [
                name,
                facts.content,
                images,
                masks,
                facts.origin,
                facts.licence,
                *(standing(facts, m.subject.sources) for m in learned),
            ]
        )
    heads = [
        "set",
        "content",
        "images",
        "masks of these",
        "origin",
        "licence as stated",
        *(f"to {m.subject.name}" for m in learned),
    ]
    return [
        "## The sets",
        "",
        "*Zero-shot*: from no source that the model was trained on. *Same source*: other pictures of that source were "
        "trained on. *Seen in training*: no test at all.",
        "",
        *_table(heads, rows),
    ]


def _references(result: StudyResult) -> list[str]:
    suite = result.suite
    if not suite.references:
        return []
    lines = ["## Published figures", ""]
    if suite.caution:
        lines += [suite.caution, ""]
    rows = [[r.what, f"{r.value:.3f}", r.source] for r in suite.references]
    return lines + _table(["figure", "value", "source"], rows)


def _picture(pictures: Mapping[str, bytes], name: str, text: str) -> list[str]:
    return [f"![{text}]({name})", ""] if name in pictures else []

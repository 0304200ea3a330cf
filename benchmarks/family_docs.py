"""The generated parts of docs/models.md: what there is (the catalogue), and how far it was compared (the results)."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

from anymask.runtime.catalogue import CATALOGUE
from family_rows import AT_LEAST, BOUNDS, Row, worst

PROMPTS = ("points", "boxes", "masks", "mixes", "many objects")
SHAPES = ("square", "wide", "tall", "7 x 5", "500 x 1", "1 x 500", "5000 x 1")
MEASURES = ("embedding", "cosine", "logits", "scores", "iou", "flip")


def fill(document: str, facts: dict[str, Any]) -> str:
    """The document with its parts between ``<!-- NAME -->`` and ``<!-- end NAME -->`` made anew."""
    for name, text in {"models": models(), "parity": parity(facts)}.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end {name} -->)", re.DOTALL)
        if len(pattern.findall(document)) != 1:
            raise ValueError(
                f"the document must have one part between <!-- {name} --> and <!-- end {name} -->"
            )
        document = pattern.sub(lambda found, text=text: f"{found[1]}\n{text}\n\n{found[2]}", document)
    return document


def models() -> str:
    """A line for each checkpoint."""
    rows = [
        (
            f"`{c.name}`",
            f"`{c.config}` of `{c.family}`",
            f"{c.parameters / 1e6:.1f} M",
            f"{c.megabytes:.0f}",
            c.licence,
            f"[{c.origin.removeprefix('https://github.com/')}]({c.origin})",
            "yes" if c.sha256 else "no (*)",
        )
        for c in CATALOGUE
    ]
    head = ("name", "config", "parameters", "MB", "licence", "origin", "digest pinned")
    return table(head, rows)


def parity(facts: dict[str, Any]) -> str:
    """Errors by family, by prompt and by shape, and how they were made."""
    rows = [Row(**row) for row in facts["rows"]]
    networks = [row for row in rows if row.kind != "picture"]
    pictures = [row for row in rows if row.kind == "picture"]
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    broken = [f"{row.family}, {row.case} ({', '.join(row.broken())})" for row in rows if row.broken()]
    verdict = f"**Broken bounds: {'; '.join(broken)}.**" if broken else "No bound is broken."
    return "\n\n".join(
        [
            f"`{facts['command']}`, {facts['date']}, {facts['machine']}; {versions}. "
            f"{len(rows)} comparisons. {verdict}",
            "By family; the worst of all prompts, and of both forms, as published and as run.",
            by_family(networks),
            "Of MobileSAM, EdgeSAM and RepViT-SAM every eighth cell of the logits was kept, with the sums of all and "
            "the number above 0: their IoU is the smaller of that of the kept cells and the one that the numbers "
            "leave possible, their flipped pixels are seen among the kept ones. HQ-SAM tiny: every ninth cell.",
            "Golden outputs: " + "; ".join(_origin(*item) for item in facts["origins"].items()) + ".",
            f"By kind of prompt: largest error of logits (bound {BOUNDS['logits']:g}), of scores "
            f"({BOUNDS['scores']:g}), smallest IoU ({BOUNDS['iou']:g}).",
            by_prompt(networks),
            "By shape of the picture (width x height), from its pixels to masks of its size through "
            "`Segmenter.segment_many`: largest error of logits, smallest IoU, any other measure with a broken bound. "
            "What is written down shares no code with the package, save, for families other than SAM and MedSAM, the "
            "image encoder in its published form (and HQ-SAM's decoder), which the tables above compare.",
            by_shape(pictures),
            "\n".join(notes(pictures)),
        ]
    )


def by_family(rows: Sequence[Row]) -> str:
    """The worst of each measure."""
    head = ["family", "against", "network"]
    for name in MEASURES:
        sign = ">=" if name == "iou" else "<="
        label = {"cosine": "1 - cosine", "iou": "IoU", "flip": "flipped pixel from 0"}.get(name, name)
        bound = 1 - BOUNDS[name] if name == "cosine" else BOUNDS[name]
        head.append(f"{label} {sign} {bound:.3g}")
    head.append("logits reach")
    lines = []
    for keys, group in grouped(rows, "family", "against", "network"):
        found = merged(group)
        reach = found.get("reach")
        cells = [shown(name, found.get(name)) for name in MEASURES]
        lines.append((*keys, *cells, "-" if reach is None else f"{reach:.0f}"))
    return table(head, lines)


def by_prompt(rows: Sequence[Row]) -> str:
    """Logits, scores and IoU."""
    lines = []
    for (family,), group in grouped(rows, "family"):
        lines.append((family, *(_cell(group, kind, ("logits", "scores", "iou")) for kind in PROMPTS)))
    return table(("family", *PROMPTS), lines)


def _cell(rows: Iterable[Row], kind: str, measures: Sequence[str]) -> str:
    here = [row for row in rows if row.kind == kind]
    if found := merged(here):
        return " / ".join(shown(name, found.get(name)) for name in measures)
    return next((row.note for row in here if row.note), "-")


def by_shape(rows: Sequence[Row]) -> str:
    """Logits and IoU."""
    lines = []
    for keys, group in grouped(rows, "family", "against", "network"):
        cells = []
        for shape in SHAPES:
            here = [row for row in group if shape_of(row.case) == shape]
            found = merged(here)
            text = " / ".join(shown(name, found.get(name)) for name in ("logits", "iou")) if found else "-"
            refused = not found and any(row.note for row in here)
            others = {name for row in here for name in row.broken()} - {"logits", "iou"}
            text += "".join(f" / {name} {shown(name, found[name])}" for name in MEASURES if name in others)
            cells.append("fails" if refused else text + (" (+)" if any(row.note for row in here) else ""))
        lines.append((*keys, *cells))
    return table(("family", "against", "network", *SHAPES), lines)


def notes(rows: Sequence[Row]) -> list[str]:
    """Where the other way breaks."""
    said = {(row.against, row.case, row.note): None for row in rows if row.note}
    return [f"- {against}, {case}: {note}." for against, case, note in said]


def shape_of(case: str) -> str:
    """The column of a picture's width x height."""
    width, height = (int(side) for side in case.split(" x "))
    if min(width, height) == 1 or max(width, height) < 10:
        return case
    return "square" if width == height else "wide" if width > height else "tall"


def merged(rows: Iterable[Row]) -> dict[str, float]:
    """The worst of each measure that the rows have."""
    names = (*MEASURES, "reach")
    return worst(
        {name: getattr(row, name) for name in names if getattr(row, name) is not None} for row in rows
    )


def grouped(rows: Iterable[Row], *names: str) -> list[tuple[tuple[str, ...], list[Row]]]:
    """Rows by some of their fields, in the order they came."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(getattr(row, name) for name in names), []).append(row)
    return list(groups.items())


def shown(name: str, value: float | None) -> str:
    """A number for a table, never nicer than it is; bold when its bound is broken."""
    if value is None:
        return "-"
    if name == "iou":
        text = "1" if value == 1 else f"{math.floor(value * 1e5) / 1e5:.5f}"
    else:
        text = "0" if value == 0 else f"{1 - value if name == 'cosine' else value:.1e}"
    kept = value >= BOUNDS[name] if name in AT_LEAST else value <= BOUNDS[name]
    return text if kept else f"**{text}**"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _origin(family: str, facts: dict[str, str]) -> str:
    name = facts["repository"].removeprefix("https://github.com/")
    return f"{family} [{name}]({facts['repository']}) at `{facts['commit'][:12]}` ({facts['commit_date']})"

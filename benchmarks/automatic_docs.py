"""What `automatic` measured as a part of docs/how-to/automatic.md: tables, and the targets with what was reached."""

from __future__ import annotations

import functools
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import automatic_memory as memory
from anymask.automatic.candidates import WAITING_BYTES
from automatic_contenders import AFTER_DECODER, CONTENDERS, PEER, PLAIN, PLANTED, TINY

__all__ = ["Target", "fill", "memory_section", "memory_table", "race_section", "sections", "targets", "write"]

Figures = Mapping[str, Any]
SECTION: Final = "## How fast, and how much memory"
PICTURE: Final = "images/automatic_memory.png"


@dataclass(frozen=True)
class Target:
    """What was aimed at.

    Attributes:
        text: what it says.
        reached: what was measured, as text.
        held: whether that is enough.
    """

    text: str
    reached: str
    held: bool


def sections(figures: Figures) -> dict[str, str]:
    """Text by the name of its part of the page: of the race and of memory, as far as they were measured."""
    parts = {}
    if "race" in figures:
        parts["automatic"] = race_section(figures["race"])
    if "memory" in figures:
        parts["automatic_memory"] = memory_section(figures["memory"])
    return parts


def write(figures: Figures, documents: Path) -> None:
    """Put the figures into the page ``how-to/automatic.md``, which is made if need be; the plot beside it."""
    page = documents / "how-to" / "automatic.md"
    page.parent.mkdir(parents=True, exist_ok=True)
    if "memory" in figures:
        picture = documents / PICTURE
        picture.parent.mkdir(parents=True, exist_ok=True)
        picture.write_bytes(memory.plot(figures["memory"]["points"]))
    page.write_text(fill(page.read_text() if page.exists() else "", sections(figures)))


def fill(document: str, parts: Mapping[str, str]) -> str:
    """The document with its parts between ``<!-- NAME -->`` and ``<!-- end NAME -->`` made anew.

    A part that has no place yet comes to the end, under `SECTION`.
    """
    for name, text in parts.items():
        begin, end = f"<!-- {name} -->", f"<!-- end {name} -->"
        if document.count(begin) != document.count(end) or document.count(begin) > 1:
            raise ValueError(f"the document must have one part between {begin} and {end}, or none")
        if begin not in document:
            heading = "" if SECTION in document else f"\n{SECTION}\n"
            document = f"{document.rstrip()}\n{heading}\n{begin}\n{end}\n"
        pattern = re.compile(f"({re.escape(begin)}\n).*?({re.escape(end)})", re.DOTALL)
        document = pattern.sub(functools.partial(_between, text), document)
    return document


def _between(text: str, found: re.Match[str]) -> str:
    return f"{found[1]}\n{text}\n\n{found[2]}"


def race_section(figures: Figures) -> str:
    """Where, both tables and what they mean."""
    parts = [
        f"{_origin(figures)} {figures['points_per_side']} x {figures['points_per_side']} clicks on "
        f"{'; '.join(figures['photographs'])}; seconds go from pixels to masks, the mean of each photograph's runs and "
        "then of photographs. `runs` says on how many photographs a contender ran, and how often in all.",
        _weights(figures),
        race_table(figures),
        "A ratio takes only runs of one sitting on one photograph. `encode`, `decode` and `rest` are shares of the "
        "seconds where they can be told apart; `same` is the share of masks with a partner at IoU 0.99 in the "
        "straightforward answer and the other way round, the smaller of both; `found` the share found again at IoU 0.9 "
        "of what the same engine finds with all clicks, or of the straightforward masks where all were asked.",
        targets_table(targets(figures)),
    ]
    parts += [f"`{name}` was left out: {reason}." for name, reason in figures["left_out"].items()]
    return "\n\n".join(parts)


def _origin(figures: Figures) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in figures["versions"].items())
    sittings = figures.get("sittings", [figures])
    dates = sorted({sitting["date"] for sitting in sittings})
    threads = "1 thread" if figures["threads"] == 1 else f"{figures['threads']} threads"
    often = f" in {len(sittings)} sittings" if len(sittings) > 1 else ""
    return (
        f"`python benchmarks/automatic.py`{often}, {' to '.join(sorted({dates[0], dates[-1]}))}, {figures['machine']}, "
        f"{threads}; {versions}."
    )


def _weights(figures: Figures) -> str:
    score, stability = figures["thresholds"]
    limits = f"predicted IoU {score:g}, stability {stability:g}"
    if figures["weights"] == TINY:
        return f"A tiny network of random weights, {limits}: figures only show that everything runs."
    if figures["weights"] != PLANTED:
        return f"Weights `{figures['weights']}`, {limits}."
    return (
        "ViT-B has random weights with shapes planted in them, the same for all "
        f"(`benchmarks/automatic_weights.py`); thresholds are set so that a fifth of all masks pass: {limits}. "
        "Times and memory are those of any ViT-B; `found` is not: look at nano's, whose weights are trained."
    )


def race_table(figures: Figures) -> str:
    """A row for each contender."""
    runs = figures["runs"]
    head = ("contender", "s", "encode / decode / rest", "x straightforward", "x transformers", "runs")
    rows = []
    for name in (name for name in runs if name != AFTER_DECODER):
        seconds = mean(runs[name], "seconds")
        split = "-"
        if "rest" in runs[name][0]:
            split = " / ".join(shown(mean(runs[name], part)) for part in ("encode", "decode", "rest"))
        agreed = figures["agreement"].get(name, {})
        same = min(
            (agreed[key] for key in ("same_of_wanted", "same_of_found") if key in agreed), default=None
        )
        clicks = [run["clicks"] for run in runs[name] if run["clicks"] is not None]
        rows.append(
            (
                f"`{name}`",
                shown(seconds),
                split,
                *(_times(times_faster(runs, name, other)) for other in (PLAIN, PEER)),
                f"{len({run['photograph'] for run in runs[name]})} ({len(runs[name])})",
                f"{sum(clicks) / len(clicks):.0f}" if clicks else "-",
                f"{mean(runs[name], 'masks'):.0f}",
                share(same),
                share(agreed.get("recall")),
                f"{peak(runs[name]):,.0f}",
            )
        )
    return table((*head, "clicks", "masks", "same", "found", "peak MB"), rows)


def targets(figures: Figures) -> list[Target]:
    """Those that the contenders which ran can answer."""
    runs, agreed = figures["runs"], figures["agreement"]
    found: list[Target] = []
    for precision, least in (("fp32", 7), ("bf16", 13)):
        found += _faster(runs, _of("vit_b", precision), f"ViT-B, {precision}", least)
    adaptive = [c.name for c in CONTENDERS.values() if c.model == "vit_b" and c.effort == "adaptive"]
    found += _faster(runs, adaptive, "ViT-B, adaptive grid", 20)
    for name in (*adaptive, "nano adaptive"):
        if "recall" in agreed.get(name, {}):
            reached = agreed[name]["recall"]
            found.append(
                Target(f"`{name}` finds 99 % of the full grid's masks", f"{share(reached)}", reached >= 0.99)
            )
    for name in (c.name for c in CONTENDERS.values() if c.exact):
        if "same_of_wanted" in agreed.get(name, {}):
            reached = min(agreed[name]["same_of_wanted"], agreed[name]["same_of_found"])
            found.append(
                Target(f"`{name}` gives the straightforward masks (99 %)", share(reached), reached >= 0.99)
            )
    if runs.get(AFTER_DECODER):
        wall = mean(runs[AFTER_DECODER], "plain_s") / mean(runs[AFTER_DECODER], "ours_s")
        found.append(Target("after the decoder 40 times faster", f"{wall:.0f} times", wall >= 40))
    for against in (PLAIN, PEER):
        ours = [name for name in _of("vit_b", "fp32") if runs.get(name)]
        if ours and runs.get(against):
            reached = min(peak(runs[name]) for name in ours) / peak(runs[against])
            text = f"ViT-B, fp32: at most half of the memory of `{against}`"
            found.append(Target(text, f"{reached:.0%}", reached <= 0.5))
    for effort, least, goal in (("normal", 30, 4.0), ("fast", 150, 0.8)):
        names = [c.name for c in CONTENDERS.values() if c.model == "nano" and c.effort == effort]
        found += _faster(runs, names, f"nano, {effort}", least, (PLAIN,), goal)
    return found


def _of(model: str, precision: str) -> list[str]:
    """Ours with all clicks."""
    return [
        c.name
        for c in CONTENDERS.values()
        if c.engine and c.model == model and c.precision == precision and c.effort == "normal"
    ]


def _faster(
    runs: Figures,
    names: Sequence[str],
    what: str,
    least: float,
    against: Sequence[str] = (PLAIN, PEER),
    goal: float | None = None,
) -> list[Target]:
    """The best of these contenders against each of the others."""
    ran = [name for name in names if runs.get(name)]
    if not ran:
        return []
    found = []
    for other in against:
        ratios = {name: ratio for name in ran if (ratio := times_faster(runs, name, other)) is not None}
        if ratios:
            best = max(ratios, key=lambda name: ratios[name])
            text = f"{what}: {least:g} times faster than `{other}`"
            found.append(Target(text, f"{_times(ratios[best])} times, `{best}`", ratios[best] >= least))
    if goal is not None:
        best = min(ran, key=lambda name: mean(runs[name], "seconds"))
        seconds = mean(runs[best], "seconds")
        found.append(
            Target(f"{what}: {goal:g} s a photograph", f"{seconds:.2f} s, `{best}`", seconds <= goal)
        )
    return found


def targets_table(rows: Iterable[Target]) -> str:
    """With misses in bold."""
    head = ("target", "measured", "reached")
    return table(head, [(row.text, row.reached, "yes" if row.held else "**no**") for row in rows])


def memory_section(figures: Figures) -> str:
    """Where, the plot and the table."""
    return "\n\n".join(
        [
            f"{_origin(figures)} The embedded model on an enlarged example, a process for each line; what the peak "
            "grows by over the loaded model, the picture's own pixels included.",
            f"![Memory over image size and over candidates](../{PICTURE})",
            memory_table(figures),
            verdict(figures["points"]),
        ]
    )


def memory_table(figures: Figures) -> str:
    """A row for each point."""
    head = (
        "",
        "megapixels",
        "candidates",
        "masks",
        "pixels MB",
        "grows by MB",
        "peak MB",
        "bytes a pixel",
    )
    rows = []
    for point in figures["points"]:
        each = point["increase_mb"] / point["megapixels"]
        numbers = (point[name] for name in ("pixels_mb", "increase_mb", "peak_mb"))
        rows.append(
            (
                "anymask" if point["way"] == "ours" else point["way"],
                f"{point['megapixels']:g}",
                f"{point['asked']:,}",
                f"{point['masks']:,}",
                *(f"{number:,.0f}" for number in numbers),
                f"{each:.1f}",
            )
        )
    return table(head, rows)


def verdict(points: Sequence[Figures]) -> str:
    """What more candidates cost."""
    row = memory.curve(points, "ours", "candidates")
    if len(row) < 2:
        return ""
    few, many = row[0], row[-1]
    return (
        f"From {few['asked']:,} to {many['asked']:,} candidates the peak changes by "
        f"{many['peak_mb'] - few['peak_mb']:+.0f} MB, {many['peak_mb'] / few['peak_mb'] - 1:+.1%}: the answer itself "
        f"({few['masks']:,} and {many['masks']:,} masks), and at most {WAITING_BYTES / 2**20:.0f} MiB of masks that "
        "may yet be suppressed."
    )


def mean(runs: Sequence[Figures], name: str) -> float:
    """Over each photograph's runs, then over photographs."""
    photographs: dict[int, list[float]] = {}
    for run in runs:
        photographs.setdefault(run["photograph"], []).append(float(run[name]))
    return statistics.fmean(statistics.fmean(values) for values in photographs.values())


def times_faster(runs: Figures, name: str, other: str) -> float | None:
    """The other's seconds by its own, over runs of one sitting on one photograph; None where there are none."""
    cells: list[dict[tuple[int, int], list[float]]] = [{}, {}]
    for cell, contender in zip(cells, (name, other), strict=True):
        for run in runs.get(contender, ()):
            cell.setdefault((run.get("sitting", 0), run["photograph"]), []).append(run["seconds"])
    shared = cells[0].keys() & cells[1].keys()
    own, theirs = (sum(statistics.fmean(cell[key]) for key in shared) for cell in cells)
    return theirs / own if shared else None


def peak(runs: Sequence[Figures]) -> float:
    """The largest of a process; it only grows."""
    return max(float(run["peak_mb"]) for run in runs)


def shown(seconds: float) -> str:
    """Three digits."""
    return f"{seconds:.0f}" if seconds >= 100 else f"{seconds:.1f}" if seconds >= 10 else f"{seconds:.2f}"


def share(value: float | None) -> str:
    """Per cent, never nicer than it is."""
    return "-" if value is None else f"{int(value * 1000 + 1e-9) / 10:.1f} %"


def _times(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.1f}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)

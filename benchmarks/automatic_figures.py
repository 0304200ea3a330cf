"""From counts of pictures to the figures of `automatic_quality`, and these as a table and as part of the model card."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from rich.table import Table

from anymask.evaluation.proposals import IOU_THRESHOLDS, PROPOSALS, ProposalCounts, score_proposals
from anymask.evaluation.suites import Reference, find_suite
from automatic_lists import LISTS

__all__ = [
    "BEGIN",
    "END",
    "FIGURES",
    "SIZES",
    "card_section",
    "mean_of_sets",
    "printed",
    "set_figures",
    "shown",
    "with_section",
]

BEGIN: Final = "<!-- masks of everything: begin; written by benchmarks/automatic_quality.py -->"
END: Final = "<!-- masks of everything: end -->"
SIZES: Final = ("small", "medium", "large")
FIGURES: Final[Mapping[str, str]] = {
    "recall_50": "recall at IoU 0.5",
    "recall_75": "0.75",
    "recall_90": "0.9",
    "ar_1000": "AR@1000",
    "masks_per_image": "masks per image",
    "duplicates_per_object": "duplicates per object",
    "repeats_per_image": "repeats per image",
}
"""Figures of a list, with their titles in a row of columns."""
_RECALL_AT: Final = {"recall_50": 0.5, "recall_75": 0.75, "recall_90": 0.9}
_DECIMALS: Final = {"masks_per_image": 1, "duplicates_per_object": 2, "repeats_per_image": 1}
_TITLES: Final = {
    "shipped": "as shipped",
    "unfiltered": "no thresholds",
    "proposals": "no thresholds, suppression at 0.9",
}
_SAM: Final = "arXiv 2304.02643"
_OTHER_REFERENCES: Final = (
    Reference("LVIS v1, SAM ViT-H with one mask for each click, mask AR@1000", 0.549, _SAM),
    Reference("SA-1B, automatic stage of SAM's data engine, masks per image, about", 100, _SAM),
)

_MEANING: Final = (
    "Recall is the share of objects that one of the first 1,000 masks, best first and one to one, overlaps by that "
    "IoU or more; AR@1000 is its mean over IoU 0.5, 0.55 ... 0.95. A mask belongs to the object it overlaps most, if "
    "by 0.5 or more; duplicates are an object's masks beyond its first, per object that has any. Repeats overlap a "
    "better mask by 0.9 or more. Most sets name only some of the objects in a picture, so a mask of none of them is "
    "no mistake."
)
_CAUTION: Final = (
    "Published figures of these measures. Neither sets, pictures nor grids are the same, so they are not to be "
    "compared with those above; none is known of recall at one IoU or of duplicates per object."
)
_WIDTH: Final = 120

Figures = Mapping[str, float | None]


def set_figures(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The figures of one set from what `QualityTask.measure` gave for each of its pictures.

    ``images``, ``objects``, and for each of `LISTS` those of `FIGURES` with ``ar_1000`` for each of `SIZES` (COCO's
    limits, 32^2 and 96^2 pixels). Recall is the share of all objects of the set; duplicates per object are the masks
    of an object beyond its first, see `automatic_lists.matched`, over all objects that have a mask. None where nothing
    is to be divided by.

    Raises:
        MaskError: there are no pictures.
    """
    figures = {name: list_figures([row[name] for row in rows]) for name in LISTS}
    objects = sum(row[LISTS[0]]["proposals"]["total"]["all"] for row in rows)
    return {"images": len(rows), "objects": objects, **figures}


def list_figures(rows: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """The figures of one list; see `set_figures`."""
    counts = [ProposalCounts.from_record(row["proposals"]) for row in rows]
    scores = score_proposals(counts)
    found = np.sum([count.found["all"][-1] for count in counts], axis=0)
    total = scores.total["all"]
    recalls: dict[str, float | None] = {}
    for name, threshold in _RECALL_AT.items():
        place = int(np.abs(np.array(IOU_THRESHOLDS) - threshold).argmin())
        recalls[name] = _share(int(found[place]), total)
    of_objects, objects = (sum(row[name] for row in rows) for name in ("matched_masks", "matched_objects"))
    limit = PROPOSALS[-1]
    return {
        **recalls,
        "ar_1000": scores.average_recall["all"][limit],
        "masks_per_image": sum(row["masks"] for row in rows) / len(rows),
        "duplicates_per_object": _share(of_objects - objects, objects),
        "repeats_per_image": sum(row["repeats"] for row in rows) / len(rows),
        **{f"ar_1000_{size}": scores.average_recall[size][limit] for size in SIZES},
    }


def mean_of_sets(sets: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, float | None]]:
    """For each of `LISTS` the mean of each figure over the sets that have it."""
    known = list(sets)
    names = [*FIGURES, *(f"ar_1000_{size}" for size in SIZES)]
    return {which: {name: _mean([s[which][name] for s in known]) for name in names} for which in LISTS}


def printed(document: Mapping[str, Any]) -> Table:
    """The set-by-set figures of all lists, for a terminal."""
    table = Table(title="masks of everything against all annotated objects")
    for title in ("list", "set", "images", "objects", *FIGURES.values()):
        table.add_column(title, justify="left" if title in ("list", "set") else "right")
    for which in LISTS:
        for name, figures in document["sets"].items():
            sizes = (str(figures["images"]), str(figures["objects"]))
            table.add_row(which, name, *sizes, *_cells(figures[which]))
        table.add_row(which, "mean of sets", "", "", *_cells(document["mean_of_sets"][which]))
        table.add_section()
    return table


def card_section(document: Mapping[str, Any]) -> str:
    """The part of the model card between `BEGIN` and `END`, both included, from the kept results."""
    protocol = document["protocol"]
    sizes = [f"AR@1000, {size}" for size in SIZES]
    side = protocol["settings"]["points_per_side"]
    thresholds = " and ".join(
        f"{protocol['settings'][name]:g}" for name in ("pred_iou_thresh", "stability_score_thresh")
    )
    about = (
        f"Effort `{protocol['effort']}` with this model's thresholds ({thresholds} of predicted IoU and stability), on "
        f"at most {protocol['images']} pictures a set, drawn with seed {protocol['seed']} before anything was "
        "measured, against all their annotated objects."
    )
    lists = (
        "What the thresholds cost, mean of sets. The last row goes by the published protocol of AR@1000, except for "
        f"its grid of {side} x {side} clicks in place of 64 x 64. Small is up to 32^2 pixels and large from 96^2, in "
        "pictures of at most 512 pixels a side."
    )
    lines = [
        *(BEGIN, "## Masks of everything", ""),
        *(_wrapped(about), "", *_by_set(document), ""),
        *(_wrapped(_MEANING), "", _wrapped(lists), "", *_by_list(document, sizes), ""),
        *(_wrapped(_CAUTION), "", "| published | figure | where |", "|---|---:|---|"),
        *(f"| {ref.what} | {_published(ref.value)} | {ref.source} |" for ref in _references()),
        *("", f"{document['date']}, {document['machine']}, printed by", f"`{document['command']}`.", END),
    ]
    return "\n".join(lines)


def with_section(card: str, section: str) -> str:
    """The card with this section in place of the one between the marks, or, where there is none, before "Speed".

    Raises:
        ValueError: the card has one mark alone, or neither marks nor that heading.
    """
    if BEGIN in card and END in card.partition(BEGIN)[2]:
        before, _, rest = card.partition(BEGIN)
        return before + section + rest.partition(END)[2]
    heading = "\n## Speed\n"
    if BEGIN in card or END in card or heading not in card:
        raise ValueError('the model card has no place for the section: neither both marks nor "## Speed"')
    before, _, rest = card.partition(heading)
    return f"{before}\n{section}\n{heading}{rest}"


def _by_set(document: Mapping[str, Any]) -> list[str]:
    """Rows by other names than those of the card's table of clicks, so that each table's rows are found by name."""
    heads = ["set", "images", "objects", *FIGURES.values()]
    lines = ["| " + " | ".join(heads) + " |", "|---|" + "---:|" * (len(heads) - 1)]
    for name, figures in document["sets"].items():
        cells = [f"`{name}`", str(figures["images"]), str(figures["objects"]), *_cells(figures["shipped"])]
        lines.append("| " + " | ".join(cells) + " |")
    mean = _cells(document["mean_of_sets"]["shipped"])
    return [*lines, "| " + " | ".join(["**mean over sets**", "", "", *mean]) + " |"]


def _by_list(document: Mapping[str, Any], sizes: Sequence[str]) -> list[str]:
    heads = ["masks", *FIGURES.values(), *sizes]
    lines = ["| " + " | ".join(heads) + " |", "|---|" + "---:|" * (len(heads) - 1)]
    for which, title in _TITLES.items():
        figures = document["mean_of_sets"][which]
        by_size = [shown("ar_1000", figures[f"ar_1000_{size}"]) for size in SIZES]
        lines.append("| " + " | ".join([title, *_cells(figures), *by_size]) + " |")
    return lines


def _references() -> list[Reference]:
    published = [ref for ref in find_suite("lvis").references if "AR@1000" in ref.what]
    return [*published, *_OTHER_REFERENCES]


def _cells(figures: Figures) -> list[str]:
    return [shown(name, figures[name]) for name in FIGURES]


def shown(name: str, value: float | None) -> str:
    """A figure as tables show it; "-" where there is none."""
    return "-" if value is None else f"{value:.{_DECIMALS.get(name, 3)}f}"


def _published(value: float) -> str:
    return f"{value:.3f}" if value < 1 else f"{value:g}"


def _wrapped(text: str) -> str:
    return textwrap.fill(text, _WIDTH, break_on_hyphens=False)


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None

"""How good labels are that a model gives on its own: each filter in turn, on labelled pictures that training held back.

    python benchmarks/pseudo_labels.py --data FOLDER           # a folder of training shards

A mask is right when an annotated one overlaps it by 0.75 or more; outside of BSDS500 annotation is not exhaustive, so
the share of right ones is a lower bound there. Filters join one after another: their shares are what they are for,
masks a picture are what they cost.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.progress import track

import anymask
from anymask.data.sa1b import open_shards
from anymask.masks import rle
from anymask.training.pseudo_labels import Filters, Labeller, Pseudo
from anymask.training.samples import is_held_back

HOLD_BACK: Final = 25
RIGHT_IOU: Final = 0.75
EXHAUSTIVE: Final = "bsds500"
LOOSE: Final = Filters(pred_iou=0.2, stability=0.2, consistency=0.0)


@dataclass(frozen=True)
class Judged:
    """A mask of a picture of ``source``, and its best IoU with an annotation."""

    source: str
    pseudo: Pseudo
    iou: float


def judge(labeller: Labeller, data: Path, images: int) -> tuple[list[Judged], dict[str, int]]:
    """Every candidate on the held-back pictures, and the pictures by source."""
    judged: list[Judged] = []
    counts: dict[str, int] = {}
    for shard in track(open_shards(data), description="sources"):
        held_back = [index for index in range(len(shard)) if is_held_back(index, HOLD_BACK)][:images]
        counts[shard.source] = len(held_back)
        for index in held_back:
            sample = shard[index]
            truths = [rle.parse(annotation["segmentation"])[0] for annotation in sample.annotations]
            for pseudo in labeller.candidates(anymask.read_image(sample.image)):
                best = max((rle.iou(pseudo.mask.counts, truth) for truth in truths), default=0.0)
                judged.append(Judged(sample.source, pseudo, best))
    return judged, counts


def row(name: str, judged: Sequence[Judged], counts: dict[str, int]) -> dict[str, float | str]:
    """One line: of all sources, and of the exhaustively annotated one."""
    figures: dict[str, float | str] = {"filters": name}
    for where, chosen, pictures in (
        ("all", list(judged), sum(counts.values())),
        (EXHAUSTIVE, [one for one in judged if one.source == EXHAUSTIVE], counts.get(EXHAUSTIVE, 0)),
    ):
        number = max(1, len(chosen))
        figures[f"{where}: masks a picture"] = len(chosen) / max(1, pictures)
        figures[f"{where}: right"] = sum(one.iou >= RIGHT_IOU for one in chosen) / number
        figures[f"{where}: mean IoU"] = sum(one.iou for one in chosen) / number
    return figures


def rows(judged: Sequence[Judged], counts: dict[str, int], filters: Filters) -> list[dict[str, float | str]]:
    """The filters one after another."""
    steps = [("none", list(judged))]
    for name, passes in (
        (f"predicted IoU > {filters.pred_iou}", lambda one: one.pseudo.mask.score > filters.pred_iou),
        (
            f"and stability >= {filters.stability}",
            lambda one: one.pseudo.mask.stability_score >= filters.stability,
        ),
        (
            f"and consistency >= {filters.consistency}",
            lambda one: one.pseudo.consistency >= filters.consistency,
        ),
    ):
        steps.append((name, [one for one in steps[-1][1] if passes(one)]))
    only = [one for one in judged if one.pseudo.consistency >= filters.consistency]
    steps.append((f"consistency >= {filters.consistency} alone", only))
    return [row(name, chosen, counts) for name, chosen in steps]


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of training shards")
    parser.add_argument("--model", default=None, help="model name or path (default: the embedded nano)")
    parser.add_argument("--images", type=int, default=12, help="held-back pictures per source (default: 12)")
    parser.add_argument("--json", type=Path, default=None, help="write the figures here too")
    options = parser.parse_args()
    judged, counts = judge(Labeller(anymask.load(options.model), LOOSE), options.data, options.images)
    table = rows(judged, counts, Filters())
    print("| " + " | ".join(table[0]) + " |")
    print("|---|" + "---:|" * (len(table[0]) - 1))
    for figures in table:
        cells = (value if isinstance(value, str) else f"{value:.2f}" for value in figures.values())
        print("| " + " | ".join(cells) + " |")
    if options.json is not None:
        options.json.write_text(json.dumps({"pictures": counts, "rows": table}, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Mean IoU of a model on labelled shards: box, one click, three and five clicks, beside answers without learning.

    python benchmarks/click_table.py --data ../shared/data/eval --json benchmarks/results/click_table.json

Protocol: at most 60 images per set and 5 masks per image, drawn with seed 0; the box is the mask's tight box; the
first click is the record's ``point_coords``; later clicks fall in the middle of the largest mistake and the previous
logits are fed back. Shards without masks are passed over. ``--closer`` measures the model with a closer look.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

import anymask
from anymask.data.sa1b import TarShard
from anymask.evaluation.clicks import simulate_clicks
from anymask.evaluation.metrics import filled_box, inscribed_ellipse, iou
from anymask.masks.rle import decode
from anymask.predict.promptable import Promptable

COLUMNS = ("filled_box", "ellipse", "box", "click_top", "click_best", "clicks_3", "clicks_5")
ANCHORS = {  # reference figures measured apart, on another draw: Felzenszwalb region; best of several (an oracle)
    "bsds500_test": (0.355, 0.420),
    "camvid_test": (0.286, 0.330),
    "ccp_test": (0.388, 0.423),
    "cvppp": (0.427, 0.558),
    "davis16a": (0.163, 0.189),
    "dsb2018": (0.557, 0.642),
    "humanseg_test": (0.243, 0.270),
    "komahomu_test": (0.295, 0.307),
    "tiles_eval": (0.289, 0.328),
}


@dataclass(frozen=True)
class SetResult:
    """Means over the masks of one set."""

    name: str
    images: int
    masks: int
    means: dict[str, float]
    calibration: list[tuple[float, float]]


def evaluate_set(
    segmenter: Promptable, shard: TarShard, images: int, masks: int, clicks: int, seed: int
) -> SetResult:
    """Run the protocol on one shard."""
    rng = np.random.default_rng(seed)
    chosen = sorted(rng.permutation(len(shard))[:images].tolist())
    rows: list[dict[str, float]] = []
    scores: list[tuple[float, float]] = []
    for index in track(chosen, description=f"{shard.source:<16}", console=Console(stderr=True)):
        sample = shard[index]
        embedding = segmenter.embed(sample.image)
        picks = sorted(rng.permutation(len(sample.annotations))[:masks].tolist())
        for pick in picks:
            row, score = evaluate_mask(segmenter, embedding, sample.annotations[pick], clicks)
            rows.append(row)
            scores.append((score, row["click_top"]))
    means = {column: float(np.mean([row[column] for row in rows])) for column in COLUMNS}
    return SetResult(shard.source, len(chosen), len(rows), means, scores)


def evaluate_mask(
    segmenter: Promptable, embedding: anymask.Embedding, annotation: Any, clicks: int
) -> tuple[dict[str, float], float]:
    """All columns for one mask, and the predicted IoU of the first click's top mask."""
    truth = decode(annotation["segmentation"])
    x, y, width, height = annotation["bbox"]
    size = truth.shape
    box = (max(0.0, x), max(0.0, y), min(float(size[1]), x + width), min(float(size[0]), y + height))
    point_x, point_y = annotation["point_coords"][0]
    clicked = simulate_clicks(segmenter, embedding, truth, clicks, first=(float(point_x), float(point_y)))
    answer = segmenter.segment(embedding, box=box, multimask=False)[0]
    return {
        "filled_box": iou(filled_box(box, size), truth),
        "ellipse": iou(inscribed_ellipse(box, size), truth),
        "box": iou(answer.array, truth),
        "click_top": clicked.top,
        "click_best": clicked.oracle,
        "clicks_3": clicked.after[2],
        "clicks_5": clicked.after[4],
    }, clicked.score


def print_table(results: list[SetResult], mean: dict[str, float]) -> None:
    """The table, with a row per set and one for the mean over sets."""
    table = Table(title="mean IoU; anchors without learning in brackets")
    table.add_column("set")
    for title in (
        "images",
        "masks",
        "filled box",
        "ellipse",
        "box",
        "1 click, top",
        "best of 3",
        "3 clicks",
        "5 clicks",
    ):
        table.add_column(title, justify="right")
    for result in results:
        top, best = ANCHORS.get(result.name, (None, None))
        cells = [f"{result.means[c]:.3f}" for c in COLUMNS]
        if top is not None:
            cells[3] += f" [{top:.3f}]"
            cells[4] += f" [{best:.3f}]"
        table.add_row(result.name, str(result.images), str(result.masks), *cells)
    table.add_section()
    table.add_row("mean of sets", "", "", *(f"{mean[c]:.3f}" for c in COLUMNS))
    Console(width=140).print(table)


def markdown(results: list[SetResult], mean: dict[str, float]) -> str:
    """The same table for a document."""
    heads = (
        "set",
        "images",
        "masks",
        "filled box",
        "ellipse",
        "**box**",
        "**1 click, top**",
        "no learning: region",
        "**1 click, best of 3**",
        "no learning: best region",
        "**3 clicks**",
        "**5 clicks**",
    )
    lines = ["| " + " | ".join(heads) + " |", "|---|" + "---:|" * (len(heads) - 1)]
    for result in results:
        anchors = [f"{a:.3f}" if a is not None else "" for a in ANCHORS.get(result.name, (None, None))]
        cells = [f"{result.means[c]:.3f}" for c in COLUMNS]
        row = [
            result.name,
            str(result.images),
            str(result.masks),
            *cells[:4],
            anchors[0],
            cells[4],
            anchors[1],
        ]
        lines.append("| " + " | ".join([*row, *cells[5:]]) + " |")
    known = [ANCHORS[r.name] for r in results if r.name in ANCHORS]
    anchors = [f"{np.mean([a[i] for a in known]):.3f}" for i in range(2)] if known else ["", ""]
    cells = [f"{mean[c]:.3f}" for c in COLUMNS]
    row = ["**mean of sets**", "", "", *cells[:4], anchors[0], cells[4], anchors[1], *cells[5:]]
    return "\n".join([*lines, "| " + " | ".join(row) + " |"]) + "\n"


def main() -> None:
    """Parse the command line, run, print, and write JSON when asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", required=True, type=Path, help="folder of SA-1B style tar shards with masks"
    )
    parser.add_argument("--model", default=None, help="model name or path (default: the embedded nano)")
    parser.add_argument("--closer", action="store_true", help="with a closer look at every answer")
    parser.add_argument("--images", type=int, default=60, help="images per set (default: 60)")
    parser.add_argument("--masks", type=int, default=5, help="masks per image (default: 5)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sets", nargs="*", default=None, help="names of sets (default: all)")
    parser.add_argument("--markdown", type=Path, default=None, help="write the table here too")
    parser.add_argument("--json", type=Path, default=None, help="write the figures here too")
    options = parser.parse_args()
    segmenter = anymask.load(options.model)
    measured = anymask.CloserLook(segmenter) if options.closer else segmenter
    names = options.sets or sorted(p.stem for p in options.data.glob("*.tar") if not p.stem.endswith("_raw"))
    results = [
        evaluate_set(
            measured, TarShard(options.data / f"{n}.tar"), options.images, options.masks, 5, options.seed
        )
        for n in names
    ]
    mean = {c: float(np.mean([r.means[c] for r in results])) for c in COLUMNS}
    print_table(results, mean)
    if options.markdown:
        options.markdown.write_text(markdown(results, mean))
    if options.json:
        document = {
            "date": datetime.date.today().isoformat(),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "model": segmenter.backend.spec.name,
            "model_digest": segmenter.backend.spec.digest,
            "closer": options.closer,
            "protocol": {"images": options.images, "masks": options.masks, "seed": options.seed},
            "sets": {r.name: {"images": r.images, "masks": r.masks, **r.means} for r in results},
            "mean_of_sets": mean,
        }
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Check the BSDS500 boundary benchmark on what is known: people against people, and Canny's edges.

    python benchmarks/edges_sanity.py --data ../shared/data/eval --images 8

People: each annotator in turn is taken as the prediction and measured against the others of that image (published F
0.80 over the 200 test images). Canny: the detector is run at as many thresholds as the curve has, and a pixel's value
is the highest at which it is an edge (published ODS 0.60, OIS 0.63, AP 0.58). Published figures: Arbelaez et al.,
TPAMI 2011, table of BSDS500 boundary benchmarks; a few images need not come out alike.
"""

from __future__ import annotations

import argparse
import datetime
import io
import json
import os
import platform
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table

from anymask.data.bsds500 import BoundarySample, Bsds500Test
from anymask.evaluation.edges import EdgeCounts, EdgeScores, count_edges, score_edges, threshold_steps

SIGMA = 2.0
LOW_SHARE = 0.4
PUBLISHED = {"people": ".80", "canny": ".60 .63 .58"}


def canny_map(image: bytes, levels: int) -> np.ndarray:
    """(H, W) floats: the highest of ``levels`` thresholds at which Canny calls the pixel an edge, 0 for none.

    Grey image smoothed with sigma 2. A level squared is the high threshold as a share of the steepest slope there
    can be, so that the many weak edges are spread over many levels; the low threshold is 0.4 of the high one (the
    ratio of MATLAB's `edge`).
    """
    grey = np.asarray(Image.open(io.BytesIO(image)).convert("L"), dtype=np.float32)
    smoothed = cv2.GaussianBlur(grey, (0, 0), SIGMA)
    steepest = 255 / (np.sqrt(2 * np.pi) * SIGMA)  # per pixel, of a blurred step from black to white
    scale = 16.0  # Canny takes whole numbers
    dx = np.rint(cv2.Sobel(smoothed, cv2.CV_32F, 1, 0) / 8 * scale).astype(np.int16)
    dy = np.rint(cv2.Sobel(smoothed, cv2.CV_32F, 0, 1) / 8 * scale).astype(np.int16)
    soft = np.zeros(grey.shape)
    for level in threshold_steps(levels):
        high = level**2 * steepest * scale
        edges = cv2.Canny(dx, dy, LOW_SHARE * high, high, L2gradient=True)
        soft[edges > 0] = level
    return soft


def measure(job: tuple[Path, Path | None, int, int]) -> tuple[list[EdgeCounts], EdgeCounts, dict[str, float]]:
    """Both measurements of one image, and the seconds of each."""
    folder, manifest, index, levels = job
    sample: BoundarySample = Bsds500Test(folder, manifest)[index]
    drawn = sample.truth.boundaries
    start = time.perf_counter()
    people = [
        count_edges(one, [*drawn[:i], *drawn[i + 1 :]], thresholds=1)
        for i, one in enumerate(drawn)
        if len(drawn) > 1
    ]
    middle = time.perf_counter()
    canny = count_edges(canny_map(sample.image, levels), drawn, thresholds=levels)
    return people, canny, {"people": middle - start, "canny": time.perf_counter() - middle}


def print_table(people: EdgeScores, canny: EdgeScores, seconds: dict[str, float], images: int) -> None:
    """A row per measurement."""
    table = Table(title=f"BSDS500 test, {images} images; published: ODS, OIS, AP over all 200")
    for name in ("edges", "ODS", "P", "R", "OIS", "AP", "R50", "published", "s per image"):
        table.add_column(name, justify="left" if name == "edges" else "right")
    for name, scores in (("people", people), ("canny", canny)):
        figures = [scores.ods.f, scores.ods.precision, scores.ods.recall]
        if name == "canny":
            figures += [scores.ois.f, scores.average_precision, scores.recall_at_half_precision]
        cells = [f"{figure:.3f}" for figure in figures] + [""] * (6 - len(figures))
        table.add_row(name, *cells, PUBLISHED[name], f"{seconds[name]:.1f}")
    Console().print(table)


def as_record(scores: EdgeScores) -> dict[str, float | None]:
    """The figures for the JSON file."""
    return {
        "ods": scores.ods.f,
        "ods_precision": scores.ods.precision,
        "ods_recall": scores.ods.recall,
        "ods_threshold": scores.ods.threshold,
        "ois": scores.ois.f,
        "ap": scores.average_precision,
        "r50": scores.recall_at_half_precision,
    }


def main() -> None:
    """Parse the command line, run, print, and write JSON when asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, type=Path, help="folder with the two bsds500_test tars")
    parser.add_argument(
        "--manifest", type=Path, default=None, help="default: manifest.csv beside or above it"
    )
    parser.add_argument(
        "--images", type=int, default=200, help="how many, spread over the set (default: 200)"
    )
    parser.add_argument("--thresholds", type=int, default=99, help="points on Canny's curve (default: 99)")
    parser.add_argument("--workers", type=int, default=1, help="processes (default: 1)")
    parser.add_argument("--json", type=Path, default=None, help="write the figures here too")
    options = parser.parse_args()
    total = len(Bsds500Test(options.data, options.manifest))
    count = max(1, min(options.images, total))
    chosen = [i * total // count for i in range(count)]
    jobs = [(options.data, options.manifest, index, options.thresholds) for index in chosen]
    screen = Console(stderr=True)
    if options.workers > 1:
        with ProcessPoolExecutor(options.workers) as pool:
            results = list(track(pool.map(measure, jobs), "images", total=count, console=screen))
    else:
        results = [measure(job) for job in track(jobs, "images", console=screen)]
    people = score_edges([counts for drawn, _, _ in results for counts in drawn])
    canny = score_edges([counts for _, counts, _ in results])
    seconds = {name: float(np.mean([spent[name] for _, _, spent in results])) for name in ("people", "canny")}
    print_table(people, canny, seconds, count)
    if options.json:
        document = {
            "date": datetime.date.today().isoformat(),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "images": count,
            "thresholds": options.thresholds,
            "people": as_record(people),
            "canny": as_record(canny),
            "seconds_per_image": seconds,
        }
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Check the BSDS500 boundary benchmark on what is known: people against people, and two edge maps without learning.

    python benchmarks/edges_sanity.py --data ../shared/data/eval --images 8

People: each annotator in turn is taken as the prediction and measured against the others of that image (published: F
0.80 at precision 0.90 and recall 0.72 over the 200 test images). Canny: the detector is run at as many thresholds as
the curve has, and a pixel's value is the highest at which it is an edge (published: ODS 0.60, OIS 0.63, AP 0.58).
Gradient: the slope of the smoothed image after non-maximum suppression, which exercises that part too. Published
figures: Arbelaez et al., TPAMI 2011; `edgesEvalPlot.m` of Dollar's edges toolbox for people. Images differ widely (a
standard deviation of 0.09 in people's F), so a few images need not come out alike.
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
from anymask.evaluation.boundaries.edges import (
    EdgeCounts,
    EdgeScores,
    count_edges,
    score_edges,
    smooth_triangle,
    suppress_non_maxima,
    threshold_steps,
)

SIGMA = 2.0
LOW_SHARE = 0.4
WHOLE = 4096  # Canny takes whole numbers
PUBLISHED = {"people": ".80", "canny": ".60 .63 .58"}


def slopes(image: bytes) -> tuple[np.ndarray, np.ndarray]:
    """(H, W) slopes along x and y of the grey image smoothed with sigma 2, 1 for the steepest there can be."""
    grey = np.asarray(Image.open(io.BytesIO(image)).convert("L"), dtype=np.float32)
    smoothed = cv2.GaussianBlur(grey, (0, 0), SIGMA)
    steepest = 255 / (np.sqrt(2 * np.pi) * SIGMA)  # per pixel, of a blurred step from black to white
    dx, dy = (cv2.Sobel(smoothed, cv2.CV_32F, *axis, scale=1 / 8) / steepest for axis in ((1, 0), (0, 1)))
    return dx, dy


def canny_map(image: bytes, levels: int) -> np.ndarray:
    """(H, W) floats: the highest of ``levels`` at which Canny calls the pixel an edge, 0 for none.

    A level squared is the high threshold, so that the many weak edges are spread over many levels; the low threshold
    is 0.4 of the high one (the ratio of MATLAB's `edge`).
    """
    dx, dy = (np.rint(slope * WHOLE).astype(np.int16) for slope in slopes(image))
    soft = np.zeros(dx.shape)
    for level in threshold_steps(levels):
        high = level**2 * WHOLE
        soft[cv2.Canny(dx, dy, LOW_SHARE * high, high, L2gradient=True) > 0] = level
    return soft


def gradient_map(image: bytes) -> np.ndarray:
    """(H, W) floats: square root of the slope, thinned by non-maximum suppression."""
    steepness = np.sqrt(np.minimum(np.hypot(*slopes(image)), 1)).astype(np.float32)
    return suppress_non_maxima(smooth_triangle(steepness, 1))


def measure(job: tuple[Path, Path | None, int, int]) -> tuple[dict[str, list[EdgeCounts]], dict[str, float]]:
    """All measurements of one image, and the seconds of each."""
    folder, manifest, index, levels = job
    sample: BoundarySample = Bsds500Test(folder, manifest)[index]
    drawn = sample.truth.boundaries
    counts: dict[str, list[EdgeCounts]] = {}
    times = [time.perf_counter()]
    everyone = enumerate(drawn) if len(drawn) > 1 else ()
    counts["people"] = [count_edges(one, [*drawn[:i], *drawn[i + 1 :]], thresholds=1) for i, one in everyone]
    times.append(time.perf_counter())
    counts["canny"] = [count_edges(canny_map(sample.image, levels), drawn, thresholds=levels)]
    times.append(time.perf_counter())
    counts["gradient"] = [count_edges(gradient_map(sample.image), drawn, thresholds=levels)]
    times.append(time.perf_counter())
    return counts, dict(zip(counts, np.diff(times).tolist(), strict=True))


def print_table(scores: dict[str, EdgeScores], seconds: dict[str, float], images: int) -> None:
    """A row per measurement."""
    table = Table(title=f"BSDS500 test, {images} images; published: ODS, OIS, AP over all 200")
    for name in ("edges", "ODS", "P", "R", "OIS", "AP", "R50", "published", "s / image"):
        table.add_column(name, justify="left" if name == "edges" else "right")
    for name, score in scores.items():
        figures = list(as_record(name, score).values())
        cells = [f"{figure:.3f}" for figure in figures] + [""] * (6 - len(figures))
        table.add_row(name, *cells, PUBLISHED.get(name, ""), f"{seconds[name]:.1f}")
    Console(width=110).print(table)


def as_record(name: str, score: EdgeScores) -> dict[str, float]:
    """The figures by name; people have one threshold and so no curve."""
    point = {"ods": score.ods.f, "precision": score.ods.precision, "recall": score.ods.recall}
    if name == "people":
        return point
    curve = {
        "ois": score.ois.f,
        "ap": score.average_precision,
        "r50": score.recall_at_half_precision,
    }
    return point | curve


def main() -> None:
    """Parse the command line, run, print, and write JSON when asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder with the two bsds500_test tars")
    parser.add_argument(
        "--manifest", type=Path, default=None, help="default: manifest.csv beside or above it"
    )
    parser.add_argument("--images", type=int, default=200, help="how many (default: 200)")
    parser.add_argument("--seed", type=int, default=0, help="draws the images when not all are wanted")
    parser.add_argument("--thresholds", type=int, default=99, help="points on a curve (default: 99)")
    parser.add_argument("--workers", type=int, default=1, help="processes (default: 1)")
    parser.add_argument("--json", type=Path, default=None, help="write the figures here too")
    options = parser.parse_args()
    if options.data is None:
        print("left out: it needs BSDS500, give --data FOLDER")
        return
    total = len(Bsds500Test(options.data, options.manifest))
    count = max(1, min(options.images, total))
    chosen = sorted(np.random.default_rng(options.seed).permutation(total)[:count].tolist())
    jobs = [(options.data, options.manifest, index, options.thresholds) for index in chosen]
    screen = Console(stderr=True)
    if options.workers > 1:
        with ProcessPoolExecutor(options.workers) as pool:
            results = list(track(pool.map(measure, jobs), "images", total=count, console=screen))
    else:
        results = [measure(job) for job in track(jobs, "images", console=screen)]
    scores = {
        name: score_edges([one for counts, _ in results for one in counts[name]]) for name in results[0][0]
    }
    seconds = {name: float(np.mean([spent[name] for _, spent in results])) for name in scores}
    print_table(scores, seconds, count)
    if options.json:
        document = {
            "date": datetime.date.today().isoformat(),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "images": count,
            "thresholds": options.thresholds,
            "seed": options.seed,
            "scores": {name: as_record(name, score) for name, score in scores.items()},
            "seconds_per_image": seconds,
        }
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()

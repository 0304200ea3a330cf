"""Peak memory of everything mode over the size of the image and the number of candidates, and its plot.

Every point is a process of its own. It opens the embedded model, finds everything in the example with a few clicks, so
that engine and activations are there, and notes its peak; then comes the picture, the example enlarged, as an array of
pixels. What the peak grows by is shown: pixels included, model and engine not. The straightforward way (see
`automatic_plain`) has the same network, and stops where a machine of 16 GB would.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from automatic_engines import peak_mb

__all__ = ["MEGAPIXELS", "Point", "measure", "measure_point", "plan", "plot"]

MEGAPIXELS: Final = (1.0, 4.0, 12.0, 25.0, 50.0, 100.0)
PLAIN_MEGAPIXELS: Final = (1.0, 2.0, 4.0, 6.0)
GRIDS: Final = (8, 16, 32, 64)
GRID: Final = 8
"""Clicks per side where the size changes: one batch of the straightforward way."""
PIXELS: Final = 1.5
"""Megapixels where the number of candidates changes."""
EXAMPLE: Final = Path(__file__).parents[1] / "examples" / "photo.jpg"


@dataclass(frozen=True)
class Point:
    """One process.

    Attributes:
        way: ``ours`` or ``straightforward``.
        curve: ``size`` or ``candidates``.
        megapixels: of the picture, three to two.
        points_per_side: clicks in a row.
        all_pass: no threshold: every mask with a pixel is a candidate.
        picture: file of pixels, made by the parent.
    """

    way: str
    curve: str
    megapixels: float
    points_per_side: int
    all_pass: bool = False
    picture: str = ""


def plan(quick: bool = False) -> list[Point]:
    """All points; ``quick`` ones only show that they run."""
    if quick:
        return [
            Point("ours", "size", 0.25, 4),
            Point("straightforward", "size", 0.25, 4),
            Point("ours", "candidates", 0.25, 4, all_pass=True),
        ]
    return [
        *(Point("ours", "size", megapixels, GRID) for megapixels in MEGAPIXELS),
        *(Point("straightforward", "size", megapixels, GRID) for megapixels in PLAIN_MEGAPIXELS),
        *(Point("ours", "candidates", PIXELS, grid, all_pass=True) for grid in GRIDS),
    ]


def measure(script: Path, threads: int, quick: bool) -> list[dict[str, Any]]:
    """Every point's figures; ``script --memory-point POINT`` runs `measure_point`."""
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        for point in plan(quick):
            path = Path(temporary) / "picture.npy"
            np.save(path, enlarged(point.megapixels))
            given = json.dumps(dataclasses.asdict(dataclasses.replace(point, picture=str(path))))
            command = [sys.executable, str(script), "--memory-point", given, "--threads", str(threads)]
            done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
            row: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
            rows.append(row)
            print(
                f"{row['way']}, {row['curve']}: {row['megapixels']:g} MP, {row['asked']} masks asked, "
                f"{row['masks']} left: peak {row['peak_mb']:.0f} MB, {row['increase_mb']:.0f} MB over the model",
                file=sys.stderr,
            )
    return rows


def enlarged(megapixels: float) -> np.ndarray[Any, Any]:
    """The example at so many million pixels, (H, W, 3) uint8, three to two."""
    from PIL import Image

    height = round((megapixels * 1e6 / 1.5) ** 0.5)
    with Image.open(EXAMPLE) as photo:
        resized = photo.convert("RGB").resize((round(1.5 * height), height), Image.Resampling.BILINEAR)
    return np.asarray(resized)


def measure_point(point: Point, threads: int) -> None:
    """What the process of a point does: print its figures as a line of JSON."""
    import cv2

    import anymask
    from anymask.automatic.generator import Generator
    from anymask.automatic.settings import AutomaticSettings

    cv2.setNumThreads(threads)
    segmenter = anymask.load("nano", backend="onnx", threads=threads, precision="fp32")
    given: dict[str, Any] = {"points_per_side": point.points_per_side}
    if point.all_pass:
        given |= {"pred_iou_thresh": 0.0, "stability_score_thresh": 0.0}
    if point.way == "straightforward":
        import torch

        from automatic_plain import plain_generate

        torch.set_num_threads(threads)
        given["points_per_batch"] = 64

        def generate(image: Any, settings: AutomaticSettings) -> int:
            return len(plain_generate(segmenter, image, settings))
    else:

        def generate(image: Any, settings: AutomaticSettings) -> int:
            return len(Generator(segmenter, settings).run(image).masks)

    settings = AutomaticSettings.for_effort(model="nano", **given)
    generate(enlarged(0.24), dataclasses.replace(settings, points_per_side=4))
    before = peak_mb()
    image = np.load(point.picture)
    start = time.perf_counter()
    masks = generate(image, settings)
    facts = dataclasses.asdict(point)
    del facts["picture"]
    row = {
        **facts,
        "asked": 3 * point.points_per_side**2,
        "masks": masks,
        "seconds": time.perf_counter() - start,
        "pixels_mb": image.nbytes / 1e6,
        "loaded_mb": before,
        "peak_mb": peak_mb(),
        "increase_mb": peak_mb() - before,
    }
    print(json.dumps(row))


def curve(rows: Sequence[Mapping[str, Any]], way: str, name: str) -> list[Mapping[str, Any]]:
    """The points of one line."""
    return [row for row in rows if row["way"] == way and row["curve"] == name]


def plot(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Two panels, megabytes over the loaded model, as PNG."""
    from anymask.evaluation.pictures.plot_style import legend_above, look, new_figure, png_bytes, style

    with style():
        figure = new_figure(8, 3.4)
        left, right = figure.subplots(1, 2)
        handles = []
        for index, way in enumerate(("ours", "straightforward")):
            points = curve(rows, way, "size")
            handles += left.plot(
                [row["megapixels"] for row in points], [row["increase_mb"] for row in points], **look(index)
            )
        legend_above(left, handles, ["anymask", "straightforward"], 2)
        left.set_xlabel("megapixels")
        points = curve(rows, "ours", "candidates")
        right.plot([row["asked"] for row in points], [row["increase_mb"] for row in points], **look(0))
        right.set_xlabel("candidates")
        for axes in (left, right):
            axes.set_ylabel("MB over the loaded model")
            axes.set_ylim(bottom=0)
            axes.set_xlim(left=0)
        return png_bytes(figure)

"""One click on each of a picture's most obvious objects: a sheet to look at, misses included.

    python benchmarks/contact_sheet.py --out sheet.png --only examples skimage matplotlib
    python benchmarks/contact_sheet.py --out sheet.png --samples FOLDER --only samples

Clicks lie in `contact_clicks.json`, chosen by looking at the pictures alone. Each tile shows the top-scored mask of one
click, the click, and the predicted IoU. Whether one would keep it is for the eye to say.
"""

from __future__ import annotations

import argparse
import json
from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture

import anymask
from anymask.masks.overlay import contact_sheet, draw_overlay, draw_prompts

ROOT = Path(__file__).parents[1]
CLICKS = Path(__file__).with_name("contact_clicks.json")
Pixels = NDArray[np.uint8]


def locate(name: str, samples: Path | None) -> Path | None:
    """The file of "place/picture": of this repository, of an installed package, or of the folder of samples."""
    place, picture = name.split("/")
    if place == "examples":
        return ROOT / name
    if place == "samples":
        return None if samples is None else samples / picture
    package = {"skimage": ("skimage", "data"), "matplotlib": ("matplotlib", "mpl-data/sample_data")}[place]
    return Path(str(files(package[0]).joinpath(package[1], picture)))


def panels(segmenter: anymask.Segmenter, path: Path, clicks: dict[str, list[float]], side: int) -> Pixels:
    """A picture's row: each object's top-scored mask after one click, with what was meant and the predicted IoU."""
    image = anymask.read_image(path)
    embedding = segmenter.embed(image)
    drawn, captions = [], []
    for what, (x, y) in clicks.items():
        point = (x * image.width, y * image.height)
        mask = max(segmenter.segment(embedding, points=[point]), key=lambda answer: answer.score)
        panel = draw_overlay(image.pixels, mask.array)
        draw_prompts(panel, [point])
        drawn.append(panel)
        captions.append(f"{what}  {mask.score:.2f}")
    return contact_sheet(drawn, captions, side)


def below_one_another(rows: list[Pixels]) -> Pixels:
    """Rows of different widths as one picture on the sheet's own ground."""
    width = max(row.shape[1] for row in rows)
    ground = rows[0][0, 0]
    widened = []
    for row in rows:
        strip = np.broadcast_to(ground, (row.shape[0], width, 3)).copy()
        strip[:, : row.shape[1]] = row
        widened.append(strip)
    return np.concatenate(widened)


def main() -> None:
    """Draw the sheet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=None, help="model name or path (default: the embedded nano)")
    parser.add_argument("--samples", type=Path, default=None, help="folder of the sample photographs")
    parser.add_argument("--only", nargs="+", default=["examples", "skimage", "matplotlib", "samples"])
    parser.add_argument("--names", nargs="+", default=None, help="these pictures alone, as place/picture")
    parser.add_argument("--side", type=int, default=300, help="longest side of a panel in pixels")
    parser.add_argument("--out", type=Path, required=True, help="PNG or JPEG file")
    options = parser.parse_args()
    segmenter = anymask.load(options.model)
    rows: list[Pixels] = []
    count = 0
    for name, clicks in json.loads(CLICKS.read_text()).items():
        path = locate(name, options.samples)
        wanted = name in options.names if options.names else name.split("/")[0] in options.only
        if path is not None and wanted:
            rows.append(panels(segmenter, path, clicks, options.side))
            count += len(clicks)
    if not rows:
        parser.error("no picture is left: give --samples, or other --only or --names")
    Picture.fromarray(below_one_another(rows)).save(options.out)
    print(f"{count} clicks on {len(rows)} pictures: {options.out}")


if __name__ == "__main__":
    main()

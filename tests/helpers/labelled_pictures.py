"""Labelled pictures for tests of evaluation: discs and bars on noise, with exact masks, as a tar shard."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image as PillowImage

from anymask.data.dataset import Sample
from anymask.masks.rle import encode


def picture(
    number: int, size: tuple[int, int] = (60, 80), masks: int = 3
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Pixels (H, W, 3) uint8 and masks (H, W) bool of picture ``number``: discs of several sizes, apart."""
    rng = np.random.default_rng(number)
    height, width = size
    pixels = rng.integers(60, 90, (height, width, 3)).astype(np.uint8)
    rows, columns = np.mgrid[:height, :width] + 0.5
    found = []
    for index in range(masks):
        radius = 4 + 2 * index + int(rng.integers(3))
        x = width * (index + 0.5) / masks + rng.uniform(-1, 1)
        y = rng.uniform(radius + 1, height - radius - 1)
        mask = (rows - y) ** 2 + (columns - x) ** 2 <= radius**2
        pixels[mask] = rng.integers(150, 250, 3)
        found.append(mask)
    return pixels, found


def encoded(pixels: np.ndarray) -> bytes:
    """A PNG file."""
    buffer = io.BytesIO()
    PillowImage.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def records(masks: list[np.ndarray], category: str | None = None) -> list[dict[str, object]]:
    """SA-1B annotations of masks, ids from 1."""
    annotations: list[dict[str, object]] = []
    for index, mask in enumerate(masks, start=1):
        ys, xs = np.nonzero(mask)
        annotation: dict[str, object] = {
            "id": index,
            "segmentation": encode(mask),
            "area": int(mask.sum()),
            "bbox": [int(xs.min()), int(ys.min()), int(np.ptp(xs)) + 1, int(np.ptp(ys)) + 1],
        }
        annotations.append(annotation | ({"category": category} if category else {}))
    return annotations


def sample(
    number: int,
    source: str = "discs",
    size: tuple[int, int] = (60, 80),
    masks: int = 3,
    category: str | None = None,
) -> Sample:
    """Picture ``number`` as a `Sample`."""
    pixels, found = picture(number, size, masks)
    return Sample(
        f"{source}_{number:06d}", source, encoded(pixels), size[1], size[0], records(found, category)
    )


def write_shard(
    folder: Path, source: str = "discs", images: int = 6, masks: int = 3, category: str | None = None
) -> Path:
    """``folder/source.tar`` in SA-1B layout."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{source}.tar"
    with tarfile.open(path, "w") as archive:
        for number in range(images):
            one = sample(number, source, masks=masks, category=category)
            document = {
                "image": {
                    "image_id": number,
                    "width": one.width,
                    "height": one.height,
                    "file_name": f"{one.key}.png",
                },
                "annotations": list(one.annotations),
            }
            for name, data in (
                (f"{one.key}.png", one.image),
                (f"{one.key}.json", json.dumps(document).encode()),
            ):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return path

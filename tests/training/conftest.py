"""A small shard of drawn scenes: the masks' colours make every geometric mistake visible."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from anymask.masks.rle import encode

COLOURS = np.array([[220, 30, 30], [30, 200, 40], [40, 60, 230]], np.uint8)


def scene(seed: int, size: tuple[int, int] = (180, 240)) -> tuple[np.ndarray, list[np.ndarray]]:
    """Grey noise with one to three plain-coloured ellipses; (H, W, 3) uint8 and their visible masks."""
    rng = np.random.default_rng(seed)
    image = rng.integers(90, 120, (*size, 3)).astype(np.uint8)
    owner = np.zeros(size, np.uint8)
    for index in range(3):
        centre = (int(rng.integers(40, size[1] - 40)), int(rng.integers(40, size[0] - 40)))
        axes = (int(rng.integers(14, 36)), int(rng.integers(14, 36)))
        cv2.ellipse(owner, centre, axes, float(rng.integers(180)), 0, 360, index + 1, -1)
    for index in range(3):
        image[owner == index + 1] = COLOURS[index]
    return image, [owner == i + 1 for i in range(3) if (owner == i + 1).sum() > 200]


def write_shard(path: Path, count: int, seed: int = 0) -> Path:
    """A tar of ``count`` drawn scenes in SA-1B layout."""
    with tarfile.open(path, "w") as archive:
        for number in range(count):
            image, masks = scene(seed * 1000 + number)
            annotations = []
            for identity, mask in enumerate(masks):
                ys, xs = np.nonzero(mask)
                box = [int(xs.min()), int(ys.min()), int(np.ptp(xs)) + 1, int(np.ptp(ys)) + 1]
                annotations.append(
                    {
                        "id": identity,
                        "segmentation": encode(mask),
                        "bbox": box,
                        "area": int(mask.sum()),
                        "predicted_iou": 1.0,
                        "stability_score": 1.0,
                        "crop_box": [0, 0, mask.shape[1], mask.shape[0]],
                        "point_coords": [[int(xs[len(xs) // 2]), int(ys[len(ys) // 2])]],
                    }
                )
            info = {
                "image_id": number,
                "width": image.shape[1],
                "height": image.shape[0],
                "file_name": f"scene_{number:06d}.jpg",
            }
            png = cv2.imencode(".png", image[..., ::-1])[1].tobytes()
            record = json.dumps({"image": info, "annotations": annotations}).encode()
            for suffix, data in ((".png", png), (".json", record)):
                member = tarfile.TarInfo(f"scene_{number:06d}{suffix}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return path


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two shards of drawn scenes."""
    folder = tmp_path_factory.mktemp("shards")
    write_shard(folder / "first.tar", 12, seed=1)
    write_shard(folder / "second.tar", 5, seed=2)
    return folder

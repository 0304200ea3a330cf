"""Small pictures and mask pictures in files, for the dataset readers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image as PillowImage


def save_picture(path: Path, height: int, width: int, seed: int = 0) -> bytes:
    """A noisy picture in the format of its suffix; returns the file's bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    PillowImage.fromarray(pixels).save(path)
    return path.read_bytes()


def save_mask(path: Path, values: np.ndarray, palette: bool = False) -> None:
    """A PNG of those values: (H, W) bool, uint8 or uint16, or (H, W, 3) uint8; ``palette`` stores uint8 as indices."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = PillowImage.fromarray(values)
    if palette:
        picture.putpalette(np.random.default_rng(1).integers(0, 256, 768).tolist())  # turns grey into indices
    picture.save(path)

"""Pictures with edges, for whatever needs more than noise."""

from __future__ import annotations

import numpy as np


def make_picture(height: int, width: int) -> np.ndarray:
    """Blocks of colour on a gradient, (height, width, 3) uint8."""
    rng = np.random.default_rng(height * 1000 + width)
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([x * 255 // width, y * 255 // height, (x + y) % 256], axis=-1).astype(np.uint8)
    for _ in range(6):
        top, left = rng.integers(0, height), rng.integers(0, width)
        pixels[top : top + height // 3 + 1, left : left + width // 3 + 1] = rng.integers(0, 256, 3)
    return pixels

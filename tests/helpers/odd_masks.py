"""Masks that formats find hard: holes, islands, corners that touch, one pixel, everything, thin lines."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from anymask.types import Mask

HEIGHT, WIDTH = 40, 60


def odd_arrays() -> dict[str, np.ndarray]:
    """Bool arrays (40, 60) by what is odd about them."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]

    def drawn(*boxes: tuple[int, int, int, int]) -> np.ndarray:
        array = np.zeros((HEIGHT, WIDTH), dtype=bool)
        for x0, y0, x1, y1 in boxes:
            array[y0:y1, x0:x1] ^= True
        return array

    return {
        "disc": np.hypot(rows - 20, columns - 30) < 12,
        "box at the corner": drawn((0, 0, 9, 7)),
        "box at the far corner": drawn((50, 30, 60, 40)),
        "hole": drawn((5, 5, 30, 30), (10, 10, 20, 20)),
        "island in a hole": drawn((5, 5, 30, 30), (10, 10, 20, 20), (13, 13, 16, 16)),
        "small hole": drawn((2, 2, 50, 35), (20, 20, 21, 21)),
        "two parts": drawn((2, 2, 12, 12), (30, 20, 45, 33)),
        "small second part": drawn((2, 2, 42, 32), (50, 35, 51, 37)),
        "corners that touch": drawn((5, 5, 15, 15), (15, 15, 25, 25)),
        "one pixel": drawn((31, 17, 32, 18)),
        "line": drawn((3, 20, 57, 21)),
        "everything": np.ones((HEIGHT, WIDTH), dtype=bool),
        "stairs": (rows < columns) & (rows > columns - 9),
    }


def odd_masks(wanted: Callable[[str], bool] = lambda _: True) -> list[Mask]:
    """They as masks, best first, scored and clicked."""
    chosen = [array for name, array in odd_arrays().items() if wanted(name)]
    return [
        Mask(
            array,
            0.99 - number / 100,
            stability_score=0.9 + number / 1000,
            point=(number + 0.5, 2.25),
            crop_box=(0, 0, WIDTH, HEIGHT) if number % 2 else (10, 5, 55, 40),
        )
        for number, array in enumerate(chosen)
    ]


def touching_masks(count: int) -> list[Mask]:
    """``count`` masks of one pixel each in a picture of that width, all different."""
    masks = []
    for number in range(count):
        array = np.zeros((2, count), dtype=bool)
        array[0, number] = True
        masks.append(Mask(array, 1 - number / (2 * count)))
    return masks

"""Two answers without learning that spread from clicks: a random walk and a flood.

* ``random_walker``: Grady, "Random Walks for Image Segmentation", PAMI 28(11), 2006, by scikit-image (the ``eval``
  extra), on the image scaled to a longer side of at most 160 pixels, where one answer takes 0.02 to 0.06 s of one
  core. Foreground seeds are discs around the foreground points or, for a box without any, the third of its sides
  in its middle. Background seeds are discs around the background points and what lies outside the box or, for
  points alone, the image's border: an object at the border loses to it. The candidates are where a walker meets
  the foreground first with a chance above a half, a quarter and a tenth: a small seed against a long border has
  few walkers, so that what a half leaves out of an object is its outer part.
* ``flood_fill``: OpenCV's flood fill on smoothed CIELAB colour, from the foreground points over all connected
  pixels within a tolerance of the point's own colour in each channel, at three tolerances. A background point's
  flood is taken away; what both reach goes to the nearer point. In a box, colour floods in from 32 places evenly
  along its inner edge; what stays dry is the answer, with the foreground points' floods, or the whole box where
  nothing does; a dry piece with background points only is left out. Nothing outside the box belongs to the answer.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from anymask.errors import MissingExtraError
from anymask.evaluation.peers.baselines_shared import (
    SEED_RADIUS,
    Baseline,
    BoolArray,
    at_scale,
    corners,
    filled_box,
    inscribed_ellipse,
    points_of,
    scaled_down,
    squared_distance,
    window,
)
from anymask.evaluation.peers.peer import FloatArray
from anymask.masks.boxes import mask_to_box
from anymask.types import Embedding, Image, Prompt

__all__ = ["FloodFill", "RandomWalker"]

WALK_SIDE: Final = 160
"""Longer side in pixels of the image that is walked on; a larger one is scaled down."""
WALK_BETA: Final = 130.0
"""How much a difference of colour hinders a walker; scikit-image's own choice."""
WALK_CHANCES: Final = (0.5, 0.25, 0.1)
"""Chances of reaching the foreground first, one for each candidate."""
INNER_SHARE: Final = 1 / 3
"""Sides of the part of a box that is taken as foreground, as a share of the box's."""
FLOOD_SIDE: Final = 1024
"""Longer side in pixels of the image that is flooded; a larger one is scaled down."""
FLOOD_SMOOTHING: Final = 1.0
"""Sigma in pixels of the Gaussian before a flood."""
FLOOD_TOLERANCES: Final = (10.0, 5.0, 20.0)
"""Largest difference from the point's colour in each of L, a and b, one for each candidate."""
FLOOD_PLACES: Final = 32
"""Places along a box's inner edge from which colour floods in."""

FOREGROUND: Final = 1
BACKGROUND: Final = 2


class RandomWalker(Baseline):
    """Where a walker that avoids edges of colour meets a foreground seed before one of background."""

    name = "random_walker"

    def _features(self, picture: Image) -> Mapping[str, FloatArray]:
        return {"lab": _lab(scaled_down(picture.pixels, WALK_SIDE)) / np.float32(100)}

    def _answers(self, embedding: Embedding, prompt: Prompt, multimask: bool) -> list[BoolArray]:
        lab = embedding.features["lab"]
        height, width = embedding.image_size
        seeds = _seeds(at_scale(prompt, embedding.image_size, lab.shape), (lab.shape[0], lab.shape[1]))
        if prompt.box is not None and not (seeds == FOREGROUND).any():
            return [filled_box(corners(prompt.box), (height, width))]
        chance = cv2.resize(_walk(lab, seeds), (width, height), interpolation=cv2.INTER_LINEAR)
        plane = np.asarray(chance).reshape(height, width)
        return [plane > least for least in WALK_CHANCES[: 3 if multimask else 1]]


class FloodFill(Baseline):
    """Connected pixels of a click's colour, or what the colours of a box's edge do not reach."""

    name = "flood_fill"

    def _features(self, picture: Image) -> Mapping[str, FloatArray]:
        lab = _lab(scaled_down(picture.pixels, FLOOD_SIDE))
        return {"lab": np.asarray(cv2.GaussianBlur(lab, (0, 0), FLOOD_SMOOTHING), dtype=np.float32)}

    def _answers(self, embedding: Embedding, prompt: Prompt, multimask: bool) -> list[BoolArray]:
        height, width = embedding.image_size
        lab = embedding.features["lab"].copy()  # OpenCV takes no read-only picture
        small = at_scale(prompt, embedding.image_size, lab.shape)
        answers = []
        for tolerance in FLOOD_TOLERANCES[: 3 if multimask else 1]:
            answer = _flooded(lab, small, tolerance).astype(np.uint8)
            answer = np.asarray(cv2.resize(answer, (width, height), interpolation=cv2.INTER_NEAREST))
            answers.append(answer.reshape(height, width) > 0)
        return answers


def _lab(pixels: NDArray[np.uint8]) -> FloatArray:
    """CIELAB (H, W, 3) of sRGB pixels: L from 0 to 100, a and b around 0 on the same scale."""
    rgb = pixels.astype(np.float32) / np.float32(255)
    return np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB), dtype=np.float32)


def _seeds(prompt: Prompt, size: tuple[int, int]) -> NDArray[np.int32]:
    """Seeds (H, W): `FOREGROUND`, `BACKGROUND` and 0 for what is to be found out; points win over boxes."""
    inside = np.ones(size, dtype=np.bool_)
    if prompt.box is not None:
        inside = filled_box(corners(prompt.box), size)
    if inside.all():
        inside[[0, -1]] = inside[:, [0, -1]] = False
    seeds = np.where(inside, 0, BACKGROUND).astype(np.int32)
    if prompt.box is not None and not len(points_of(prompt, 1)):
        x0, y0, x1, y1 = corners(prompt.box)
        x, y = (x0 + x1) / 2, (y0 + y1) / 2
        across, down = (max(0.51, INNER_SHARE * side / 2) for side in (x1 - x0, y1 - y0))  # a pixel at least
        seeds[inside & filled_box((x - across, y - down, x + across, y + down), size)] = FOREGROUND
    for label, kind in ((0, BACKGROUND), (1, FOREGROUND)):
        for point in points_of(prompt, label):
            seeds[inscribed_ellipse(window(point, 2 * SEED_RADIUS), size)] = kind
    return seeds


def _walk(lab: FloatArray, seeds: NDArray[np.int32]) -> FloatArray:
    """Chance (H, W) of a walker from each pixel to meet a foreground seed first; 1 and 0 on the seeds."""
    try:
        from skimage.segmentation import random_walker
    except ImportError as error:
        raise MissingExtraError(
            "the baseline 'random_walker' needs scikit-image; install it with: pip install 'anymask[eval]'"
        ) from error
    if not {0, FOREGROUND, BACKGROUND} <= set(np.unique(seeds).tolist()):
        open_means = FOREGROUND if not (seeds == BACKGROUND).any() else BACKGROUND
        settled = np.where(seeds == 0, open_means, seeds) == FOREGROUND
        return np.asarray(settled, dtype=np.float32)
    if not lab.std():  # scikit-image divides by it; a border pixel of another colour hinders nobody
        lab = lab.copy()
        lab[0, 0] += 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Solved directly: conjugate gradients took seconds where one click faces the whole border.
        chances = random_walker(lab, seeds, beta=WALK_BETA, mode="bf", return_full_prob=True, channel_axis=-1)
    return np.ascontiguousarray(chances[FOREGROUND - 1], dtype=np.float32)


def _flooded(lab: FloatArray, prompt: Prompt, tolerance: float) -> BoolArray:
    """The answer (H, W) at one tolerance, everything in pixels of ``lab``."""
    size = (lab.shape[0], lab.shape[1])
    everywhere = np.ones(size, dtype=np.bool_)
    inside = everywhere if prompt.box is None else filled_box(corners(prompt.box), size)
    kept, away = points_of(prompt, 1), points_of(prompt, 0)
    reached = _flood(lab, kept, tolerance, inside)
    answer = reached
    if prompt.box is not None:
        dry = inside & ~_flood(lab, _edge_places(inside), tolerance, inside)
        answer = reached | _wanted(dry, kept, away) if dry.any() or reached.any() else inside
    taken = _flood(lab, away, tolerance, everywhere)
    if len(kept) and len(away):
        taken &= ~reached | (squared_distance(away, size) < squared_distance(kept, size))
    return answer & ~taken


def _wanted(pieces: BoolArray, kept: NDArray[np.float64], away: NDArray[np.float64]) -> BoolArray:
    """The connected pieces (H, W) without those that only background points lie in."""
    number = np.asarray(cv2.connectedComponents(pieces.astype(np.uint8), connectivity=8)[1])
    height, width = pieces.shape
    kept_in, away_in = (
        {int(number[min(int(y), height - 1), min(int(x), width - 1)]) for x, y in points}
        for points in (kept, away)
    )
    return pieces & ~np.isin(number, list(away_in - kept_in))


def _flood(lab: FloatArray, points: NDArray[np.float64], tolerance: float, inside: BoolArray) -> BoolArray:
    """Pixels (H, W) that any of the points (N, 2) reaches within ``inside``."""
    height, width = inside.shape
    reached = np.zeros(inside.shape, dtype=np.bool_)
    barrier = np.pad((~inside).astype(np.uint8), 1, constant_values=1)
    flags = 4 | cv2.FLOODFILL_FIXED_RANGE | cv2.FLOODFILL_MASK_ONLY | (2 << 8)
    for x, y in points:
        seed = (min(int(x), width - 1), min(int(y), height - 1))
        if not inside[seed[1], seed[0]]:
            continue
        filled = barrier.copy()
        cv2.floodFill(lab, filled, seed, 0, (tolerance,) * 3, (tolerance,) * 3, flags)
        reached |= filled[1:-1, 1:-1] == 2
    return reached


def _edge_places(inside: BoolArray) -> NDArray[np.float64]:
    """Centres (N, 2) of at most `FLOOD_PLACES` pixels, evenly along the inner edge of a filled box."""
    x0, y0, x1, y1 = mask_to_box(inside)
    if x0 == x1:
        return np.zeros((0, 2))
    columns, rows = np.arange(x0, x1), np.arange(y0, y1)
    right, left = np.full(len(rows), x1 - 1), np.full(len(rows), x0)
    top, bottom = np.full(len(columns), y0), np.full(len(columns), y1 - 1)
    x = np.concatenate([columns, right, columns[::-1], left])
    y = np.concatenate([top, rows, bottom, rows[::-1]])
    chosen = np.linspace(0, len(x), min(FLOOD_PLACES, len(x)), endpoint=False).astype(np.int64)
    return np.stack([x[chosen], y[chosen]], axis=1) + 0.5

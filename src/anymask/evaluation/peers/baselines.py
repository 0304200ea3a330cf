"""Answers without learning, behind the verbs of `Segmenter`, so that they stand in the same table as models.

Six of them, named in `BASELINES`. Each answers any prompt with points or a box; masks fed back are passed over.
Their scores only order the candidates: they are constants and say nothing of quality.

* ``filled_box``, ``ellipse``: a box is answered with itself or the ellipse in it. A foreground point without a
  box stands for a square around it, whose side is a quarter, an eighth or a half of the image's shorter side;
  a background point takes away a shape of half that side.
* ``grabcut``: Rother, Kolmogorov, Blake, "GrabCut", SIGGRAPH 2004, by OpenCV, on a picture of at most 256 pixels, since
  it takes about a second on one of 480. Outside the box is background;
  foreground points are certain, and without a box the square of half the shorter side around each stands for it.
* ``regions``: the Felzenszwalb-Huttenlocher regions under the foreground points, at three scales; in a box, the
  regions that lie in it by more than half, cut at the box.
* ``random_walker``, ``flood_fill``: see `anymask.evaluation.peers.baselines_clicks`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from anymask.errors import NotFoundError
from anymask.evaluation.peers.baselines_clicks import FloodFill, RandomWalker
from anymask.evaluation.peers.baselines_shared import (
    SEED_RADIUS,
    Baseline,
    BoolArray,
    Box,
    at_scale,
    corners,
    filled_box,
    inscribed_ellipse,
    points_of,
    scaled_down,
    squared_distance,
    window,
)
from anymask.evaluation.peers.felzenszwalb import felzenszwalb
from anymask.evaluation.peers.peer import FloatArray
from anymask.types import Embedding, Image, Prompt

__all__ = [
    "BASELINES",
    "Baseline",
    "Ellipse",
    "FilledBox",
    "FloodFill",
    "GrabCut",
    "RandomWalker",
    "Regions",
    "baseline",
    "filled_box",
    "inscribed_ellipse",
]

WINDOW_SHARES: Final = (0.25, 0.125, 0.5)
"""Sides of the squares around a point, as shares of the image's shorter side."""
GRABCUT_WINDOW: Final = 0.5
GRABCUT_SIDE: Final = 256
"""Longer side in pixels of the picture that is cut; a larger one is scaled down."""
GRABCUT_ITERATIONS: Final = 5
REGION_SIDE: Final = 256
"""Longer side in pixels of the image that is cut into regions; a larger one is scaled down."""
REGION_SCALES: Final = (300.0, 100.0, 1000.0)
"""Felzenszwalb and Huttenlocher's k; the first is the paper's for images of this size."""


class FilledBox(Baseline):
    """A box is the answer to itself, a square that to a point."""

    name = "filled_box"

    def _answers(self, embedding: Embedding, prompt: Prompt, multimask: bool) -> list[BoolArray]:
        size = embedding.image_size
        if prompt.box is not None:
            return [self._shape(corners(prompt.box), size)]
        answers = []
        for share in WINDOW_SHARES[: 3 if multimask else 1]:
            side = max(1.0, share * min(size))
            answer = np.zeros(size, dtype=np.bool_)
            for point in points_of(prompt, 1):
                answer |= self._shape(window(point, side), size)
            for point in points_of(prompt, 0):
                answer &= ~self._shape(window(point, side / 2), size)
            answers.append(answer)
        return answers

    def _shape(self, box_xyxy: Box, size: tuple[int, int]) -> BoolArray:
        return filled_box(box_xyxy, size)


class Ellipse(FilledBox):
    """The ellipse in a box, or the disc around a point."""

    name = "ellipse"

    def _shape(self, box_xyxy: Box, size: tuple[int, int]) -> BoolArray:
        return inscribed_ellipse(box_xyxy, size)


class GrabCut(Baseline):
    """Two colour mixtures and a graph cut, five rounds, from OpenCV with its random numbers seeded."""

    name = "grabcut"

    def _features(self, picture: Image) -> Mapping[str, FloatArray]:
        return {"rgb": scaled_down(picture.pixels, GRABCUT_SIDE).astype(np.float32)}

    def _answers(self, embedding: Embedding, prompt: Prompt, multimask: bool) -> list[BoolArray]:
        pixels = embedding.features["rgb"].astype(np.uint8)
        answer = self._cut(pixels, at_scale(prompt, embedding.image_size, pixels.shape))
        height, width = embedding.image_size
        cover = cv2.resize(answer.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
        return [np.asarray(cover).reshape(height, width) > 0.5]

    def _cut(self, pixels: NDArray[np.uint8], prompt: Prompt) -> BoolArray:
        """The cut of pixels (h, w, 3), the prompt being in them too."""
        size = (pixels.shape[0], pixels.shape[1])
        boxes = [corners(prompt.box)] if prompt.box is not None else []
        if not boxes:
            side = max(2.0, GRABCUT_WINDOW * min(size))
            boxes = [window(point, side) for point in points_of(prompt, 1)]
        possible: BoolArray = np.logical_or.reduce([filled_box(box, size) for box in boxes])
        trimap = np.where(possible, cv2.GC_PR_FGD, cv2.GC_BGD).astype(np.uint8)
        if possible.all():  # the mixtures need samples of background
            trimap[[0, -1]] = trimap[:, [0, -1]] = cv2.GC_BGD
        for label, certain in ((0, cv2.GC_BGD), (1, cv2.GC_FGD)):
            for point in points_of(prompt, label):
                trimap[inscribed_ellipse(window(point, 2 * SEED_RADIUS), size)] = certain
        values = np.unique(trimap)
        if cv2.GC_BGD not in values or not {cv2.GC_FGD, cv2.GC_PR_FGD} & set(values.tolist()):
            return possible
        cv2.setRNGSeed(0)
        back, front, no_box = np.zeros((1, 65)), np.zeros((1, 65)), (0, 0, 1, 1)
        cv2.grabCut(pixels, trimap, no_box, back, front, GRABCUT_ITERATIONS, cv2.GC_INIT_WITH_MASK)
        answer: BoolArray = (trimap == cv2.GC_FGD) | (trimap == cv2.GC_PR_FGD)
        return answer if answer.any() else possible


class Regions(Baseline):
    """Regions of even colour, chosen by points or by a box."""

    name = "regions"

    def _features(self, picture: Image) -> Mapping[str, FloatArray]:
        small = scaled_down(picture.pixels, REGION_SIDE)
        return {"regions": felzenszwalb(small, REGION_SCALES).astype(np.float32)}

    def _answers(self, embedding: Embedding, prompt: Prompt, multimask: bool) -> list[BoolArray]:
        height, width = embedding.image_size
        answers = []
        for small in embedding.features["regions"][: 3 if multimask else 1]:
            plane = cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST)
            regions = np.asarray(plane).reshape(height, width).astype(np.int64)
            answers.append(_regions_in_box(regions, prompt) | _regions_at_points(regions, prompt))
            answers[-1] &= ~_nearer_to_background(regions, prompt)
        return answers


def _regions_in_box(regions: NDArray[np.int64], prompt: Prompt) -> BoolArray:
    """The parts inside the box of the regions that lie in it by more than half; the box if there are none."""
    if prompt.box is None:
        return np.zeros(regions.shape, dtype=np.bool_)
    box = filled_box(corners(prompt.box), (regions.shape[0], regions.shape[1]))
    whole = np.bincount(regions.ravel())
    within = np.bincount(regions[box], minlength=len(whole))
    chosen: BoolArray = (2 * within > whole)[regions] & box
    return chosen if chosen.any() else box


def _regions_at_points(regions: NDArray[np.int64], prompt: Prompt) -> BoolArray:
    """The regions under the foreground points."""
    return np.isin(regions, _under(regions, points_of(prompt, 1)))


def _nearer_to_background(regions: NDArray[np.int64], prompt: Prompt) -> BoolArray:
    """The regions under background points; of one with foreground points too, the part nearer to background."""
    away, kept = points_of(prompt, 0), points_of(prompt, 1)
    inside = np.isin(regions, _under(regions, away))
    if not len(away) or not len(kept):
        return inside
    shared = np.isin(regions, np.intersect1d(_under(regions, away), _under(regions, kept)))
    nearer = squared_distance(away, regions.shape) < squared_distance(kept, regions.shape)
    return inside & (~shared | nearer)


def _under(regions: NDArray[np.int64], points: NDArray[np.float64]) -> NDArray[np.int64]:
    """Numbers of the regions under points (N, 2); a point on the far border belongs to the last pixel."""
    columns = np.minimum(points[:, 0].astype(np.int64), regions.shape[1] - 1)
    rows = np.minimum(points[:, 1].astype(np.int64), regions.shape[0] - 1)
    under: NDArray[np.int64] = regions[rows, columns]
    return under


BASELINES: Final[tuple[type[Baseline], ...]] = (
    FilledBox,
    Ellipse,
    GrabCut,
    Regions,
    RandomWalker,
    FloodFill,
)
"""All of them, in the order of a table."""


def baseline(name: str) -> Baseline:
    """The baseline of a name in `BASELINES`.

    Raises:
        NotFoundError: there is none of this name.
    """
    for kind in BASELINES:
        if kind.name == name:
            return kind()
    names = ", ".join(kind.name for kind in BASELINES)
    raise NotFoundError(f"there is no baseline {name!r}; choose one of {names}")

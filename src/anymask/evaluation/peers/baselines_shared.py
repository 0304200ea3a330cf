"""What every answer without learning shares: two shapes, the verbs of a model, and a few measures of a prompt."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Mapping
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from anymask.evaluation.peers.peer import FloatArray, Peer, require_place
from anymask.types import Embedding, Image, Mask, MaskSet, Prompt

__all__ = [
    "CANDIDATE_SCORES",
    "SEED_RADIUS",
    "Baseline",
    "BoolArray",
    "Box",
    "at_scale",
    "corners",
    "filled_box",
    "inscribed_ellipse",
    "points_of",
    "scaled_down",
    "squared_distance",
    "window",
]

BoolArray = NDArray[np.bool_]
Box = tuple[float, float, float, float]

CANDIDATE_SCORES: Final = (0.5, 0.4, 0.3)
"""Predicted IoU of the candidates in their order."""
SEED_RADIUS: Final = 2.0
"""Pixels around a click that are taken as certain."""
NO_NETWORK: Final = (256, 256)
"""What the embedding of a method without a network gives as its network's size."""


def filled_box(box_xyxy: Box, size: tuple[int, int]) -> BoolArray:
    """The baseline that answers a box with itself: (H, W) bool."""
    x0, y0, x1, y1 = box_xyxy
    rows = np.arange(size[0])[:, None] + 0.5
    columns = np.arange(size[1])[None, :] + 0.5
    inside: BoolArray = (rows > y0) & (rows < y1) & (columns > x0) & (columns < x1)
    return inside


def inscribed_ellipse(box_xyxy: Box, size: tuple[int, int]) -> BoolArray:
    """The baseline that answers a box with the ellipse that touches its four sides: (H, W) bool."""
    x0, y0, x1, y1 = box_xyxy
    rows = (np.arange(size[0])[:, None] + 0.5 - (y0 + y1) / 2) / max((y1 - y0) / 2, 1e-9)
    columns = (np.arange(size[1])[None, :] + 0.5 - (x0 + x1) / 2) / max((x1 - x0) / 2, 1e-9)
    inside: BoolArray = rows**2 + columns**2 <= 1.0
    return inside


class Baseline(Peer):
    """A method without learning. Its network size means nothing, and masks fed back are passed over."""

    name: str

    def __init__(self) -> None:
        self.digest = hashlib.sha256(f"anymask baseline {self.name} v1".encode()).hexdigest()
        self.preprocessing = f"baseline/{self.name}/v1"
        self.network_size = NO_NETWORK

    def _features(self, picture: Image) -> Mapping[str, FloatArray]:
        """Named arrays of an image; nothing, unless a method needs more."""
        return {"nothing": np.zeros(1, dtype=np.float32)}

    def _answer(self, embedding: Embedding, prompt: Prompt, multimask: bool) -> MaskSet:
        require_place(prompt, "a baseline")
        answers = self._answers(embedding, prompt, multimask)
        return MaskSet(
            [Mask(answer, score) for answer, score in zip(answers, CANDIDATE_SCORES, strict=False)],
        )

    @abstractmethod
    def _answers(self, embedding: Embedding, prompt: Prompt, multimask: bool) -> list[BoolArray]:
        """One to three masks (H, W), the best guess first; one unless ``multimask``."""


def squared_distance(points: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Squared distance (H, W) of every pixel's centre to the nearest of some points (N, 2)."""
    rows, columns = np.arange(shape[0])[:, None] + 0.5, np.arange(shape[1])[None, :] + 0.5
    nearest = np.full(shape, np.inf)
    for x, y in points:
        np.minimum(nearest, (columns - x) ** 2 + (rows - y) ** 2, out=nearest)
    return nearest


def points_of(prompt: Prompt, label: int) -> NDArray[np.float64]:
    """The points (N, 2) of one label."""
    if prompt.points is None or prompt.labels is None:
        return np.zeros((0, 2))
    chosen: NDArray[np.float64] = prompt.points[prompt.labels == label]
    return chosen


def window(point: NDArray[np.float64], side: float) -> Box:
    x, y = float(point[0]), float(point[1])
    return (x - side / 2, y - side / 2, x + side / 2, y + side / 2)


def corners(box: NDArray[np.float64]) -> Box:
    x0, y0, x1, y1 = (float(value) for value in box)
    return (x0, y0, x1, y1)


def scaled_down(pixels: NDArray[np.uint8], long_side: int) -> NDArray[np.uint8]:
    """Pixels (H, W, 3) averaged to a longer side of at most ``long_side``; as they are when that fits."""
    height, width = pixels.shape[:2]
    scale = long_side / max(height, width)
    if scale >= 1.0:
        return pixels
    small = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(pixels, small, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def at_scale(prompt: Prompt, image_size: tuple[int, int], shape: tuple[int, ...]) -> Prompt:
    """The prompt in pixels of a picture of another size (height, width, ...), without its mask."""
    by = np.array([shape[1] / image_size[1], shape[0] / image_size[0]])
    return Prompt(
        points=None if prompt.points is None else prompt.points * by,
        labels=prompt.labels,
        box=None if prompt.box is None else prompt.box * np.tile(by, 2),
    )

"""Felzenszwalb and Huttenlocher's graph segmentation: an image as regions of even colour, without learning.

Source: "Efficient Graph-Based Image Segmentation", IJCV 59(2), 2004, algorithm 1, with the smoothing and the
minimum size of the authors' code.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from anymask.errors import InputError

__all__ = ["felzenszwalb"]

_STEPS = ((0, 1), (1, 0), (1, 1), (1, -1))


def felzenszwalb(
    pixels: NDArray[np.uint8], scales: Sequence[float], sigma: float = 0.8, min_size: int = 20
) -> NDArray[np.int32]:
    """Region numbers (S, H, W) int32 of an image (H, W, 3), one plane per scale, each from 0 without gaps.

    Args:
        pixels: RGB.
        scales: the paper's k for colours of 0 to 255: larger gives larger regions.
        sigma: of the Gaussian smoothing before, in pixels; 0 for none.
        min_size: smaller regions are joined to the neighbour of the least difference.

    Two regions join when the weakest edge between them is no stronger than ``strongest edge of its spanning
    tree + k / area`` of either; edges join 8-neighbours and weigh the Euclidean distance of their colours.

    Raises:
        InputError: not an (H, W, 3) image.
    """
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.size == 0:
        raise InputError(f"a graph segmentation needs pixels (H, W, 3), got shape {pixels.shape}")
    smooth = np.ascontiguousarray(pixels, dtype=np.float32)
    if sigma > 0:
        smooth = np.asarray(cv2.GaussianBlur(smooth, (0, 0), sigma), dtype=np.float32)
    weights, first, second = _edges(smooth)
    size = pixels.shape[:2]
    return np.stack([_regions(weights, first, second, scale, min_size, size) for scale in scales])


def _edges(pixels: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """Weights (E,) in rising order, and the two pixels of each edge."""
    height, width = pixels.shape[:2]
    number = np.arange(height * width).reshape(height, width)
    weights, first, second = [], [], []
    for down, right in _STEPS:
        here = (slice(0, height - down), slice(max(0, -right), width - max(0, right)))
        there = (slice(down, height), slice(max(0, right), width - max(0, -right)))
        weights.append(np.sqrt(((pixels[here] - pixels[there]) ** 2).sum(axis=2)).ravel())
        first.append(number[here].ravel())
        second.append(number[there].ravel())
    all_weights = np.concatenate(weights)
    order = np.argsort(all_weights, kind="stable")
    return all_weights[order], np.concatenate(first)[order], np.concatenate(second)[order]


def _regions(
    weights: NDArray[np.float32],
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    scale: float,
    min_size: int,
    size: tuple[int, ...],
) -> NDArray[np.int32]:
    """One plane of region numbers: edges from weak to strong through a union-find forest."""
    pixels = int(np.prod(size))
    parent, area, limit = list(range(pixels)), [1] * pixels, [float(scale)] * pixels

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = node = parent[parent[node]]
        return node

    def join(a: int, b: int) -> int:
        if area[a] < area[b]:
            a, b = b, a
        parent[b] = a
        area[a] += area[b]
        return a

    between: list[tuple[int, int]] = []
    for weight, one, other in zip(weights.tolist(), first.tolist(), second.tolist(), strict=True):
        a, b = root(one), root(other)
        if a == b:
            continue
        if weight <= limit[a] and weight <= limit[b]:
            a = join(a, b)
            limit[a] = weight + scale / area[a]
        elif area[a] < min_size or area[b] < min_size:
            between.append((one, other))
    for one, other in between:
        a, b = root(one), root(other)
        if a != b and (area[a] < min_size or area[b] < min_size):
            join(a, b)
    roots = np.fromiter((root(node) for node in range(pixels)), dtype=np.int64, count=pixels)
    return np.unique(roots, return_inverse=True)[1].reshape(size).astype(np.int32)

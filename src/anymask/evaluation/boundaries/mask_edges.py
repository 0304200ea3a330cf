"""Edges from automatic masks, without any training on edges, and their measurement on BSDS500.

A grid of 16 x 16 clicks gives 768 masks; none is filtered by quality, duplicates go by suppression of their boxes. The
slope of each remaining mask's probability is kept on the pixels just outside the mask; an edge map is the highest of
these slopes, brought to [0, 1] and thinned.

Source: Kirillov et al., "Segment Anything", 2023, section 7.2 and appendix D.2. Left open there and settled here: the
outer boundary is all pixels that touch the mask, corners included, and are not in it; edge suppression smooths the map
with radius 1 first, as the published edge detectors do, and the map is brought to [0, 1] after that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from anymask.automatic.any_model import BOX_NMS_THRESH, generate_masks
from anymask.data.bsds500 import BoundarySample, Bsds500Test
from anymask.errors import InputError, MaskError
from anymask.evaluation.boundaries.edges import (
    EdgeCounts,
    EdgeScores,
    count_edges,
    score_edges,
    smooth_triangle,
    suppress_non_maxima,
)
from anymask.evaluation.metrics import BoolArray
from anymask.frame import Frame
from anymask.predict.promptable import Promptable
from anymask.types import Embedding

__all__ = [
    "EDGE_POINTS_PER_SIDE",
    "Framed",
    "edge_benchmark",
    "edge_counts_of_image",
    "mask_edge_map",
    "outer_slope",
]

FloatArray = NDArray[np.float32]

EDGE_POINTS_PER_SIDE: Final = 16


class Framed(Promptable, Protocol):
    """What mask edges ask of a model: masks with low-resolution logits, and how these lie over the image."""

    def frame(self, image_size: tuple[int, int]) -> Frame:
        """How an image of this (height, width) sits in the model's network frame."""
        ...


def mask_edge_map(
    segmenter: Framed,
    embedding: Embedding,
    points_per_side: int = EDGE_POINTS_PER_SIDE,
    box_nms_thresh: float = BOX_NMS_THRESH,
) -> FloatArray:
    """Thinned edges (H, W) float32 in [0, 1] of an embedded image, both sides at least 3; 0 where there is no edge.

    Raises:
        InputError: the segmenter's masks come without logits.
        MaskError: the image is smaller than 3 pixels.
        And what `anymask.automatic.any_model.generate_masks` raises.
    """
    frame = segmenter.frame(embedding.image_size)
    strongest = np.zeros(embedding.image_size, dtype=np.float32)
    masks = generate_masks(
        segmenter, embedding, points_per_side, 0.0, 0.0, box_nms_thresh=box_nms_thresh, keep_logits=True
    )
    for mask in masks:
        if mask.low_res_logits is None:
            raise InputError("edges need masks with low_res_logits; measure a model that gives them")
        probability = _sigmoid(frame.logits_to_image(mask.low_res_logits))
        np.maximum(strongest, outer_slope(probability, mask.array), out=strongest)
    return suppress_non_maxima(_to_unit_range(smooth_triangle(strongest, 1)))


def outer_slope(probability: FloatArray, mask: BoolArray) -> FloatArray:
    """Length of the Sobel gradient of a probability map (H, W), 0 except on pixels outside the mask that touch it.

    The map is mirrored at the image's border, which is no edge.

    Raises:
        MaskError: map and mask differ in size.
    """
    if probability.shape != mask.shape or mask.ndim != 2:
        raise MaskError(
            f"a probability map of {probability.shape} does not go with a mask of {mask.shape}; both are (H, W)"
        )
    plane = np.asarray(probability, dtype=np.float32)
    along_x, along_y = (cv2.Sobel(plane, cv2.CV_32F, *axis) for axis in ((1, 0), (0, 1)))
    grown = np.asarray(cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), dtype=np.uint8)))
    return np.where((grown > 0) & ~mask, np.hypot(along_x, along_y), 0).astype(np.float32)


def edge_counts_of_image(
    segmenter: Framed,
    sample: BoundarySample,
    thresholds: int = 99,
    points_per_side: int = EDGE_POINTS_PER_SIDE,
) -> EdgeCounts:
    """Embed one image, find its edges and match them with all annotators' boundaries.

    The counts go to JSON and back with `EdgeCounts.as_record` and `EdgeCounts.from_record`; those of all images go to
    `anymask.evaluation.boundaries.edges.score_edges`.
    """
    edges = mask_edge_map(segmenter, segmenter.embed(sample.image), points_per_side)
    return count_edges(edges, sample.truth.boundaries, thresholds)


def edge_benchmark(
    segmenter: Framed,
    dataset: Bsds500Test,
    indices: Sequence[int] | None = None,
    thresholds: int = 99,
    progress: Callable[[int, int], None] | None = None,
) -> EdgeScores:
    """ODS, OIS, AP and R50 of a model's mask edges over the images at ``indices``, or over all, one at a time.

    ``progress`` is called with the images done and the images in all.
    """
    chosen = range(len(dataset)) if indices is None else indices
    counts = []
    for done, index in enumerate(chosen, start=1):
        counts.append(edge_counts_of_image(segmenter, dataset[index], thresholds))
        if progress is not None:
            progress(done, len(chosen))
    return score_edges(counts)


def _sigmoid(logits: FloatArray) -> FloatArray:
    """1 / (1 + exp(-logits)) without overflow."""
    return np.asarray(0.5 + 0.5 * np.tanh(0.5 * logits), dtype=np.float32)


def _to_unit_range(edges: FloatArray) -> FloatArray:
    """The map stretched linearly to [0, 1]; a flat map becomes 0."""
    low, high = float(edges.min()), float(edges.max())
    if high <= low:
        return np.zeros_like(edges)
    return np.asarray(np.clip((edges - low) / (high - low), 0.0, 1.0), dtype=np.float32)

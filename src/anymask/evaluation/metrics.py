"""Agreement between masks, as numbers, and what kind of mask it is: its size class and its complexity.

All masks are (H, W) bool. Two masks that are both empty agree: every measure is 1.0.
"""

from __future__ import annotations

import math
from typing import Final, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from anymask.errors import MaskError
from anymask.evaluation.peers.baselines import filled_box, inscribed_ellipse

__all__ = [
    "BOUNDARY_F_BOUND",
    "BOUNDARY_IOU_RATIO",
    "LARGE_FROM",
    "MEDIUM_FROM",
    "AreaClass",
    "BoolArray",
    "area_class",
    "boundary_band",
    "boundary_f",
    "boundary_iou",
    "complexity",
    "dice",
    "filled_box",
    "inscribed_ellipse",
    "iou",
    "perimeter",
]

BoolArray = NDArray[np.bool_]
AreaClass = Literal["small", "medium", "large"]

BOUNDARY_IOU_RATIO: Final = 0.02
"""Width of the boundary band as a share of the image's diagonal (Cheng et al. 2021)."""
BOUNDARY_F_BOUND: Final = 0.008
"""How far matched boundaries may lie apart, as a share of the image's diagonal (Perazzi et al. 2016)."""
MEDIUM_FROM: Final = 32**2
"""Area in pixels from which a mask is medium."""
LARGE_FROM: Final = 96**2
"""Area in pixels from which a mask is large."""


def iou(predicted: BoolArray, truth: BoolArray) -> float:
    """Intersection over union of two (H, W) bool masks; 1.0 when both are empty.

    Raises:
        MaskError: the masks differ in size.
    """
    _check_pair(predicted, truth)
    union = int(np.count_nonzero(predicted | truth))
    return int(np.count_nonzero(predicted & truth)) / union if union else 1.0


def dice(predicted: BoolArray, truth: BoolArray) -> float:
    """Twice the intersection over the sum of the areas (Dice 1945); ``2 iou / (1 + iou)``.

    Raises:
        MaskError: the masks differ in size.
    """
    _check_pair(predicted, truth)
    total = int(np.count_nonzero(predicted)) + int(np.count_nonzero(truth))
    return 2 * int(np.count_nonzero(predicted & truth)) / total if total else 1.0


def boundary_band(mask: BoolArray, dilation_ratio: float = BOUNDARY_IOU_RATIO) -> BoolArray:
    """The mask's pixels within ``max(1, round(dilation_ratio * diagonal))`` of its outside, (H, W) bool.

    The distance is the chessboard's (a 3 x 3 square eroded as many times) and beyond the image's border is
    outside. As ``mask_to_boundary`` of ``boundary_iou/utils/boundary_utils.py`` in
    bowenc0221/boundary-iou-api.
    """
    height, width = mask.shape
    steps = max(1, round(dilation_ratio * math.hypot(height, width)))
    padded = np.pad(mask.astype(np.uint8), 1)
    eroded = np.asarray(cv2.erode(padded, np.ones((3, 3), dtype=np.uint8), iterations=steps))
    band: BoolArray = mask & (eroded[1:-1, 1:-1] == 0)
    return band


def boundary_iou(predicted: BoolArray, truth: BoolArray, dilation_ratio: float = BOUNDARY_IOU_RATIO) -> float:
    """IoU of the boundary bands of two masks.

    Source: Cheng et al., "Boundary IoU", CVPR 2021, equation 2, and its public code; see `boundary_band`.

    Raises:
        MaskError: the masks differ in size.
    """
    _check_pair(predicted, truth)
    return iou(boundary_band(predicted, dilation_ratio), boundary_band(truth, dilation_ratio))


def boundary_f(predicted: BoolArray, truth: BoolArray, bound: float = BOUNDARY_F_BOUND) -> float:
    """F measure of the outlines: harmonic mean of the shares of each that lie close to the other.

    Close means a Euclidean distance of at most ``ceil(bound * diagonal)`` pixels. The image's border is no
    outline here, unlike in `boundary_iou`. When one mask has no outline and the other has one, 0.

    Source: Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation",
    CVPR 2016, section 5.1, and ``db_eval_boundary`` of ``davis/measures/f_boundary.py`` in
    fperazzi/davis. It matches by dilation, not one to one.

    Raises:
        MaskError: the masks differ in size.
    """
    _check_pair(predicted, truth)
    reach = math.ceil(bound * math.hypot(*truth.shape))
    outline, true_outline = _outline(predicted), _outline(truth)
    count, true_count = int(np.count_nonzero(outline)), int(np.count_nonzero(true_outline))
    if count == 0 or true_count == 0:
        return float(count == true_count)
    precision = int(np.count_nonzero(outline & _near(true_outline, reach))) / count
    recall = int(np.count_nonzero(true_outline & _near(outline, reach))) / true_count
    both = precision + recall
    return 2 * precision * recall / both if both else 0.0


def area_class(area: float) -> AreaClass:
    """COCO's size class of an area in pixels of the given image: small below 32^2, large from 96^2.

    Source: cocodataset.org, "Detection evaluation", and ``Params.setDetParams`` of ``pycocotools/cocoeval.py``.
    There the two limits belong to both classes; here each belongs to the larger.
    """
    if area < MEDIUM_FROM:
        return "small"
    return "medium" if area < LARGE_FROM else "large"


def perimeter(mask: BoolArray) -> float:
    """Length in pixels of the mask's outline, holes included and the image's border counted.

    Crofton's formula in four directions: lines along rows, columns and both diagonals are counted where they
    cross the outline, which is right on average for every direction. It finds a large disc's 2 pi r within
    1 %, an axis-parallel square 5 % short; counting pixel sides would give the disc 27 % too much.

    Source: Legland, Kieu, Devaux, "Computation of Minkowski measures on 2D and 3D binary images", Image
    Analysis & Stereology 26, 2007.
    """
    padded = np.pad(mask, 1)
    straight = np.count_nonzero(padded[1:] != padded[:-1])
    straight += np.count_nonzero(padded[:, 1:] != padded[:, :-1])
    diagonal = np.count_nonzero(padded[1:, 1:] != padded[:-1, :-1])
    diagonal += np.count_nonzero(padded[1:, :-1] != padded[:-1, 1:])
    return math.pi / 8 * (int(straight) + int(diagonal) / math.sqrt(2))


def complexity(mask: BoolArray) -> float:
    """``perimeter^2 / (4 pi area)``: 1 for a disc, more for anything thin, ragged, holed or in pieces.

    The inverse of Polsby and Popper's compactness (1991). The two pieces of an object of two equal discs give
    2. Masks of a few pixels come out below 1, where a grid has no roundness.

    Raises:
        MaskError: the mask is empty.
    """
    area = int(np.count_nonzero(mask))
    if area == 0:
        raise MaskError("an empty mask has no complexity; leave it out")
    return perimeter(mask) ** 2 / (4 * math.pi * area)


def _check_pair(predicted: BoolArray, truth: BoolArray) -> None:
    if predicted.shape != truth.shape:
        raise MaskError(
            f"masks of {predicted.shape} and {truth.shape} cannot be compared; they differ in size"
        )


def _outline(mask: BoolArray) -> BoolArray:
    """Pixels that differ from their right, lower or lower right neighbour; ``seg2bmap`` of fperazzi/davis."""
    outline = np.zeros(mask.shape, dtype=np.bool_)
    outline[:, :-1] |= mask[:, :-1] != mask[:, 1:]
    outline[:-1] |= mask[:-1] != mask[1:]
    outline[:-1, :-1] |= mask[:-1, :-1] != mask[1:, 1:]
    return outline


def _near(outline: BoolArray, reach: int) -> BoolArray:
    """Pixels within a disc of radius ``reach`` around a non-empty outline."""
    apart = np.asarray(cv2.distanceTransform((~outline).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE))
    near: BoolArray = np.rint(apart.astype(np.float64) ** 2) <= reach**2
    return near

"""One view of one sample: a random window, its masks as coverage, pasted objects, and other light.

Masks are kept at the decoder's resolution (a quarter of the image's) as *coverage*: the share of each cell the
object covers, so that the loss still knows where in a cell the boundary lies.

Arrays in, arrays out, with a given random generator. The order of the draws is part of what a batch is: exchange two
of them and a resumed run goes on with other pictures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from anymask.data.dataset import Sample
from anymask.masks.rle import decode

from .sampling_config import SamplingConfig
from .synthesis import (
    Donor,
    Layer,
    composite,
    coverage_of,
    draw_layers,
    hidden_by,
    hide,
    visible_alphas,
)

LOW_RES_STRIDE = 4
PADDING_COLOUR = np.array([124, 116, 104], np.uint8)
_TRIES = 8


def decode_image(data: bytes) -> npt.NDArray[np.uint8]:
    """Encoded image of a trusted training shard -> (H, W, 3) uint8 RGB."""
    bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    return np.ascontiguousarray(np.asarray(bgr, dtype=np.uint8)[..., ::-1])


def augmented_view(
    sample: Sample,
    height: int,
    width: int,
    config: SamplingConfig,
    rng: np.random.Generator,
    donor: Donor | None = None,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]] | None:
    """One random view of a sample and some of its masks, with cut-outs from ``donor`` pasted on where drawn.

    Returns:
        pixels (height, width, 3) uint8 and coverage (M, height/4, width/4) uint8, or None when no mask is in view.
    """
    if not sample.annotations:
        return None
    image = decode_image(sample.image)
    for _ in range(_TRIES):
        matrix = random_affine(sample, image.shape[:2], height, width, config, rng)
        found = _visible_masks(sample, matrix, height, width, config, rng)
        if not found:
            continue
        view, coverage = warp(image, matrix, height, width), [cells for _, cells in found]
        inside = _inside(image.shape[:2], matrix, height, width)
        if donor is not None and config.paste > 0 and rng.random() < config.paste:
            layers = draw_layers(view, donor, config.paste_objects, inside, rng)
            view, coverage = composite(view, layers), _coverage_below(found, layers, matrix, config, rng)
            if not coverage:
                continue
        return _fill_outside(photometric(view, config, rng), inside), repeated(coverage, config.masks)
    return None


def random_affine(
    sample: Sample,
    image_size: tuple[int, int],
    height: int,
    width: int,
    config: SamplingConfig,
    rng: np.random.Generator,
) -> npt.NDArray[np.float64]:
    """2 x 3 matrix from image to view pixels (pixel-corner coordinates): scale, aspect, flip, and a window.

    The window is placed so that the centre of a randomly drawn mask is in view.
    """
    image_h, image_w = image_size
    scale = max(height, width) / max(image_h, image_w) * float(np.exp(rng.uniform(*np.log(config.scale))))
    aspect = float(np.exp(rng.uniform(-0.15, 0.15)))
    scale_x, scale_y = scale * aspect, scale / aspect
    x, y, w, h = sample.annotations[int(rng.integers(len(sample.annotations)))]["bbox"]
    shift = []
    for extent, view, centre in (
        (image_w * scale_x, width, (x + w * rng.uniform(0.2, 0.8)) * scale_x),
        (image_h * scale_y, height, (y + h * rng.uniform(0.2, 0.8)) * scale_y),
    ):
        room = extent - view
        if room <= 0:  # the whole side fits: leave it anywhere in the view, most often at the origin
            shift.append(0.0 if rng.random() < 0.7 else rng.uniform(room, 0.0))
        else:
            shift.append(float(np.clip(centre - rng.uniform(0.15, 0.85) * view, 0.0, room)))
    matrix = np.array([[scale_x, 0.0, -shift[0]], [0.0, scale_y, -shift[1]]])
    if rng.random() < 0.5:
        matrix[0] = -matrix[0]
        matrix[0, 2] += width
    return matrix


def warp(
    image: npt.NDArray[Any], matrix: npt.NDArray[np.float64], height: int, width: int
) -> npt.NDArray[Any]:
    """Resample under a corner-coordinate matrix, averaging when shrinking; zero outside the image."""
    shrink = float(np.sqrt(abs(matrix[0, 0] * matrix[1, 1])))
    if shrink < 0.75:  # area-average first, so that the warp does not alias
        small_h = max(1, round(image.shape[0] * shrink))
        small_w = max(1, round(image.shape[1] * shrink))
        scale_back = np.diag([image.shape[1] / small_w, image.shape[0] / small_h, 1.0])
        image = cv2.resize(image, (small_w, small_h), interpolation=cv2.INTER_AREA)
        matrix = matrix @ scale_back
    centred = matrix.copy()
    centred[:, 2] += matrix[:, :2].sum(1) * 0.5 - 0.5  # OpenCV's pixel centres are at integers
    return cv2.warpAffine(image, centred, (width, height), flags=cv2.INTER_LINEAR)


def _inside(
    image_size: tuple[int, int], matrix: npt.NDArray[np.float64], height: int, width: int
) -> tuple[slice, slice]:
    """Rows and columns of the view that the image fills."""
    corners = np.array([[0.0, 0.0, 1.0], [image_size[1], image_size[0], 1.0]]) @ matrix.T
    x, y = np.round([corners.min(0), corners.max(0)]).astype(int).T
    (x0, x1), (y0, y1) = np.clip(x, 0, width).tolist(), np.clip(y, 0, height).tolist()
    return slice(y0, y1), slice(x0, x1)


def _fill_outside(view: npt.NDArray[np.uint8], inside: tuple[slice, slice]) -> npt.NDArray[np.uint8]:
    """Paint what lies outside the image in the mean colour, which is zero after normalisation, as at inference."""
    filled = np.empty_like(view)
    filled[:] = PADDING_COLOUR
    filled[inside] = view[inside]
    return filled


def _visible_masks(
    sample: Sample,
    matrix: npt.NDArray[np.float64],
    height: int,
    width: int,
    config: SamplingConfig,
    rng: np.random.Generator,
) -> list[tuple[Mapping[str, Any], npt.NDArray[np.uint8]]]:
    """Up to ``config.masks`` randomly chosen annotations that are in view, and their coverage."""
    low_h, low_w = height // LOW_RES_STRIDE, width // LOW_RES_STRIDE
    low_matrix = matrix / LOW_RES_STRIDE
    found: list[tuple[Mapping[str, Any], npt.NDArray[np.uint8]]] = []
    for index in rng.permutation(len(sample.annotations)):
        annotation = sample.annotations[int(index)]
        if not _box_in_view(annotation["bbox"], matrix, height, width):
            continue
        mask = decode(annotation["segmentation"])
        coverage = warp(mask.view(np.uint8) * np.uint8(255), low_matrix, low_h, low_w)
        if is_trainable(coverage, config):
            found.append((annotation, coverage))
        if len(found) == config.masks:
            break
    return found


def is_trainable(coverage: npt.NDArray[np.uint8], config: SamplingConfig) -> bool:
    """True when a mask covers neither too few cells nor nearly all."""
    cells = float(coverage.sum(dtype=np.int64)) / 255.0
    return config.min_cells <= cells <= 0.95 * coverage.size


def repeated(coverage: Sequence[npt.NDArray[np.uint8]], count: int) -> npt.NDArray[np.uint8]:
    """Stack ``count`` masks, going round when there are fewer."""
    return np.stack([coverage[i % len(coverage)] for i in range(count)])


def _coverage_below(
    found: Sequence[tuple[Mapping[str, Any], npt.NDArray[np.uint8]]],
    layers: Sequence[Layer],
    matrix: npt.NDArray[np.float64],
    config: SamplingConfig,
    rng: np.random.Generator,
) -> list[npt.NDArray[np.uint8]]:
    """Coverage of up to ``config.masks`` of the pasted objects and of the view's own masks, less what is covered."""
    height, width = (side * LOW_RES_STRIDE for side in found[0][1].shape)
    hidden = hidden_by(layers, height, width)
    hidden_cells = coverage_of(hidden, LOW_RES_STRIDE)
    coverage = [
        coverage_of(alpha, LOW_RES_STRIDE)
        for alpha in visible_alphas(layers, height, width)
        if alpha is not None
    ]
    for annotation, cells in found:
        if not np.minimum(cells, hidden_cells).any():
            coverage.append(cells)
            continue
        mask = decode(annotation["segmentation"]).view(np.uint8) * np.uint8(255)
        left = hide(warp(mask, matrix, height, width), hidden)
        if left is not None:
            coverage.append(coverage_of(left, LOW_RES_STRIDE))
    coverage = [cells for cells in coverage if is_trainable(cells, config)]
    return [coverage[i] for i in rng.permutation(len(coverage))[: config.masks]]


def _box_in_view(bbox: Sequence[float], matrix: npt.NDArray[np.float64], height: int, width: int) -> bool:
    """True when at least a third of the box lies in the view."""
    x, y, w, h = bbox
    corners = np.array([[x, y, 1.0], [x + w, y + h, 1.0]]) @ matrix.T
    low, high = corners.min(0), corners.max(0)
    inside = np.clip(np.minimum(high, [width, height]) - np.maximum(low, 0.0), 0.0, None)
    return bool(inside.prod() >= (high - low).prod() / 3.0)


def photometric(
    image: npt.NDArray[np.uint8], config: SamplingConfig, rng: np.random.Generator
) -> npt.NDArray[np.uint8]:
    """Brightness, contrast, gamma and saturation jitter; sometimes grey, rarely inverted, sometimes blurred."""
    x = image.astype(np.float32) * np.float32(1.0 / 255.0)
    if rng.random() < config.grey:
        x = np.repeat(x.mean(2, keepdims=True), 3, axis=2)
    else:
        x = x.mean(2, keepdims=True) + (x - x.mean(2, keepdims=True)) * np.float32(rng.uniform(0.5, 1.5))
        x *= rng.uniform(0.9, 1.1, 3).astype(np.float32)
    x = (x - 0.5) * np.float32(rng.uniform(0.7, 1.3)) + np.float32(0.5 + rng.uniform(-0.15, 0.15))
    x = np.clip(x, 0.0, 1.0) ** np.float32(np.exp(rng.uniform(-0.3, 0.3)))
    if rng.random() < config.invert:
        x = 1.0 - x
    if rng.random() < 0.1:
        x = cv2.GaussianBlur(x, (0, 0), float(rng.uniform(0.4, 1.2)))
    jittered: npt.NDArray[np.uint8] = (x * 255.0 + 0.5).astype(np.uint8)
    return jittered

"""Copy-paste: exact cut-outs of one sample laid on a view of another, with masks that know what covers what.

Pasting instances at random, without any model of context, is the augmentation of Ghiasi et al., "Simple Copy-Paste
is a Strong Data Augmentation Method for Instance Segmentation" (2021), section 3; that the way of blending must vary,
so that a network cannot find objects by their seams, is from Dwibedi et al., "Cut, Paste and Learn" (2017),
section 5.2. A pasted object's *alpha* is its warped mask and nothing else; how softly its pixels are blended is
drawn apart and leaves alpha alone, so its coverage means what that of an ordinary mask means.

Everything here is arrays in, arrays out, with a given random generator; `samples` decides whose objects are pasted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from anymask.data.dataset import Sample
from anymask.masks.rle import decode

Pixels = npt.NDArray[Any]  # uint8; OpenCV's annotations do not say so
Donation = tuple[
    Sample, Sequence[Mapping[str, Any]]
]  # a sample and those of its annotations that may be cut out
Donor = Callable[[np.random.Generator], Donation | None]

MARGIN = (
    2  # pixels of surroundings kept around a cut-out, and the least distance of a whole object to the border
)
MOST_HIDDEN = 0.6  # a mask that loses a greater share of its area to pasted objects is dropped
_EXTENT = (
    0.12,
    0.65,
)  # an object's longer side over that of a square of the view's area, before it is turned
_SAME_SAMPLE = 0.4  # share of objects, after the first, from the sample of the one before
_LARGEST_ZOOM = 1.4  # of the source's pixels: more would show as blur
_LEAST_STEP = 10.0  # levels of 255 between the mean colours of an object and of what it lies on
_SHADOWS = 0.25  # share of objects that throw one
_SHADOW_REACH = 0.08  # of the object's longer side


@dataclass(frozen=True)
class Cutout:
    """An object with a margin of its surroundings.

    Attributes:
        pixels: (h, w, 3) uint8 RGB.
        alpha: (h, w) uint8, 255 inside the object, zero along the border.
    """

    pixels: Pixels
    alpha: Pixels


@dataclass(frozen=True)
class Layer:
    """An object at its place in a view.

    Attributes:
        top, left: where the arrays' first pixel lies in the view.
        pixels: (h, w, 3) uint8 RGB.
        alpha: (h, w) uint8, the share of each pixel that the object covers.
        opacity: (h, w) uint8, the share of its colour in the composite: ``alpha`` with another softness.
        shadow: (h, w) uint8, the share of light that its shadow takes from what lies below, or None.
    """

    top: int
    left: int
    pixels: Pixels
    alpha: Pixels
    opacity: Pixels
    shadow: Pixels | None = None

    @property
    def window(self) -> tuple[slice, slice]:
        """Rows and columns of the view that the arrays fill."""
        return (
            slice(self.top, self.top + self.alpha.shape[0]),
            slice(self.left, self.left + self.alpha.shape[1]),
        )


def draw_layers(
    view: Pixels, donor: Donor, count: tuple[int, int], inside: tuple[slice, slice], rng: np.random.Generator
) -> list[Layer]:
    """Draw cut-outs and their places in a view, bottom first.

    Four in ten, after the first, come from the same sample as the one before, at the same zoom and close to it:
    neighbours that look alike are what one object is hardest to tell from.

    Args:
        view: (H, W, 3) uint8 RGB.
        donor: draws a sample and the annotations that may be cut out of it.
        count: least and greatest number of cut-outs; fewer come out where the donor has none or one misses the view.
        inside: rows and columns of the view that objects may lie in.
        rng: source of chance.
    """
    layers: list[Layer] = []
    group: _Group | None = None
    near: tuple[float, float] | None = None
    for _ in range(int(rng.integers(count[0], count[1] + 1))):
        if group is None or rng.random() >= _SAME_SAMPLE:
            donation = donor(rng)
            group, near = (None if donation is None else _draw_group(donation, inside, rng)), None
        if group is None:
            continue
        annotation = group.objects[int(rng.integers(len(group.objects)))]
        zoom = min(group.zoom, _EXTENT[1] * _side(inside) / max(annotation["bbox"][2:]))
        cutout = cut_out(group.image, annotation, group.reduction, erode=rng.random() < 0.5)
        layer = place(cutout, zoom * group.reduction, inside, rng, near)
        if layer is not None:
            layers.append(dress(layer, view, inside, rng))
            rows, columns = layer.window
            near = ((columns.start + columns.stop) / 2, (rows.start + rows.stop) / 2)
    return layers


@dataclass(frozen=True)
class _Group:
    """A decoded sample that cut-outs of one zoom (view pixels per source pixel) come from."""

    image: Pixels
    reduction: int
    zoom: float
    objects: Sequence[Mapping[str, Any]]


def _draw_group(donation: Donation, inside: tuple[slice, slice], rng: np.random.Generator) -> _Group:
    """Decode a sample no larger than needed for a zoom that gives one of its objects a log-uniform extent."""
    sample, objects = donation
    first = int(rng.integers(len(objects)))
    extent = float(np.exp(rng.uniform(*np.log(_EXTENT)))) * _side(inside)
    zoom = min(_LARGEST_ZOOM, extent / max(objects[first]["bbox"][2:]))
    reduction = reduction_for(zoom)
    return _Group(decode_reduced(sample.image, reduction), reduction, zoom, objects)


def _side(inside: tuple[slice, slice]) -> float:
    """Side in pixels of the square of a window's area."""
    rows, columns = inside
    return float(np.sqrt((rows.stop - rows.start) * (columns.stop - columns.start)))


def whole_objects(
    sample: Sample, area: tuple[float, float], category: str | None = None
) -> list[Mapping[str, Any]]:
    """Annotations that keep `MARGIN` from the border and cover a share of the image within ``area``.

    Args:
        sample: any sample.
        area: least and greatest share of the image.
        category: only annotations of this category, where given.
    """
    found = []
    for annotation in sample.annotations:
        x, y, w, h = annotation["bbox"]
        is_inside = min(x, y) >= MARGIN and x + w <= sample.width - MARGIN and y + h <= sample.height - MARGIN
        share = annotation["area"] / (sample.width * sample.height)
        if (
            is_inside
            and area[0] <= share <= area[1]
            and category in (None, annotation.get("category", category))
        ):
            found.append(annotation)
    return found


def reduction_for(zoom: float) -> int:
    """How many times smaller (1, 2 or 4) an image may be decoded whose objects are then pasted at this zoom."""
    return next((factor for factor in (4, 2) if zoom * factor <= 1.0), 1)


def decode_reduced(data: bytes, reduction: int) -> Pixels:
    """Encoded image of a trusted shard -> RGB, decoded straight to a 1, 2 or 4 times smaller size."""
    flag = {1: cv2.IMREAD_COLOR, 2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4}[reduction]
    bgr = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
    return np.ascontiguousarray(np.asarray(bgr, dtype=np.uint8)[..., ::-1])


def cut_out(image: Pixels, annotation: Mapping[str, Any], reduction: int, erode: bool = False) -> Cutout:
    """The cut-out of a whole object from an image that was decoded ``reduction`` times smaller.

    Args:
        image: (H, W, 3) uint8 RGB from `decode_reduced`.
        annotation: of the full-size image.
        reduction: of the image.
        erode: take one pixel off the mask all around, for outlines that keep a rim of their background.
    """
    mask = decode(annotation["segmentation"]).view(np.uint8)
    x, y, w, h = (int(v) for v in annotation["bbox"])
    cells_x = _span(x, w, image.shape[1], reduction)
    cells_y = _span(y, h, image.shape[0], reduction)
    full = np.zeros(
        ((cells_y.stop - cells_y.start) * reduction, (cells_x.stop - cells_x.start) * reduction), np.uint8
    )
    part = mask[
        cells_y.start * reduction : cells_y.stop * reduction,
        cells_x.start * reduction : cells_x.stop * reduction,
    ]
    full[: part.shape[0], : part.shape[1]] = part
    full *= 255
    if erode:
        full = cv2.erode(full, np.ones((3, 3), np.uint8))
    pixels = np.ascontiguousarray(image[cells_y, cells_x])
    if reduction > 1:
        full = cv2.resize(full, (pixels.shape[1], pixels.shape[0]), interpolation=cv2.INTER_AREA)
    return Cutout(
        cv2.copyMakeBorder(pixels, 1, 1, 1, 1, cv2.BORDER_REPLICATE),
        cv2.copyMakeBorder(full, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0),
    )


def _span(start: int, length: int, limit: int, reduction: int) -> slice:
    """The reduced pixels that hold an interval and its margin."""
    return slice(
        max(0, (start - MARGIN) // reduction), min(limit, -(-(start + length + MARGIN) // reduction))
    )


def place(
    cutout: Cutout,
    zoom: float,
    inside: tuple[slice, slice],
    rng: np.random.Generator,
    near: tuple[float, float] | None = None,
) -> Layer | None:
    """Scale, stretch, flip and turn a cut-out a little, and put it into a window of the view.

    Args:
        cutout: the object.
        zoom: view pixels per pixel of the cut-out.
        inside: rows and columns of the view that objects may lie in; what reaches beyond is cut off.
        rng: source of chance.
        near: (x, y) in the view that the object shall lie close to.

    Returns:
        The layer, blended exactly (opacity is alpha), or None when nothing is left inside.
    """
    cutout, zoom = _shrunk(cutout, zoom)
    matrix = _turn(zoom, rng)
    h, w = cutout.alpha.shape
    corners = np.array([[0, 0], [w, 0], [0, h], [w, h]], np.float64) @ matrix[:, :2].T
    low, size = corners.min(0), np.ptp(corners, axis=0)
    first = np.array([inside[1].start, inside[0].start], np.float64)
    room = np.array([inside[1].stop, inside[0].stop]) - first
    centre = first + room / 2 + rng.uniform(-0.5, 0.5, 2) * np.maximum(room - 0.5 * size, 0.0)
    if near is not None:
        reach = np.asarray(near) + rng.uniform(-0.75, 0.75, 2) * size
        centre = np.clip(reach, first, first + room)
    matrix[:, 2] = centre - low - size / 2
    start = np.maximum(np.floor(centre - size / 2), first).astype(int)
    stop = np.minimum(np.ceil(centre + size / 2), first + room).astype(int)
    if (stop <= start).any():
        return None
    matrix[:, 2] -= start
    matrix[:, 2] += matrix[:, :2].sum(1) * 0.5 - 0.5  # OpenCV's pixel centres are at integers
    target = (int(stop[0] - start[0]), int(stop[1] - start[1]))
    pixels = cv2.warpAffine(
        cutout.pixels, matrix, target, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    alpha = cv2.warpAffine(cutout.alpha, matrix, target, flags=cv2.INTER_LINEAR)
    return Layer(int(start[1]), int(start[0]), pixels, alpha, alpha) if alpha.any() else None


def _shrunk(cutout: Cutout, zoom: float) -> tuple[Cutout, float]:
    """Area-average first when shrinking, so that the warp does not alias; the zoom that is left."""
    if zoom >= 0.75:
        return cutout, zoom
    h, w = cutout.alpha.shape
    size = (max(1, round(w * zoom)), max(1, round(h * zoom)))
    small = [cv2.resize(part, size, interpolation=cv2.INTER_AREA) for part in (cutout.pixels, cutout.alpha)]
    return Cutout(small[0], small[1]), 1.0


def _turn(zoom: float, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """2 x 3 matrix without shift: zoom, stretch by up to 15 %, perhaps a flip, a turn by some 15 degrees or any."""
    stretch = float(np.exp(rng.uniform(-0.15, 0.15)))
    angle = np.deg2rad(rng.normal(0.0, 12.0) if rng.random() < 0.85 else rng.uniform(-180.0, 180.0))
    flip = -1.0 if rng.random() < 0.5 else 1.0
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.hstack([zoom * turn @ np.diag([flip * stretch, 1.0 / stretch]), np.zeros((2, 1))])


def dress(layer: Layer, view: Pixels, inside: tuple[slice, slice], rng: np.random.Generator) -> Layer:
    """Give a layer colours, an edge and perhaps a shadow of its own, independent of the view's."""
    has_shadow = rng.random() < _SHADOWS
    if has_shadow:
        layer = _widened(layer, inside, round(2 * _SHADOW_REACH * max(layer.alpha.shape)))
    pixels = recolour(layer.pixels, view[layer.window], layer.alpha, rng)
    opacity = soften(layer.alpha, rng)
    shadow = _shadow(layer.alpha, rng) if has_shadow else None
    return Layer(layer.top, layer.left, pixels, layer.alpha, opacity, shadow)


def _widened(layer: Layer, inside: tuple[slice, slice], margin: int) -> Layer:
    """The same layer with a transparent margin, as far as the window ``inside`` allows."""
    rows, columns = layer.window
    up, left = min(margin, rows.start - inside[0].start), min(margin, columns.start - inside[1].start)
    down, right = min(margin, inside[0].stop - rows.stop), min(margin, inside[1].stop - columns.stop)
    pixels = cv2.copyMakeBorder(layer.pixels, up, down, left, right, cv2.BORDER_REPLICATE)
    alpha = cv2.copyMakeBorder(layer.alpha, up, down, left, right, cv2.BORDER_CONSTANT, value=0)
    return Layer(layer.top - up, layer.left - left, pixels, alpha, alpha)


def recolour(pixels: Pixels, below: Pixels, alpha: Pixels, rng: np.random.Generator) -> Pixels:
    """Change brightness, contrast, saturation and tint; half the time draw the mean colour to what lies below."""
    x = pixels.astype(np.float32)
    mean = np.array(cv2.mean(pixels, alpha)[:3], np.float32)
    saturation, contrast = (np.float32(v) for v in (rng.uniform(0.5, 1.4), rng.uniform(0.75, 1.25)))
    target = mean.mean() + (mean - mean.mean()) * saturation + np.float32(rng.normal(0.0, 18.0))
    ground = np.array(cv2.mean(below)[:3], np.float32)
    if rng.random() < 0.5:
        target += (ground - target) * np.float32(rng.uniform(0.2, 0.7))
    target *= rng.uniform(0.92, 1.08, 3).astype(np.float32)
    if np.abs(target - ground).max() < _LEAST_STEP:
        target += np.float32(_LEAST_STEP if ground.mean() < 128 else -_LEAST_STEP)
    grey = x.mean(2, keepdims=True)
    x = (grey + (x - grey) * saturation - mean.mean() - (mean - mean.mean()) * saturation) * contrast + target
    recoloured: Pixels = np.clip(x, 0.0, 255.0).astype(np.uint8)
    return recoloured


def soften(alpha: Pixels, rng: np.random.Generator) -> Pixels:
    """Opacity of an alpha: as it is, or blended over up to 2 pixels by a Gaussian or a box of random width."""
    kind, width = rng.random(), float(rng.uniform(0.3, 1.0))
    if kind < 0.35 or min(alpha.shape) < 12:
        return alpha
    if kind < 0.75:
        return cv2.GaussianBlur(alpha, (0, 0), width)
    return cv2.blur(alpha, (3, 3) if kind < 0.92 else (2, 2))


def _shadow(alpha: Pixels, rng: np.random.Generator) -> Pixels:
    """A blurred copy of an alpha, shifted downwards and sideways, within the same window."""
    reach = _SHADOW_REACH * max(alpha.shape)
    side, down = rng.uniform(-reach, reach), rng.uniform(0.0, reach)
    matrix = np.array([[1.0, 0.0, side], [0.0, 1.0, down]])
    moved = cv2.warpAffine(alpha, matrix, (alpha.shape[1], alpha.shape[0]))
    width = 3 + 2 * int(reach / 3)
    blurred = cv2.blur(moved, (width, width), borderType=cv2.BORDER_CONSTANT)
    shadow: Pixels = (blurred * np.float32(rng.uniform(0.2, 0.6))).astype(np.uint8)
    return shadow


def composite(view: Pixels, layers: Sequence[Layer]) -> Pixels:
    """Lay layers over a view, the first at the bottom; the view itself is left as it is."""
    out = view.copy()
    for layer in layers:
        below = out[layer.window].astype(np.float32)
        if layer.shadow is not None:
            below *= (255 - layer.shadow).astype(np.float32)[..., None] * np.float32(1 / 255)
        share = layer.opacity.astype(np.float32)[..., None] * np.float32(1 / 255)
        below += (layer.pixels - below) * share
        out[layer.window] = (below + 0.5).astype(np.uint8)
    return out


def hidden_by(layers: Sequence[Layer], height: int, width: int) -> Pixels:
    """(height, width) uint8: the share of each pixel that layers cover together."""
    clear = np.full((height, width), 255, np.uint8)
    for layer in layers:
        clear[layer.window] = cv2.multiply(clear[layer.window], 255 - layer.alpha, scale=1 / 255)
    return 255 - clear


def visible_alphas(layers: Sequence[Layer], height: int, width: int) -> list[Pixels | None]:
    """(height, width) uint8 of what later layers leave of each; None where they hide more than `MOST_HIDDEN`."""
    clear = np.full((height, width), 255, np.uint8)
    found: list[Pixels | None] = []
    for layer in reversed(layers):
        alpha = np.zeros((height, width), np.uint8)
        alpha[layer.window] = cv2.multiply(layer.alpha, clear[layer.window], scale=1 / 255)
        found.append(alpha if _shows_enough(alpha, layer.alpha) else None)
        clear[layer.window] = cv2.multiply(clear[layer.window], 255 - layer.alpha, scale=1 / 255)
    return found[::-1]


def hide(alpha: Pixels, hidden: Pixels) -> Pixels | None:
    """What is left of a mask (height, width) under a cover; None where more than `MOST_HIDDEN` of it is lost."""
    left = cv2.multiply(alpha, 255 - hidden, scale=1 / 255)
    return left if _shows_enough(left, alpha) else None


def _shows_enough(left: Pixels, alpha: Pixels) -> bool:
    return bool(cv2.sumElems(left)[0] >= (1.0 - MOST_HIDDEN) * cv2.sumElems(alpha)[0] > 0)


def coverage_of(alpha: Pixels, stride: int) -> Pixels:
    """Mean of each stride x stride cell: (H, W) uint8 -> (H/stride, W/stride) uint8."""
    size = (alpha.shape[1] // stride, alpha.shape[0] // stride)
    return cv2.resize(alpha, size, interpolation=cv2.INTER_AREA)

"""Drawn scenes: layered shapes under random textures and light, every mask known exactly, parts and wholes both.

Domain randomisation (Tobin et al., 2017): nothing here looks like a photograph for long, but where one thing ends
and the next begins is always right, which no hand-drawn outline is. Shapes come alone, with parts, as rings, strokes
and strips, and as the crowds that annotated photographs lack: leaves of a rosette, cells in a dish, bricks.

A mask is an alpha: (H, W) uint8, the share of each pixel that is the object's and visible. A part's alpha is nowhere
greater than its whole's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np

from .shapes import (
    Outline,
    Patch,
    Pixels,
    Points,
    any_shape,
    blob,
    circle,
    clipped,
    ellipse,
    glyph,
    polygon,
    rasterise,
    rectangle,
    rotation,
)
from .synthesis import MOST_HIDDEN
from .textures import Colours, Palette, finish, texture

SMALLEST = 48.0  # pixels: a mask that shows less is left out
_LEAST_STEP = 10.0  # levels of 255 between the mean colours of an object and of what it lies on


class Canvas:
    """A view being painted, and the alphas of the objects on it.

    Attributes:
        pixels: (H, W, 3) float32, 0..255.
        alphas: (H, W) uint8 each: what of each object is visible by now.
        drawn: area in pixels of each object before anything lay above it.
    """

    def __init__(
        self, rng: np.random.Generator, height: int, width: int, photographs: Sequence[Pixels]
    ) -> None:
        self.rng, self.height, self.width = rng, height, width
        self.palette = Palette.draw(rng, photographs)
        self.pixels = texture(rng, height, width, self.palette)
        self.alphas: list[Pixels] = []
        self.drawn: list[float] = []

    def cover(self, patch: Patch, keep: Sequence[int] = ()) -> None:
        """Take what a patch hides from every object but those it is part of."""
        clear, window = 255 - patch.alpha, patch.window
        for index, alpha in enumerate(self.alphas):
            if index not in keep:
                alpha[window] = cv2.multiply(alpha[window], clear, scale=1 / 255)

    def register(self, patch: Patch) -> int:
        """Make a patch an object, which the patches painted later may hide; returns its index."""
        alpha = np.zeros((self.height, self.width), np.uint8)
        alpha[patch.window] = patch.alpha
        self.alphas.append(alpha)
        self.drawn.append(cv2.sumElems(patch.alpha)[0] / 255.0)
        return len(self.alphas) - 1

    def paint(self, patch: Patch, colours: Colours) -> None:
        """Blend colours (h, w, 3) in over a patch, made lighter or darker where they would hardly show."""
        below = self.pixels[patch.window]
        step = np.subtract(cv2.mean(colours, patch.alpha), cv2.mean(below, patch.alpha))[:3]
        if np.abs(step).max() < _LEAST_STEP:
            colours = colours + np.float32(_LEAST_STEP if step.sum() >= 0 else -_LEAST_STEP)
        below += (colours - below) * (patch.alpha.astype(np.float32)[..., None] * np.float32(1 / 255))

    def fresh(self, patch: Patch) -> Colours:
        """A new texture of the size of a patch."""
        return texture(self.rng, patch.alpha.shape[0], patch.alpha.shape[1], self.palette)

    def masks(self) -> list[Pixels]:
        """Alphas of the objects of which enough is visible."""
        found = []
        for alpha, drawn in zip(self.alphas, self.drawn, strict=True):
            area = cv2.sumElems(alpha)[0] / 255.0
            if area >= max(SMALLEST, (1.0 - MOST_HIDDEN) * drawn):
                found.append(alpha)
        return found


def scene(
    rng: np.random.Generator, height: int, width: int, photographs: Sequence[Pixels] = ()
) -> tuple[Pixels, list[Pixels]]:
    """Draw a scene.

    Args:
        rng: source of all chance.
        height, width: in pixels.
        photographs: (h, w, 3) uint8 RGB pictures that textures may be cut from.

    Returns:
        pixels (height, width, 3) uint8 RGB and at least one mask (height, width) uint8, 255 where a pixel is the
        object's alone. Wholes come before their parts.
    """
    canvas = Canvas(rng, height, width, photographs)
    if rng.random() < 0.25:
        _regions(canvas)
    crowd = _CROWDS[int(rng.integers(len(_CROWDS)))] if rng.random() < 0.55 else None
    if crowd is not None:
        crowd(canvas)
    few = 1 if crowd is not None else 2
    for _ in range(int(rng.integers(few, few + 5))):
        _object(canvas)
    masks = canvas.masks()
    if not masks:
        _object(canvas, ellipse, 0.25 * min(height, width), np.array([width / 2, height / 2]))
        masks = canvas.masks()
    return finish(rng, canvas.pixels), masks


def _spot(canvas: Canvas) -> Points:
    return canvas.rng.uniform(0.05, 0.95, 2) * (canvas.width, canvas.height)


def _size(canvas: Canvas, least: float, greatest: float) -> float:
    """A log-uniform radius, as a share of the view's shorter side."""
    share = np.exp(canvas.rng.uniform(np.log(least), np.log(greatest)))
    return float(share) * min(canvas.height, canvas.width)


def _object(
    canvas: Canvas,
    shape: Callable[[np.random.Generator, float], Outline] = any_shape,
    size: float | None = None,
    centre: Points | None = None,
) -> None:
    """One shape with a texture, half the time with parts and parts of parts."""
    size = _size(canvas, 0.05, 0.42) if size is None else size
    outline = shape(canvas.rng, size).moved(_spot(canvas) if centre is None else centre)
    patch = rasterise(outline, canvas.height, canvas.width)
    if patch is None:
        return
    if canvas.rng.random() < 0.2:
        _shade(canvas, patch)
    canvas.cover(patch)
    canvas.paint(patch, canvas.fresh(patch))
    lineage = [canvas.register(patch)]
    if outline.stroke == 0 and size > 12 and canvas.rng.random() < 0.5:
        for _ in range(int(canvas.rng.integers(1, 4))):
            child = _part(canvas, patch, lineage[:1], size)
            if child is not None and canvas.rng.random() < 0.3:
                _part(canvas, child[0], [*lineage[:1], child[1]], size * 0.4)


def _part(canvas: Canvas, whole: Patch, lineage: list[int], size: float) -> tuple[Patch, int] | None:
    """A shape inside an object, cut off at its edge."""
    rows, columns = canvas.rng.integers(0, whole.alpha.shape, (16, 2)).T
    hits = np.flatnonzero(whole.alpha[rows, columns] > 127)
    if not len(hits):
        return None
    centre = np.array([columns[hits[0]] + whole.left, rows[hits[0]] + whole.top], np.float64)
    outline = any_shape(canvas.rng, size * float(canvas.rng.uniform(0.2, 0.7))).moved(centre)
    patch = rasterise(outline, canvas.height, canvas.width)
    inner = None if patch is None else clipped(patch, canvas.alphas[lineage[-1]])
    if inner is None:
        return None
    canvas.cover(inner, keep=lineage)
    canvas.paint(inner, canvas.fresh(inner))
    return inner, canvas.register(inner)


def _shade(canvas: Canvas, patch: Patch) -> None:
    """Darken what lies below a patch and to one side of it, softly."""
    reach = max(2, int(0.06 * max(patch.alpha.shape)))
    wide = cv2.copyMakeBorder(patch.alpha, reach, reach, reach, reach, cv2.BORDER_CONSTANT, value=0)
    soft = cv2.blur(wide, (2 * reach + 1, 2 * reach + 1), borderType=cv2.BORDER_CONSTANT)
    top, left = patch.top, patch.left - reach + int(canvas.rng.integers(-reach, reach + 1))
    rows = slice(max(top, 0), min(top + soft.shape[0], canvas.height))
    columns = slice(max(left, 0), min(left + soft.shape[1], canvas.width))
    part = soft[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    strength = np.float32(canvas.rng.uniform(0.2, 0.6) / 255)
    canvas.pixels[rows, columns] *= np.float32(1.0) - part.astype(np.float32)[..., None] * strength


def _regions(canvas: Canvas) -> None:
    """Part the ground into two to five textured regions, each an object."""
    count = int(canvas.rng.integers(2, 6))
    cells = int(canvas.rng.integers(2, 5))
    fields = [
        cv2.resize(
            canvas.rng.random((cells, cells), np.float32),
            (canvas.width, canvas.height),
            interpolation=cv2.INTER_CUBIC,
        )
        for _ in range(count)
    ]
    owner = np.argmax(np.stack(fields), 0)
    for index in range(count):
        patch = Patch(0, 0, (owner == index).astype(np.uint8) * np.uint8(255))
        canvas.paint(patch, canvas.fresh(patch))
        canvas.register(patch)


def _crowd(canvas: Canvas, whole: Patch | None, members: Sequence[Outline], own: float) -> None:
    """Paint many like members, each an object and, with ``whole``, a part of it; ``own`` share get own textures."""
    lineage: list[int] = []
    if whole is not None:
        canvas.cover(whole)
        canvas.paint(whole, canvas.fresh(whole))
        lineage = [canvas.register(whole)]
    common = texture(canvas.rng, canvas.height, canvas.width, canvas.palette)
    spread = np.float32(canvas.rng.uniform(4.0, 25.0))
    for outline in members:
        patch = rasterise(outline, canvas.height, canvas.width)
        patch = patch if patch is None or not lineage else clipped(patch, canvas.alphas[lineage[0]])
        if patch is None:
            continue
        canvas.cover(patch, keep=lineage)
        tint = canvas.rng.normal(0.0, 1.0, 3).astype(np.float32) * np.float32(0.3) + np.float32(
            canvas.rng.normal()
        )
        colours = canvas.fresh(patch) if canvas.rng.random() < own else common[patch.window] + tint * spread
        canvas.paint(patch, colours)
        canvas.register(patch)


def _rosette(canvas: Canvas) -> None:
    """Leaves around a centre, the union of them the plant."""
    rng, centre, length = canvas.rng, _spot(canvas), _size(canvas, 0.18, 0.5)
    count = int(rng.integers(4, 12))
    slim, waist = rng.uniform(0.2, 0.5), rng.uniform(0.0, 0.5)
    leaves = []
    for index in range(count):
        unit = circle(32)
        reach = length * rng.uniform(0.6, 1.0) / 2
        leaf = unit * (reach, reach * slim * rng.uniform(0.8, 1.2))
        leaf[:, 1] *= 1.0 + waist * unit[:, 0]  # broader towards the tip
        turn = rotation(2 * np.pi * index / count + float(rng.normal(0.0, 0.3)))
        stalk = np.array([reach * rng.uniform(0.9, 1.1), 0.0])
        leaves.append(Outline(((leaf + stalk) @ turn + centre,)))
    patches = [p for p in (rasterise(leaf, canvas.height, canvas.width) for leaf in leaves) if p is not None]
    union = np.zeros((canvas.height, canvas.width), np.uint8)
    for patch in patches:
        union[patch.window] = 255 - cv2.multiply(255 - union[patch.window], 255 - patch.alpha, scale=1 / 255)
    if cv2.countNonZero(union):
        _crowd(canvas, Patch(0, 0, union), [leaves[i] for i in rng.permutation(count)], own=0.05)


def _dish(canvas: Canvas) -> None:
    """Cells or seeds, most of them apart, often in a dish."""
    rng = canvas.rng
    radius = _size(canvas, 0.2, 0.7)
    whole, centre = None, _spot(canvas)
    if rng.random() < 0.6:
        dish = (ellipse if rng.random() < 0.7 else rectangle)(rng, radius).moved(centre)
        whole = rasterise(dish, canvas.height, canvas.width)
        if whole is None:
            return
    size = radius * float(rng.uniform(0.06, 0.22))
    shape = (ellipse, ellipse, blob, polygon, glyph)[int(rng.integers(5))]
    apart, members, taken = rng.uniform(1.0, 2.2), [], np.empty((0, 2))
    for spot in centre + rng.uniform(-1.0, 1.0, (int(rng.integers(6, 36)), 2)) * radius:
        if not len(taken) or (np.hypot(*(taken - spot).T) > apart * size).all():
            taken = np.vstack([taken, spot])
            members.append(shape(rng, size * float(rng.uniform(0.7, 1.2))).moved(spot))
    _crowd(canvas, whole, members, own=float(rng.random() < 0.2))


def _bricks(canvas: Canvas) -> None:
    """A wall, a keyboard, a window front: rectangles in rows on a ground that is the whole."""
    rng = canvas.rng
    rows, columns = int(rng.integers(2, 7)), int(rng.integers(2, 7))
    half = np.array([_size(canvas, 0.15, 0.6), _size(canvas, 0.15, 0.6)])
    cell = 2 * half / (columns, rows)
    gap = float(rng.uniform(0.02, 0.3)) * cell.min()
    offset = float(rng.choice([0.0, 0.5])) * cell[0]
    turn = rotation(0.0 if rng.random() < 0.5 else float(rng.normal(0.0, 0.3)))
    centre = _spot(canvas)
    square = np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]])
    members = []
    for row in range(rows):
        for column in range(-1, columns):
            middle = -half + cell * (column + 0.5, row + 0.5) + (offset * (row % 2), 0.0)
            members.append(Outline(((square * (cell - gap) + middle) @ turn + centre,)))
    wall = rasterise(Outline((square * 2 * half @ turn + centre,)), canvas.height, canvas.width)
    if wall is not None:
        _crowd(canvas, wall, members, own=float(rng.random() < 0.15))


_CROWDS = (_rosette, _dish, _bricks)

"""Pictures for people: masks and prompts drawn over a photograph.

The mask's area keeps its texture under a translucent fill, everything else is dimmed with its hue unchanged,
and the outline and the marks carry a dark halo so that they read on any background. All sizes grow with the
picture, so that a thumbnail and a poster look alike.

Coordinates are image pixels with the origin at the top-left corner of the top-left pixel; a point (x, y) is
drawn in the pixel that contains it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from anymask.errors import MaskError

__all__ = ["COLOURS", "contact_sheet", "draw_overlay", "draw_prompts"]

Pixels = NDArray[np.uint8]
Colour = tuple[int, int, int]

COLOURS: Final[tuple[Colour, ...]] = (
    (30, 144, 255),
    (255, 138, 0),
    (200, 70, 235),
    (0, 190, 150),
    (240, 200, 0),
    (240, 70, 110),
)
"""RGB of the first mask, the second, and so on; chosen to differ in lightness too."""
FOREGROUND: Final[Colour] = (34, 197, 94)
BACKGROUND: Final[Colour] = (239, 68, 68)

_FILL: Final = 0.45
_DIM: Final = 0.62
_HALO: Final = 0.55
_WHITE: Final[Colour] = (255, 255, 255)
_BLACK: Final[Colour] = (0, 0, 0)
_BAND_ROWS: Final = 512  # rows blended at a time, so that huge pictures need little memory


def draw_overlay(pixels: Pixels, mask: NDArray[np.bool_], colour: Colour = COLOURS[0]) -> Pixels:
    """A new picture (H, W, 3) uint8: ``mask`` (H, W) filled and outlined, the rest of ``pixels`` dimmed.

    An empty mask gives the dimmed picture. Raises ``MaskError`` when the sizes differ.
    """
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise MaskError(f"an overlay needs (H, W, 3) uint8 pixels, got {pixels.dtype} {pixels.shape}")
    if mask.dtype != np.bool_ or mask.shape != pixels.shape[:2]:
        raise MaskError(
            f"an overlay needs a bool mask of shape {pixels.shape[:2]}, got {mask.dtype} {mask.shape}"
        )
    canvas = np.empty_like(pixels)
    tint = np.array(colour, dtype=np.float32) * _FILL
    for top in range(0, len(pixels), _BAND_ROWS):
        band = slice(top, top + _BAND_ROWS)
        source = pixels[band].astype(np.float32)
        inside = mask[band][..., None]
        canvas[band] = np.where(inside, source * (1.0 - _FILL) + tint, source * _DIM).astype(np.uint8)
    _draw_outline(canvas, mask, colour)
    return canvas


def draw_prompts(
    canvas: Pixels,
    points: ArrayLike | None = None,
    labels: ArrayLike | None = None,
    box_xyxy: ArrayLike | None = None,
) -> None:
    """Draw a dashed box and round marks, green for label 1 and red for 0, into ``canvas``."""
    if box_xyxy is not None:
        _draw_box(canvas, [float(corner) for corner in np.asarray(box_xyxy, dtype=np.float64).reshape(4)])
    if points is None:
        return
    places = np.asarray(points, dtype=np.float64).reshape(-1, 2)
    kinds = np.ones(len(places)) if labels is None else np.asarray(labels, dtype=np.float64).reshape(-1)
    for (x, y), kind in zip(places, kinds, strict=True):
        _draw_mark(canvas, float(x), float(y), FOREGROUND if kind == 1 else BACKGROUND)


def contact_sheet(panels: Sequence[Pixels], captions: Sequence[str], panel_side: int = 640) -> Pixels:
    """Panels of one size beside each other (above each other when they are wide), a caption under each.

    Panels are scaled down to ``panel_side`` where they are larger, and up a little where a caption would not fit.
    """
    if not panels or len(panels) != len(captions):
        raise MaskError(
            f"a contact sheet needs a caption for each panel, got {len(panels)} and {len(captions)}"
        )
    fitted = [_fit(panel, panel_side) for panel in panels]
    height, width = fitted[0].shape[:2]
    strip, gap = max(28, panel_side // 16), max(6, panel_side // 64)
    cell_width = max(width, panel_side // 2)
    across = 1 if width > 2 * height else len(fitted)
    rows = -(-len(fitted) // across)
    sheet = np.full(
        (rows * (height + strip) + (rows + 1) * gap, across * cell_width + (across + 1) * gap, 3),
        24,
        dtype=np.uint8,
    )
    for index, (panel, caption) in enumerate(zip(fitted, captions, strict=True)):
        top = gap + (index // across) * (height + strip + gap)
        left = gap + (index % across) * (cell_width + gap)
        inset = left + (cell_width - width) // 2
        sheet[top : top + height, inset : inset + width] = panel
        _write(sheet, caption, left, top + height, cell_width, strip)
    return sheet


def _unit(canvas: Pixels) -> float:
    """How much larger than a picture of 600 x 400 this one is, by side; marks and lines scale with it."""
    return min(max(math.sqrt(canvas.shape[0] * canvas.shape[1]) / 490.0, 0.3), 40.0)


def _blend(region: Pixels, alpha: NDArray[np.floating], colour: Colour) -> None:
    """Lay ``colour`` over ``region`` (h, w, 3) with weights ``alpha`` (h, w) in 0..1, in place."""
    weight = alpha[..., None]
    mixed = region * (1.0 - weight) + np.array(colour, dtype=np.float32) * weight
    region[...] = np.rint(mixed).astype(np.uint8)


def _draw_outline(canvas: Pixels, mask: NDArray[np.bool_], colour: Colour) -> None:
    """A line of two pixels (at 600 x 400) along the mask's edge, antialiased, with a dark halo.

    The line follows the zero of a signed distance to the edge, blurred a little so that the steps of the
    pixel grid melt into a smooth curve.
    """
    half = max(1.0, _unit(canvas))
    halo = half + max(1.0, 0.9 * _unit(canvas))
    margin = int(halo + 2.1 * half) + 3  # as far as the blur reaches
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return
    x0, x1 = max(int(columns[0]) - margin, 0), min(int(columns[-1]) + 1 + margin, mask.shape[1])
    y0, y1 = max(int(rows[0]) - margin, 0), min(int(rows[-1]) + 1 + margin, mask.shape[0])
    light = tuple(round(255 - (255 - value) * 0.72) for value in colour)
    for top in range(y0, y1, _BAND_ROWS):
        bottom = min(top + _BAND_ROWS, y1)
        above, below = max(top - margin, y0), min(bottom + margin, y1)
        distance = np.abs(_signed_distance(mask[above:below, x0:x1], half))[top - above : bottom - above]
        region = canvas[top:bottom, x0:x1]
        _blend(region, np.clip(halo + 0.5 - distance, 0.0, 1.0) * np.float32(_HALO), _BLACK)
        _blend(
            region,
            np.clip(half + 0.5 - distance, 0.0, 1.0).astype(np.float32),
            (light[0], light[1], light[2]),
        )


def _signed_distance(mask: NDArray[np.bool_], softness: float) -> NDArray[np.float32]:
    """Pixels to the mask's edge, positive inside, (h, w) float32; the frame's border is no edge."""
    import cv2

    inside = np.pad(mask, 1, mode="edge").view(np.uint8)
    if inside.all() or not inside.any():
        return np.full(mask.shape, 1e6 if inside.any() else -1e6, dtype=np.float32)
    to_outside = cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_5)
    to_inside = cv2.distanceTransform(1 - inside, cv2.DIST_L2, cv2.DIST_MASK_5)
    signed = np.where(inside > 0, to_outside - 0.5, 0.5 - to_inside).astype(np.float32)
    smooth = cv2.GaussianBlur(signed, (0, 0), 0.7 * softness)
    return np.asarray(smooth, dtype=np.float32)[1:-1, 1:-1]


def _draw_mark(canvas: Pixels, x: float, y: float, colour: Colour) -> None:
    """A filled circle with a white ring and a soft shadow, centred in the pixel that holds (x, y)."""
    unit = _unit(canvas)
    radius = max(5.5 * unit, 2.0)
    ring = radius + max(2.0 * unit, 1.5)
    shadow = ring + max(2.0 * unit, 1.0)
    height, width = canvas.shape[:2]
    column, row = min(int(x), width - 1), min(int(y), height - 1)
    reach = int(shadow) + 2
    x0, x1 = max(column - reach, 0), min(column + reach + 1, width)
    y0, y1 = max(row - reach, 0), min(row + reach + 1, height)
    across = np.arange(x0, x1, dtype=np.float32) - column
    down = np.arange(y0, y1, dtype=np.float32) - row
    distance = np.hypot(across[None, :], down[:, None])
    region = canvas[y0:y1, x0:x1]
    fall = np.clip((shadow + 0.5 - distance) / max(shadow - ring, 1.0), 0.0, 1.0)
    _blend(region, fall * np.float32(_HALO), _BLACK)
    _blend(region, np.clip(ring + 0.5 - distance, 0.0, 1.0), _WHITE)
    _blend(region, np.clip(radius + 0.5 - distance, 0.0, 1.0), colour)


def _draw_box(canvas: Pixels, box_xyxy: Sequence[float]) -> None:
    """A dashed white rectangle on a dark line; dashes start at the corners so that these are closed."""
    height, width = canvas.shape[:2]
    unit = _unit(canvas)
    half = max(0.9 * unit, 0.9)
    x0, x1 = (min(max(box_xyxy[i], 0.0), float(width)) for i in (0, 2))
    y0, y1 = (min(max(box_xyxy[i], 0.0), float(height)) for i in (1, 3))
    for start, end, fixed, is_row in (
        (x0, x1, y0, True),
        (x0, x1, y1, True),
        (y0, y1, x0, False),
        (y0, y1, x1, False),
    ):
        _draw_side(canvas, start, end, fixed, is_row=is_row, half=half, dash=max(9.0 * unit, 2.0))


def _draw_side(
    canvas: Pixels, start: float, end: float, fixed: float, *, is_row: bool, half: float, dash: float
) -> None:
    """One side of a box from ``start`` to ``end`` at ``fixed``, along a row or a column."""
    plane = canvas if is_row else canvas.transpose(1, 0, 2)
    halo = half + max(1.0, half)
    reach = int(halo) + 2
    low, high = max(int(start) - reach, 0), min(int(end) + reach + 1, plane.shape[1])
    top, bottom = max(int(fixed) - reach, 0), min(int(fixed) + reach + 1, plane.shape[0])
    along = np.arange(low, high, dtype=np.float32) + np.float32(0.5)
    away = np.abs(np.arange(top, bottom, dtype=np.float32) + np.float32(0.5) - np.float32(fixed))
    beyond = np.maximum(np.maximum(start - along, along - end), 0.0)
    distance = np.maximum(beyond[None, :], away[:, None]).astype(np.float32)
    pairs = max(1, round(((end - start) / dash - 1) / 2))  # dash, gap, dash ... dash: whole at both corners
    step = (end - start) / (2 * pairs + 1)
    phase = np.abs((along - start) % (2 * step) - step / 2)
    on = np.clip(step / 2 + 0.5 - np.minimum(phase, 2 * step - phase), 0.0, 1.0).astype(np.float32)
    on = np.where(beyond > 0, np.float32(1.0), on) if step > 0 else np.ones_like(on)
    region = plane[top:bottom, low:high]
    _blend(region, np.clip(halo + 0.5 - distance, 0.0, 1.0) * np.float32(_HALO), _BLACK)
    _blend(region, np.clip(half + 0.5 - distance, 0.0, 1.0) * on[None, :], _WHITE)


def _fit(panel: Pixels, side: int) -> Pixels:
    """The panel at ``side`` or smaller; tiny ones are enlarged by whole pixels so that there is something to see."""
    from PIL import Image as PillowImage

    height, width = panel.shape[:2]
    scale = side / max(height, width)
    if scale >= 2:
        factor = int(scale)
        return np.repeat(np.repeat(panel, factor, axis=0), factor, axis=1)
    if scale >= 1:
        return panel
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(PillowImage.fromarray(panel).resize(size, PillowImage.Resampling.LANCZOS))


def _write(sheet: Pixels, text: str, left: int, top: int, width: int, height: int) -> None:
    """``text`` in white, centred in the given rectangle of ``sheet``."""
    from PIL import Image as PillowImage
    from PIL import ImageDraw, ImageFont

    strip = PillowImage.fromarray(np.ascontiguousarray(sheet[top : top + height, left : left + width]))
    font = ImageFont.load_default(size=height * 0.58)
    ImageDraw.Draw(strip).text((width / 2, height / 2), text, fill=(235, 235, 235), font=font, anchor="mm")
    sheet[top : top + height, left : left + width] = np.asarray(strip)

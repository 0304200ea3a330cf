"""One part of a photograph at a fixed size, with masks and prompts in the same frame: what galleries are made of.

A `View` is a window onto an image, shown at a number of pixels of its own. Where the window reaches past the
image the view is plain. Boxes are (x0, y0, x1, y1), half-open, and points (x, y), in image pixels.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFont

from anymask.errors import InputError
from anymask.evaluation.metrics import BoolArray
from anymask.limits import MAX_IMAGE_SIDE
from anymask.masks.overlay import draw_prompts

__all__ = ["ASPECT", "BACKDROP", "PictureFormat", "View", "encode", "outline", "view_of", "write_text"]

Pixels = NDArray[np.uint8]
Colour = tuple[int, int, int]
Box = tuple[float, float, float, float]
PictureFormat = Literal["png", "jpeg"]

ASPECT: Final = 4 / 3
"""Width over height of every view, that of most photographs."""
BACKDROP: Final[Colour] = (24, 24, 24)
"""What lies around views, and in a view past the image."""
JPEG_QUALITY: Final = 85

_CONTEXT: Final = 2.2  # sides of the window over the object's
_REACH: Final = 2.0  # how much further it opens at most for what lies around, such as a mask that spilled
_MARGIN: Final = 0.06  # free space around what lies around
_SMALLEST: Final = 48.0  # pixels; smaller objects are shown with more around them
_NEARLY_ALL: Final = 0.7  # a window of this share of the image's is the whole image
_THIN: Final = 0.25  # share of a pixel a mask must cover when made smaller, so that wires survive


@dataclass(frozen=True)
class View:
    """A window (x0, y0, x1, y1) onto an image of ``image_size`` (H, W), shown at ``width`` x ``height``."""

    window: Box
    image_size: tuple[int, int]
    width: int
    height: int

    @property
    def scale(self) -> float:
        """Pixels of the view for one of the image."""
        return self.width / (self.window[2] - self.window[0])

    @property
    def inside(self) -> tuple[slice, slice]:
        """Rows and columns of the view where the image is."""
        x0, y0, x1, y1 = self._seen()
        left, top = self.place((x0, y0))
        right, bottom = self.place((x1, y1))
        rows, columns = _whole(top, bottom, self.height), _whole(left, right, self.width)
        return rows, columns

    def place(self, point: tuple[float, float]) -> tuple[float, float]:
        """Where a point (x, y) of the image lies in the view."""
        return (point[0] - self.window[0]) * self.scale, (point[1] - self.window[1]) * self.scale

    def cut(self, pixels: Pixels) -> Pixels:
        """The image's part (h, w, 3) that fills `inside`."""
        rows, columns = self.inside
        size = (columns.stop - columns.start, rows.stop - rows.start)
        method = PillowImage.Resampling.LANCZOS if self.scale < 1 else PillowImage.Resampling.BICUBIC
        return np.array(PillowImage.fromarray(pixels).resize(size, method, box=self._seen()))

    def cut_mask(self, mask: BoolArray) -> BoolArray:
        """The mask's part (h, w) that fills `inside`; made smaller it keeps what is thin."""
        rows, columns = self.inside
        size = (columns.stop - columns.start, rows.stop - rows.start)
        method = PillowImage.Resampling.BOX if self.scale < 1 else PillowImage.Resampling.BILINEAR
        grey = PillowImage.fromarray(mask.astype(np.uint8) * np.uint8(255))
        share = np.asarray(grey.resize(size, method, box=self._seen()))
        return np.asarray(share >= 255 * (_THIN if self.scale < 1 else 0.5))

    def draw_prompt(self, part: Pixels, points: ArrayLike, labels: ArrayLike, box: Box | None) -> None:
        """Draw points and a box (image pixels) into a part that `cut` gave; points outside the view are left out."""
        rows, columns = self.inside
        origin = np.array([columns.start, rows.start])
        places = np.asarray(points, dtype=np.float64).reshape(-1, 2)
        places = (places - np.array(self.window[:2])) * self.scale - origin
        seen = ((places >= 0) & (places < np.array([part.shape[1], part.shape[0]]))).all(axis=1)
        corners = None
        if box is not None:
            corners = (np.reshape(box, (2, 2)) - np.array(self.window[:2])) * self.scale - origin
        draw_prompts(part, places[seen], np.asarray(labels).reshape(-1)[seen], corners)

    def mount(self, part: Pixels) -> Pixels:
        """The view (height, width, 3) with ``part`` in its place on the backdrop."""
        canvas = np.full((self.height, self.width, 3), BACKDROP, dtype=np.uint8)
        canvas[self.inside] = part
        return canvas

    def _seen(self) -> Box:
        height, width = self.image_size
        x0, y0, x1, y1 = self.window
        return max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height))


def view_of(
    focus: Box,
    around: Sequence[Box],
    image_size: tuple[int, int],
    width: int,
    context: float = _CONTEXT,
) -> View:
    """A view of ``width`` pixels in the shape of `ASPECT` with ``focus`` in its middle and context about it.

    It opens up for the boxes ``around`` it as far as the object still has a fair share, stays on the image, and is
    the whole image where it would be nearly that.
    """
    extent = np.array([image_size[1], image_size[0]], dtype=np.float64)
    shape = np.array([ASPECT, 1.0])
    start, stop = np.array(focus[:2], dtype=np.float64), np.array(focus[2:], dtype=np.float64)
    middle = (start + stop) / 2
    half = max(*((stop - start) / shape), _SMALLEST / ASPECT / context) * context / 2 * shape
    low, high = middle - half, middle + half
    for box in around:
        margin = _MARGIN * max(box[2] - box[0], box[3] - box[1])
        low = np.minimum(low, np.maximum(np.array(box[:2]) - margin, middle - half * _REACH))
        high = np.maximum(high, np.minimum(np.array(box[2:]) + margin, middle + half * _REACH))
    low, high = (
        np.clip(low, 0.0, extent),
        np.clip(high, 0.0, extent),
    )  # what lies beyond the image needs no room
    down = max(*((high - low) / shape), _SMALLEST / ASPECT)
    whole = max(*(extent / shape))
    size = (whole if down >= _NEARLY_ALL * whole else down) * shape
    inside = np.clip((low + high - size) / 2, 0.0, np.maximum(extent - size, 0.0))
    corner = np.where(size >= extent, (extent - size) / 2, inside)
    x0, y0, x1, y1 = np.concatenate([corner, corner + size]).tolist()
    return View((x0, y0, x1, y1), image_size, width, round(width / ASPECT))


def outline(part: Pixels, mask: BoolArray, colour: Colour, width: float) -> None:
    """Draw the mask's edge into ``part`` in place: a line of ``width`` pixels on a darker one, nothing filled."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    fine = max(1, round(width))
    kind = cv2.LINE_AA if fine > 1 else cv2.LINE_8  # a single pixel would only be smeared
    cv2.polylines(part, contours, True, (0, 0, 0), fine + 2, kind)
    cv2.polylines(part, contours, True, colour, fine, kind)


def write_text(
    sheet: Pixels, text: str, place: tuple[int, int], size: float, colour: Colour, room: int
) -> None:
    """Write one line into ``sheet`` in place.

    Args:
        sheet: (H, W, 3) uint8.
        text: cut short with dots where it is longer than ``room``.
        place: (x, y) of the line's left end; y is its middle.
        size: height of the letters' square in pixels.
        colour: RGB.
        room: longest line in pixels.
    """
    font = ImageFont.load_default(size=size)
    shown = text
    while len(shown) > len("...") and font.getlength(shown) > room:
        shown = shown.removesuffix("...")[:-1].rstrip() + "..."
    top, bottom = max(place[1] - int(size), 0), min(place[1] + int(size), len(sheet))
    strip = PillowImage.fromarray(np.ascontiguousarray(sheet[top:bottom]))
    ImageDraw.Draw(strip).text((place[0], place[1] - top), shown, fill=colour, font=font, anchor="lm")
    sheet[top:bottom] = np.asarray(strip)


def encode(pixels: Pixels, picture_format: PictureFormat) -> bytes:
    """The pixels as PNG, or as JPEG of quality 85 with colours at full resolution; no metadata.

    Raises:
        InputError: another format, or a side over the limit of image sides.
    """
    if picture_format not in ("png", "jpeg"):
        raise InputError(f"a picture is written as 'png' or 'jpeg', got {picture_format!r}")
    if max(pixels.shape[:2]) > MAX_IMAGE_SIDE:
        raise InputError(
            f"a sheet of {pixels.shape[1]} x {pixels.shape[0]} pixels is over {MAX_IMAGE_SIDE}; give fewer cases"
        )
    file = io.BytesIO()
    picture = PillowImage.fromarray(pixels)
    if picture_format == "png":
        picture.save(file, "PNG")
    else:
        picture.save(file, "JPEG", quality=JPEG_QUALITY, subsampling=0, optimize=True)
    return file.getvalue()


def _whole(start: float, stop: float, limit: int) -> slice:
    first = min(max(round(start), 0), limit - 1)
    return slice(first, min(max(round(stop), first + 1), limit))

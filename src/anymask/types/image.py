"""Image: decoded, upright RGB pixels."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from anymask.errors import ImageFormatError, ImageTooLargeError
from anymask.limits import MAX_IMAGE_PIXELS, MAX_IMAGE_SIDE, MIN_IMAGE_SIDE

__all__ = ["Image", "check_image_size"]


def check_image_size(width: int, height: int) -> None:
    """Raise ``ImageTooLargeError`` or ``ImageFormatError`` unless the size is within ``anymask.limits``."""
    if min(width, height) < MIN_IMAGE_SIDE:
        raise ImageFormatError(
            f"the image is {width} x {height} pixels; each side must be {MIN_IMAGE_SIDE} or more"
        )
    if max(width, height) > MAX_IMAGE_SIDE:
        raise ImageTooLargeError(
            f"the image is {width} x {height} pixels, over the limit of {MAX_IMAGE_SIDE} a side; "
            "scale it down first"
        )
    if width * height > MAX_IMAGE_PIXELS:
        raise ImageTooLargeError(
            f"the image is {width} x {height} = {width * height} pixels, "
            f"over the limit of {MAX_IMAGE_PIXELS}; scale it down or cut it into tiles first"
        )


@dataclass(frozen=True, eq=False)
class Image:
    """Upright RGB pixels (H, W, 3) uint8, C-contiguous and read-only, and where they came from.

    ``format`` is the file format's name (``JPEG``, ``PNG``, ...) or ``array``.  The pixels are copied unless
    they are already contiguous and read-only.
    """

    pixels: NDArray[np.uint8]
    format: str = "array"

    def __post_init__(self) -> None:
        pixels = self.pixels
        if (
            not isinstance(pixels, np.ndarray)
            or pixels.dtype != np.uint8
            or pixels.ndim != 3
            or pixels.shape[2] != 3
        ):
            seen = (
                f"shape {pixels.shape} dtype {pixels.dtype}"
                if isinstance(pixels, np.ndarray)
                else type(pixels)
            )
            raise ImageFormatError(
                f"an Image holds H x W x 3 uint8 RGB pixels, got {seen}; see anymask.read_image"
            )
        check_image_size(pixels.shape[1], pixels.shape[0])
        if pixels.flags.writeable or not pixels.flags.c_contiguous:
            pixels = np.array(pixels, order="C")
            pixels.setflags(write=False)
            object.__setattr__(self, "pixels", pixels)

    @property
    def width(self) -> int:
        """Columns."""
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        """Rows."""
        return int(self.pixels.shape[0])

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return (self.height, self.width)

    @cached_property
    def digest(self) -> str:
        """SHA-256 in hex of the size and the pixels: equal pictures have equal digests whatever file they
        came from.
        """
        state = hashlib.sha256(f"rgb8 {self.height} {self.width}\n".encode())
        state.update(self.pixels.data)
        return state.hexdigest()

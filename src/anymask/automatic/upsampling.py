"""The upsampling of `Frame.logits_to_image` in memory that is used again, and which cells a pixel is made of.

A pixel of the image is a weighted mean of a few neighbouring cells of the logits on both axes: bilinear resizing,
cropping and resizing again. So a pixel whose cells all lie below a threshold lies below it too, and above likewise;
that gives bounds before anything is upsampled.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from anymask.frame import Frame

__all__ = ["ROUNDING", "Footprint", "footprints", "upsample_into"]

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]

ROUNDING: Final = 2.0**-18
"""By how much, in units of the largest absolute logit, a pixel may leave the range of its cells.

With u = 2^-24 each of four float32 passes, ``x0 + f * (x1 - x0)`` or two products and a sum, errs by 5 u at most,
together 20 u; this is 64 u.
"""


@dataclass(frozen=True)
class Footprint:
    """The cells that the pixels along one axis are made of.

    Attributes:
        first: (pixels,) ascending; pixel i is made of the ``taps`` cells from ``first[i]`` on, and of no other.
        taps: how many neighbours.
        pixels: (cells - taps + 1,) float32, how many pixels start at a cell.
    """

    first: IntArray
    taps: int
    pixels: FloatArray

    @classmethod
    def of(cls, cells: int, network: int, resized: int, pixels: int) -> Footprint:
        """From the sizes along the axis: of the logits, the padded and the unpadded network frame, and the image."""
        first, last = np.full(pixels, cells), np.zeros(pixels, dtype=np.int64)
        for cell in range(cells):
            alone = np.zeros((1, cells), dtype=np.float32)
            alone[0, cell] = 1.0
            in_network = _resized(alone, np.empty((1, network), dtype=np.float32))[:, :resized]
            reached = _resized(in_network, np.empty((1, pixels), dtype=np.float32))[0] != 0
            last[reached] = cell
            first[reached & (first == cells)] = cell
        taps = int((last - first).max()) + 1
        first = np.minimum(first, cells - taps)
        return cls(first, taps, np.bincount(first, minlength=cells - taps + 1).astype(np.float32))

    def reach(self, cells: NDArray[np.bool_]) -> slice:
        """From the first to the last pixel that starts at one of the cells (cells - taps + 1,) marked."""
        marked = np.flatnonzero(cells)
        if not len(marked):
            return slice(0, 0)
        low, high = np.searchsorted(self.first, [marked[0], marked[-1] + 1])
        return slice(int(low), int(high))


def footprints(frame: Frame, low_res_size: tuple[int, int]) -> tuple[Footprint, Footprint]:
    """Down and across, for logits (height, width) of a frame."""
    sizes = zip(low_res_size, frame.network_size, frame.resized_size, frame.image_size, strict=True)
    down, across = (_footprint(*along) for along in sizes)
    return down, across


@lru_cache(maxsize=64)
def _footprint(cells: int, network: int, resized: int, pixels: int) -> Footprint:
    """The crops of an image share theirs."""
    return Footprint.of(cells, network, resized, pixels)


def upsample_into(frame: Frame, logits: FloatArray, network: FloatArray, plane: FloatArray) -> FloatArray:
    """``frame.logits_to_image(logits)``, bit for bit, without new memory.

    ``network``, of the padded network frame, and ``plane``, of the image, are written over. The answer is ``plane``,
    or one of the other two where nothing is left to resize.
    """
    height, width = frame.resized_size
    return _resized(_resized(logits, network)[:height, :width], plane)


def _resized(plane: FloatArray, out: FloatArray) -> FloatArray:
    import cv2

    if plane.shape == out.shape:
        return plane
    cv2.resize(plane, out.shape[::-1], dst=out, interpolation=cv2.INTER_LINEAR)
    return out

"""Which cells a pixel of `Frame.logits_to_image` is made of, and how far its rounding may reach.

A pixel of the image is a weighted mean of a few neighbouring cells of the logits on both axes: bilinear resizing,
cropping and resizing again. So a pixel whose cells all lie below a threshold lies below it too, and above likewise;
that gives bounds before anything is upsampled.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from anymask.frame import Frame
from anymask.resampling import bilinear

__all__ = [
    "ROUNDING",
    "Footprint",
    "footprints",
    "network_footprints",
    "part_to_network",
]

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]

ROUNDING: Final = 2.0**-18
"""By how much, in units of the largest absolute logit, a pixel may leave the range of its cells.

With u = 2^-24 each of four float32 passes, ``x0 + f * (x1 - x0)`` or two products and a sum, errs by 5 u at most,
together 20 u; this is 64 u.
"""


_TOGETHER: Final = 64
"""Cells whose pixels are found together."""


@dataclass(frozen=True)
class Footprint:
    """The cells that the pixels along one axis are made of.

    Attributes:
        first: (pixels,) ascending; pixel i is made of the ``taps`` cells from ``first[i]`` on, and of no other.
        taps: how many neighbours.
        pixels: (N,) float32, how many pixels start at each cell up to the last at which one does.
    """

    first: IntArray
    taps: int
    pixels: FloatArray

    @classmethod
    def of(cls, cells: int, network: int, resized: int, pixels: int) -> Footprint:
        """From the sizes along the axis: of the logits, the padded and the unpadded network frame, and the image."""
        first, last = np.full(pixels, cells), np.zeros(pixels, dtype=np.int64)
        for start in range(0, cells, _TOGETHER):
            each = np.eye(min(_TOGETHER, cells - start), cells, start, dtype=np.float32)  # a row a cell
            in_network = bilinear(each, np.empty((len(each), network), dtype=np.float32))[:, :resized]
            reached = bilinear(in_network, np.empty((len(each), pixels), dtype=np.float32)) != 0
            found = reached.any(axis=0)
            last[found] = start + len(each) - 1 - reached[::-1].argmax(axis=0)[found]
            new = found & (first == cells)
            first[new] = start + reached.argmax(axis=0)[new]
        taps = int((last - first).max()) + 1
        first = np.minimum(first, cells - taps)
        return cls(first, taps, np.bincount(first).astype(np.float32))

    @property
    def cells(self) -> slice:
        """The cells that pixels are made of; the others are padding."""
        return slice(0, len(self.pixels) + self.taps - 1)

    @cached_property
    def dense(self) -> bool:
        """Whether a pixel starts at each of these cells."""
        return bool(self.pixels.all())

    @cached_property
    def begins(self) -> list[int]:
        """How many pixels start before each of ``pixels``' cells; the last, one more, is all of them."""
        begins: list[int] = np.searchsorted(self.first, np.arange(len(self.pixels) + 1)).tolist()
        return begins

    def pixels_of(self, first: int, last: int, before: bool) -> tuple[int, int]:
        """The first and one after the last pixel that starts at the cells from ``first`` to ``last``, or with
        ``before`` is made of one of them."""
        begins = self.begins
        low = max(first - self.taps + 1, 0) if before else first
        return begins[low], begins[min(last, len(begins) - 2) + 1]


def footprints(frame: Frame, low_res_size: tuple[int, int]) -> tuple[Footprint, Footprint]:
    """Down and across, for logits (height, width) of a frame."""
    sizes = zip(low_res_size, frame.network_size, frame.resized_size, frame.image_size, strict=True)
    down, across = (_footprint(*along) for along in sizes)
    return down, across


def network_footprints(frame: Frame) -> tuple[Footprint, Footprint]:
    """Down and across, of pixels of the unpadded network frame instead of cells of logits."""
    down, across = (
        _footprint(resized, resized, resized, pixels)
        for resized, pixels in zip(frame.resized_size, frame.image_size, strict=True)
    )
    return down, across


@lru_cache(maxsize=64)
def _footprint(cells: int, network: int, resized: int, pixels: int) -> Footprint:
    """The crops of an image share theirs."""
    return Footprint.of(cells, network, resized, pixels)


def part_to_network(
    cells: FloatArray, corner: tuple[int, int], stride: int
) -> tuple[FloatArray, tuple[int, int]]:
    """Some cells alone in the network frame, and their first row and column there.

    Pixels that are made of no other cell are right, but for their rounding.
    """
    out = np.empty((cells.shape[0] * stride, cells.shape[1] * stride), dtype=np.float32)
    return bilinear(cells, out), (corner[0] * stride, corner[1] * stride)

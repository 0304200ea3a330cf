"""From low-resolution logits to stability, box and runs of the full-size mask, with one full-size plane at a time.

The published code brings all planes of a batch to the image's size, keeps them, and goes over all of them again for
stability, threshold, box and run lengths. Here a plane is judged before it is upsampled where bounds allow it,
upsampled into memory that is used again, counted where it can count at all, and forgotten. The answers are those of
`Frame.logits_to_image` and comparisons, to the pixel. Stretched frames are upsampled bicubically, which may overshoot
its cells: there nothing is known before.

Low-resolution stability itself is no bound: on real planes it decides every third mask otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from anymask.errors import ModelError
from anymask.frame import Frame, Upsampler, whole_stride

from .bounds import Box, Cuts, PlaneBounds, bounds_of, boxes_of, no_bounds, surely_unstable
from .runs import Runs
from .upsampling import ROUNDING, footprints, network_footprints, part_to_network

__all__ = ["GROUP_BYTES", "Look", "MaskReader", "published_stability"]

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

GROUP_BYTES: Final = 1024**2
"""So many planes, but at least one, are judged together: what a processor keeps close."""


@dataclass(frozen=True, slots=True)
class Look:
    """A closer look at a plane.

    Attributes:
        inner_box, outer_box: as in `PlaneBounds`.
        unstable: finds out whether it is surely so.
    """

    inner_box: Box
    outer_box: Box
    unstable: Callable[[], bool]


class MaskReader:
    """Reads one mask after the other from planes of logits of one frame; belongs to one thread.

    Holds a network frame of float32 and, per pixel of the image, one float32 and two bytes, whatever it reads. After
    `read` or `stability` the mask is there until the next call; `runs` looks at it.
    """

    def __init__(
        self,
        frame: Frame,
        low_res_size: tuple[int, int],
        threshold: float,
        stability_offset: float = 1.0,
        stability_thresh: float = 0.0,
    ) -> None:
        """For logits (height, width) ``low_res_size``.

        Args:
            frame: of the image or crop.
            low_res_size: of the model's logits in this frame.
            threshold: a pixel above it is in the mask.
            stability_offset: how far above and below the threshold stability is measured.
            stability_thresh: planes whose stability is provably below it need not be upsampled.
        """
        self._frame, self._low_res = frame, low_res_size
        low, mid, high = (
            np.float32(threshold + offset) for offset in (-stability_offset, 0.0, stability_offset)
        )
        self._cuts = Cuts(low, mid, high, stability_thresh)
        self._bilinear = frame.resize == "longest_side"
        height, width = frame.image_size
        self._upsample = Upsampler(frame)
        self._stride = whole_stride(frame, low_res_size) if self._bilinear else 0
        if self._bilinear:
            self._down, self._across = footprints(frame, low_res_size)
            self._from_network = network_footprints(frame)
            self._cells = np.zeros(low_res_size, dtype=np.float32)
        self._above = np.empty((height, width), dtype=np.bool_)
        # The mask's columns, each after a cell that stays False, so that no run goes on from one into the next.
        self._canvas: BoolArray = np.zeros((width, height + 1), dtype=np.bool_)
        self._used = slice(0, 0)
        self._waiting: FloatArray | None = None
        self._area = (slice(0, height), slice(0, width))
        self.upsampled = 0

    def unstable(self, planes: FloatArray) -> BoolArray:
        """Which of the planes (P, h, w) are provably below the least stability, or without a pixel above the high cut.

        Raises:
            ModelError: NaN or infinity among the logits.
        """
        largest = _largest(planes)
        if not self._bilinear:
            return np.zeros(len(planes), dtype=np.bool_)
        return surely_unstable(self._unpadded(planes), largest, self._down, self._across, self._cuts)

    def bounds(self, planes: FloatArray) -> list[PlaneBounds]:
        """What is sure of the masks of planes (P, h, w); raises as `unstable`."""
        largest = _largest(planes)
        if not self._bilinear:
            return [no_bounds(self._low_res, self._frame.image_size)] * len(planes)
        return bounds_of(self._unpadded(planes), largest, self._down, self._across, self._cuts)

    def look(self, cells: FloatArray, bounds: PlaneBounds) -> Look:
        """What is sure of a plane in the network's size, half of the way, of which only the ``cells`` of its bounds are
        given: closer boxes, and whether it is unstable."""
        if self._stride == 0 or not cells.size:
            return Look(bounds.inner_box, bounds.outer_box, lambda: False)
        corner = (bounds.cells[0].start, bounds.cells[1].start)
        part, corner = part_to_network(cells, corner, self._stride)
        down, across = self._from_network
        height, width = down.cells.stop - corner[0], across.cells.stop - corner[1]
        part, largest = part[:height, :width], bounds.largest_logit
        inner, outer = boxes_of(
            part, corner, bounds.area, down, across, self._cuts.mid, np.float32(ROUNDING * largest)
        )
        return Look(
            inner,
            outer,
            lambda: bool(surely_unstable(part[None], largest, down, across, self._cuts, corner)[0]),
        )

    def _unpadded(self, planes: FloatArray) -> FloatArray:
        return planes[:, self._down.cells, self._across.cells]

    def read(self, cells: FloatArray, bounds: PlaneBounds) -> float:
        """Upsample a plane of which only the ``cells`` of its bounds are given, and return its published stability.

        0 for a plane without a pixel.
        """
        self._canvas[self._used] = False
        self._used = slice(0, 0)
        self._area = bounds.area
        if self._bilinear:
            self._cells[bounds.cells] = cells  # pixels of the area are made of no other cell
            cells = self._cells
        self._waiting = self._upsample(cells)
        self.upsampled += 1
        return published_stability(self._count(self._cuts.high), self._count(self._cuts.low))

    def stability(self, logits: FloatArray, bounded: bool = True) -> float | None:
        """Bounds of one plane (h, w) and reading it; None when its stability is provably too low.

        Without ``bounded`` it is read in any case.

        Raises:
            ModelError: NaN or infinity among the logits.
        """
        if bounded and self.unstable(logits[None])[0]:
            return None
        (bounds,) = self.bounds(logits[None])
        return self.read(logits[bounds.cells], bounds)

    def runs(self) -> Runs:
        """The mask last read."""
        self._draw()
        return Runs.of_columns(self._canvas[self._used], self._used.start)

    def _count(self, threshold: np.float32) -> int:
        assert self._waiting is not None
        above = np.greater(self._waiting[self._area], threshold, out=self._above[self._area])
        return int(np.count_nonzero(above))

    def _draw(self) -> None:
        """Bring an upsampled plane to the canvas; many planes are dropped before."""
        if self._waiting is None:
            return
        import cv2

        rows, self._used = self._area
        above = np.greater(self._waiting[self._area], self._cuts.mid, out=self._above[self._area])
        if above.size:
            transposed = cv2.transpose(above.view(np.uint8))
            self._canvas[self._used, rows.start + 1 : rows.stop + 1] = transposed.view(np.bool_)
        self._waiting = None


def _largest(planes: FloatArray) -> float:
    """The largest logit, with any sign."""
    largest = max(-float(planes.min(initial=0)), float(planes.max(initial=0)))
    if not np.isfinite(largest):
        raise ModelError("the model answered NaN or infinity; its weights may be damaged")
    return largest


def published_stability(inner: int, outer: int) -> float:
    """Quotient of the pixels at both cuts in float32, as published, but 0 where both are none (published: NaN)."""
    return float(np.float32(inner) / np.float32(max(outer, 1)))

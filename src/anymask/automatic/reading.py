"""From low-resolution logits to stability, box and runs of the full-size mask, with one full-size plane at a time.

The published code brings all planes of a batch to the image's size, keeps them, and goes over all of them again for
stability, threshold, box and run lengths. Here a plane is judged before it is upsampled where bounds allow it,
upsampled into memory that is used again, counted where it can count at all, and forgotten. The answers are those of
`Frame.logits_to_image` and comparisons, to the pixel. Stretched frames are upsampled bicubically, which may overshoot
its cells: there every plane is upsampled.

Low-resolution stability itself is no bound: on real planes it decides every third mask otherwise.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from anymask.errors import ModelError
from anymask.frame import Frame

from .runs import Runs
from .upsampling import ROUNDING, footprints, upsample_into

__all__ = ["MaskReader", "published_stability"]

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


class MaskReader:
    """Reads one mask after the other from planes of logits of one frame; belongs to one thread.

    Holds a network frame of float32 and, per pixel of the image, one float32 and two bytes, whatever it reads. After
    `stability` the mask is there until the next call; `runs` and `holds` look at it.
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
        self._frame = frame
        self._low, self._mid, self._high = (
            np.float32(threshold + offset) for offset in (-stability_offset, 0.0, stability_offset)
        )
        self._stability_thresh = stability_thresh
        self._bilinear = frame.resize == "longest_side"
        if self._bilinear:
            self._down, self._across = footprints(frame, low_res_size)
        height, width = frame.image_size
        if self._bilinear:
            self._network = np.empty(frame.network_size, dtype=np.float32)
            self._buffer = np.empty((height, width), dtype=np.float32)
        self._above = np.empty((height, width), dtype=np.bool_)
        # The mask's columns, each after a cell that stays False, so that no run goes on from one into the next.
        self._canvas: BoolArray = np.zeros((width, height + 1), dtype=np.bool_)
        self._used = slice(0, 0)
        self._waiting: FloatArray | None = None
        self._area = (slice(0, height), slice(0, width))
        self.upsampled = 0

    def stability(self, logits: FloatArray, bounded: bool = True) -> float | None:
        """Published stability score of logits (h, w), 0 for a plane without a pixel; None when provably too low.

        Without ``bounded`` every plane is upsampled.

        Raises:
            ModelError: NaN or infinity among the logits.
        """
        largest = max(-float(logits.min()), float(logits.max()))
        if not np.isfinite(largest):
            raise ModelError("the model answered NaN or infinity; its weights may be damaged")
        self._waiting = None
        self._canvas[self._used] = False
        self._used = slice(0, 0)
        if self._bilinear:
            if self._surely_unstable(logits, np.float32(ROUNDING * largest)) and bounded:
                return None
            self._waiting = upsample_into(self._frame, logits, self._network, self._buffer)
        else:
            self._waiting = self._frame.logits_to_image(logits)
        self.upsampled += 1
        return published_stability(self._count(self._high), self._count(self._low))

    def runs(self) -> Runs:
        """The mask last read."""
        self._draw()
        return Runs.of_columns(self._canvas[self._used], self._used.start)

    def holds(self, x: IntArray, y: IntArray) -> BoolArray:
        """Which of the pixels at columns x (N,) and rows y (N,) are in the mask last read."""
        self._draw()
        inside: BoolArray = self._canvas[x, y + 1]
        return inside

    def _surely_unstable(self, logits: FloatArray, slack: np.float32) -> bool:
        """Bound the stability from above, and note the part of the image where pixels above the lowest cut can be."""
        largest = _windows(np.maximum, logits, self._down.taps, self._across.taps)
        possible = largest > self._low - slack
        rows, columns = np.asarray(possible.any(axis=1)), np.asarray(possible.any(axis=0))
        self._area = (self._down.reach(rows), self._across.reach(columns))
        if self._stability_thresh <= 0:
            return False
        inner_at_most = self._pixels(largest > self._high - slack)
        smallest = _windows(np.minimum, logits, self._down.taps, self._across.taps)
        outer_at_least = self._pixels(smallest > self._low + slack)
        # The score is a quotient of float32 numbers and the bounds are sums of them: a thousandth covers both.
        return inner_at_most * 1.001 < self._stability_thresh * outer_at_least or inner_at_most == 0

    def _pixels(self, windows: BoolArray) -> float:
        return float(self._down.pixels @ windows @ self._across.pixels)

    def _count(self, threshold: np.float32) -> int:
        assert self._waiting is not None
        above = np.greater(self._waiting[self._area], threshold, out=self._above[self._area])
        return int(np.count_nonzero(above))

    def _draw(self) -> None:
        """Bring an upsampled plane to the canvas; most planes are dropped before."""
        if self._waiting is None:
            return
        import cv2

        rows, self._used = self._area
        above = np.greater(self._waiting[self._area], self._mid, out=self._above[self._area])
        if above.size:
            transposed = cv2.transpose(above.view(np.uint8))
            self._canvas[self._used, rows.start + 1 : rows.stop + 1] = transposed.view(np.bool_)
        self._waiting = None


def published_stability(inner: int, outer: int) -> float:
    """Quotient of the pixels at both cuts in float32, as published, but 0 where both are none (published: NaN)."""
    return float(np.float32(inner) / np.float32(max(outer, 1)))


def _windows(function: np.ufunc, cells: FloatArray, rows: int, columns: int) -> FloatArray:
    """``function`` over every window of (rows, columns) neighbouring cells."""
    for axis, size in ((0, rows), (1, columns)):
        count = cells.shape[axis] - size + 1
        shifted = [cells[k : k + count] if axis == 0 else cells[:, k : k + count] for k in range(size)]
        cells = shifted[0]
        for other in shifted[1:]:
            cells = function(cells, other)
    return cells

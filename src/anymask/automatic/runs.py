"""A mask as vertical runs in the frame of a crop, before it becomes run lengths of the whole image."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

__all__ = ["Runs"]

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Runs:
    """The pixels of a mask, column by column from the left, each from the top.

    Attributes:
        columns: (N,) column of each run; a run ends with its column.
        tops, bottoms: (N,) first and last row of each run.
    """

    columns: IntArray
    tops: IntArray
    bottoms: IntArray

    @classmethod
    def of_columns(cls, columns: NDArray[np.bool_], first_column: int) -> Runs:
        """From bool columns (n, 1 + height), C-contiguous, whose first cell each is False and no pixel."""
        stride = columns.shape[1]
        flat = columns.reshape(-1)
        changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
        starts, ends = changes[::2], changes[1::2]
        if len(ends) < len(starts):
            ends = np.append(ends, flat.size)
        where, tops = np.divmod(starts, stride)
        return cls(where + first_column, tops - 1, tops + (ends - starts) - 2)

    @cached_property
    def area(self) -> int:
        """Pixels set."""
        return int((self.bottoms - self.tops).sum()) + len(self.tops)

    @cached_property
    def box_published(self) -> tuple[int, int, int, int]:
        """(x0, y0, x1, y1) with inclusive maxima; zeros for an empty mask."""
        if not len(self.columns):
            return (0, 0, 0, 0)
        return (int(self.columns[0]), int(self.tops.min()), int(self.columns[-1]), int(self.bottoms.max()))

    def counts(self, corner: tuple[int, int], image_size: tuple[int, int]) -> IntArray:
        """Run lengths, as `anymask.masks.rle.encode_counts` gives, of the mask placed in an image.

        Args:
            corner: (x, y) of the crop's top-left pixel in the image.
            image_size: (height, width) of the image.
        """
        height, width = image_size
        starts = (self.columns + corner[0]) * height + self.tops + corner[1]
        ends = starts + (self.bottoms - self.tops) + 1
        apart = starts[1:] != ends[:-1]  # the foot of a column touches the head of the next
        edges = np.zeros(2 * (np.count_nonzero(apart) + (len(starts) > 0)) + 2, dtype=np.int64)
        edges[1:-1:2] = np.concatenate([starts[:1], starts[1:][apart]])
        edges[2:-1:2] = np.concatenate([ends[:-1][apart], ends[-1:]])
        edges[-1] = height * width
        counts = np.diff(edges)
        return counts[:-1] if counts[-1] == 0 else counts

"""Masks of a crop that may be good and distinct, and the choice among them with as little upsampling as can be.

Suppression takes the best scores first, so a mask need not be upsampled once a better one is kept that surely overlaps
it too much. Planes of low resolution wait for that, with bounds between which the mask's box lies; the box itself is
made only for those that are neither surely unstable nor surely suppressed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from .bounds import Box, PlaneBounds, least_overlaps
from .filters import published_order, published_overlaps
from .runs import Runs

__all__ = ["WAITING_BYTES", "Candidate", "Candidates", "PlaneSource", "Waiting"]

WAITING_BYTES: Final = 64 * 1024**2
"""Low-resolution planes and run lengths of the candidates of a crop that are in memory at a time."""
_MARGIN: Final = 1e-5
"""Overlaps are published in float32: one that is larger by so much is larger there too."""


@dataclass(slots=True)
class Waiting:
    """One mask of one click, not upsampled yet.

    Attributes:
        batch, row: the batch of clicks it came from, and its number among the batch's masks, three a click.
        score: predicted IoU, a float32 value.
        sure: the thresholds of quality do not count for it.
        bounds: what its plane proves, in pixels of the crop.
        inner_box, outer_box: the bounds' boxes in pixels of the image.
        cells: the logits at the cells of the bounds, or of the whole plane where logits are to be kept.
    """

    batch: int
    row: int
    score: float
    sure: bool
    bounds: PlaneBounds
    inner_box: Box
    outer_box: Box
    cells: NDArray[np.float32]

    @property
    def bytes(self) -> int:
        """What its plane takes."""
        return self.cells.nbytes


@dataclass(slots=True)
class Candidate:
    """One mask of one click that passed the filters of its crop.

    Attributes:
        batch, row, score: as in `Waiting`.
        stability: as published, a float32 value.
        box_published: (x0, y0, x1, y1) in pixels of the image, inclusive maxima.
        runs: the mask in the crop, until it becomes ``counts``.
        counts: compressed run lengths in the image; None when let go.
        logits: low-resolution logits, where asked for.
    """

    batch: int
    row: int
    score: float
    stability: float
    box_published: Box
    runs: Runs | None = None
    counts: str | None = None
    logits: NDArray[np.float32] | None = None

    @property
    def bytes(self) -> int:
        """What its run lengths and logits take."""
        return len(self.counts or "") + (0 if self.logits is None else self.logits.nbytes)


class PlaneSource(Protocol):
    """Makes more and more of a waiting plane."""

    def look(self, waiting: Waiting) -> tuple[Box, Box, Callable[[], bool]]:
        """For a part of what reading costs: closer inner and outer boxes in the image, and what finds out whether it is
        surely too unstable."""
        ...

    def read(self, waiting: Waiting) -> Candidate | None:
        """Its mask as runs; None when it does not pass the filters."""
        ...

    def encode(self, candidate: Candidate) -> None:
        """Its run lengths in place of its runs."""
        ...


class Candidates:
    """The candidates of one crop, in the order of their clicks.

    What waits takes no more than a budget: beyond it the planes of the best scores are read, since they are the least
    likely to be suppressed; of candidates read with the same box only the best is kept, which suppresses whatever the
    others would; and then the run lengths of the lowest scores are let go. Should one of these survive, its batch is
    decoded again.
    """

    def __init__(self, iou_threshold: float, source: PlaneSource, budget: int = WAITING_BYTES) -> None:
        """``iou_threshold`` of the suppression of boxes; ``budget`` in bytes."""
        self._iou_threshold, self._source, self._budget = iou_threshold, source, budget
        self._all: list[Waiting | Candidate | None] = []
        self._places: dict[Box, int] = {}
        self._bytes = 0

    def __iter__(self) -> Iterator[Waiting | Candidate]:
        return (candidate for candidate in self._all if candidate is not None)

    def add(self, waiting: Waiting) -> None:
        """Take the next one, in the order of clicks."""
        self._all.append(waiting)
        self._bytes += waiting.bytes
        if self._bytes > self._budget:
            self._read_best()
        if self._bytes > self._budget:
            self._let_go()

    def survivors(self) -> list[Candidate]:
        """What suppression of boxes leaves, best first; equal scores in the order of their clicks."""
        every = list(self)
        inner, outer = (np.array(boxes, dtype=np.float64).reshape(-1, 4).T for boxes in _boxes(every))
        kept: list[Candidate] = []
        boxes = np.empty((4, len(every)), dtype=np.float64)
        left = published_order([each.score for each in every])
        while left.size:
            first, left = left[0], left[1:]
            candidate = self._unless_suppressed(every[first], boxes[:, : len(kept)])
            if candidate is None:
                continue
            if candidate.runs is not None:
                self._source.encode(candidate)
            boxes[:, len(kept)] = box = candidate.box_published
            kept.append(candidate)
            left = left[least_overlaps(box, inner[:, left], outer[:, left]) <= self._iou_threshold + _MARGIN]
        return kept

    def _unless_suppressed(
        self, candidate: Waiting | Candidate, kept: NDArray[np.float64]
    ) -> Candidate | None:
        """The candidate, read; None when it is suppressed by boxes (4, K) or does not pass the filters."""
        known: Candidate | None
        if isinstance(candidate, Candidate):
            known = candidate
        else:
            inner, outer, unstable = self._source.look(candidate)
            if (least_overlaps(kept, inner, outer) > self._iou_threshold + _MARGIN).any():
                return None
            if not candidate.sure and unstable():
                return None
            known = self._source.read(candidate)
        if known is None or (published_overlaps(known.box_published, kept.T) > self._iou_threshold).any():
            return None
        return known

    def _read_best(self) -> None:
        """Read waiting planes, the best scores first, until half of the budget is free."""
        places = [place for place, each in enumerate(self._all) if isinstance(each, Waiting)]
        order = published_order([each.score for each in self._all if isinstance(each, Waiting)])
        for index in itertools.takewhile(lambda _: self._bytes > self._budget // 2, order):
            place = places[index]
            waiting = self._all[place]
            assert isinstance(waiting, Waiting)
            self._bytes -= waiting.bytes
            self._all[place] = None
            candidate = self._source.read(waiting)
            if candidate is not None:
                self._source.encode(candidate)
                self._place(place, candidate)

    def _place(self, place: int, candidate: Candidate) -> None:
        """Put a candidate where it waited, unless one of the same box is better."""
        box = candidate.box_published
        if self._iou_threshold < 1 and box[2] > box[0] and box[3] > box[1]:  # flat boxes suppress nothing
            other = self._places.get(box)
            rival = None if other is None else self._all[other]
            if other is not None and isinstance(rival, Candidate):
                if (rival.score, -other) > (candidate.score, -place):
                    return
                self._bytes -= rival.bytes
                self._all[other] = None
            self._places[box] = place
        self._all[place] = candidate
        self._bytes += candidate.bytes

    def _let_go(self) -> None:
        """Forget the run lengths of the lowest scores until half of the budget is free."""
        known = [each for each in self if isinstance(each, Candidate)]
        for candidate in sorted(known, key=lambda candidate: candidate.score):
            if self._bytes <= self._budget // 2:
                break
            self._bytes -= candidate.bytes
            candidate.counts = candidate.logits = None


def _boxes(candidates: list[Waiting | Candidate]) -> tuple[list[Box], list[Box]]:
    """Inner and outer boxes; of a candidate that was read both are its own."""
    inner = [each.inner_box if isinstance(each, Waiting) else each.box_published for each in candidates]
    outer = [each.outer_box if isinstance(each, Waiting) else each.box_published for each in candidates]
    return inner, outer

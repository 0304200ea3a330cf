"""Masks that passed the filters of a crop and wait until all clicks are answered and the better ones are known."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from .filters import published_nms

__all__ = ["WAITING_BYTES", "Candidate", "Candidates"]

WAITING_BYTES: Final = 64 * 1024**2
"""Run lengths and logits of the candidates of a crop that are in memory at a time."""


@dataclass(slots=True)
class Candidate:
    """One mask of one click.

    Attributes:
        batch, row: the batch of clicks it came from, and its number among the batch's masks, three a click.
        score, stability: as published, float32 values.
        box_published: (x0, y0, x1, y1) in pixels of the image, inclusive maxima.
        point: the click (x, y) in pixels of the image.
        counts: compressed run lengths in the image; None when let go.
        logits: low-resolution logits, where asked for.
    """

    batch: int
    row: int
    score: float
    stability: float
    box_published: tuple[int, int, int, int]
    point: tuple[float, float]
    counts: str | None
    logits: NDArray[np.float32] | None = None

    @property
    def bytes(self) -> int:
        """What its mask takes."""
        return len(self.counts or "") + (0 if self.logits is None else self.logits.nbytes)


class Candidates:
    """The candidates of one crop, in the order of their clicks.

    Of candidates with the same box only the best is kept from the start: the others could not survive suppression, and
    what they would suppress it suppresses too. When the masks kept take more than a budget, those of the lowest
    scores are let go; should one survive, its batch is decoded again.
    """

    def __init__(self, iou_threshold: float, budget: int = WAITING_BYTES) -> None:
        """``iou_threshold`` of the suppression of boxes; ``budget`` in bytes."""
        self._iou_threshold = iou_threshold
        self._budget = budget
        self._all: list[Candidate | None] = []
        self._places: dict[tuple[int, int, int, int], int] = {}
        self._bytes = 0

    def __iter__(self) -> Iterator[Candidate]:
        return (candidate for candidate in self._all if candidate is not None)

    def beats(self, score: float, box: tuple[int, int, int, int]) -> bool:
        """Whether a later candidate of this score and box would have a chance."""
        place = self._places.get(box)
        if place is None:
            return True
        rival = self._all[place]
        return rival is None or score > rival.score

    def add(self, candidate: Candidate) -> None:
        """Take a candidate that `beats` its rival, in whose place it comes."""
        box = candidate.box_published
        if self._iou_threshold < 1 and box[2] > box[0] and box[3] > box[1]:  # flat boxes suppress nothing
            place = self._places.get(box)
            rival = None if place is None else self._all[place]
            if place is not None and rival is not None:
                self._bytes -= rival.bytes
                self._all[place] = None
            self._places[box] = len(self._all)
        self._all.append(candidate)
        self._bytes += candidate.bytes
        if self._bytes > self._budget:
            self._let_go()

    def survivors(self) -> list[Candidate]:
        """What suppression of boxes leaves, best first; equal scores in the order of their clicks."""
        waiting = list(self)
        boxes = [candidate.box_published for candidate in waiting]
        scores = [candidate.score for candidate in waiting]
        return [waiting[index] for index in published_nms(boxes, scores, self._iou_threshold)]

    def _let_go(self) -> None:
        """Forget the masks of the lowest scores until half of the budget is free."""
        for candidate in sorted(self, key=lambda candidate: candidate.score):
            if self._bytes <= self._budget // 2:
                break
            self._bytes -= candidate.bytes
            candidate.counts = candidate.logits = None

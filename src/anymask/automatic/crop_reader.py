"""From the planes of one crop to masks in the image: what waits, what passes the filters, and its run lengths."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anymask.frame import CropBox
from anymask.masks.rle import counts_to_string
from anymask.types import Embedding

from .answers import MASKS_PER_CLICK, Answers
from .bounds import NOWHERE, Box
from .candidates import Candidate, Waiting
from .filters import near_crop_edge
from .reading import GROUP_BYTES, MaskReader
from .region import Region
from .settings import AutomaticSettings

__all__ = ["Crop", "CropReader"]

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class Crop:
    """A part of an image, embedded.

    Attributes:
        box: (x0, y0, x1, y1) in pixels of the image.
        image_size: (height, width) of the whole image.
        embedding: of the crop's pixels.
    """

    box: CropBox
    image_size: tuple[int, int]
    embedding: Embedding

    @property
    def is_whole(self) -> bool:
        """Whether the crop is the image."""
        return self.box == (0, 0, self.image_size[1], self.image_size[0])


class CropReader:
    """The `PlaneSource` of one crop."""

    def __init__(
        self,
        reader: MaskReader,
        settings: AutomaticSettings,
        crop: Crop,
        region: Region | None,
        keep_logits: bool,
    ) -> None:
        """``keep_logits`` for those of every mask."""
        self._reader, self._settings, self._crop = reader, settings, crop
        self._region, self._keep_logits = region, keep_logits

    def promising(self, answers: Answers, batch: int, wanted: bool) -> Iterator[Waiting]:
        """The masks that may be good enough, in their order; the best of a click that is wanted always is.

        Args:
            answers: to the clicks of a batch; those that are wanted, or good enough by their scores, have planes.
            batch: its number.
            wanted: whether a person set the clicks.
        """
        scores, thresh = answers.scores, self._settings.pred_iou_thresh
        good = scores > np.float32(thresh) if thresh > 0 else np.ones(scores.shape, dtype=np.bool_)
        sure = np.zeros(scores.shape, dtype=np.bool_)
        if wanted:
            sure[np.arange(len(scores)), scores.argmax(axis=1)] = True
        clicks, masks = np.nonzero(good | sure)
        together = max(1, GROUP_BYTES // (4 * answers.planes.shape[-2] * answers.planes.shape[-1]))
        for start in range(0, len(clicks), together):
            some = slice(start, start + together)
            yield from self._stable(answers, clicks[some], masks[some], sure, batch)

    def _stable(
        self,
        answers: Answers,
        clicks: IntArray,
        masks: IntArray,
        sure: BoolArray,
        batch: int,
    ) -> Iterator[Waiting]:
        """Those of some masks that are not provably below the thresholds."""
        chosen = answers.of(clicks, masks)
        kept = np.flatnonzero(sure[clicks, masks] | ~self._reader.unstable(chosen))
        for plane, bounds, click, mask in zip(
            chosen[kept], self._reader.bounds(chosen[kept]), clicks[kept], masks[kept], strict=True
        ):
            if bounds.outer_box != NOWHERE:
                yield Waiting(
                    batch=batch,
                    row=int(click) * MASKS_PER_CLICK + int(mask),
                    score=float(answers.scores[click, mask]),
                    sure=bool(sure[click, mask]),
                    bounds=bounds,
                    inner_box=self._in_image(bounds.inner_box),
                    outer_box=self._in_image(bounds.outer_box),
                    cells=(plane if self._keep_logits else plane[bounds.cells]).copy(),
                )

    def look(self, waiting: Waiting) -> tuple[Box, Box, Callable[[], bool]]:
        """See `PlaneSource.look`."""
        look = self._reader.look(self._cells(waiting), waiting.bounds)
        return self._in_image(look.inner_box), self._in_image(look.outer_box), look.unstable

    def read(self, waiting: Waiting) -> Candidate | None:
        """See `PlaneSource.read`."""
        settings, reader = self._settings, self._reader
        stability = reader.read(self._cells(waiting), waiting.bounds)
        thresh = settings.stability_score_thresh
        if not waiting.sure and thresh > 0 and not stability >= float(np.float32(thresh)):
            return None
        runs = reader.runs()
        height, width = self._crop.image_size
        if not 0 < runs.area <= settings.max_area_share * height * width:
            return None
        box = self._in_image(runs.box_published)
        if near_crop_edge(box, self._crop.box, self._crop.image_size):
            return None
        if self._region is not None and not self._region.owns(runs, self._crop.box[:2]):
            return None
        logits = waiting.cells if self._keep_logits else None
        return Candidate(waiting.batch, waiting.row, waiting.score, stability, box, runs, logits=logits)

    def encode(self, candidate: Candidate) -> None:
        """See `PlaneSource.encode`."""
        assert candidate.runs is not None
        counts = candidate.runs.counts(self._crop.box[:2], self._crop.image_size)
        candidate.counts, candidate.runs = counts_to_string(counts), None

    def restore(self, candidate: Candidate, answers: Answers) -> None:
        """Make the run lengths again that a candidate lost, from the answers to its batch."""
        click, mask = divmod(candidate.row, MASKS_PER_CLICK)
        plane = answers.of(np.array([click]), np.array([mask]))[0]
        self._reader.stability(plane, bounded=False)
        candidate.runs = self._reader.runs()
        self.encode(candidate)
        candidate.logits = plane.copy() if self._keep_logits else None

    def _cells(self, waiting: Waiting) -> FloatArray:
        return waiting.cells[waiting.bounds.cells] if self._keep_logits else waiting.cells

    def _in_image(self, box: Box) -> Box:
        x, y = self._crop.box[:2]
        return box[0] + x, box[1] + y, box[2] + x, box[3] + y

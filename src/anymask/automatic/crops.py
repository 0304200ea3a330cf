"""One crop of an image: its clicks through the decoder in batches, and what passes the filters.

Sources: ``_process_crop`` and ``_process_batch`` of ``segment_anything/automatic_mask_generator.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anymask.errors import ModelError
from anymask.frame import CropBox
from anymask.masks.rle import counts_to_string
from anymask.predict.prompts import prompt_arrays
from anymask.predict.segmenter import Segmenter
from anymask.runtime.backend import NUM_MASKS
from anymask.runtime.checks import low_res_size
from anymask.types import Embedding, Mask, Prompt

from .adaptive import Explained
from .candidates import WAITING_BYTES, Candidate, Candidates
from .filters import near_crop_edge
from .reading import MaskReader
from .region import Region
from .runs import Runs
from .settings import AutomaticSettings

__all__ = ["MASKS_PER_CLICK", "Clicks", "Crop", "CropRun"]

FloatArray = NDArray[np.float32]
PointArray = NDArray[np.float64]

MASKS_PER_CLICK = NUM_MASKS - 1
"""The first mask is for prompts without ambiguity; a click has the three others."""


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


@dataclass(frozen=True)
class Clicks:
    """Where to click in a crop.

    Attributes:
        levels: points (N, 2), (x, y) in pixels of the crop; when adaptive, coarse before fine.
        wanted: (M, 2), points a person set; the best mask of each passes the filters of quality.
    """

    levels: tuple[PointArray, ...]
    wanted: PointArray

    def __len__(self) -> int:
        return sum(len(level) for level in self.levels) + len(self.wanted)


class CropRun:
    """Everything in one crop; used once, by one thread."""

    def __init__(
        self,
        segmenter: Segmenter,
        settings: AutomaticSettings,
        crop: Crop,
        region: Region | None = None,
        keep_logits: bool = False,
        waiting_bytes: int = WAITING_BYTES,
    ) -> None:
        """``keep_logits`` for the masks of the whole image; ``waiting_bytes`` as in `Candidates`."""
        self._segmenter, self._settings, self._crop = segmenter, settings, crop
        self._region = region
        self._keep_logits = keep_logits and crop.is_whole
        self._frame = segmenter.frame(crop.embedding.image_size)
        self._low_res = low_res_size(segmenter.spec, crop.embedding.features)
        self._reader = MaskReader(
            self._frame,
            self._low_res,
            segmenter.spec.mask_threshold,
            settings.stability_score_offset,
            settings.stability_score_thresh,
        )
        self._candidates = Candidates(settings.box_nms_thresh, waiting_bytes)
        self._batches: list[PointArray] = []
        self.decoded = 0

    def masks(self, clicks: Clicks, progress: Callable[[int], object] | None = None) -> list[Mask]:
        """What passes the filters and the suppression of boxes, best first.

        ``progress`` is called with the clicks that are done with, answered or left out.
        """
        explained = None
        if self._settings.adaptive and clicks.levels:
            size = self._crop.embedding.image_size
            explained = Explained(
                clicks.levels, size, self._settings.enough_clicks, self._settings.box_nms_thresh
            )
        for index, level in enumerate(clicks.levels):
            points = level if explained is None else level[explained.open(index)]
            self._ask(points, explained, False, progress)
            if progress is not None and len(points) < len(level):
                progress(len(level) - len(points))
        self._ask(clicks.wanted, None, True, progress)
        survivors = self._candidates.survivors()
        self._restore(survivors)
        return [self._mask(candidate) for candidate in survivors]

    def _ask(
        self,
        points: PointArray,
        explained: Explained | None,
        wanted: bool,
        progress: Callable[[int], object] | None,
    ) -> None:
        size = self._settings.points_per_batch
        for start in range(0, len(points), size):
            batch = points[start : start + size]
            planes, scores = self._decode(batch)
            self._batches.append(batch)
            for row, sure in self._promising(scores, wanted):
                runs = self._judge(_plane(planes, row), float(scores[row]), row, sure)
                if runs is not None and explained is not None:
                    explained.note(self.decoded + row // MASKS_PER_CLICK, runs, self._reader)
            if progress is not None:
                progress(len(batch))

    def _decode(self, points: PointArray) -> tuple[FloatArray, FloatArray]:
        """Logits (N, 3, h, w) and predicted IoU (3 N,) of N clicks."""
        self.decoded += len(points)
        prompts = [Prompt(points=point[None], labels=[1]) for point in points]
        logits, scores = self._segmenter.backend.decode(
            self._crop.embedding.features, prompt_arrays(prompts, self._frame, self._low_res)
        )
        if not np.isfinite(scores).all():
            raise ModelError(
                f"the model {self._segmenter.spec.name!r} answered NaN or infinity; its weights may be damaged"
            )
        return logits[:, 1:], scores[:, 1:].reshape(-1)

    def _promising(self, scores: FloatArray, wanted: bool) -> Iterator[tuple[int, bool]]:
        """Rows whose predicted IoU is good enough, and whether a row is the best of a click that is wanted."""
        thresh = self._settings.pred_iou_thresh
        good = scores > np.float32(thresh) if thresh > 0 else np.ones(len(scores), dtype=np.bool_)
        sure = np.zeros(len(scores), dtype=np.bool_)
        if wanted:
            best = scores.reshape(-1, MASKS_PER_CLICK).argmax(axis=1)
            sure[np.arange(len(best)) * MASKS_PER_CLICK + best] = True
        return ((int(row), bool(sure[row])) for row in np.flatnonzero(good | sure))

    def _judge(self, logits: FloatArray, score: float, row: int, sure: bool) -> Runs | None:
        """A mask that passes; it is a candidate then, unless a better one has its box.

        The thresholds of quality do not count for a ``sure`` one.
        """
        settings, crop, reader = self._settings, self._crop, self._reader
        stability = reader.stability(logits, bounded=not sure)
        if stability is None:
            return None
        thresh = settings.stability_score_thresh
        if not sure and thresh > 0 and not stability >= float(np.float32(thresh)):
            return None
        runs, (x, y) = reader.runs(), crop.box[:2]
        height, width = crop.image_size
        if not 0 < runs.area <= settings.max_area_share * height * width:
            return None
        left, top, right, bottom = runs.box_published
        box = (left + x, top + y, right + x, bottom + y)
        if near_crop_edge(box, crop.box, crop.image_size):
            return None
        if self._region is not None and not self._region.owns(runs, (x, y)):
            return None
        if self._candidates.beats(score, box):
            click = self._batches[-1][row // MASKS_PER_CLICK]
            self._candidates.add(
                Candidate(
                    batch=len(self._batches) - 1,
                    row=row,
                    score=score,
                    stability=stability,
                    box_published=box,
                    point=(float(click[0]) + x, float(click[1]) + y),
                    counts=counts_to_string(runs.counts((x, y), crop.image_size)),
                    logits=logits.copy() if self._keep_logits else None,
                )
            )
        return runs

    def _restore(self, survivors: list[Candidate]) -> None:
        """Decode the batches again of which survivors' masks were let go."""
        lost = [candidate for candidate in survivors if candidate.counts is None]
        for batch in sorted({candidate.batch for candidate in lost}):
            planes, _ = self._decode(self._batches[batch])
            for candidate in lost:
                if candidate.batch == batch:
                    plane = _plane(planes, candidate.row)
                    self._reader.stability(plane, bounded=False)
                    runs = self._reader.runs()
                    candidate.counts = counts_to_string(
                        runs.counts(self._crop.box[:2], self._crop.image_size)
                    )
                    candidate.logits = plane.copy() if self._keep_logits else None

    def _mask(self, candidate: Candidate) -> Mask:
        assert candidate.counts is not None
        height, width = self._crop.image_size
        return Mask.from_rle(
            {"size": [height, width], "counts": candidate.counts},
            candidate.score,
            low_res_logits=candidate.logits,
            stability_score=candidate.stability,
            point=candidate.point,
            crop_box=self._crop.box,
        )


def _plane(planes: FloatArray, row: int) -> FloatArray:
    """The logits (h, w) of a row among those of all clicks, three a click."""
    plane: FloatArray = planes[row // MASKS_PER_CLICK, row % MASKS_PER_CLICK]
    return plane

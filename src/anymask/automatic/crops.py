"""One crop of an image: its clicks through the decoder in batches, and what passes the filters.

Sources: ``_process_crop`` and ``_process_batch`` of ``segment_anything/automatic_mask_generator.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anymask.errors import ModelError
from anymask.predict.segmenter import Segmenter
from anymask.runtime.backend import Needed
from anymask.runtime.checks import low_res_size
from anymask.types import Mask

from .adaptive import Guide
from .answers import MASKS_PER_CLICK, Answers, ask, click_arrays
from .candidates import WAITING_BYTES, Candidate, Candidates
from .crop_reader import Crop, CropReader
from .reading import MaskReader
from .region import Region
from .settings import AutomaticSettings

__all__ = ["Clicks", "Crop", "CropRun"]

PointArray = NDArray[np.float64]


@dataclass(frozen=True)
class Clicks:
    """Where to click in a crop.

    Attributes:
        levels: points (N, 2), (x, y) in pixels of the crop; when adaptive, coarse before fine.
        wanted: (M, 2), points a person set; the best mask of each passes the filters of quality.
        points_per_side: of the grid that the levels are made of; 0 when adaptive is not wanted.
    """

    levels: tuple[PointArray, ...]
    wanted: PointArray
    points_per_side: int = 0

    def __len__(self) -> int:
        return sum(len(level) for level in self.levels) + len(self.wanted)


@dataclass(frozen=True)
class _Batch:
    """Clicks (N, 2) that are decoded together, and what of their masks will be looked at."""

    points: PointArray
    needed: Needed


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
        self._frame = segmenter.frame(crop.embedding.image_size)
        self._low_res = low_res_size(segmenter.spec, crop.embedding.features)
        reader = MaskReader(
            self._frame,
            self._low_res,
            segmenter.spec.mask_threshold,
            settings.stability_score_offset,
            settings.stability_score_thresh,
        )
        self._reader = CropReader(reader, settings, crop, region, keep_logits and crop.is_whole)
        self._candidates = Candidates(settings.box_nms_thresh, self._reader, waiting_bytes)
        self._batches: list[_Batch] = []
        # Logits that are kept may be given back as a prompt, padding and all; stretched frames have no padding.
        whole = (keep_logits and crop.is_whole) or self._frame.resize != "longest_side"
        self._picture = None if whole else self._frame.resized_size
        self.decoded = 0

    def masks(self, clicks: Clicks, progress: Callable[[int], object] | None = None) -> list[Mask]:
        """What passes the filters and the suppression of boxes, best first.

        ``progress`` is called with the clicks that are done with, answered or left out.
        """
        guide = self._guide(clicks)
        for index, level in enumerate(clicks.levels):
            if guide is None:
                self._ask(level, progress)
                continue
            chosen = guide.chosen(index)
            self._ask(np.concatenate(clicks.levels)[chosen], progress, guide, chosen)
            if progress is not None and len(chosen) < len(level):
                progress(len(level) - len(chosen))
        self._ask(clicks.wanted, progress, wanted=True)
        survivors = self._candidates.survivors()
        self._restore(survivors)
        return [self._mask(candidate) for candidate in survivors]

    def _guide(self, clicks: Clicks) -> Guide | None:
        if not (self._settings.adaptive and clicks.levels):
            return None
        spec = self._segmenter.spec
        return Guide(
            clicks.levels,
            clicks.points_per_side,
            self._settings,
            self._frame,
            spec.low_res_stride,
            spec.mask_threshold,
        )

    def _ask(
        self,
        points: PointArray,
        progress: Callable[[int], object] | None,
        guide: Guide | None = None,
        numbers: NDArray[np.int64] | None = None,
        wanted: bool = False,
    ) -> None:
        """Decode clicks in batches and note their masks; ``numbers`` are what the guide knows the clicks by."""
        size = self._settings.points_per_batch
        for start in range(0, len(points), size):
            batch = _Batch(points[start : start + size], self._needed(wanted))
            answers = self._decode(batch)
            self._batches.append(batch)
            if guide is not None and numbers is not None:
                guide.answer(numbers[start : start + size], answers)
            for waiting in self._reader.promising(answers, len(self._batches) - 1, wanted):
                self._candidates.add(waiting)
            if progress is not None:
                progress(len(batch.points))

    def _needed(self, wanted: bool) -> Needed:
        """Clicks of the grid that promise no more than the threshold need no planes."""
        thresh = self._settings.pred_iou_thresh
        return Needed(-np.inf if wanted or thresh <= 0 else thresh, self._picture)

    def _decode(self, batch: _Batch) -> Answers:
        self.decoded += len(batch.points)
        prompts = click_arrays(batch.points, self._frame, self._low_res)
        features = self._crop.embedding.features
        answers = ask(self._segmenter.backend, features, prompts, batch.needed)
        if not np.isfinite(answers.scores).all():
            raise ModelError(
                f"the model {self._segmenter.spec.name!r} answered NaN or infinity; its weights may be damaged"
            )
        return answers

    def _restore(self, survivors: list[Candidate]) -> None:
        """Decode the batches again of which survivors' masks were let go."""
        lost = [candidate for candidate in survivors if candidate.counts is None]
        for batch in sorted({candidate.batch for candidate in lost}):
            answers = self._decode(self._batches[batch])
            for candidate in lost:
                if candidate.batch == batch:
                    self._reader.restore(candidate, answers)

    def _mask(self, candidate: Candidate) -> Mask:
        assert candidate.counts is not None
        height, width = self._crop.image_size
        x, y = self._batches[candidate.batch].points[candidate.row // MASKS_PER_CLICK]
        return Mask.from_rle(
            {"size": [height, width], "counts": candidate.counts},
            candidate.score,
            low_res_logits=candidate.logits,
            stability_score=candidate.stability,
            point=(float(x) + self._crop.box[0], float(y) + self._crop.box[1]),
            crop_box=self._crop.box,
        )

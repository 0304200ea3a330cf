"""What `automatic_quality` and `automatic_thresholds` measure on one picture: lists of masks against its objects.

All answers of a grid of clicks are read once; thresholds and suppression of boxes are filters of these answers, so
every list is one choice among them. Crops, clean-up and the adaptive grid are more than filters: with those the
generator itself is asked.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from anymask.automatic.filters import published_nms
from anymask.automatic.generator import Generator
from anymask.automatic.select import merge_duplicates
from anymask.automatic.settings import AutomaticSettings
from anymask.data.dataset import Sample
from anymask.errors import InputError
from anymask.evaluation.annotations import annotation_mask
from anymask.evaluation.overlaps import iou_matrix
from anymask.evaluation.plan import sample_digest
from anymask.evaluation.proposals import PROPOSAL_NMS_THRESH, PROPOSALS, count_proposals
from anymask.evaluation.subjects import Subject
from anymask.image import read_image
from anymask.masks.boxes import half_open_to_published
from anymask.predict.segmenter import Segmenter
from anymask.types import Embedding, Mask

__all__ = [
    "LISTS",
    "MATCH_IOU",
    "REPEAT_IOU",
    "Answers",
    "QualityTask",
    "all_answers",
    "digest_of",
    "list_counts",
    "matched",
    "object_overlaps",
    "segmenter_of",
]

LISTS: Final = ("shipped", "unfiltered", "proposals")
"""``shipped``: the settings of the effort as they are. ``unfiltered``: both thresholds 0 on a plain grid, boxes
suppressed as shipped, ranked by predicted IoU. ``proposals``: as `anymask.evaluation.proposals.propose` on this grid:
thresholds 0, suppression of boxes at 0.9, ranked by the mean of predicted IoU and stability, the first 1,000."""
MATCH_IOU: Final = 0.5
"""A mask that overlaps an object so much is a mask of it."""
REPEAT_IOU: Final = 0.9
"""A mask that overlaps a better one so much repeats it."""
_VERSION: Final = 1
"""Raised when the same settings would give other numbers."""

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Answers:
    """Every mask with a pixel that the clicks of a grid were answered with.

    Attributes:
        masks: (N,) best predicted IoU first.
        boxes_published: (N, 4), (x0, y0, x1, y1) in pixels, inclusive maxima.
        scores, stabilities: (N,) float32.
    """

    masks: Sequence[Mask]
    boxes_published: NDArray[np.float32]
    scores: NDArray[np.float32]
    stabilities: NDArray[np.float32]

    @classmethod
    def of(cls, masks: Sequence[Mask]) -> Answers:
        """Of masks that all have stability scores, best first."""
        boxes = [half_open_to_published(mask.box_xyxy) for mask in masks]
        return cls(
            masks,
            np.asarray(boxes, dtype=np.float32).reshape(-1, 4),
            np.array([mask.score for mask in masks], dtype=np.float32),
            np.array([mask.stability_score for mask in masks], dtype=np.float32),
        )

    def kept(
        self, pred_iou_thresh: float, stability_score_thresh: float, box_nms_thresh: float
    ) -> NDArray[np.int64]:
        """Indices (K,), best first, of what the generator gives with these settings; thresholds of 0 keep all."""
        good = np.ones(len(self.masks), dtype=np.bool_)
        if pred_iou_thresh > 0:
            good &= self.scores > np.float32(pred_iou_thresh)
        if stability_score_thresh > 0:
            good &= self.stabilities >= np.float32(stability_score_thresh)
        places = np.flatnonzero(good)
        return places[published_nms(self.boxes_published[places], self.scores[places], box_nms_thresh)]

    def ranked_as_proposals(self) -> list[Mask]:
        """The list ``proposals`` of `LISTS`."""
        kept = self.kept(0.0, 0.0, PROPOSAL_NMS_THRESH)
        quality = [
            (self.masks[index].score + float(self.masks[index].stability_score or 0.0)) / 2 for index in kept
        ]
        best_first = np.argsort(-np.array(quality), kind="stable")
        return [self.masks[kept[place]] for place in best_first[: PROPOSALS[-1]]]


def all_answers(segmenter: Segmenter, embedding: Embedding, settings: AutomaticSettings) -> Answers:
    """Ask a plain grid of the settings' clicks, and filter nothing but masks without a pixel or over the largest area.

    Raises as `Generator.generate`.
    """
    everything = dataclasses.replace(
        settings,
        pred_iou_thresh=0.0,
        stability_score_thresh=0.0,
        box_nms_thresh=1.0,
        crop_n_layers=0,
        min_mask_region_area=0,
        adaptive=False,
    )
    return Answers.of(list(Generator(segmenter, everything).generate(embedding)))


def segmenter_of(subject: Subject) -> Segmenter:
    """The subject's model.

    Raises:
        InputError: it has no generator of its own.
    """
    if not isinstance(subject.model, Segmenter):
        raise InputError(f"automatic masks are measured of models, and {subject.name!r} is none")
    return subject.model


def object_overlaps(masks: Sequence[Mask], annotations: Sequence[Mapping[str, Any]]) -> FloatArray:
    """IoU (N, M) of masks with the annotated objects, crowds left out.

    Raises:
        DatasetError: a record has no mask.
        RleError: a record's mask is damaged.
        MaskError: the sizes differ.
    """
    truths = [annotation_mask(record)[0] for record in annotations if not record.get("iscrowd")]
    return iou_matrix([mask.counts for mask in masks], truths)


def matched(overlaps: FloatArray) -> tuple[int, int]:
    """How many masks are masks of an object, and how many different objects these are of, from IoU (N, M).

    Each mask belongs to the one object it overlaps most, the first of equals, if by `MATCH_IOU` or more. So the first
    number less the second is the number of duplicates: masks of an object beyond its first.
    """
    if not overlaps.size:
        return 0, 0
    owners = overlaps.argmax(axis=1)[overlaps.max(axis=1) >= MATCH_IOU]
    return len(owners), len(np.unique(owners))


def list_counts(masks: Sequence[Mask], annotations: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What one list of masks, best first, adds to the figures; plain values.

    ``masks`` (how many), ``matched_masks`` and ``matched_objects`` (see `matched`), ``repeats`` (masks that overlap a
    better one of the list by `REPEAT_IOU` or more and are in its group, see `merge_duplicates`), and ``proposals``, a
    record of `ProposalCounts`. Raises as `object_overlaps`.
    """
    of_objects, objects = matched(object_overlaps(masks, annotations))
    return {
        "masks": len(masks),
        "matched_masks": of_objects,
        "matched_objects": objects,
        "repeats": len(masks) - len(merge_duplicates(masks, REPEAT_IOU)),
        "proposals": count_proposals(masks, annotations).as_record(),
    }


@dataclass(frozen=True)
class QualityTask:
    """A `Task` of the runner: the counts of `LISTS` on one picture.

    Attributes:
        settings: those of ``shipped``.
    """

    settings: AutomaticSettings

    @property
    def digest(self) -> str:
        """See `Task.digest`."""
        return digest_of("automatic quality", _VERSION, dataclasses.asdict(self.settings))

    def item_digest(self, item: Sample) -> str:
        """See `sample_digest`."""
        return sample_digest(item)

    def measure(self, subject: Subject, item: Sample) -> dict[str, Any]:
        """`list_counts` by the list's name."""
        settings = self.settings
        segmenter = segmenter_of(subject).in_frame(settings.frame_side)
        picture = read_image(item.image)
        answers = all_answers(segmenter, segmenter.embed(picture), settings)
        if settings.adaptive or settings.crop_n_layers or settings.min_mask_region_area:
            shipped = list(Generator(segmenter, settings).generate(picture))
        else:
            thresholds = (settings.pred_iou_thresh, settings.stability_score_thresh)
            shipped = [answers.masks[index] for index in answers.kept(*thresholds, settings.box_nms_thresh)]
        unfiltered = [answers.masks[index] for index in answers.kept(0.0, 0.0, settings.box_nms_thresh)]
        lists = (shipped, unfiltered, answers.ranked_as_proposals())
        return {name: list_counts(masks, item.annotations) for name, masks in zip(LISTS, lists, strict=True)}


def digest_of(*parts: Any) -> str:
    """SHA-256 of plain values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

"""Object proposals: how much of what people outlined is among the first 10, 100 and 1000 automatic masks.

Proposals in the order of their rank take the true masks greedily, one to one, at each IoU threshold from 0.5 to 0.95;
average recall (AR) is the share of true masks taken, over all images, averaged over the thresholds. Categories play no
part in the matching. Groups (COCO's size classes, LVIS's frequencies) count their own true masks only.

Sources: Hosang et al., "What makes for effective detection proposals?", TPAMI 2016; ``COCOeval`` with ``useCats = 0``
in ``pycocotools/cocoeval.py``, whose numbers these are; the automatic masks are those of Kirillov et al., "Segment
Anything", 2023, section 7.3 and appendix D.3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from anymask.automatic.any_model import generate_masks
from anymask.data.dataset import Sample
from anymask.errors import DatasetError, MaskError
from anymask.evaluation.annotations import annotation_area, annotation_mask
from anymask.evaluation.metrics import LARGE_FROM, MEDIUM_FROM
from anymask.evaluation.overlaps import iou_matrix
from anymask.predict.promptable import Promptable
from anymask.types import Embedding, Mask

__all__ = [
    "GROUPS",
    "IOU_THRESHOLDS",
    "PROPOSALS",
    "PROPOSAL_NMS_THRESH",
    "PROPOSAL_POINTS_PER_SIDE",
    "ProposalCounts",
    "ProposalScores",
    "count_proposals",
    "proposal_counts_of_image",
    "propose",
    "score_proposals",
]

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

PROPOSALS: Final = (10, 100, 1000)
"""Ranks up to which proposals count."""
IOU_THRESHOLDS: Final = tuple(np.linspace(0.5, 0.95, 10).tolist())
PROPOSAL_POINTS_PER_SIDE: Final = 64
PROPOSAL_NMS_THRESH: Final = 0.9

_AREAS: Final = {
    "small": (0.0, float(MEDIUM_FROM)),
    "medium": (float(MEDIUM_FROM), float(LARGE_FROM)),
    "large": (float(LARGE_FROM), 1e10),
}
"""COCO's size classes; a limit belongs to both of its classes, as published."""
_FREQUENCIES: Final = {"r": "rare", "c": "common", "f": "frequent"}
GROUPS: Final = ("all", *_AREAS, *_FREQUENCIES.values())


@dataclass(frozen=True)
class ProposalCounts:
    """What one image adds to the recall, or several.

    Attributes:
        found: for each of `GROUPS`, (3, 10): true masks taken by the first 10, 100 and 1000 proposals at each IoU
            threshold.
        total: for each group, the true masks there are.
    """

    found: Mapping[str, IntArray]
    total: Mapping[str, int]

    def __post_init__(self) -> None:
        shape = (len(PROPOSALS), len(IOU_THRESHOLDS))
        if set(self.found) != set(GROUPS) or set(self.total) != set(GROUPS):
            raise MaskError(f"proposal counts need the groups {', '.join(GROUPS)}, got {sorted(self.found)}")
        if any(array.shape != shape or array.dtype.kind not in "iu" for array in self.found.values()):
            raise MaskError(
                f"proposal counts are whole numbers (3, 10), got {[a.shape for a in self.found.values()]}"
            )

    def as_record(self) -> dict[str, dict[str, Any]]:
        """Plain values, ready for JSON; `from_record` gives back the same numbers."""
        return {
            "found": {group: array.tolist() for group, array in self.found.items()},
            "total": dict(self.total),
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> ProposalCounts:
        """The counts of a record made by `as_record`.

        Raises:
            MaskError: the record is of another form.
        """
        try:
            found = {group: np.asarray(rows) for group, rows in record["found"].items()}
            total = {group: int(count) for group, count in record["total"].items()}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise MaskError(f"a record of proposal counts has found and total; wrong: {error}") from None
        return cls(found, total)


@dataclass(frozen=True)
class ProposalScores:
    """Average recall over a set of images.

    Attributes:
        average_recall: for each of `GROUPS` and of `PROPOSALS`; None where a group has no true mask.
        total: true masks of each group.
    """

    average_recall: Mapping[str, Mapping[int, float | None]]
    total: Mapping[str, int]

    def as_record(self) -> dict[str, float | None]:
        """Figures by name, such as ``"ar@1000"`` and ``"ar@1000_small"``."""
        return {
            f"ar@{limit}" + ("" if group == "all" else f"_{group}"): value
            for group, values in self.average_recall.items()
            for limit, value in values.items()
        }


def propose(
    segmenter: Promptable,
    embedding: Embedding,
    points_per_side: int = PROPOSAL_POINTS_PER_SIDE,
    box_nms_thresh: float = PROPOSAL_NMS_THRESH,
    limit: int = PROPOSALS[-1],
) -> list[Mask]:
    """At most ``limit`` masks, best first by the mean of predicted IoU and stability; none is filtered by either.

    A model without stability scores ranks by predicted IoU alone. Raises as
    `anymask.automatic.any_model.generate_masks`.
    """
    masks = generate_masks(segmenter, embedding, points_per_side, 0.0, 0.0, box_nms_thresh=box_nms_thresh)
    return sorted(masks, key=lambda mask: -_rank(mask))[:limit]


def proposal_counts_of_image(
    segmenter: Promptable, sample: Sample, points_per_side: int = PROPOSAL_POINTS_PER_SIDE
) -> ProposalCounts:
    """Embed one image, propose, and match with all its annotations."""
    return count_proposals(
        propose(segmenter, segmenter.embed(sample.image), points_per_side), sample.annotations
    )


def count_proposals(proposals: Sequence[Mask], annotations: Sequence[Mapping[str, Any]]) -> ProposalCounts:
    """Match one image's proposals, best first, with its true masks.

    Args:
        proposals: masks in the order of their rank.
        annotations: records with ``segmentation`` (a COCO RLE) and, where there, ``area`` in pixels, which decides
            the size class; ``category_frequency`` (r, c, f or rare, common, frequent); ``iscrowd``, which are left out.

    Raises:
        DatasetError: a record has no mask, or an area or frequency that is none.
        RleError: a mask is damaged.
        MaskError: proposals and true masks are of different sizes.
    """
    truths = [_Truth.of(record) for record in annotations if not record.get("iscrowd")]
    overlaps = iou_matrix(
        [mask.counts for mask in proposals[: PROPOSALS[-1]]], [truth.counts for truth in truths]
    )
    found, total = {}, {}
    for group in GROUPS:
        members = [index for index, truth in enumerate(truths) if group in truth.groups]
        takers = _takers(overlaps[:, members])
        found[group] = np.array(
            [[np.count_nonzero(ranks < limit) for ranks in takers] for limit in PROPOSALS], dtype=np.int64
        )
        total[group] = len(members)
    return ProposalCounts(found, total)


def score_proposals(counts: Sequence[ProposalCounts]) -> ProposalScores:
    """Pool the counts of many images into average recall.

    Raises:
        MaskError: there are no images.
    """
    if not counts:
        raise MaskError("average recall needs at least one image, got none")
    recalls: dict[str, dict[int, float | None]] = {}
    totals = {group: sum(count.total[group] for count in counts) for group in GROUPS}
    for group, total in totals.items():
        found = np.sum([count.found[group] for count in counts], axis=0)
        recalls[group] = {
            limit: float(np.mean(row / total)) if total else None
            for limit, row in zip(PROPOSALS, found, strict=True)
        }
    return ProposalScores(recalls, totals)


@dataclass(frozen=True)
class _Truth:
    """A true mask and the groups it counts in."""

    counts: IntArray
    groups: frozenset[str]

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> _Truth:
        counts, _ = annotation_mask(record)
        area = annotation_area(record, counts)
        groups = {"all", *(name for name, (low, high) in _AREAS.items() if low <= area <= high)}
        frequency = record.get("category_frequency")
        if frequency is not None:
            name = _FREQUENCIES.get(frequency, frequency)
            if name not in _FREQUENCIES.values():
                raise DatasetError(
                    f"a category's frequency is r, c or f, or rare, common or frequent, not {frequency!r:.40}"
                )
            groups.add(name)
        return cls(counts, frozenset(groups))


def _rank(mask: Mask) -> float:
    return mask.score if mask.stability_score is None else (mask.score + mask.stability_score) / 2


def _takers(overlaps: FloatArray) -> list[IntArray]:
    """For each IoU threshold the ranks, from 0, of the proposals that take a true mask; overlaps are (N, M).

    Each proposal in its turn takes the free true mask it overlaps most, the later of equals as published.
    """
    takers = []
    candidates = np.flatnonzero((overlaps >= IOU_THRESHOLDS[0]).any(axis=1))
    for threshold in IOU_THRESHOLDS:
        free = np.ones(overlaps.shape[1], dtype=bool)
        ranks = []
        for rank in candidates:
            row = np.where(free, overlaps[rank], -1.0)
            best = len(row) - 1 - int(np.argmax(row[::-1]))
            if row[best] >= threshold:
                free[best] = False
                ranks.append(rank)
        takers.append(np.array(ranks, dtype=np.int64))
    return takers

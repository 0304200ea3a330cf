"""Instance segmentation from given boxes: the model turns boxes into masks, and COCO's mask AP judges them.

Boxes come from a detector's results in COCO's format, whose scores then rank the masks, or from the ground truth, and
then the model's own predicted IoU ranks them. The figures are those of ``COCOeval`` in ``pycocotools/cocoeval.py``,
computed by hotcoco.

Source: Kirillov et al., "Segment Anything", 2023, section 7.4 and appendix D.4.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from anymask.data.dataset import Sample
from anymask.errors import DatasetError, MissingExtraError
from anymask.evaluation.annotations import annotation_area, annotation_mask
from anymask.masks import rle
from anymask.masks.boxes import clip_boxes
from anymask.predict.promptable import Promptable
from anymask.types import Embedding, Mask, Prompt

__all__ = [
    "GivenBox",
    "ImageInstances",
    "InstanceScores",
    "category_names",
    "ground_truth_boxes",
    "instances_of_image",
    "read_detections",
    "score_instances",
]

BOXES_PER_BATCH: Final = 64
_MAX_RESULTS_BYTES: Final = 2 * 1024**3

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class GivenBox:
    """A box to be turned into a mask.

    Attributes:
        box_xyxy: (x0, y0, x1, y1) in image pixels.
        category_id: COCO's number of its category.
        score: the detector's; None for a box of the ground truth.
    """

    box_xyxy: Box
    category_id: int
    score: float | None = None


@dataclass(frozen=True)
class ImageInstances:
    """True objects and results of one image, plain values throughout.

    Attributes:
        key: the image's name.
        height, width: in pixels.
        truth: COCO annotations: ``category_id``, ``segmentation`` (RLE), ``area``, ``bbox`` (xywh), ``iscrowd``.
        results: COCO results: ``category_id``, ``segmentation`` (RLE), ``score``.
    """

    key: str
    height: int
    width: int
    truth: Sequence[Mapping[str, Any]]
    results: Sequence[Mapping[str, Any]]

    def as_record(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> ImageInstances:
        """The instances of a record made by `as_record`.

        Raises:
            DatasetError: the record is of another form.
        """
        try:
            return cls(**record)
        except TypeError as error:
            raise DatasetError(f"this is no record of an image's instances: {error}") from None


@dataclass(frozen=True)
class InstanceScores:
    """COCO's mask AP over a set of images; a figure is None where no true object is there to be found.

    Attributes:
        ap: averaged over IoU 0.5, 0.55 ... 0.95 and over the categories.
        ap50, ap75: at IoU 0.5 and 0.75.
        ap_small, ap_medium, ap_large: by the true object's area, limits at 32^2 and 96^2 pixels.
        images, objects: how many were measured; crowds are no objects.
    """

    ap: float | None
    ap50: float | None
    ap75: float | None
    ap_small: float | None
    ap_medium: float | None
    ap_large: float | None
    images: int
    objects: int

    def as_record(self) -> dict[str, float | None]:
        """Figures by name."""
        return asdict(self)


def category_names(samples: Iterable[Sample]) -> dict[str, int]:
    """The ``category`` of all annotations, numbered from 1 in alphabetical order."""
    names = {str(record["category"]) for s in samples for record in s.annotations if "category" in record}
    return {name: number for number, name in enumerate(sorted(names), start=1)}


def read_detections(path: str | Path) -> dict[int, list[GivenBox]]:
    """Boxes of a COCO results file (a JSON list of ``image_id``, ``category_id``, ``bbox`` xywh, ``score``) by image.

    Raises:
        DatasetError: the file is missing, too large or of another form.
    """
    source = Path(path)
    try:
        if source.stat().st_size > _MAX_RESULTS_BYTES:
            raise DatasetError(
                f"{path} has {source.stat().st_size} bytes; the limit is {_MAX_RESULTS_BYTES}."
            )
        entries = json.loads(source.read_bytes())
    except OSError as error:
        raise DatasetError(f"the detections at {path} cannot be read: {error.strerror or error}.") from None
    except ValueError as error:
        raise DatasetError(f"{path} is not JSON: {error}.") from None
    if not isinstance(entries, list):
        raise DatasetError(f"{path} must hold a list of COCO results, got {type(entries).__name__}.")
    found: dict[int, list[GivenBox]] = {}
    for number, entry in enumerate(entries):
        try:
            x, y, width, height = (float(side) for side in entry["bbox"])
            box = GivenBox((x, y, x + width, y + height), int(entry["category_id"]), float(entry["score"]))
            image = int(entry["image_id"])
        except (KeyError, TypeError, ValueError) as error:
            raise DatasetError(
                f"result {number} of {path} is not a COCO detection: {error!r:.100}."
            ) from None
        if not np.isfinite((*box.box_xyxy, box.score or 0.0)).all():
            raise DatasetError(f"result {number} of {path} holds a number that is not finite.")
        found.setdefault(image, []).append(box)
    return found


def ground_truth_boxes(sample: Sample, categories: Mapping[str, int]) -> list[GivenBox]:
    """The tight boxes of all true masks that are neither empty nor a crowd; raises as `instances_of_image`."""
    boxes = []
    for record in _truth(sample, categories):
        x, y, width, height = record["bbox"]
        if not record["iscrowd"] and width and height:
            boxes.append(GivenBox((x, y, x + width, y + height), record["category_id"]))
    return boxes


def instances_of_image(
    model: Promptable,
    sample: Sample,
    categories: Mapping[str, int],
    boxes: Sequence[GivenBox] | None = None,
) -> ImageInstances:
    """Prompt a model with the boxes of one image, by default those of the ground truth, one mask for each.

    Args:
        model: a `Segmenter`, which is asked in batches, or a baseline.
        sample: annotations with ``segmentation`` and ``category_id`` or ``category``; ``area`` and ``iscrowd`` where
            there.
        categories: number of each category's name, see `category_names`.
        boxes: cut at the image's border; one without area after that gives no result.

    Raises:
        DatasetError: an annotation has no mask, or a category that is not in ``categories``.
        RleError: a true mask is damaged.
        And what the model raises for the image.
    """
    truth = _truth(sample, categories)
    given = ground_truth_boxes(sample, categories) if boxes is None else boxes
    embedding = model.embed(sample.image)
    height, width = embedding.image_size
    if (height, width) != (sample.height, sample.width):
        raise DatasetError(
            f"the picture {sample.key!r} is {width} x {height}, its record says {sample.width} x {sample.height}"
        )
    clipped = [_clipped(box.box_xyxy, width, height) for box in given]
    usable = [(box, corners) for box, corners in zip(given, clipped, strict=True) if corners is not None]
    masks = _masks(model, embedding, [corners for _, corners in usable])
    results = [
        {
            "category_id": box.category_id,
            "segmentation": mask.rle,
            "score": mask.score if box.score is None else box.score,
        }
        for (box, _), mask in zip(usable, masks, strict=True)
    ]
    return ImageInstances(sample.key, height, width, truth, results)


def score_instances(images: Iterable[ImageInstances], categories: Mapping[str, int]) -> InstanceScores:
    """COCO's mask AP of many images, which may come one by one and are not kept.

    Raises:
        DatasetError: there are no images, or a category's number is not in ``categories``.
        MissingExtraError: hotcoco is not installed.
    """
    try:
        from hotcoco import StreamingEval
    except ImportError as error:
        raise MissingExtraError(
            "Mask AP needs hotcoco; install it with: pip install 'anymask[eval]'."
        ) from error
    evaluator = StreamingEval([{"id": n, "name": name} for name, n in categories.items()], "segm")
    truth_ids, result_ids = count(1), count(1)
    seen = objects = 0
    for seen, image in enumerate(images, start=1):
        known = {"image_id": seen}
        try:
            evaluator.update(
                [{"id": seen, "height": image.height, "width": image.width}],
                [{**record, **known, "id": next(truth_ids)} for record in image.truth],
                [
                    {**record, **known, **_measures(record), "id": next(result_ids)}
                    for record in image.results
                ],
            )
        except (KeyError, ValueError) as error:
            raise DatasetError(f"the instances of {image.key!r} cannot be evaluated: {error}") from None
        objects += sum(not record["iscrowd"] for record in image.truth)
    if not seen:
        raise DatasetError("mask AP needs at least one image, got none")
    finished = evaluator.finalize()
    finished.accumulate()
    # Its summarize() prints; the figures are means over this table of thresholds, recalls, categories, areas, limits.
    evaluation: Any = finished.eval
    table = np.asarray(evaluation["precision"])[..., -1]
    half, three_quarters = table[:1], table[5:6]
    return InstanceScores(
        ap=_mean_precision(table[..., 0]),
        ap50=_mean_precision(half[..., 0]),
        ap75=_mean_precision(three_quarters[..., 0]),
        ap_small=_mean_precision(table[..., 1]),
        ap_medium=_mean_precision(table[..., 2]),
        ap_large=_mean_precision(table[..., 3]),
        images=seen,
        objects=objects,
    )


def _mean_precision(precision: NDArray[np.float64]) -> float | None:
    """The mean of what is not -1, which stands for a category without an object to be found."""
    known = precision[precision > -1]
    return float(known.mean()) if known.size else None


def _truth(sample: Sample, categories: Mapping[str, int]) -> list[dict[str, Any]]:
    """The sample's annotations as COCO's, run lengths checked."""
    records = []
    for record in sample.annotations:
        which = f"the annotation {record.get('id')!r:.40} of {sample.key!r}"
        number = record.get("category_id", categories.get(str(record.get("category"))))
        if number not in categories.values():
            name = record.get("category_id", record.get("category"))
            raise DatasetError(f"{which} has the category {name!r:.40}, which is not among those given")
        counts, size = annotation_mask(record)
        if size != (sample.height, sample.width):
            raise DatasetError(f"{which} has a mask of {size}, the image is {(sample.height, sample.width)}")
        x0, y0, x1, y1 = rle.box(counts, size)
        records.append(
            {
                "category_id": number,
                "segmentation": {"size": list(size), "counts": rle.counts_to_string(counts)},
                "area": annotation_area(record, counts),
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "iscrowd": int(bool(record.get("iscrowd"))),
            }
        )
    return records


def _measures(result: Mapping[str, Any]) -> dict[str, Any]:
    """Area and bbox of a result's mask, as COCO's ``loadRes`` fills them in."""
    counts, size = rle.parse(result["segmentation"])
    x0, y0, x1, y1 = rle.box(counts, size)
    return {"area": float(rle.area(counts)), "bbox": [x0, y0, x1 - x0, y1 - y0]}


def _clipped(box_xyxy: Box, width: int, height: int) -> Box | None:
    x0, y0, x1, y1 = clip_boxes(box_xyxy, width, height).tolist()
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


def _masks(model: Promptable, embedding: Embedding, boxes: Sequence[Box]) -> list[Mask]:
    """One mask for each box; in batches where the model takes them, kept as run lengths."""
    masks: list[Mask] = []
    for start in range(0, len(boxes), BOXES_PER_BATCH):
        batch = boxes[start : start + BOXES_PER_BATCH]
        segment_many = getattr(model, "segment_many", None)
        if segment_many is None:
            answers = [model.segment(embedding, box=box, multimask=False) for box in batch]
        else:
            answers = segment_many(embedding, [Prompt(box=box) for box in batch], multimask=False)
        masks += [Mask.from_rle(answer[0].rle, answer[0].score) for answer in answers]
    return masks

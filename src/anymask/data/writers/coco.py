"""COCO instance annotations, written as a stream: one picture's masks are in memory at a time.

Source of the format: the COCO page "Data format" (object detection); `pycocotools` for what a polygon covers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

from anymask.data.coco_polygons import polygon_counts
from anymask.errors import MaskError
from anymask.masks import rle
from anymask.types import Mask

from .outlines import LEAST_IOU
from .picture import Picture

__all__ = ["CATEGORY", "CocoTally", "coco_polygons", "write_coco"]

CATEGORY: Final[Mapping[str, Any]] = {"id": 1, "name": "object", "supercategory": ""}
"""Masks of everything have no class; the format wants one."""


@dataclass(frozen=True)
class CocoTally:
    """What a file holds.

    Attributes:
        images, annotations: how many.
        polygons: annotations written as polygons.
        kept_as_rle: annotations that polygons were asked for and cannot hold: with holes, or less than `LEAST_IOU`.
    """

    images: int
    annotations: int
    polygons: int
    kept_as_rle: int


def write_coco(
    file: BinaryIO,
    pictures: Sequence[Picture],
    annotations_of: Callable[[Picture], Iterable[Mapping[str, Any]]],
    polygons: bool = False,
    tolerance: float = 0.0,
    file_name: Callable[[Picture], str] = lambda picture: picture.file,
) -> CocoTally:
    """Write ``info``, ``images``, ``categories`` and ``annotations``, one record a line.

    Annotations have ``id`` from 1 in the order given (COCO's evaluation takes 0 for "no match"), ``category_id`` 1,
    ``iscrowd`` 0, ``bbox`` XYWH whose width counts pixels, as COCO's does and SA-1B's does not, and beside the
    published keys ``score`` (the predicted IoU) and ``stability_score``. ``segmentation`` is a compressed run length
    with text for counts, which COCO's readers take with ``iscrowd`` 0; with ``polygons`` it is a list of them where
    they hold the mask, see `coco_polygons`. Empty masks are left out.

    Args:
        file: open for writing bytes.
        pictures: those of ``images``, in order.
        annotations_of: the SA-1B annotations of one of them.
        polygons, tolerance: as above; how many pixels outlines may be thinned by.
        file_name: what ``images`` call a picture's file.

    Raises:
        RleError: an annotation's run lengths are unsound.
    """
    info = {"description": "masks of everything, found by anymask"}
    file.write(f'{{"info": {json.dumps(info)},\n"licenses": [],\n"images": ['.encode())
    entries = (
        {
            "id": each.id,
            "file_name": file_name(each),
            "width": each.width,
            "height": each.height,
            "license": 0,
        }
        for each in pictures
    )
    _write_lines(file, entries)
    file.write(f'],\n"categories": {json.dumps([CATEGORY])},\n"annotations": ['.encode())
    tally = _Tally()
    _write_lines(file, _annotations(pictures, annotations_of, polygons, tolerance, tally))
    file.write(b"]}\n")
    kept = tally.annotations - tally.polygons if polygons else 0
    return CocoTally(len(pictures), tally.annotations, tally.polygons, kept)


@dataclass
class _Tally:
    annotations: int = 0
    polygons: int = 0


def _annotations(
    pictures: Sequence[Picture],
    annotations_of: Callable[[Picture], Iterable[Mapping[str, Any]]],
    polygons: bool,
    tolerance: float,
    tally: _Tally,
) -> Iterable[dict[str, Any]]:
    for picture in pictures:
        for record in annotations_of(picture):
            counts, size = rle.parse(record["segmentation"])
            area = rle.area(counts)
            if not area:
                continue
            segmentation: Any = {"size": list(size), "counts": rle.counts_to_string(counts)}
            parts = None
            if polygons:
                parts = coco_polygons(Mask.from_rle(segmentation, 0.0), tolerance)
            tally.annotations += 1
            tally.polygons += parts is not None
            x0, y0, x1, y1 = rle.box(counts, size)
            yield {
                "id": tally.annotations,
                "image_id": picture.id,
                "category_id": CATEGORY["id"],
                "segmentation": segmentation if parts is None else parts,
                "area": area,
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "iscrowd": 0,
                "score": record.get("predicted_iou"),
                "stability_score": record.get("stability_score"),
            }


def coco_polygons(mask: Mask, tolerance: float = 0.0) -> list[list[float]] | None:
    """The parts of a mask as COCO's flat lists x0, y0, x1, y1 ..., or None where these cannot hold it.

    They cannot when there is a hole, or when the pixels that pycocotools gives them overlap the mask by less than
    `LEAST_IOU`; where only the thinning by ``tolerance`` pixels is to blame, the exact outline is taken.
    """
    for step in (tolerance, 0.0) if tolerance > 0 else (0.0,):
        try:
            parts = mask.polygons(step)
            if not parts or any(polygon.holes for polygon in parts):
                return None
            counts = polygon_counts([polygon.exterior for polygon in parts], *mask.size)
        except MaskError:
            return None
        if rle.iou(counts, mask.counts) >= LEAST_IOU:
            return [polygon.exterior.reshape(-1).tolist() for polygon in parts]
    return None


def _write_lines(file: BinaryIO, records: Iterable[Mapping[str, Any]]) -> None:
    for number, record in enumerate(records):
        file.write(b",\n" if number else b"\n")
        file.write(json.dumps(record, allow_nan=False).encode("ascii"))

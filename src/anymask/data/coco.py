"""Reader for COCO and LVIS instance annotations, whatever the size of the file.

Source of the format: the COCO page "Data format" (object detection), the LVIS 1.0 API, and `pycocotools` for what a
polygon covers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from anymask.errors import DatasetError, ImageError, MaskError
from anymask.masks import rle
from anymask.types.image import check_image_size

from .coco_index import CocoIndex, index_coco, url_name
from .coco_polygons import polygon_counts
from .dataset import Sample
from .files import picture_size, read_bytes, safe_name
from .json_stream import Element, read_element
from .records import Counts, Record, mask_record


class CocoDataset:
    """One COCO or LVIS annotation file with its folder of pictures; a `Dataset` in the order of the file's images.

    The file is read once, through a sliding window, for the places of its records; a sample then costs one positioned
    read per record. Every annotation becomes an SA-1B record: ``id``, ``segmentation`` (compressed RLE), ``bbox`` and
    ``area`` of the mask itself (see `records.mask_record`), ``category`` (its name) and, in LVIS,
    ``category_frequency`` (r, c or f). Polygons cover the pixels that pycocotools gives them. Annotations with
    ``iscrowd`` and empty masks are left out.

    Memory, whatever the length of the file: 16 bytes per annotation and 32 bytes and a file name per image are kept
    (and pickled); opening takes about 80 bytes per annotation and 250 per image besides, and the window: 1 MB, or the
    longest record (`json_stream.MAX_ELEMENT_BYTES` at most) with up to some twenty times its bytes while it is decoded.
    Measured on a generated file of 214 MB with 226,366 polygons of 40,000 images: 30 MB, where loading it whole took
    1,245 MB; 6 s of one core.

    Attributes:
        annotations: the JSON file.
        images: the folder that file names are relative to. Where the record has a ``coco_url`` (LVIS), the picture may
            also lie in a folder of the split's name (``val2017/``) or without one.
        source: name of the dataset.
    """

    def __init__(self, annotations: str | Path, images: str | Path, source: str | None = None) -> None:
        """
        Raises:
            DatasetError: the file is missing, cut short, not in the format, or names a picture outside the folder.
        """
        self.annotations = Path(annotations)
        self.images = Path(images)
        self.source = source or self.annotations.stem
        self._index: CocoIndex = index_coco(self.annotations)

    def __len__(self) -> int:
        return len(self._index.name_ends)

    def keys(self) -> list[str]:
        """File names without extension, in the order of the samples."""
        return [self._index.key(image) for image in range(len(self))]

    def with_images(self, images: str | Path) -> CocoDataset:
        """The same annotations with the pictures elsewhere; the file is not read again."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__, images=Path(images))
        return other

    def has_picture(self, index: int) -> bool:
        """Whether the picture of a sample is there."""
        image = range(len(self))[index]
        with self._opened() as file:
            info = self._info(file.fileno(), image)
        return any(path.is_file() for path in self._candidates(image, info))

    def __getitem__(self, index: int) -> Sample:
        """One image with its masks.

        Raises:
            DatasetError: a record is broken, or the picture is missing, damaged, too large or of another size than its
                record says; the message names the file, the image and the reason.
        """
        image = range(len(self))[index]
        name = self._index.name(image)
        with self._opened() as file:
            info = self._info(file.fileno(), image)
            size = self._size(info, name)
            data = self._picture(self._candidates(image, info), size)
            records = [
                self._record(
                    read_element(file.fileno(), int(offset), int(length), self.annotations), size, name
                )
                for offset, length in self._index.annotations_of(image)
            ]
        kept = tuple(record for record in records if record is not None)
        return Sample(self._index.key(image), self.source, data, size[1], size[0], kept)

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def _opened(self) -> BinaryIO:
        try:
            return self.annotations.open("rb")
        except OSError as error:
            raise DatasetError(f"{self.annotations} cannot be read: {error}.") from None

    def _info(self, descriptor: int, image: int) -> Element:
        offset, length = self._index.image_places[image]
        return read_element(descriptor, int(offset), int(length), self.annotations)

    def _candidates(self, image: int, info: Element) -> list[Path]:
        """Where the picture may lie, the likeliest first."""
        names = [self._index.name(image)]
        from_url = url_name(info)
        if from_url is not None:
            names += [from_url, PurePosixPath(from_url).name]
        return [self.images / safe_name(name, str(self.annotations)) for name in names]

    def _picture(self, candidates: Sequence[Path], size: tuple[int, int]) -> bytes:
        path = next((path for path in candidates if path.is_file()), candidates[0])
        data = read_bytes(path)
        seen = picture_size(data, path)
        if seen != size:
            raise DatasetError(
                f"The picture {str(path)!r} is {seen[1]} x {seen[0]}, its record in {self.annotations} says "
                f"{size[1]} x {size[0]}; they must be equal."
            )
        return data

    def _size(self, info: Element, name: str) -> tuple[int, int]:
        width, height = info.get("width"), info.get("height")
        if not (type(width) is int and type(height) is int):
            raise self._broken(
                name, f"its size is {width!r:.40} x {height!r:.40}, two whole numbers are needed"
            )
        try:
            check_image_size(width, height)
        except ImageError as error:
            raise self._broken(name, str(error)) from None
        return height, width

    def _record(self, annotation: Element, size: tuple[int, int], name: str) -> Record | None:
        id = annotation.get("id")
        if type(id) is not int:
            raise self._broken(name, f"an annotation has the id {id!r:.40}, a whole number is needed")
        try:
            counts = segmentation_counts(annotation.get("segmentation"), size)
            return mask_record(id, counts, size, **self._category(annotation))
        except (MaskError, DatasetError) as error:
            raise self._broken(name, f"annotation {id}: {str(error).rstrip('.')}") from None

    def _category(self, annotation: Element) -> dict[str, str]:
        id = annotation.get("category_id")
        category = self._index.categories.get(id) if type(id) is int else None
        if category is None:
            return {}
        frequency = {} if category.frequency is None else {"category_frequency": category.frequency}
        return {"category": category.name, **frequency}

    def _broken(self, name: str, reason: str) -> DatasetError:
        return DatasetError(f"{self.annotations}, image {name!r:.200}: {reason}.")


def segmentation_counts(segmentation: object, size: tuple[int, int]) -> Counts:
    """Run lengths of a COCO ``segmentation``: polygons, or an RLE with a list or with text for counts.

    Args:
        segmentation: as decoded from JSON.
        size: (height, width) of the image.

    Raises:
        MaskError: anything else, or an RLE of another size.
    """
    if isinstance(segmentation, list):
        return polygon_counts([_vertices(part) for part in segmentation], *size)
    if not isinstance(segmentation, Mapping):
        raise MaskError(f"the segmentation must be polygons or an RLE, got {segmentation!r:.60}")
    counts, seen = rle.parse(segmentation)
    if seen != size:
        raise MaskError(f"the RLE is {seen[1]} x {seen[0]} and its image {size[1]} x {size[0]}")
    return counts


def _vertices(part: Any) -> NDArray[np.float64]:
    """A polygon's flat list x0, y0, x1, y1, ... as (N, 2)."""
    try:
        flat = np.asarray(part) if isinstance(part, list) else None
    except ValueError:
        flat = None
    if flat is None or flat.ndim != 1 or flat.size % 2 or (flat.size and flat.dtype.kind not in "iuf"):
        raise MaskError(f"a polygon must be a flat list of x and y in turn, got {part!r:.60}")
    return flat.astype(np.float64).reshape(-1, 2)

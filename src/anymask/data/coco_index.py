"""Where everything lies in a COCO or LVIS annotation file, found in one pass and kept in a few flat arrays."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from anymask.errors import DatasetError

from .files import safe_name, stem_of
from .json_stream import visit_arrays

MAX_CATEGORIES: Final = 100_000
_INT64: Final = range(-(2**63), 2**63)


@dataclass(frozen=True)
class Category:
    """A category's name, and how common it is in LVIS: ``"r"`` rare, ``"c"`` common, ``"f"`` frequent, or None."""

    name: str
    frequency: str | None = None


@dataclass(frozen=True, eq=False)
class CocoIndex:
    """Places of N images and M annotations (crowds left out) in an annotation file.

    Attributes:
        image_places: (N, 2) int64, first byte and length of each image's record, in the order of the file.
        names: the images' file names in UTF-8, one after the other.
        name_ends: (N,) int64, where each name ends.
        annotation_places: (M, 2) int64, first byte and length of each annotation's record, by image, then in the order
            of the file.
        first: (N + 1,) int64, the first annotation of each image.
        categories: by id; empty where the file names none.
        stems_differ: no two names are equal without their extensions.
    """

    image_places: NDArray[np.int64]
    names: bytes
    name_ends: NDArray[np.int64]
    annotation_places: NDArray[np.int64]
    first: NDArray[np.int64]
    categories: dict[int, Category]
    stems_differ: bool

    def name(self, image: int) -> str:
        """File name of an image, relative, with ``/``."""
        begin = int(self.name_ends[image - 1]) if image else 0
        return self.names[begin : int(self.name_ends[image])].decode("utf-8")

    def key(self, image: int) -> str:
        """File name without extension, or with it where two would be equal without."""
        return stem_of(self.name(image)) if self.stems_differ else self.name(image)

    def annotations_of(self, image: int) -> NDArray[np.int64]:
        """(K, 2) places of an image's annotations."""
        return self.annotation_places[int(self.first[image]) : int(self.first[image + 1])]


def index_coco(path: Path) -> CocoIndex:
    """Read an annotation file once, in whatever order its keys are.

    Raises:
        DatasetError: the file is missing, cut short or not in the COCO or LVIS format; an id or a file name is there
            twice, a name leads out of the folder, or an annotation is of no image or category.
    """
    builder = _Builder(path)
    seen = visit_arrays(
        path, {"images": builder.image, "annotations": builder.annotation, "categories": builder.category}
    )
    missing = {"images", "annotations"} - seen
    if missing:
        raise DatasetError(f"{path} is not in the COCO format: it has no {' and no '.join(sorted(missing))}.")
    return builder.finish()


class _Builder:
    """Gathers ids and places while the file is read; ids are resolved at the end, so the order does not matter."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._images, self._image_places = array("q"), array("q")
        self._names, self._name_ends = bytearray(), array("q")
        self._owners, self._annotation_places = array("q"), array("q")
        self._categories: dict[int, Category] = {}
        self._used_categories: set[int] = set()

    def image(self, record: dict[str, Any], offset: int, length: int) -> None:
        self._images.append(self._whole(record, "id", f"The image record at byte {offset}"))
        self._image_places.extend((offset, length))
        self._names += safe_name(_file_name(record), f"{self._path} (byte {offset})").encode()
        self._name_ends.append(len(self._names))

    def annotation(self, record: dict[str, Any], offset: int, length: int) -> None:
        what = f"The annotation at byte {offset}"
        owner = self._whole(record, "image_id", what)
        if record.get("iscrowd"):
            return
        if "category_id" in record:
            self._used_categories.add(self._whole(record, "category_id", what))
        self._owners.append(owner)
        self._annotation_places.extend((offset, length))

    def category(self, record: dict[str, Any], offset: int, length: int) -> None:
        what = f"The category at byte {offset}"
        id = self._whole(record, "id", what)
        name, frequency = record.get("name"), record.get("frequency")
        if not isinstance(name, str):
            raise DatasetError(f"{what} of {self._path} has the name {name!r:.80}; text is needed.")
        if frequency not in (None, "r", "c", "f"):
            raise DatasetError(
                f"{what} of {self._path} has the frequency {frequency!r:.80}, which is none of r, c, f."
            )
        if id in self._categories or len(self._categories) >= MAX_CATEGORIES:
            raise DatasetError(
                f"{self._path} has category {id} twice, or more than {MAX_CATEGORIES} categories."
            )
        self._categories[id] = Category(name, frequency)

    def finish(self) -> CocoIndex:
        images, owners = np.array(self._images, dtype=np.int64), np.array(self._owners, dtype=np.int64)
        by_id = np.argsort(images, kind="stable")
        ordered = images[by_id]
        twice = np.flatnonzero(ordered[1:] == ordered[:-1])
        if twice.size:
            raise DatasetError(f"{self._path} has the image id {int(ordered[twice[0]])} twice.")
        slot = np.searchsorted(ordered, owners)
        lost = slot >= images.size
        lost[~lost] = ordered[slot[~lost]] != owners[~lost]
        if lost.any():
            stray = int(owners[int(np.argmax(lost))])
            raise DatasetError(
                f"{self._path} has annotations of image {stray}, which is not among its images."
            )
        unknown = self._used_categories - self._categories.keys() if self._categories else set()
        if unknown:
            raise DatasetError(
                f"{self._path} uses category {min(unknown)}, which is not among its categories."
            )
        image_of = by_id[slot]
        places = np.array(self._annotation_places, dtype=np.int64).reshape(-1, 2)
        first = np.zeros(images.size + 1, dtype=np.int64)
        np.cumsum(np.bincount(image_of, minlength=images.size), out=first[1:])
        index = CocoIndex(
            np.array(self._image_places, dtype=np.int64).reshape(-1, 2),
            bytes(self._names),
            np.array(self._name_ends, dtype=np.int64),
            places[np.argsort(image_of, kind="stable")],
            first,
            self._categories,
            True,
        )
        return self._with_keys(index)

    def _with_keys(self, index: CocoIndex) -> CocoIndex:
        """The index with keys that are unique."""
        number = len(index.name_ends)
        if len({index.key(image) for image in range(number)}) == number:
            return index
        names = set[str]()
        for image in range(number):
            name = index.name(image)
            if name in names:
                raise DatasetError(f"{self._path} has the file name {name!r:.200} twice.")
            names.add(name)
        return CocoIndex(**{**vars(index), "stems_differ": False})

    def _whole(self, record: dict[str, Any], key: str, what: str) -> int:
        value = record.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value not in _INT64:
            raise DatasetError(
                f"{what} of {self._path} has the {key} {value!r:.80}; a whole number is needed."
            )
        return value


def url_name(record: dict[str, Any]) -> str | None:
    """The folder and the name that end an image's ``coco_url``, such as ``val2017/000000000139.jpg``; None without."""
    url = record.get("coco_url")
    if not isinstance(url, str):
        return None
    try:
        return "/".join(urlsplit(url).path.split("/")[-2:]).lstrip("/")
    except ValueError:
        return None


def _file_name(record: dict[str, Any]) -> object:
    """COCO's ``file_name``; in LVIS 1.0, which has none, what ``coco_url`` says."""
    name = record.get("file_name")
    return url_name(record) if name is None else name

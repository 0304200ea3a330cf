"""Readers for folders of pictures with pictures of masks: DAVIS, ADE20K, and any pair of folders.

Sources of the layouts: the DAVIS 2016 and 2017 packages and their README (``JPEGImages``, ``Annotations``,
``ImageSets``; index pictures, 255 for what is not rated); ``loadAde20K`` of the ADE20K development kit (class
``R / 10 * 256 + G``, instance ``B``); the README of the Scene Parsing Benchmark (class numbers from 1, 0 for what is
not labelled).
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from anymask.errors import DatasetError, MaskError
from anymask.masks import rle
from anymask.masks.boxes import mask_to_box
from anymask.masks.regions import connected_components

from .dataset import Sample
from .files import IMAGE_SUFFIXES, LabelPicture, picture_size, read_bytes, read_labels, safe_name
from .records import Record, label_counts, mask_record

VOID: Final = 255
"""Index of pixels that are not rated, in palette pictures of 8 bits."""

_MAX_LIST_BYTES: Final = 16 * 1024 * 1024


class _Pair(NamedTuple):
    """A sample's key, its picture and its mask picture or folder of them, relative to the dataset's folder."""

    key: str
    image: str
    mask: str


class _PairedFolder(ABC):
    """Pictures beside mask pictures; holds paths only."""

    def __init__(self, images: Path, masks: Path, pairs: list[_Pair], source: str) -> None:
        self.source = source
        self._images, self._masks, self._pairs = images, masks, pairs

    def __len__(self) -> int:
        return len(self._pairs)

    def keys(self) -> list[str]:
        """Names of the samples in the order of the index, which is that of the names."""
        return [pair.key for pair in self._pairs]

    def __getitem__(self, index: int) -> Sample:
        """One image with its masks.

        Raises:
            DatasetError: a picture is missing, damaged, over a limit or of another kind or size than needed.
        """
        pair = self._pairs[index]
        path, mask = self._images / pair.image, self._masks / pair.mask
        data = read_bytes(path)
        size = picture_size(data, path)
        try:
            records = tuple(record for record in self._records(mask, size) if record is not None)
        except (DatasetError, MaskError) as error:
            reason = str(error).rstrip(".")
            raise DatasetError(f"The masks of {str(path)!r} cannot be used: {reason}.") from None
        return Sample(pair.key, self.source, data, size[1], size[0], records)

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    @abstractmethod
    def _records(self, mask: Path, size: tuple[int, int]) -> Iterable[Record | None]:
        """The masks of one picture of that (height, width)."""


class DavisDataset(_PairedFolder):
    """Frames of DAVIS and of what is laid out like it; one sample per annotated frame, one mask per object.

    ``JPEGImages/<resolution>/<video>/00000.jpg`` with ``Annotations/<resolution>/<video>/00000.png``, or both without
    the folder of the resolution. An annotation is a palette picture of object numbers (0 is the background, 255 is not
    rated) or, as in DAVIS 2016, grey with one object at 255. A record's ``id`` is the object's number, the same in all
    frames of a video; a sample's key is ``video/00000``.

    Args:
        root: the folder of ``JPEGImages`` and ``Annotations``.
        resolution: name of the folder below them, where there is one.
        year: take the videos listed in ``ImageSets/<year>/<list_name>.txt``, one name a line; all by default.
        list_name: which list of that year.
        source: name of the dataset, by default that of its folder.

    Raises:
        DatasetError: a folder, list, video or frame is missing, or a list has a name that is none of a folder.
    """

    def __init__(
        self,
        root: str | Path,
        resolution: str = "480p",
        year: str | int | None = None,
        list_name: str = "val",
        source: str | None = None,
    ) -> None:
        root = Path(root)
        images, masks = root / "JPEGImages", root / "Annotations"
        if (masks / resolution).is_dir():
            images, masks = images / resolution, masks / resolution
        chosen = root / "ImageSets" / str(year) / f"{list_name}.txt"
        videos = _folders(masks) if year is None else _listed(chosen)
        pairs = [
            _Pair(f"{video}/{stem}", f"{video}/{stem}.jpg", f"{video}/{name}")
            for video in videos
            for stem, name in _pictures(masks / video, (".png",)).items()
        ]
        _require(images, pairs)
        super().__init__(images, masks, pairs, source or root.name)

    def _records(self, mask: Path, size: tuple[int, int]) -> Iterable[Record | None]:
        return index_records(read_labels(mask), size)


class Ade20kDataset(_PairedFolder):
    """ADE20K in either of its layouts, by what lies at the root.

    * The full set, ``images/ADE/<split>/**/X.jpg`` (or ``images/<split>/**``) with ``X_seg.png``: one mask per
      instance, ``category`` the class number. Parts (``X_parts_N.png``) and the folders of single objects are passed
      over.
    * Scene parsing, ``images/<split>/X.jpg`` with ``annotations/<split>/X.png``: one mask per 8-connected region of a
      class, however small.

    Class 0 is dropped in both.

    Args:
        root: the folder of ``images``.
        split: ``"validation"`` or ``"training"``.
        source: name of the dataset, by default that of its folder.

    Raises:
        DatasetError: neither layout is there, or a picture is missing.
    """

    def __init__(self, root: str | Path, split: str = "validation", source: str | None = None) -> None:
        root = Path(root)
        self.is_scene_parsing = (root / "annotations" / split).is_dir()
        if self.is_scene_parsing:
            images, masks = root / "images" / split, root / "annotations" / split
            pairs = [_Pair(stem, f"{stem}.jpg", name) for stem, name in _pictures(masks, (".png",)).items()]
        else:
            full = root / "images" / "ADE" / split
            images = masks = full if full.is_dir() else root / "images" / split
            pairs = [_Pair(stem, f"{stem}.jpg", f"{stem}_seg.png") for stem in _segmented(images)]
        _require(images, pairs)
        super().__init__(images, masks, pairs, source or f"{root.name}_{split}")

    def _records(self, mask: Path, size: tuple[int, int]) -> Iterable[Record | None]:
        picture = read_labels(mask)
        if self.is_scene_parsing:
            return _region_records(_flat(picture, size), size)
        return _instance_records(picture, size)


class MaskFolder(_PairedFolder):
    """A folder of pictures and a folder of masks with the same names before the extension.

    The masks of ``a.jpg`` are in ``a.png``: black and white (0 and 1, or 0 and 255) is one mask; otherwise every value
    of a grey (8 or 16 bits) or palette picture is a mask, 0 dropped, 255 dropped in a palette picture. Or they are in
    the folder ``a/``: black and white PNG files, one per object, numbered from 1 in the order of their names.
    Mask pictures without a picture are passed over; hidden files too.

    Args:
        images: folder of JPEG, PNG, WebP or TIFF files.
        masks: folder of PNG files or of folders of them.
        source: name of the dataset, by default that of the folder that holds the pictures' folder.

    Raises:
        DatasetError: a folder is missing or empty, a picture has no masks or both kinds, or two share a name.
    """

    def __init__(self, images: str | Path, masks: str | Path, source: str | None = None) -> None:
        images, masks = Path(images), Path(masks)
        pictures, files = _pictures(images, IMAGE_SUFFIXES), _pictures(masks, (".png",))
        folders = set(_folders(masks))
        orphans = [stem for stem in pictures if stem not in files and stem not in folders]
        if orphans:
            raise DatasetError(
                f"{images} holds {len(orphans)} pictures without a mask in {masks}, the first is {orphans[0]!r}; "
                "a PNG file or a folder of the same name is needed."
            )
        double = [stem for stem in pictures if stem in files and stem in folders]
        if double:
            raise DatasetError(f"{masks} holds both a file and a folder for {double[0]!r}; keep one.")
        pairs = [_Pair(stem, name, files.get(stem, stem)) for stem, name in pictures.items()]
        _require(images, pairs)
        super().__init__(images, masks, pairs, source or images.parent.name)

    def _records(self, mask: Path, size: tuple[int, int]) -> Iterable[Record | None]:
        if mask.is_dir():
            names = _pictures(mask, (".png",)).values()
            return [_one_object(mask / name, number, size) for number, name in enumerate(names, 1)]
        return index_records(read_labels(mask), size)


def index_records(picture: LabelPicture, size: tuple[int, int]) -> list[Record | None]:
    """One record per value of a mask picture, or one in all where it is black and white; ``id`` is the value, or 1.

    Raises:
        DatasetError: the picture is coloured or of another (height, width).
    """
    labels = _flat(picture, size)
    if not picture.is_palette and _is_binary(labels):
        return [mask_record(1, rle.encode_counts(labels != 0), size)]
    drop = (0, VOID) if picture.is_palette else (0,)
    return [mask_record(value, counts, size) for value, counts in label_counts(labels, drop)]


def _one_object(path: Path, number: int, size: tuple[int, int]) -> Record | None:
    labels = _flat(read_labels(path), size)
    if not _is_binary(labels):
        raise DatasetError(
            f"{str(path)!r} has values other than 0 and 1, or 0 and 255; one object a file is needed."
        )
    return mask_record(number, rle.encode_counts(labels != 0), size)


def _instance_records(picture: LabelPicture, size: tuple[int, int]) -> list[Record | None]:
    """Records of an ADE20K ``_seg.png``, by class and instance, numbered from 1."""
    if picture.values.ndim != 3:
        raise DatasetError("A segmentation of ADE20K is an RGB picture; this one has one channel.")
    _check_size(picture, size)
    red, green, blue = (picture.values[..., channel].astype(np.int32) for channel in range(3))
    labels = ((red // 10 * 256 + green) << 8) + blue
    labels[labels < 256] = 0  # class 0, whatever the instance
    return [
        mask_record(number, counts, size, category=str(value >> 8))
        for number, (value, counts) in enumerate(label_counts(labels), 1)
    ]


def _region_records(labels: NDArray[Any], size: tuple[int, int]) -> list[Record | None]:
    """Records of the 8-connected regions of every class of a class picture, numbered from 1."""
    regions = np.zeros(size, dtype=np.int32)
    classes: list[int] = [0]
    for value in np.unique(labels):
        if value == 0:
            continue
        x0, y0, x1, y1 = mask_to_box(labels == value)
        found, _ = connected_components(labels[y0:y1, x0:x1] == value)
        inside = found > 0
        regions[y0:y1, x0:x1][inside] = found[inside] + (len(classes) - 1)
        classes += [int(value)] * int(found.max())
    return [
        mask_record(number, counts, size, category=str(classes[number]))
        for number, counts in label_counts(regions)
    ]


def _flat(picture: LabelPicture, size: tuple[int, int]) -> NDArray[Any]:
    """Values (H, W) of a mask picture; a colour picture must be grey."""
    _check_size(picture, size)
    values = picture.values
    if values.ndim == 2:
        return values
    if (values != values[..., :1]).any() or not _is_binary(values):
        raise DatasetError(
            "A mask picture is coloured; save it with one channel (grey or palette), one value an object."
        )
    return values[..., 0]


def _check_size(picture: LabelPicture, size: tuple[int, int]) -> None:
    if picture.size != size:
        raise DatasetError(
            f"A mask picture is {picture.size[1]} x {picture.size[0]}, its image {size[1]} x {size[0]} (upright); "
            "they must be equal."
        )


def _is_binary(values: NDArray[Any]) -> bool:
    """Whether there are no values but 0 and 1, or 0 and 255."""
    top = int(values.max())
    return top <= 1 or (top == VOID and bool(np.isin(values, (0, VOID)).all()))


def _pictures(folder: Path, suffixes: tuple[str, ...]) -> dict[str, str]:
    """File names of a folder by their stems, sorted; hidden files are passed over."""
    found: dict[str, str] = {}
    for entry in _entries(folder):
        stem, suffix = os.path.splitext(entry.name)
        if suffix.lower() in suffixes and entry.is_file():
            if stem in found:
                raise DatasetError(
                    f"{folder} holds both {found[stem]!r} and {entry.name!r}; names must differ."
                )
            found[stem] = entry.name
    return found


def _folders(folder: Path) -> list[str]:
    return [entry.name for entry in _entries(folder) if entry.is_dir()]


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted((entry for entry in entries if entry.name[0] != "."), key=lambda entry: entry.name)
    except OSError as error:
        raise DatasetError(f"{folder} cannot be read as a folder: {error.strerror}.") from None


def _listed(path: Path) -> list[str]:
    """Names of a list of videos, one a line, each of one folder."""
    try:
        lines = read_bytes(path, _MAX_LIST_BYTES).decode("utf-8").split()
    except UnicodeDecodeError:
        raise DatasetError(f"{path} is no list of names in UTF-8.") from None
    for line in lines:
        if "/" in safe_name(line, str(path)):
            raise DatasetError(f"{path} has the line {line!r:.80}; the name of a video is needed.")
    return sorted(set(lines))


def _segmented(folder: Path) -> list[str]:
    """Paths below a folder, less ``_seg.png``, of what has a segmentation; folders of single objects are passed by."""
    found = []
    for path, folders, files in os.walk(folder):
        stems = {name[: -len("_seg.png")] for name in files if name.endswith("_seg.png")}
        folders[:] = [name for name in folders if name not in stems]
        found += [(Path(path) / stem).relative_to(folder).as_posix() for stem in stems]
    return sorted(found)


def _require(images: Path, pairs: list[_Pair]) -> None:
    """DatasetError unless there is a pair, and the picture of every one."""
    if not pairs:
        raise DatasetError(f"{images} holds no picture with masks.")
    missing = [pair.image for pair in pairs if not (images / pair.image).is_file()]
    if missing:
        raise DatasetError(
            f"{images} lacks {len(missing)} pictures that have masks, the first is {missing[0]!r}."
        )

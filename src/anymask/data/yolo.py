"""Reader for YOLO segmentation sets: ``images/``, ``labels/NAME.txt`` and ``data.yaml``.

Source of the format: the Ultralytics page "Instance Segmentation Datasets Overview".
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from anymask.errors import DatasetError, MaskError
from anymask.masks import rle
from anymask.masks.polygons import Polygon, polygons_to_mask

from .dataset import Sample
from .files import IMAGE_SUFFIXES, picture_size, read_bytes
from .records import Record, mask_record

__all__ = ["YoloDataset", "class_names", "parse_labels"]

_MAX_LABEL_BYTES: Final = 64 * 1024 * 1024
_MAX_YAML_BYTES: Final = 1024 * 1024
_SLACK: Final = 1e-3
_FOUR: Final = 4


class YoloDataset:
    """Pictures of ``images`` with the rings of ``labels``; a `Dataset` in the order of the names.

    A picture without a file of labels has no object. Pixels whose centre lies in a ring belong to its mask. A record's
    ``category`` is the class's name in ``data.yaml``, or its number where that says nothing.

    Raises:
        DatasetError: a folder is missing or holds no picture, or two pictures share a name.
    """

    def __init__(self, root: str | Path, split: str = "", source: str | None = None) -> None:
        """``split`` is a folder below ``images`` and ``labels``, such as ``train``; none by default."""
        self.root = Path(root)
        self.source = source or self.root.name
        self._images, self._labels = self.root / "images" / split, self.root / "labels" / split
        self._names = _pictures(self._images)
        self._classes = class_names(self.root / "data.yaml")

    def __len__(self) -> int:
        return len(self._names)

    def keys(self) -> list[str]:
        """Names of the samples in the order of the index."""
        return [Path(name).stem for name in self._names]

    def __getitem__(self, index: int) -> Sample:
        """One image with its masks.

        Raises:
            DatasetError: the picture or its labels cannot be read, or are not in the format.
        """
        path = self._images / self._names[index]
        data = read_bytes(path)
        size = picture_size(data, path)
        labels = self._labels / f"{path.stem}.txt"
        records: list[Record] = []
        if labels.is_file():
            found = parse_labels(read_bytes(labels, _MAX_LABEL_BYTES), str(labels), size)
            for number, (kind, ring) in enumerate(found):
                record = self._record(number, kind, ring, size, str(labels))
                records += [] if record is None else [record]
        return Sample(path.stem, self.source, data, size[1], size[0], records)

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def _record(
        self, number: int, kind: int, ring: NDArray[np.float64], size: tuple[int, int], where: str
    ) -> Record | None:
        try:
            counts = rle.encode_counts(polygons_to_mask([Polygon(ring)], *size))
        except MaskError as error:
            raise DatasetError(f"{where}, line {number + 1}: {error}.") from None
        return mask_record(number, counts, size, category=self._classes.get(kind, str(kind)))


def parse_labels(data: bytes, where: str, size: tuple[int, int]) -> list[tuple[int, NDArray[np.float64]]]:
    """Class number and ring (N, 2), (x, y) in pixels of a picture of (height, width), of every line.

    Raises:
        DatasetError: a line is no class with three or more vertices inside the picture; a class with four numbers is a
            box, which is no mask.
    """
    found = []
    for number, line in enumerate(data.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            kind, *rest = line.split()
            label, shares = int(kind), np.array([float(each) for each in rest], dtype=np.float64)
        except ValueError:
            raise DatasetError(f"{where}, line {number} is no list of numbers: {line!r:.60}.") from None
        if len(shares) == _FOUR:
            raise DatasetError(f"{where}, line {number} is a box, not a ring; masks are needed.")
        if label < 0 or len(shares) < 2 * 3 or len(shares) % 2:
            raise DatasetError(f"{where}, line {number} must be a class and three or more x and y in turn.")
        if not ((shares >= -_SLACK) & (shares <= 1 + _SLACK)).all():
            raise DatasetError(f"{where}, line {number} has a coordinate that is not from 0 to 1.")
        found.append((label, shares.reshape(-1, 2) * np.array([size[1], size[0]])))
    return found


def class_names(path: Path) -> dict[int, str]:
    """The ``names`` of a ``data.yaml``: a mapping or a list, each in one line or one name a line; {} without the file.

    Only these forms are read, no other YAML.

    Raises:
        DatasetError: the file cannot be read, or its names are in another form.
    """
    if not path.is_file():
        return {}
    try:
        lines = read_bytes(path, _MAX_YAML_BYTES).decode().splitlines()
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path} is not text: {error}.") from None
    start = next((number for number, line in enumerate(lines) if line.startswith("names:")), None)
    if start is None:
        return {}
    inline = lines[start].removeprefix("names:").strip()
    if inline:
        texts: Sequence[str] = [each.strip() for each in inline.strip("[]{}").split(",") if each.strip()]
    else:
        rest = lines[start + 1 :]
        texts = [line.strip() for line in rest[: _length(rest)] if line.strip()]
    return dict(_name(number, text, path) for number, text in enumerate(texts))


def _length(lines: Sequence[str]) -> int:
    """How many lines belong to the block: indented ones, or those that begin with a dash."""
    inside = (line[:1] in (" ", "\t", "-") or not line.strip() for line in lines)
    return next((number for number, is_inside in enumerate(inside) if not is_inside), len(lines))


def _name(number: int, text: str, path: Path) -> tuple[int, str]:
    keyed = re.fullmatch(r"(\d{1,6})\s*:\s*(.+)", text)
    label, raw = (int(keyed[1]), keyed[2]) if keyed else (number, text.removeprefix("-").strip())
    try:
        name = json.loads(raw) if raw.startswith('"') else raw.strip("'")
    except ValueError:
        raise DatasetError(f"{path} has the name {raw!r:.60}, which cannot be read.") from None
    return label, str(name)


def _pictures(folder: Path) -> list[str]:
    try:
        names = sorted(path.name for path in folder.iterdir() if path.name[0] != "." and path.is_file())
    except OSError as error:
        raise DatasetError(f"{folder} cannot be read as a folder: {error.strerror}.") from None
    pictures = [name for name in names if Path(name).suffix.lower() in IMAGE_SUFFIXES]
    stems = [Path(name).stem for name in pictures]
    if not pictures:
        raise DatasetError(f"{folder} holds no picture.")
    twice = (
        next((stem for stem in stems if stems.count(stem) > 1), None)
        if len(set(stems)) < len(stems)
        else None
    )
    if twice is not None:
        raise DatasetError(f"{folder} holds two pictures called {twice!r}; names must differ.")
    return pictures

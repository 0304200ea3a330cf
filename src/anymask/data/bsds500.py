"""Reader for the boundary ground truth of BSDS500: one ``.mat`` file per image, kept in a tar archive.

Each ``groundTruth/ID.mat`` holds a cell with one struct per annotator, of fields ``Segmentation`` (labels from 1)
and ``Boundaries`` (0 or 1). Members are read in memory and never unpacked.

Source of the layout: Arbelaez et al., "Contour Detection and Hierarchical Image Segmentation", TPAMI 2011, and the
`groundTruth` folder of the BSDS500 download.
"""

from __future__ import annotations

import csv
import io
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from anymask.errors import DatasetError, MissingExtraError

from .sa1b import TarShard

BoolArray = NDArray[np.bool_]

_MAX_MAT_BYTES: Final = 16 * 1024 * 1024
_MEMBER: Final = re.compile(r"(?:\./)?(?:[A-Za-z0-9_-]+/)*([A-Za-z0-9_-]{1,64})\.mat")


@dataclass(frozen=True)
class BoundaryTruth:
    """What the annotators of one image drew.

    Attributes:
        key: the image's name in BSDS500, such as ``"100007"``.
        boundaries: one (H, W) bool array per annotator.
        segmentations: one (H, W) int32 array of labels per annotator, in the same order.
    """

    key: str
    boundaries: tuple[BoolArray, ...]
    segmentations: tuple[NDArray[np.int32], ...]

    def __post_init__(self) -> None:
        shapes = {array.shape for array in (*self.boundaries, *self.segmentations)}
        if not self.boundaries or len(self.boundaries) != len(self.segmentations):
            raise DatasetError(
                f"The ground truth of {self.key!r} has {len(self.boundaries)} boundary maps and "
                f"{len(self.segmentations)} segmentations; as many of each, and at least one, are needed."
            )
        if len(shapes) != 1 or self.boundaries[0].ndim != 2:
            raise DatasetError(f"The maps of {self.key!r} differ in size or are not flat: {sorted(shapes)}.")

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        height, width = self.boundaries[0].shape
        return height, width


class BoundaryArchive:
    """A tar of ``.mat`` ground truth, read one image at a time; the file is opened anew for each read.

    Raises:
        DatasetError: the file is missing, is no tar archive, holds no ground truth, or a member's name is not a plain
            ``folder/ID.mat``.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._members = _scan(self.path)

    def __len__(self) -> int:
        return len(self._members)

    def keys(self) -> list[str]:
        """Names of the images, sorted."""
        return sorted(self._members)

    def __getitem__(self, key: str) -> BoundaryTruth:
        """The ground truth of one image.

        Raises:
            DatasetError: there is no such image, or its file is damaged.
            MissingExtraError: scipy is not installed.
        """
        if key not in self._members:
            raise DatasetError(f"{self.path} holds no ground truth for {key!r:.80}.")
        offset, size = self._members[key]
        with open(self.path, "rb") as file:
            file.seek(offset)
            data = file.read(size)
        if len(data) != size:
            raise DatasetError(f"{self.path} is cut short: {len(data)} of {size} bytes of {key!r} are there.")
        return parse_boundaries(key, data)


def _scan(path: Path) -> dict[str, tuple[int, int]]:
    members: dict[str, tuple[int, int]] = {}
    try:
        with tarfile.open(path, "r:") as archive:
            for info in archive:
                if info.isdir() or not info.name.endswith(".mat"):
                    continue
                match = _MEMBER.fullmatch(info.name)
                if match is None or not info.isreg():
                    raise DatasetError(
                        f"{path} holds {info.name!r:.80}; a plain file named folder/ID.mat was expected."
                    )
                if info.size > _MAX_MAT_BYTES:
                    raise DatasetError(
                        f"{info.name!r:.80} in {path} has {info.size} bytes, the limit is {_MAX_MAT_BYTES}."
                    )
                if match[1] in members:
                    raise DatasetError(f"{path} holds the ground truth of {match[1]!r} twice.")
                members[match[1]] = (info.offset_data, info.size)
    except FileNotFoundError:
        raise DatasetError(f"There is no ground truth at {path}.") from None
    except (tarfile.TarError, OSError) as error:
        raise DatasetError(f"{path} cannot be read as a tar archive: {error}.") from None
    if not members:
        raise DatasetError(f"{path} holds no .mat file.")
    return members


def parse_boundaries(key: str, data: bytes) -> BoundaryTruth:
    """Turn the bytes of one ground-truth ``.mat`` file into a `BoundaryTruth`.

    Raises:
        DatasetError: the file is damaged or has another layout.
        MissingExtraError: scipy is not installed.
    """
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise MissingExtraError(
            "Reading BSDS500 ground truth needs scipy; install it with: pip install 'anymask[eval]'."
        ) from error
    try:
        document: dict[str, Any] = loadmat(io.BytesIO(data), variable_names=["groundTruth"])
        cells = np.asarray(document["groundTruth"]).ravel()
        boundaries = tuple(_flat(cell, "Boundaries") != 0 for cell in cells)
        segmentations = tuple(_flat(cell, "Segmentation").astype(np.int32) for cell in cells)
    except DatasetError:
        raise
    except Exception as error:  # scipy's parser fails on damaged files in a dozen ways
        raise DatasetError(f"The ground truth of {key!r} cannot be read ({error!r:.200}).") from None
    return BoundaryTruth(key, boundaries, segmentations)


def _flat(cell: Any, field: str) -> NDArray[Any]:
    """A numeric (H, W) field of a 1 x 1 struct."""
    array = np.asarray(cell[field][0, 0])
    if array.ndim != 2 or array.dtype.kind not in "buif":
        raise DatasetError(
            f"A field {field!r} has type {array.dtype} and {array.ndim} axes; numbers in 2 expected."
        )
    return array


def read_links(manifest: str | Path) -> dict[str, str]:
    """The BSDS500 name of every test image: ``{"bsds500_test_000001": "100007", ...}``.

    ``manifest`` is a CSV file with the columns ``id`` and ``path``; rows of other sets are passed over.

    Raises:
        DatasetError: the file is missing or has no such rows.
    """
    try:
        with open(manifest, newline="", encoding="utf-8") as file:
            links = {
                row["id"]: PurePosixPath(row["path"]).stem
                for row in csv.DictReader(file)
                if row["id"].startswith("bsds500_test_")
            }
    except FileNotFoundError:
        raise DatasetError(f"There is no manifest at {manifest}.") from None
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, TypeError, AttributeError) as error:
        raise DatasetError(f"{manifest} cannot be read as a manifest with id and path ({error!r}).") from None
    if not links:
        raise DatasetError(f"{manifest} names no image of bsds500_test.")
    return links


@dataclass(frozen=True)
class BoundarySample:
    """One test image: its encoded picture and what the annotators drew on it."""

    image: bytes
    truth: BoundaryTruth


class Bsds500Test:
    """The BSDS500 test images of a data pack with their boundary ground truth, in the order of the shard.

    Args:
        folder: where ``bsds500_test.tar`` and ``bsds500_test_raw.tar`` lie.
        manifest: links the two; by default ``manifest.csv`` beside or above the folder.

    Raises:
        DatasetError: a file is missing or damaged, or an image has no ground truth.
    """

    def __init__(self, folder: str | Path, manifest: str | Path | None = None) -> None:
        root = Path(folder)
        if manifest is None:
            beside = root / "manifest.csv"
            manifest = beside if beside.is_file() else root.resolve().parent / "manifest.csv"
        links = read_links(manifest)
        self._truths = BoundaryArchive(root / "bsds500_test_raw.tar")
        self._images = TarShard(root / "bsds500_test.tar")
        names = self._images.keys()
        missing = [name for name in names if links.get(name) not in set(self._truths.keys())]
        if missing:
            raise DatasetError(f"{len(missing)} images have no ground truth, the first is {missing[0]!r}.")
        self._keys = [links[name] for name in names]

    def __len__(self) -> int:
        return len(self._keys)

    def keys(self) -> list[str]:
        """The images' names in BSDS500."""
        return list(self._keys)

    def __getitem__(self, index: int) -> BoundarySample:
        sample, truth = self._images[index], self._truths[self._keys[index]]
        if truth.size != (sample.height, sample.width):
            raise DatasetError(
                f"The picture {sample.key!r} is {sample.width} x {sample.height}, its ground truth "
                f"{truth.size[1]} x {truth.size[0]}; they must have one size."
            )
        return BoundarySample(sample.image, truth)

    def __iter__(self) -> Iterator[BoundarySample]:
        return (self[index] for index in range(len(self)))
